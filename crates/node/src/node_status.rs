//! The Node object: registration, status, heartbeats (upstream: `kubelet_node_status.go`, `nodestatus/setters.go`).

use crate::config::NodeConfig;
use crate::context::NodeContext;
use crate::machine::{self, Facts, Pressure, Thresholds};
use crate::pod::references::node_reference;
use crate::pod::spec::ResourceList;
use crate::ports::ImageSummary;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Images listed at most (upstream: `nodeStatusMaxImages`).
const IMAGES_MAX: usize = 50;
/// Names listed per image (upstream: `MaxNamesPerImageInNodeStatus`).
const IMAGE_NAMES_MAX: usize = 5;
/// Pause after a failed registration; it doubles to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(7);
/// How often a network that is not ready is looked at.
const NETWORK_POLL: Duration = Duration::from_millis(20);

/// What pods may use and what there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sizes {
    pub capacity: ResourceList,
    pub allocatable: ResourceList,
}

/// Capacity and allocatable of the node.
pub fn sizes(config: &NodeConfig, facts: &Facts) -> Sizes {
    let kib = |bytes: u64| format!("{}Ki", bytes / 1024);
    let mut capacity: BTreeMap<String, String> = [
        ("cpu", facts.cpus.to_string()),
        ("memory", kib(facts.memory)),
        ("ephemeral-storage", kib(facts.disk)),
        ("pods", config.max_pods.to_string()),
        ("hugepages-1Gi", "0".to_owned()),
        ("hugepages-2Mi", "0".to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into();
    capacity.extend(config.capacity_override.clone());
    let mut allocatable = capacity.clone();
    let value = |q: &str| meta::quantity::Quantity::parse(q).map_or(0, |q| q.value());
    if let Some(memory) = allocatable.get_mut("memory") {
        let left = value(memory).saturating_sub_unsigned(config.memory_reserved).max(0);
        *memory = kib(left.unsigned_abs());
    }
    if let Some(disk) = allocatable.get_mut("ephemeral-storage") {
        let left = value(disk).unsigned_abs() / 100 * (100 - config.disk_reserved_percent.min(100));
        *disk = left.to_string();
    }
    let list = |m: BTreeMap<String, String>| m.into_iter().map(|(k, v)| (k, Quantity(v))).collect();
    Sizes { capacity: list(capacity), allocatable: list(allocatable) }
}

/// What a status is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a NodeConfig,
    pub facts: &'a Facts,
    pub images: &'a [ImageSummary],
    pub pressure: Pressure,
    /// Why the node cannot run pods, if it cannot.
    pub not_ready: Option<&'a str>,
    pub old: &'a NodeStatus,
    pub now: Timestamp,
}

/// The node as it registers.
pub fn initial(i: &Inputs<'_>) -> Node {
    let c = i.config;
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", c.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &i.facts.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", &i.facts.architecture),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    labels.extend(c.node_labels.clone());
    let taints: Vec<Taint> = c
        .register_with_taints
        .iter()
        .map(|t| Taint {
            key: t.key.clone(),
            value: Some(t.value.clone()).filter(|v| !v.is_empty()),
            effect: t.effect.clone(),
            time_added: None,
        })
        .collect();
    let annotation = ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned());
    Node {
        metadata: ObjectMeta {
            name: Some(c.node_name.clone()),
            labels: Some(labels),
            annotations: Some([annotation].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..NodeSpec::default() }),
        status: Some(status(i)),
    }
}

/// The node's status now.
pub fn status(i: &Inputs<'_>) -> NodeStatus {
    let sizes = sizes(i.config, i.facts);
    let mut addresses: Vec<NodeAddress> = i
        .config
        .node_ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: i.config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(sizes.allocatable),
        capacity: Some(sizes.capacity),
        conditions: Some(conditions(i)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(i.config.port) }),
        }),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        images: Some(images(i.images)).filter(|l| !l.is_empty()),
        node_info: Some(node_info(i)),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(false),
            }),
        }]),
        ..NodeStatus::default()
    }
}

fn node_info(i: &Inputs<'_>) -> NodeSystemInfo {
    let f = i.facts;
    NodeSystemInfo {
        architecture: f.architecture.clone(),
        boot_id: f.boot_id.clone(),
        container_runtime_version: format!("taffrail://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: f.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: i.config.version.clone(),
        machine_id: f.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: f.os_image.clone(),
        system_uuid: f.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

fn images(list: &[ImageSummary]) -> Vec<ContainerImage> {
    let mut list: Vec<&ImageSummary> = list.iter().collect();
    list.sort_by_key(|i| std::cmp::Reverse(i.size));
    list.iter()
        .take(IMAGES_MAX)
        .map(|i| ContainerImage {
            names: Some(i.names.iter().take(IMAGE_NAMES_MAX).cloned().collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect()
}

fn conditions(i: &Inputs<'_>) -> Vec<NodeCondition> {
    let p = i.pressure;
    let texts = |short: bool, has: &str, text: &str| {
        let (word, lower) =
            if short { ("Insufficient", "insufficient") } else { ("Sufficient", "sufficient") };
        (format!("KubeletHas{word}{has}"), format!("kubelet has {lower} {text} available"))
    };
    let disk = if p.disk {
        ("KubeletHasDiskPressure".to_owned(), "kubelet has disk pressure".to_owned())
    } else {
        ("KubeletHasNoDiskPressure".to_owned(), "kubelet has no disk pressure".to_owned())
    };
    let ready = match i.not_ready {
        None => ("KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
        Some(why) => ("KubeletNotReady".to_owned(), why.to_owned()),
    };
    // Ready comes last (upstream: issue 16961).
    [
        ("MemoryPressure", p.memory, texts(p.memory, "Memory", "memory")),
        ("DiskPressure", p.disk, disk),
        ("PIDPressure", p.pid, texts(p.pid, "PID", "PID")),
        ("Ready", i.not_ready.is_none(), ready),
    ]
    .into_iter()
    .map(|(kind, status, (reason, message))| {
        let status = if status { "True" } else { "False" };
        let old = i.old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason),
            message: Some(message),
            last_heartbeat_time: Some(Time(i.now)),
            last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or(Some(Time(i.now))),
        }
    })
    .collect()
}

/// The events that a change of conditions is worth (upstream: `recordNodeStatusEvent`).
fn condition_events(old: &NodeStatus, new: &NodeStatus) -> Vec<&'static str> {
    let is = |s: &NodeStatus, kind: &str| {
        s.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status == "True")
    };
    let names = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let changed = names.iter().filter(|(kind, _, _)| {
        // The first Ready is no change (upstream).
        is(old, kind) != is(new, kind) && !(*kind == "Ready" && is(old, kind).is_none())
    });
    changed.map(|(kind, yes, no)| if is(new, kind) == Some(true) { *yes } else { *no }).collect()
}

/// The strategic merge patch from one status to the next; `None` when nothing but heartbeats changed and none is due.
fn patch(old: &NodeStatus, new: &NodeStatus, heartbeat: bool) -> Option<Value> {
    let value = |s: &NodeStatus| serde_json::to_value(s).unwrap_or_default();
    let (before, after) = (value(old), value(new));
    let empty = Map::new();
    let mut out = Map::new();
    for (key, new_value) in after.as_object().unwrap_or(&empty) {
        let old_value = before.get(key);
        match key.as_str() {
            "conditions" => {
                if heartbeat || without_heartbeats(old_value) != without_heartbeats(Some(new_value)) {
                    out.insert(key.clone(), new_value.clone());
                }
            }
            _ if old_value == Some(new_value) => {}
            "addresses" => {
                // The merge key is the type, which repeats with two families: replace (upstream: `fixupPatchForNodeStatusAddresses`).
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(new_value.as_array().cloned().unwrap_or_default());
                out.insert(key.clone(), list.into());
            }
            _ => {
                out.insert(key.clone(), new_value.clone());
            }
        }
    }
    (!out.is_empty()).then(|| json!({"status": out}))
}

fn without_heartbeats(conditions: Option<&Value>) -> Vec<Value> {
    let list = conditions.and_then(Value::as_array).cloned().unwrap_or_default();
    let ours = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    list.into_iter()
        .filter(|c| c["type"].as_str().is_some_and(|t| ours.contains(&t)))
        .map(|mut c| {
            if let Some(c) = c.as_object_mut() {
                c.remove("lastHeartbeatTime");
            }
            c
        })
        .collect()
}

/// Registers the node and keeps its status up to date for ever; `node` shows the object as last read.
pub async fn run(ctx: Arc<NodeContext>, facts: Facts, node: watch::Sender<Option<Node>>) {
    let reference = node_reference(&ctx.config.node_name);
    ctx.api.event(&reference, false, "Starting", "Starting kubelet.");
    let mut pause = PAUSE_MIN;
    let mut old = loop {
        match register(&ctx, &facts).await {
            Ok(registered) => break registered,
            Err(e) => {
                tracing::warn!(node = ctx.config.node_name, "registering the node failed: {e}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    };
    for reason in condition_events(&NodeStatus::default(), &old.status.clone().unwrap_or_default()) {
        event(&ctx, reason);
    }
    node.send_replace(Some(old.clone()));
    let mut reported = ctx.clock.monotonic();
    loop {
        wait(&ctx, is_ready(&old)).await;
        let due = ctx.clock.monotonic().saturating_sub(reported) >= ctx.config.node_status_report_frequency;
        match update(&ctx, &facts, due).await {
            Ok((now, wrote)) => {
                let status = |n: &Node| n.status.clone().unwrap_or_default();
                for reason in condition_events(&status(&old), &status(&now)) {
                    event(&ctx, reason);
                }
                if wrote {
                    reported = ctx.clock.monotonic();
                }
                old = now;
                node.send_replace(Some(old.clone()));
            }
            Err(e) => {
                tracing::warn!(node = ctx.config.node_name, "updating the node's status failed: {e}");
                tokio::time::sleep(PAUSE_MIN).await;
            }
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Waits for the next look at the node, or until the network is up that was not when the node was `reported_ready`.
async fn wait(ctx: &NodeContext, reported_ready: bool) {
    let whole = tokio::time::sleep(ctx.config.node_status_update_frequency);
    if reported_ready {
        return whole.await;
    }
    tokio::pin!(whole);
    loop {
        tokio::select! {
            () = &mut whole => return,
            () = tokio::time::sleep(NETWORK_POLL) => if ctx.net.not_ready().is_none() {
                return;
            },
        }
    }
}

fn event(ctx: &NodeContext, reason: &str) {
    let reference = node_reference(&ctx.config.node_name);
    let text = format!("Node {} status is now: {reason}", ctx.config.node_name);
    ctx.api.event(&reference, false, reason, &text);
}

async fn current(ctx: &NodeContext, facts: &Facts, old: &NodeStatus) -> (NodeStatus, Node) {
    let images = ctx.images.list().await;
    let limits =
        Thresholds { memory: ctx.config.memory_reserved, disk_percent: ctx.config.disk_reserved_percent };
    let root = ctx.config.root_dir.clone();
    let pressure =
        tokio::task::spawn_blocking(move || machine::pressure(&root, &limits)).await.unwrap_or_default();
    let not_ready = ctx.net.not_ready().map(|why| {
        let head =
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:";
        format!("{head}Network plugin returns error: {why}")
    });
    let inputs = Inputs {
        config: &ctx.config,
        facts,
        images: &images,
        pressure,
        not_ready: not_ready.as_deref(),
        old,
        now: ctx.clock.now(),
    };
    (status(&inputs), initial(&inputs))
}

async fn register(ctx: &NodeContext, facts: &Facts) -> Result<Node, meta::Status> {
    let (_, wanted) = current(ctx, facts, &NodeStatus::default()).await;
    match ctx.api.create_node(&wanted).await {
        Ok(node) => return Ok(node),
        Err(e) if e.is_already_exists() => {}
        Err(e) => return Err(e),
    }
    let there = ctx.api.get_node(&ctx.config.node_name).await?;
    let labels = wanted.metadata.labels.clone().unwrap_or_default();
    let have = there.metadata.labels.clone().unwrap_or_default();
    let missing: BTreeMap<_, _> = labels.into_iter().filter(|(k, v)| have.get(k) != Some(v)).collect();
    if !missing.is_empty() {
        ctx.api.patch_node(&ctx.config.node_name, &json!({"metadata": {"labels": missing}})).await?;
    }
    Ok(update(ctx, facts, true).await?.0)
}

/// Reads the node, and writes what changed; whether it wrote.
async fn update(ctx: &NodeContext, facts: &Facts, heartbeat: bool) -> Result<(Node, bool), meta::Status> {
    let node = match ctx.api.get_node(&ctx.config.node_name).await {
        // Somebody deleted it: a running node registers again.
        Err(e) if e.is_not_found() => {
            let (_, wanted) = current(ctx, facts, &NodeStatus::default()).await;
            return ctx.api.create_node(&wanted).await.map(|n| (n, true));
        }
        other => other?,
    };
    let old = node.status.clone().unwrap_or_default();
    let (new, _) = current(ctx, facts, &old).await;
    match patch(&old, &new, heartbeat) {
        Some(patch) => Ok((ctx.api.patch_node_status(&ctx.config.node_name, &patch).await?, true)),
        None => Ok((node, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn make(pressure: Pressure, old: &NodeStatus, second: i64) -> NodeStatus {
        let mut config = NodeConfig::new("n1", Path::new("/x"));
        config.node_ips = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let facts = Facts {
            cpus: 4,
            memory: 8 << 30,
            disk: 100 << 30,
            architecture: "amd64".into(),
            ..Facts::default()
        };
        let now = Timestamp::from_second(second).unwrap();
        let images = [ImageSummary { names: vec!["a".into()], size: 5 }];
        status(&Inputs {
            config: &config,
            facts: &facts,
            images: &images,
            pressure,
            not_ready: None,
            old,
            now,
        })
    }

    #[test]
    fn sizes_and_addresses() {
        let s = make(Pressure::default(), &NodeStatus::default(), 0);
        let get = |l: &Option<ResourceList>, k: &str| l.as_ref().unwrap()[k].0.clone();
        assert_eq!(get(&s.capacity, "memory"), "8388608Ki");
        assert_eq!(get(&s.allocatable, "memory"), "8286208Ki");
        assert_eq!(get(&s.allocatable, "ephemeral-storage"), "96636764160");
        assert_eq!(get(&s.allocatable, "pods"), "110");
        let kinds: Vec<_> = s.addresses.unwrap().into_iter().map(|a| a.type_).collect();
        assert_eq!(kinds, ["InternalIP", "InternalIP", "Hostname"]);
    }

    #[test]
    fn conditions_keep_their_times() {
        let first = make(Pressure::default(), &NodeStatus::default(), 10);
        let same = make(Pressure::default(), &first, 20);
        assert_eq!(patch(&first, &same, false), None, "heartbeats alone wait");
        assert!(patch(&first, &same, true).is_some());
        let short = make(Pressure { memory: true, ..Pressure::default() }, &same, 30);
        assert_eq!(condition_events(&same, &short), ["NodeHasInsufficientMemory"]);
        let c =
            |s: &NodeStatus, k: &str| s.conditions.iter().flatten().find(|c| c.type_ == k).cloned().unwrap();
        assert_eq!(c(&short, "MemoryPressure").last_transition_time.unwrap().0.as_second(), 30);
        assert_eq!(c(&short, "Ready").last_transition_time.unwrap().0.as_second(), 10);
        let change = patch(&same, &short, false).unwrap();
        assert_eq!(change["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
    }
}
