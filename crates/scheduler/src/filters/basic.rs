//! Filters that look at one node alone.

use super::{Verdict, no};
use crate::pod::{HostPort, PodInfo};
use crate::select;
use crate::snapshot::NodeInfo;
use client::Kind;
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// upstream: `plugins/nodeunschedulable`
pub(super) fn unschedulable(pod: &PodInfo, node: &Node) -> Verdict {
    if node.spec.as_ref().and_then(|s| s.unschedulable) != Some(true) {
        return Ok(());
    }
    let taint = Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
    if select::tolerates(pod.spec.tolerations.as_deref().unwrap_or_default(), &taint) {
        return Ok(());
    }
    no("node(s) were unschedulable", true)
}

/// upstream: `plugins/nodename`
pub(super) fn name(pod: &PodInfo, node: &Node) -> Verdict {
    match pod.spec.node_name.as_deref() {
        Some(n) if !n.is_empty() && n != node.name() => no("node(s) didn't match the requested node name", true),
        _ => Ok(()),
    }
}

/// upstream: `plugins/tainttoleration`
pub(super) fn taints(pod: &PodInfo, node: &Node) -> Verdict {
    let tolerations = pod.spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let mut hard = taints.filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"));
    if hard.any(|t| !select::tolerates(tolerations, t)) {
        return no("node(s) had untolerated taint(s)", true);
    }
    Ok(())
}

/// Whether a node has the labels that a pod selects and meets one of its required terms.
pub(crate) fn fits_node_affinity(spec: &PodSpec, node: &Node) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| node.label(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| select::node_term(t, node)))
}

/// upstream: `plugins/nodeaffinity`
pub(super) fn node_affinity(pod: &PodInfo, node: &Node) -> Verdict {
    if fits_node_affinity(&pod.spec, node) { Ok(()) } else { no("node(s) didn't match Pod's node affinity/selector", true) }
}

fn conflicts(a: &HostPort, b: &HostPort) -> bool {
    let any = |ip: &str| matches!(ip, "0.0.0.0" | "::");
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || any(&a.0) || any(&b.0))
}

/// upstream: `plugins/nodeports`
pub(super) fn ports(pod: &PodInfo, info: &NodeInfo) -> Verdict {
    if pod.host_ports.is_empty() {
        return Ok(());
    }
    let mut used = info.pods.values().flat_map(|p| &p.host_ports);
    if used.any(|u| pod.host_ports.iter().any(|w| conflicts(u, w))) {
        return no("node(s) didn't have free ports for the requested pod ports", false);
    }
    Ok(())
}

/// upstream: `plugins/noderesources/fit.go#fitsRequest`
pub(super) fn resources(pod: &PodInfo, info: &NodeInfo) -> Verdict {
    let (mut reasons, mut unresolvable) = (Vec::new(), false);
    if info.pods.len() as i64 + 1 > info.allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, want) in pod.requests.0.iter().filter(|(n, w)| **w > 0 && *n != "pods") {
        let has = info.allocatable.get(name);
        if *want > has - info.requested.get(name) {
            reasons.push(format!("Insufficient {name}"));
            unresolvable |= *want > has;
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err((reasons, unresolvable)) }
}
