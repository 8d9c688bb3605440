//! The decision about one pod, without I/O, clock or randomness of its own.

use crate::filters::{Filters, Objection};
use crate::pod::PodInfo;
use crate::scores;
use crate::snapshot::{NodeInfo, Snapshot};
use client::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Node(String),
    Rejected(Rejection),
}

/// Why no node can take the pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Upstream's text for people.
    pub message: String,
    /// The filters that objected: what has to change.
    pub plugins: BTreeSet<&'static str>,
}

/// Finds the best node. Of several equally good ones `pick` chooses, given their number.
pub fn decide(snapshot: &Snapshot, pod: &PodInfo, pick: &mut dyn FnMut(usize) -> usize) -> Decision {
    let filters = Filters::new(snapshot, pod);
    let (mut fit, mut objections) = (Vec::new(), Vec::new());
    for (node, info) in snapshot.nodes() {
        match filters.check(node, info) {
            Ok(()) => fit.push((node, info)),
            Err(o) => objections.push((o, info)),
        }
    }
    match fit.as_slice() {
        [] => return Decision::Rejected(reject(pod, &objections)),
        [(one, _)] => return Decision::Node(one.name().to_owned()),
        _ => {}
    }
    let totals = scores::score(snapshot, pod, &fit);
    let best = totals.iter().copied().max().unwrap_or(0);
    let equal: Vec<usize> = (0..fit.len()).filter(|i| totals[*i] == best).collect();
    let chosen = equal[pick(equal.len()).min(equal.len() - 1)];
    Decision::Node(fit[chosen].0.name().to_owned())
}

/// Upstream: `FitError.Error`, with what its preemption plugin says when it finds nothing.
fn reject(pod: &PodInfo, objections: &[(Objection, &NodeInfo)]) -> Rejection {
    if objections.is_empty() {
        return Rejection { message: "no nodes available to schedule pods".into(), plugins: BTreeSet::new() };
    }
    let reasons = objections.iter().flat_map(|(o, _)| o.reasons.iter().map(String::as_str));
    let plugins = objections.iter().map(|(o, _)| o.plugin).collect();
    let preemption = if pod.spec.preemption_policy.as_deref() == Some("Never") {
        "not eligible due to preemptionPolicy=Never.".to_owned()
    } else {
        available(objections.len(), objections.iter().map(|(o, info)| preemption(pod, o, info)))
    };
    let message = format!("{} preemption: {preemption}", available(objections.len(), reasons));
    Rejection { message, plugins }
}

fn preemption(pod: &PodInfo, objection: &Objection, info: &NodeInfo) -> &'static str {
    if objection.unresolvable {
        "Preemption is not helpful for scheduling"
    } else if info.pods.values().any(|p| p.priority() < pod.priority()) {
        // our own word: upstream would look for victims here
        "Preemption of lower priority pods is not supported"
    } else {
        "No preemption victims found for incoming pod"
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn available<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for r in reasons {
        *counts.entry(r).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(r, n)| format!("{n} {r}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}

#[cfg(test)]
mod tests;
