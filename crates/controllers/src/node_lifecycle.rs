//! Nodes that stop reporting: their conditions become Unknown, they are tainted, and their pods leave.
//!
//! Invariant: what a node is judged by is when this process saw its last sign of life, not what the node's clock says.
//! upstream: `pkg/controller/nodelifecycle`, `pkg/controller/tainteviction`

mod disruption;
mod evict;
mod health;
mod taints;

pub use disruption::{Mode, modes};
pub use evict::{Verdict, verdict};

use crate::common::{pods, time};
use crate::pod_gc;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Patch};
use disruption::Budget;
use health::Health;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use meta::Status;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;
const LEASES: &str = "kube-node-lease";
/// Time that a new node has for its first status (upstream: `NodeStartupGracePeriod`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
const OUT_OF_SERVICE: Duration = Duration::from_secs(1);

struct NodeController {
    client: Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    events: Recorder,
    eviction_events: Recorder,
    clock: SharedClock,
    grace: Duration,
    health: Mutex<HashMap<String, Health>>,
    /// Nodes whose pods are still to be marked as not ready.
    unmarked: Mutex<HashSet<String>>,
    budget: Mutex<Budget>,
    /// Since when pods have been on nodes with NoExecute taints, by uid.
    exposed: Mutex<HashMap<String, Duration>>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let nodes = setup.informers.of::<Node>();
    let pods = setup.informers.of::<Pod>();
    let leases = setup.informers.of::<Lease>();
    let client = setup.client("node-controller");
    let this = Arc::new(NodeController {
        events: setup.recorder(&client, "node-controller"),
        eviction_events: setup.recorder(&client, "taint-eviction-controller"),
        client,
        nodes: nodes.clone(),
        pods: pods.clone(),
        leases: leases.clone(),
        clock: setup.clock.clone(),
        grace: setup.config.node_grace,
        health: Mutex::default(),
        unmarked: Mutex::default(),
        budget: Mutex::default(),
        exposed: Mutex::default(),
    });
    let (store, for_pods) = (nodes.store().clone(), nodes.store().clone());
    Controller::new("node-lifecycle", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&nodes, |c, q| c.latest().into_iter().for_each(|n| q.add(ObjectKey::of(&**n))))
        .watches(&pods, move |c, q| {
            // a pod that comes to a tainted node may have to go
            let came = c.old.as_ref().is_none_or(|o| pods::node_name(o).is_empty());
            if let Some(pod) = c.new.as_ref().filter(|p| came && !pods::node_name(p).is_empty())
                && for_pods.get("", pods::node_name(pod)).is_some_and(|n| !taints::no_execute(&n).is_empty())
            {
                q.add(ObjectKey::new("", pods::node_name(pod)));
            }
        })
        .needs(&leases)
        .resync(setup.config.node_period, move || store.list().iter().map(|n| ObjectKey::of(&**n)).collect())
        .start(setup.cancel.clone())
}

impl NodeController {
    fn pods_of(&self, node: &str) -> Vec<Arc<Pod>> {
        self.pods.store().list().into_iter().filter(|p| pods::node_name(p) == node).collect()
    }

    fn node_gone(&self, name: &str) {
        if let Some(health) = self.health.lock().remove(name) {
            let about = ObjectReference { uid: Some(health.uid), ..node_reference(name) };
            let text = format!("Removing Node {name} from Controller");
            self.events.event(&about, EventType::Normal, "RemovingNode", text);
        }
        self.unmarked.lock().remove(name);
    }

    /// The node, with its conditions set to Unknown when it has been silent for too long.
    async fn judged(&self, node: Arc<Node>) -> Result<Arc<Node>, Status> {
        let lease = self.leases.store().get(LEASES, node.name());
        let now = self.clock.monotonic();
        let (probe, is_new) = {
            let mut all = self.health.lock();
            let known = all.get(node.name());
            let next = health::observe(known, &node, lease.as_deref(), now);
            let is_new = known.is_none_or(|k| k.uid != next.uid);
            let probe = next.probe;
            all.insert(node.name().to_owned(), next);
            (probe, is_new)
        };
        if is_new {
            let text = format!("Registered Node {} in Controller", node.name());
            self.events.event(&reference(&*node), EventType::Normal, "RegisteredNode", text);
        }
        let grace = if health::ready(&node).is_some() { self.grace } else { STARTUP_GRACE };
        if now.saturating_sub(probe) <= grace {
            return Ok(node);
        }
        let Some(changed) = health::unknown(&node, self.clock.now()) else { return Ok(node) };
        // our copy of the lease may be behind: the server's word counts before pods are moved
        let seen = lease.as_ref().map(|l| l.resource_version().to_owned()).unwrap_or_default();
        match self.client.get::<Lease>(LEASES, node.name()).await {
            Ok(live) if live.resource_version() != seen => return Ok(node),
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
        let written = self.client.update_status(&changed).await?;
        Ok(Arc::new(written))
    }

    async fn mark_pods(&self, name: &str) -> Result<(), Status> {
        for pod in self.pods_of(name) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let condition =
                json!({"type": "Ready", "status": "False", "lastTransitionTime": time(self.clock.now())});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            match self
                .client
                .patch::<Pod>(pod.namespace(), pod.name(), Some("status"), Patch::Strategic(patch))
                .await
            {
                Err(e) if e.is_not_found() => continue,
                other => drop(other?),
            }
            self.events.event(&reference(&*pod), EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    /// Whether a node may get a new NoExecute taint now; one that has it keeps it.
    fn may_taint(&self, node: &Node) -> Option<bool> {
        let nodes = self.nodes.store().list();
        let excluded = |n: &&Arc<Node>| n.label("node.kubernetes.io/exclude-disruption").is_none();
        let judged: Vec<_> =
            nodes.iter().filter(excluded).map(|n| (disruption::zone(n), health::is_ready(n))).collect();
        let zone = disruption::zone(node);
        match modes(&judged).remove(&zone).unwrap_or(Mode::Normal) {
            // when every node is silent, it is the network or us: nobody is evicted
            Mode::AllDown => None,
            mode => Some(self.budget.lock().take(&zone, mode, nodes.len(), self.clock.monotonic())),
        }
    }

    async fn taint(&self, node: &Node) -> Result<Option<Node>, Status> {
        let wanted = taints::wanted(node, self.clock.now(), &mut || self.may_taint(node));
        let Some(list) = wanted else { return Ok(None) };
        let rv = node.resource_version();
        let patch = json!({"metadata": {"resourceVersion": rv}, "spec": {"taints": list}});
        self.client.patch::<Node>("", node.name(), None, Patch::Merge(patch)).await.map(Some)
    }

    /// Deletes the pods that do not tolerate the node's taints any longer; the time until the next one is due.
    async fn evict(&self, node: &Node) -> Result<Option<Duration>, Status> {
        let taints = taints::no_execute(node);
        if taints.is_empty() && self.exposed.lock().is_empty() {
            return Ok(None);
        }
        let now = self.clock.monotonic();
        let mut next: Option<Duration> = None;
        for pod in self.pods_of(node.name()) {
            if taints.is_empty() {
                if self.exposed.lock().remove(pod.uid()).is_some() && !pod.is_deleting() {
                    let text = format!("Cancelling deletion of Pod {}/{}", pod.namespace(), pod.name());
                    self.eviction_events.event(
                        &pod_reference(&pod),
                        EventType::Normal,
                        "TaintManagerEviction",
                        text,
                    );
                }
                continue;
            }
            if pod.is_deleting() {
                continue;
            }
            let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
            let wait = match verdict(tolerations, &taints) {
                Verdict::Stays => {
                    self.exposed.lock().remove(pod.uid());
                    continue;
                }
                Verdict::Goes => Duration::ZERO,
                Verdict::After(time) => {
                    let since = *self.exposed.lock().entry(pod.uid().to_owned()).or_insert(now);
                    time.saturating_sub(now.saturating_sub(since))
                }
            };
            if wait.is_zero() {
                self.exposed.lock().remove(pod.uid());
                self.evict_one(&pod).await?;
            } else {
                next = Some(next.map_or(wait, |n| n.min(wait)));
            }
        }
        Ok(next)
    }

    async fn evict_one(&self, pod: &Pod) -> Result<(), Status> {
        let text = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
        self.eviction_events.event(&pod_reference(pod), EventType::Normal, "TaintManagerEviction", text);
        let message = "Taint manager: deleting due to NoExecute taint";
        let condition = pod_gc::disruption("DeletionByTaintManager", message, self.clock.now());
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        let (ns, name) = (pod.namespace(), pod.name());
        let marked = self.client.patch::<Pod>(ns, name, Some("status"), Patch::Strategic(patch)).await;
        if marked.as_ref().is_err_and(Status::is_not_found) {
            return Ok(());
        }
        marked?;
        match self.client.delete::<Pod>(ns, name, &DeleteOptions::default()).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// Forgets pods that are no longer there, so that the table stays as small as the cluster.
    fn forget_gone_pods(&self) {
        let mut exposed = self.exposed.lock();
        if !exposed.is_empty() {
            let there: HashSet<String> =
                self.pods.store().list().iter().map(|p| p.uid().to_owned()).collect();
            exposed.retain(|uid, _| there.contains(uid));
        }
    }
}

fn node_reference(name: &str) -> ObjectReference {
    let (api_version, kind) = (Some("v1".into()), Some("Node".into()));
    ObjectReference { api_version, kind, name: Some(name.to_owned()), ..ObjectReference::default() }
}

/// Upstream's taint manager names pods without their uid.
fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference { uid: None, resource_version: None, ..reference(pod) }
}

#[async_trait]
impl Reconcile for NodeController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(before) = self.nodes.store().get("", &key.name) else {
            self.node_gone(&key.name);
            return Ok(After::Done);
        };
        let was_ready = health::is_ready(&before);
        let node = self.judged(before).await?;
        if was_ready && !health::is_ready(&node) {
            let text = format!("Node {} status is now: NodeNotReady", key.name);
            self.events.event(&reference(&*node), EventType::Normal, "NodeNotReady", text);
            self.unmarked.lock().insert(key.name.clone());
        }
        // kubelets that report not ready themselves mark their own pods
        if self.unmarked.lock().contains(&key.name) {
            self.mark_pods(&key.name).await?;
            self.unmarked.lock().remove(&key.name);
        }
        let tainted = self.taint(&node).await?;
        let next = self.evict(tainted.as_ref().unwrap_or(&node)).await?;
        self.forget_gone_pods();
        Ok(next.map_or(After::Done, |n| After::Again(n.max(OUT_OF_SERVICE / 100))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;
    use client::fake::FakeApi;

    async fn until(what: &str, clock: &ManualClock, step: u64, check: impl Fn() -> bool) {
        for _ in 0..400 {
            if check() {
                return;
            }
            clock.advance(Duration::from_secs(step));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("never: {what}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_loses_its_pods() {
        let api = Arc::new(FakeApi::new());
        let node = |name: &str| {
            json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
        };
        api.seed("/api/v1/nodes", &node("silent"));
        api.seed("/api/v1/nodes", &node("alive"));
        api.seed("/api/v1/namespaces/n/pods", &json!({
            "metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            "spec": {"containers": [], "nodeName": "silent", "tolerations": [
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
        }));
        let client = Client::new(api.clone());
        let clock = Arc::new(ManualClock::new("2026-01-01T00:00:01Z".parse().unwrap()));
        let setup = Setup::of_fake(&api, clock.clone());
        let handle = start(&setup);
        let beat = {
            let clock = clock.clone();
            tokio::spawn(async move {
                let mut n = 0;
                loop {
                    n += 1;
                    let at = meta::time::rfc3339(base::clock::Clock::now(&*clock));
                    let c = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": at, "message": n.to_string()}]);
                    let patch = Patch::Merge(json!({"status": {"conditions": c}}));
                    let _ = client.patch::<Node>("", "alive", None, patch).await;
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            })
        };
        let node = || api.object("/api/v1/nodes/silent").unwrap();
        let ready = || node()["status"]["conditions"][0].clone();
        until("Unknown", &clock, 2, || ready()["status"] == "Unknown").await;
        assert_eq!(ready()["message"], "Kubelet stopped posting node status.");
        until("both taints", &clock, 2, || node()["spec"]["taints"].as_array().is_some_and(|t| t.len() == 2))
            .await;
        let pod = || api.object("/api/v1/namespaces/n/pods/p");
        assert_eq!(pod().unwrap()["status"]["conditions"][0]["status"], "False");
        until("the pod leaves", &clock, 5, || pod().is_none()).await;
        assert!(api.object("/api/v1/nodes/alive").unwrap()["spec"]["taints"].is_null());
        beat.abort();
        setup.cancel.cancel();
        handle.stopped().await;
    }
}
