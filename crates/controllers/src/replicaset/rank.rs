//! Which pods are missed least (upstream: `controller_utils.go#ActivePodsWithRanks`).

use crate::common::pods;
use client::Kind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods to delete first. `related` are all pods of the same deployment: of pods that are otherwise alike, the
/// one on the node with most of them goes.
pub fn victims(active: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut all = active.to_vec();
    if count < all.len() {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|p| pods::is_active(p)) {
            *on_node.entry(pods::node_name(pod)).or_default() += 1;
        }
        let rank = |p: &Pod| on_node.get(pods::node_name(p)).copied().unwrap_or(0);
        all.sort_by(|a, b| before(a, b, &rank, now));
    }
    all.truncate(count);
    all
}

/// `Less` when `a` goes first.
fn before(a: &Pod, b: &Pod, rank: &dyn Fn(&Pod) -> usize, now: Timestamp) -> Ordering {
    let assigned = |p: &Pod| !pods::node_name(p).is_empty();
    let phase = |p: &Pod| match pods::phase(p) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let cost = |p: &Pod| p.annotation(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| younger(pods::ready_since(a), pods::ready_since(b), a, b, now))
        .then_with(|| pods::restarts(b).cmp(&pods::restarts(a)))
        .then_with(|| younger(created(a), created(b), a, b, now))
}

fn created(p: &Pod) -> Option<Timestamp> {
    p.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

/// The younger goes first; ages within the same power of two count as alike, and the uid decides, so that not always
/// the youngest go (upstream: `LogarithmicScaleDown`).
fn younger(x: Option<Timestamp>, y: Option<Timestamp>, a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    match (x, y) {
        (None, None) => Ordering::Equal,
        // no time is taken for "just now"
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(x), Some(y)) if x == y => Ordering::Equal,
        (Some(x), Some(y)) => {
            let bucket = |t: Timestamp| now.duration_since(t).as_nanos().max(0).checked_ilog2();
            bucket(x).cmp(&bucket(y)).then_with(|| a.uid().cmp(b.uid()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, ready: Option<&str>, extra: Value) -> Arc<Pod> {
        let conditions = ready.map(|t| json!([{"type": "Ready", "status": "True", "lastTransitionTime": t}]));
        let mut v = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": if node.is_empty() { "Pending" } else { "Running" }, "conditions": conditions},
        });
        if let Some(cost) = extra["cost"].as_str() {
            v["metadata"]["annotations"] = json!({DELETION_COST: cost});
        }
        if let Some(n) = extra["restarts"].as_i64() {
            v["status"]["containerStatuses"] =
                json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": n}]);
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    #[test]
    fn order_of_deletion() {
        let t = Some("2026-01-01T00:00:10Z");
        let all = vec![
            pod("oldest", "n1", t, json!({})),
            pod("restarted", "n1", t, json!({"restarts": 3})),
            pod("young", "n1", Some("2026-01-01T00:59:00Z"), json!({})),
            pod("crowded", "n2", t, json!({})),
            pod("cheap", "n1", t, json!({"cost": "-5"})),
            pod("unready", "n1", None, json!({})),
            pod("unassigned", "", None, json!({})),
        ];
        let mut related = all.clone();
        related.extend((0..9).map(|i| pod(&format!("other{i}"), "n2", t, json!({}))));
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let names: Vec<_> = victims(&all, &related, 6, now).iter().map(|p| p.name().to_owned()).collect();
        assert_eq!(names, ["unassigned", "unready", "cheap", "crowded", "young", "restarted"]);
    }
}
