//! Pods that nobody else cleans up: ended ones beyond a number, those of nodes that are gone, and deleted ones that
//! never got a node.
//!
//! upstream: `pkg/controller/podgc`

use crate::common::{pods, time};
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use meta::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Time between two passes, and how long a node must be gone (upstream: `gcCheckPeriod`, `quarantineTime`).
const PERIOD: Duration = Duration::from_secs(20);
const QUARANTINE: Duration = Duration::from_secs(40);

struct PodCollector {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    kept: usize,
    clock: SharedClock,
    /// Since when nodes have been missing, monotonic.
    missing: Mutex<HashMap<String, Duration>>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let (pods, nodes) = (setup.informers.of::<Pod>(), setup.informers.of::<Node>());
    let this = PodCollector {
        client: setup.client("pod-garbage-collector"),
        pods: pods.clone(),
        nodes: nodes.clone(),
        kept: setup.config.ended_pods_kept,
        clock: setup.clock.clone(),
        missing: Mutex::default(),
    };
    let controller = Controller::new("pod-garbage-collector", Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller.needs(&pods).needs(&nodes).start(setup.cancel.clone())
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    TooManyEnded,
    NodeGone,
    NeverScheduled,
    OutOfService,
}

/// The pods to delete. `gone` are nodes that are known not to exist.
pub fn plan(
    all: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    gone: &HashSet<String>,
    kept: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let mut out = Vec::new();
    if kept > 0 {
        let ended = |p: &&Arc<Pod>| !matches!(pods::phase(p), "Pending" | "Running" | "Unknown" | "");
        let mut ended: Vec<_> = all.iter().filter(ended).cloned().collect();
        let surplus = ended.len().saturating_sub(kept);
        let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
        let made = |p: &Pod| p.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |t| t.0);
        ended.sort_by(|a, b| {
            let by_eviction = evicted(b).cmp(&evicted(a));
            by_eviction.then_with(|| made(a).cmp(&made(b))).then_with(|| a.name().cmp(b.name()))
        });
        out.extend(ended.into_iter().take(surplus).map(|p| (p, Why::TooManyEnded)));
    }
    let out_of_service: HashSet<&str> =
        nodes.iter().filter(|n| is_out_of_service(n)).map(|n| n.name()).collect();
    for pod in all {
        let node = pods::node_name(pod);
        let why = match (pod.is_deleting(), node) {
            (true, "") => Why::NeverScheduled,
            (true, n) if out_of_service.contains(n) => Why::OutOfService,
            (_, n) if gone.contains(n) => Why::NodeGone,
            _ => continue,
        };
        out.push((pod.clone(), why));
    }
    out
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let tainted = taints.into_iter().any(|t| t.key == "node.kubernetes.io/out-of-service");
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    tainted && !conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

impl PodCollector {
    /// Nodes that pods name and that have not existed for a while; asked for live before they count.
    async fn gone(&self, all: &[Arc<Pod>], nodes: &[Arc<Node>]) -> HashSet<String> {
        let known: HashSet<&str> = nodes.iter().map(|n| n.name()).collect();
        let named: BTreeSet<&str> =
            all.iter().map(|p| pods::node_name(p)).filter(|n| !n.is_empty()).collect();
        let now = self.clock.monotonic();
        let due: Vec<String> = {
            let mut missing = self.missing.lock();
            missing.retain(|n, _| named.contains(n.as_str()) && !known.contains(n.as_str()));
            for n in named.iter().filter(|n| !known.contains(*n)) {
                missing.entry((*n).to_owned()).or_insert(now);
            }
            missing
                .iter()
                .filter(|(_, since)| now.saturating_sub(**since) >= QUARANTINE)
                .map(|(n, _)| n.clone())
                .collect()
        };
        let mut gone = HashSet::new();
        for node in due {
            match self.client.get::<Node>("", &node).await {
                Err(e) if e.is_not_found() => drop(gone.insert(node)),
                Err(e) => tracing::warn!(%node, "not known whether the node exists: {e}"),
                Ok(_) => {}
            }
        }
        gone
    }

    async fn delete(&self, pod: &Pod, why: Why) -> Result<(), Status> {
        if !pods::is_terminal(pod) {
            let patch = failed_patch(pod, why, self.clock.now());
            match self
                .client
                .patch::<Pod>(pod.namespace(), pod.name(), Some("status"), Patch::Strategic(patch))
                .await
            {
                Err(e) if e.is_not_found() => return Ok(()),
                other => drop(other?),
            }
        }
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        match self.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }
}

/// A pod must not go while it says that it runs: whoever waits for its end needs a phase that ended.
fn failed_patch(pod: &Pod, why: Why, now: Timestamp) -> Value {
    let mut status = json!({"phase": "Failed"});
    if why == Why::NodeGone {
        status["conditions"] = json!([disruption("DeletionByPodGC", "PodGC: node no longer exists", now)]);
    }
    json!({"metadata": {"uid": pod.uid()}, "status": status})
}

/// The condition of a pod that is deleted for the cluster's reasons.
pub(crate) fn disruption(reason: &str, message: &str, now: Timestamp) -> Value {
    json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": time(now)})
}

#[async_trait]
impl Reconcile for PodCollector {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        let (all, nodes) = (self.pods.store().list(), self.nodes.store().list());
        let gone = self.gone(&all, &nodes).await;
        for (pod, why) in plan(&all, &nodes, &gone, self.kept) {
            if let Err(e) = self.delete(&pod, why).await {
                tracing::warn!(pod = %pod.name(), ?why, "pod not deleted: {e}");
            }
        }
        Ok(After::Again(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes() {
        let pod = |name: &str, node: &str, phase: &str, deleting: bool| -> Arc<Pod> {
            let mut v = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}});
            if deleting {
                v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value(v).unwrap())
        };
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "down"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}))
        .unwrap();
        let all = [
            pod("done-b", "n", "Succeeded", false),
            pod("done-a", "n", "Failed", false),
            pod("runs", "n", "Running", false),
            pod("lost", "gone", "Running", false),
            pod("never", "", "Pending", true),
            pod("waits", "", "Pending", false),
            pod("stuck", "down", "Running", true),
        ];
        let got = plan(&all, &[Arc::new(node)], &HashSet::from(["gone".to_owned()]), 1);
        let got: Vec<_> = got.iter().map(|(p, w)| (p.name().to_owned(), *w)).collect();
        let want = [
            ("done-a", Why::TooManyEnded),
            ("lost", Why::NodeGone),
            ("never", Why::NeverScheduled),
            ("stuck", Why::OutOfService),
        ];
        assert_eq!(got, want.map(|(n, w)| (n.to_owned(), w)));
    }
}
