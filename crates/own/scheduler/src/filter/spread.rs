//! Topology spread constraints that must hold (upstream: `podtopologyspread/filtering.go`).

use super::Refusal;
use crate::pod::{PodInfo, Spread};
use crate::selector;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::taint;
use std::collections::HashMap;

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// Matching pods by constraint and topology value.
pub(super) struct HardSpread(Vec<HashMap<String, usize>>);

impl HardSpread {
    pub(super) fn new(snapshot: &Snapshot, pod: &PodInfo) -> Self {
        let constraints = &pod.hard_spread;
        let mut counts = vec![HashMap::new(); constraints.len()];
        if constraints.is_empty() {
            return Self(counts);
        }
        for node in snapshot.nodes() {
            if constraints.iter().any(|c| node.label(&c.topology_key).is_none()) {
                continue;
            }
            for (c, counts) in constraints.iter().zip(&mut counts) {
                if let Some(value) = node.label(&c.topology_key)
                    && includes(c, pod, node)
                {
                    *counts.entry(value.to_owned()).or_default() += matching(c, pod, node);
                }
            }
        }
        Self(counts)
    }

    pub(super) fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        for (c, counts) in pod.hard_spread.iter().zip(&self.0) {
            let Some(value) = node.label(&c.topology_key) else { return Some(Refusal::fixed(NO_LABEL)) };
            let enough = counts.len() >= usize::try_from(c.min_domains).unwrap_or(0);
            let least = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
            let own = usize::from(selector::matches(&c.selector, pod.labels()));
            let here = counts.get(value).copied().unwrap_or(0);
            if (here + own).saturating_sub(least) > usize::try_from(c.max_skew).unwrap_or(0) {
                return Some(Refusal::movable(UNEVEN));
            }
        }
        None
    }
}

/// Whether a node counts for a constraint (upstream: `matchNodeInclusionPolicies`).
pub(crate) fn includes(c: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!c.honor_affinity || pod.node.matches(&node.node))
        && (!c.honor_taints || !taint::repels(node.taints(), pod.tolerations()))
}

/// Pods on a node that a constraint means (upstream: `countPodsMatchSelector`).
pub(crate) fn matching(c: &Spread, pod: &PodInfo, node: &NodeInfo) -> usize {
    if c.selector.is_empty() {
        return 0;
    }
    let counts = |p: &PodInfo| {
        !p.is_deleting() && p.namespace() == pod.namespace() && selector::matches(&c.selector, p.labels())
    };
    node.pods.iter().filter(|p| counts(p)).count()
}
