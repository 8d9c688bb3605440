//! Which nodes a pod can run on, and why not on the others.
//!
//! The checks run in upstream's order; the first that refuses a node gives the reasons
//! (upstream: `pkg/scheduler/apis/config/v1/default_plugins.go`).

mod fit;
mod interpod;
pub(crate) mod spread;

use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::taint;
use interpod::Interpod;
use k8s_openapi::api::core::v1::Taint;
use spread::HardSpread;

/// Why a node is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reasons: Vec<String>,
    /// Removing pods from the node could not help.
    pub(crate) unresolvable: bool,
}

impl Refusal {
    fn fixed(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], unresolvable: true }
    }

    fn movable(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], unresolvable: false }
    }
}

type Check = fn(&Filters<'_>, &NodeInfo) -> Option<Refusal>;

/// Upstream's default filters that look at something we have.
const CHECKS: [Check; 8] = [
    |f, n| f.node_name(n),
    |f, n| f.node_unschedulable(n),
    |f, n| f.taints(n),
    |f, n| f.node_affinity(n),
    |f, n| f.ports(n),
    |f, n| fit::check(f.pod, n),
    |f, n| f.spread.check(f.pod, n),
    |f, n| f.interpod.check(f.pod, n),
];

/// The checks for one pod, with what is counted over all nodes once.
pub(crate) struct Filters<'a> {
    pod: &'a PodInfo,
    spread: HardSpread,
    interpod: Interpod,
}

impl<'a> Filters<'a> {
    pub(crate) fn new(snapshot: &Snapshot, pod: &'a PodInfo) -> Self {
        Self { pod, spread: HardSpread::new(snapshot, pod), interpod: Interpod::new(snapshot, pod) }
    }

    pub(crate) fn check(&self, node: &NodeInfo) -> Option<Refusal> {
        CHECKS.iter().find_map(|c| c(self, node))
    }

    fn node_name(&self, node: &NodeInfo) -> Option<Refusal> {
        let wanted = self.pod.spec().and_then(|s| s.node_name.as_deref()).unwrap_or("");
        let out = !wanted.is_empty() && wanted != node.name();
        out.then(|| Refusal::fixed("node(s) didn't match the requested node name"))
    }

    fn node_unschedulable(&self, node: &NodeInfo) -> Option<Refusal> {
        let taint =
            Taint { key: taint::UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
        let out = node.is_unschedulable() && !taint::tolerated(self.pod.tolerations(), &taint);
        out.then(|| Refusal::fixed("node(s) were unschedulable"))
    }

    fn taints(&self, node: &NodeInfo) -> Option<Refusal> {
        let out = taint::repels(node.taints(), self.pod.tolerations());
        out.then(|| Refusal::fixed("node(s) had untolerated taint(s)"))
    }

    fn node_affinity(&self, node: &NodeInfo) -> Option<Refusal> {
        let out = !self.pod.node.matches(&node.node);
        out.then(|| Refusal::fixed("node(s) didn't match Pod's node affinity/selector"))
    }

    fn ports(&self, node: &NodeInfo) -> Option<Refusal> {
        let out = self.pod.ports.iter().any(|p| node.ports.iter().any(|q| p.conflicts(q)));
        out.then(|| Refusal::movable("node(s) didn't have free ports for the requested pod ports"))
    }
}
