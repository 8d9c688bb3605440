//! The decision: a node for a pod, or why there is none. No I/O, no clock; chance comes in as a parameter.

use crate::filter::{Filters, Refusal};
use crate::message;
use crate::pod::PodInfo;
use crate::score;
use crate::snapshot::{NodeInfo, Snapshot};
use base::rng::Rng;
use std::collections::BTreeMap;

/// In clusters of this many nodes not all possible nodes are looked for (upstream: `minFeasibleNodesToFind`,
/// `minFeasibleNodesPercentageToFind`).
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_FEASIBLE_PERCENT: usize = 5;

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Node(String),
    /// No node can take it.
    Unschedulable {
        /// Nodes there are.
        total: usize,
        /// How many nodes were refused for each reason; a node may have several.
        reasons: BTreeMap<String, usize>,
        /// What removing less important pods could do.
        preemption: Preemption,
    },
}

/// What removing less important pods from nodes could do. We never do it, but say why it would not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// The pod does not want others to be removed.
    NotEligible,
    /// It could not help, with the number of nodes for each reason.
    NotHelpful(BTreeMap<String, usize>),
    /// It might help, or was not looked at.
    Unknown,
}

impl Decision {
    /// The text of event and condition; `None` for a pod that has a node.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Node(_) => None,
            Self::Unschedulable { total, reasons, preemption } => {
                Some(message::fit_error(*total, reasons, preemption))
            }
        }
    }
}

/// Chooses the best node for a pod.
pub fn decide(snapshot: &Snapshot, pod: &PodInfo, rng: &Rng) -> Decision {
    let nodes = snapshot.nodes();
    let filters = Filters::new(snapshot, pod);
    let wanted = feasible_wanted(nodes.len());
    // where the search begins only matters when it may end early
    let start = if wanted < nodes.len() { rng.below(nodes.len() as u64) as usize } else { 0 };
    let (mut feasible, mut refused, mut pinned_out) = (Vec::new(), Vec::new(), 0);
    for node in nodes.iter().cycle().skip(start).take(nodes.len()) {
        if pod.node.names.as_ref().is_some_and(|names| !names.contains(node.name())) {
            pinned_out += 1;
            continue;
        }
        match filters.check(node) {
            None => feasible.push(node),
            Some(refusal) => refused.push((node, refusal)),
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    match feasible.as_slice() {
        [] => unschedulable(nodes.len(), pod, &refused, pinned_out),
        [one] => Decision::Node(one.name().to_owned()),
        many => Decision::Node(best(many, &score::score(snapshot, pod, many), rng).to_owned()),
    }
}

/// Upstream: `schedule_one.go#numFeasibleNodesToFind`.
fn feasible_wanted(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE_NODES {
        return nodes.max(1);
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(MIN_FEASIBLE_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
}

/// One of the nodes with the greatest score, each with the same chance.
fn best<'a>(nodes: &[&'a NodeInfo], scores: &[i64], rng: &Rng) -> &'a str {
    let most = scores.iter().copied().max().unwrap_or(0);
    let top: Vec<&'a NodeInfo> =
        nodes.iter().zip(scores).filter(|(_, s)| **s == most).map(|(n, _)| *n).collect();
    top.get(rng.below(top.len() as u64) as usize).map_or("", |n| n.name())
}

fn unschedulable(
    total: usize,
    pod: &PodInfo,
    refused: &[(&NodeInfo, Refusal)],
    pinned_out: usize,
) -> Decision {
    let mut reasons = BTreeMap::new();
    for reason in refused.iter().flat_map(|(_, r)| &r.reasons) {
        *reasons.entry(reason.clone()).or_default() += 1;
    }
    if total > 0 && pod.node.names.as_ref().is_some_and(|n| n.is_empty()) {
        reasons = BTreeMap::from([(message::TERMS_CONFLICT.to_owned(), total)]);
    } else if pinned_out > 0 {
        reasons.insert(message::PINNED_ELSEWHERE.to_owned(), pinned_out);
    }
    Decision::Unschedulable { total, reasons, preemption: preemption(total, pod, refused) }
}

/// Upstream: `preemption.go#evaluate` with `default_preemption.go#SelectVictimsOnNode`, as far as no pod is less important.
fn preemption(total: usize, pod: &PodInfo, refused: &[(&NodeInfo, Refusal)]) -> Preemption {
    if pod.spec().is_some_and(|s| s.preemption_policy.as_deref() == Some("Never")) {
        return Preemption::NotEligible;
    }
    let candidates = refused.iter().filter(|(_, r)| !r.unresolvable);
    let victims = |n: &NodeInfo| n.pods.iter().any(|p| p.priority() < pod.priority());
    let mut no_victims = 0;
    for (node, _) in candidates {
        if victims(node) {
            return Preemption::Unknown;
        }
        no_victims += 1;
    }
    let mut reasons = BTreeMap::new();
    if no_victims > 0 {
        reasons.insert("No preemption victims found for incoming pod".to_owned(), no_victims);
    }
    if total > no_victims {
        reasons.insert("Preemption is not helpful for scheduling".to_owned(), total - no_victims);
    }
    Preemption::NotHelpful(reasons)
}

#[cfg(test)]
mod tests;
