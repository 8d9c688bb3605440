//! Pod (upstream: `pkg/registry/core/pod/strategy.go`).

mod columns;
pub mod disabled;
mod ephemeral;
mod prepare;
mod resize;
pub mod validation;

use crate::def::{Ctx, KindDef, Strategy, StrategyRef, Subresource, status};
use crate::pod_resources::is_whole;
use crate::resources::quantity;
use crate::validate::{items, text};
use crate::{ip, pod_defaults, pod_warnings};
use meta::field::{ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

const STREAM: &[&str] = &["create", "get"];
const SHARED: &[&str] = &["get", "patch", "update"];

pub fn kind() -> KindDef {
    KindDef {
        kind: "Pod".into(),
        plural: "pods".into(),
        singular: "pod".into(),
        short: &["po"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.Pod".into(),
        storage: "pods".into(),
        subresources: const {
            &[
                status(),
                Subresource { name: "attach", verbs: STREAM, body: Some(("", "v1", "PodAttachOptions")) },
                Subresource { name: "binding", verbs: &["create"], body: Some(("", "v1", "Binding")) },
                Subresource { name: "ephemeralcontainers", verbs: SHARED, body: None },
                Subresource {
                    name: "eviction",
                    verbs: &["create"],
                    body: Some(("policy", "v1", "Eviction")),
                },
                Subresource { name: "exec", verbs: STREAM, body: Some(("", "v1", "PodExecOptions")) },
                Subresource { name: "log", verbs: &["get"], body: None },
                Subresource {
                    name: "portforward",
                    verbs: STREAM,
                    body: Some(("", "v1", "PodPortForwardOptions")),
                },
                Subresource {
                    name: "proxy",
                    verbs: &["create", "delete", "get", "patch", "update"],
                    body: Some(("", "v1", "PodProxyOptions")),
                },
                Subresource { name: "resize", verbs: SHARED, body: None },
            ]
        },
        columns: columns::COLUMNS,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
            // of clients of old
            "spec.host",
        ],
        generation: true,
        strategy: StrategyRef::Static(&Pod),
        sample: include_str!("samples/pod.yaml"),
        ..KindDef::BASE
    }
}

struct Pod;

impl Strategy for Pod {
    fn default(&self, obj: &mut Value) {
        pod_defaults::pod(obj);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        (subresource == "status").then_some(&[
            "spec",
            "metadata.deletionTimestamp",
            "metadata.ownerReferences",
        ])
    }

    fn early_warnings(&self, obj: &Value) -> Vec<String> {
        prepare::apparmor_warnings(obj)
    }

    fn prepare_create(&self, obj: &mut Value, ctx: &Ctx) {
        disabled::drop_fields(obj, &Value::Null);
        prepare::label_keys(obj);
        prepare::apparmor(obj);
        prepare::whole(&mut obj["spec"]);
        obj["status"] = json!({"phase": "Pending", "qosClass": qos_class(&obj["spec"])});
        if items(&obj["spec"], "schedulingGates").is_empty() {
            return;
        }
        obj["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": meta::time::rfc3339(ctx.now),
        }]);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        match ctx.subresource {
            "status" => prepare_status(new, old),
            "ephemeralcontainers" => ephemeral::prepare(new, old),
            "resize" => resize::prepare(new, old),
            other => {
                let mut status = old["status"].clone();
                // Binding is the one write that sets a condition together with the spec.
                if other == "binding" {
                    status["conditions"] = new["status"]["conditions"].clone();
                    status.as_object_mut().map(|s| s.remove("nominatedNodeName"));
                }
                new["status"] = status;
                // Clients that do not know the pod's own resources leave them out.
                if new["spec"]["resources"].is_null() && !old["spec"]["resources"].is_null() {
                    new["spec"]["resources"] = old["spec"]["resources"].clone();
                }
            }
        }
        disabled::drop_fields(new, old);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        validation::pod(obj)
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        match ctx.subresource {
            "status" => validation::status_update(new, old),
            // A binding goes past the strategy: what it may do is checked where it is made (upstream:
            // `pkg/registry/core/pod/storage/storage.go#setPodNodeAndMetadata`).
            "binding" => Vec::new(),
            "ephemeralcontainers" => ephemeral::errors(new, old),
            "resize" => resize::errors(new, old),
            _ => validation::update(new, old),
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let Some(old) = old else { return pod_warnings::pod(new) };
        if new["status"] == old["status"] {
            // Upstream: people do not change pods, and what does changes many.
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for list in ["podIPs", "hostIPs"] {
            for (i, one) in items(&new["status"], list).iter().enumerate() {
                let at = Path::new("status").child(list).index(i).child("ip");
                warnings.extend(ip::warnings(text(one, "ip"), &at));
            }
        }
        warnings
    }

    fn grace_seconds(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        let spec = &obj["spec"];
        let mut seconds = asked.or_else(|| spec["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
        let unscheduled = text(spec, "nodeName").is_empty();
        let finished = matches!(text(&obj["status"], "phase"), "Failed" | "Succeeded");
        // Nobody has to be waited for when no kubelet runs it.
        if unscheduled || finished {
            seconds = 0;
        }
        Some(if seconds < 0 { 1 } else { seconds })
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&obj["spec"], &obj["status"]);
        let ips: Vec<&str> = items(status, "podIPs").iter().map(|i| text(i, "ip")).collect();
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.restartPolicy", text(spec, "restartPolicy").to_owned()),
            ("spec.schedulerName", text(spec, "schedulerName").to_owned()),
            ("spec.serviceAccountName", text(spec, "serviceAccountName").to_owned()),
            ("spec.hostNetwork", (spec["hostNetwork"] == true).to_string()),
            ("status.phase", text(status, "phase").to_owned()),
            ("status.podIP", ips.first().copied().unwrap_or_else(|| text(status, "podIP")).to_owned()),
            ("status.podIPs", ips.join(",")),
            ("status.nominatedNodeName", text(status, "nominatedNodeName").to_owned()),
            ("spec.host", text(spec, "nodeName").to_owned()),
        ]
    }
}

fn prepare_status(new: &mut Value, old: &Value) {
    new["spec"] = old["spec"].clone();
    object::set_meta(new, "generation", object::generation(old));
    // Owners are not the kubelet's to change.
    match old["metadata"].get("ownerReferences") {
        Some(v) => object::set_meta(new, "ownerReferences", v.clone()),
        None => object::remove_meta(new, "ownerReferences"),
    }
    let (status, was) = (&mut new["status"], &old["status"]);
    if text(status, "qosClass").is_empty() && !was["qosClass"].is_null() {
        status["qosClass"] = was["qosClass"].clone();
    }
    // What clients leave out that do not know it stays; off by default, so dropped otherwise.
    for field in
        ["resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses"]
    {
        if status[field].is_null() && !was[field].is_null() {
            status[field] = was[field].clone();
        }
    }
    for field in ["nodeAllocatableResourceClaimStatuses", "volumeHealth"] {
        if was[field].is_null() {
            status.as_object_mut().map(|s| s.remove(field));
        }
    }
    keep_generations(status, was);
}

/// Upstream: `preserveOldObservedGeneration`. There may be several conditions of a type.
fn keep_generations(status: &mut Value, was: &Value) {
    const FIELD: &str = "observedGeneration";
    let seen = |v: &Value| v[FIELD].as_i64().unwrap_or(0);
    if seen(status) == 0 && seen(was) != 0 {
        status[FIELD] = was[FIELD].clone();
    }
    let mut before: Vec<&Value> = items(was, "conditions").iter().collect();
    for c in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(i) = before.iter().position(|b| b["type"] == c["type"]) else { continue };
        let old = before.remove(i);
        if seen(c) == 0 && seen(old) != 0 {
            c[FIELD] = old[FIELD].clone();
        }
    }
}

/// The quality-of-service class of a pod spec (upstream: `pkg/apis/core/helper/qos/qos.go#ComputePodQOS`).
pub fn qos_class(spec: &Value) -> &'static str {
    let own = &spec["resources"];
    if ["requests", "limits"]
        .iter()
        .any(|s| own[*s].as_object().is_some_and(|l| l.keys().any(|n| is_whole(n))))
    {
        return class_of(own);
    }
    let all = items(spec, "initContainers").iter().chain(items(spec, "containers"));
    one_class(all.map(|c| class_of(&c["resources"])))
}

/// The class that all have, or that of those that differ.
fn one_class(mut classes: impl Iterator<Item = &'static str>) -> &'static str {
    let first = classes.next().unwrap_or("BestEffort");
    if classes.all(|c| c == first) { first } else { "Burstable" }
}

fn class_of(resources: &Value) -> &'static str {
    one_class(["cpu", "memory"].into_iter().map(|name| {
        let (request, limit) = (quantity(&resources["requests"][name]), quantity(&resources["limits"][name]));
        match request == limit {
            false => "Burstable",
            true if request.is_zero() => "BestEffort",
            true => "Guaranteed",
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qos() {
        let of = |r: Value| qos_class(&json!({"containers": [{"resources": r}]}));
        assert_eq!(of(json!({})), "BestEffort");
        assert_eq!(of(json!({"requests": {"cpu": "10m"}})), "Burstable");
        let full = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(of(json!({"limits": full, "requests": full})), "Guaranteed");
        assert_eq!(of(json!({"limits": full, "requests": {"cpu": "1000m", "memory": "1Gi"}})), "Guaranteed");
        assert_eq!(of(json!({"limits": full, "requests": {"cpu": "500m", "memory": "1Gi"}})), "Burstable");
        assert_eq!(
            qos_class(&json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{}]})),
            "Burstable"
        );
    }
}
