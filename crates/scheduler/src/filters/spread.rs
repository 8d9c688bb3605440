//! Even spreading over zones, hosts or other domains (upstream: `plugins/podtopologyspread/filtering.go`).

use super::{Verdict, basic, no};
use crate::pod::PodInfo;
use crate::select;
use crate::snapshot::{NodeInfo, Snapshot};
use client::Kind;
use k8s_openapi::api::core::v1::{Node, TopologySpreadConstraint};
use meta::selector::{LabelSelector, Operator, Requirement};
use std::collections::HashMap;

pub(super) struct Constraint {
    key: String,
    max_skew: i64,
    min: i64,
    counts: HashMap<String, i64>,
    own: i64,
}

pub(super) struct Spread(Vec<Constraint>);

/// The pods that a constraint counts: those its selector selects, alike in the labels that `matchLabelKeys` names.
pub(crate) fn selector(c: &TopologySpreadConstraint, pod: &PodInfo) -> LabelSelector {
    let mut s = select::pods(c.label_selector.as_ref());
    for key in c.match_label_keys.iter().flatten() {
        if let Some(v) = pod.pod.label(key) {
            s = s.with(Requirement { key: key.clone(), operator: Operator::In, values: vec![v.to_owned()] });
        }
    }
    s
}

/// Pods of a namespace on a node that a selector selects and that are not leaving.
pub(crate) fn count(info: &NodeInfo, ns: &str, s: &LabelSelector) -> i64 {
    let fits = |p: &PodInfo| {
        p.pod.namespace() == ns && !p.pod.is_deleting() && select::matches(s, p.pod.metadata.labels.as_ref())
    };
    info.pods.values().filter(|p| fits(p)).count() as i64
}

/// Whether a constraint takes a node into account (`nodeAffinityPolicy`, `nodeTaintsPolicy`).
pub(crate) fn includes(c: &TopologySpreadConstraint, pod: &PodInfo, node: &Node) -> bool {
    let honours = |p: &Option<String>, default: bool| p.as_deref().map_or(default, |p| p == "Honor");
    (!honours(&c.node_affinity_policy, true) || basic::fits_node_affinity(&pod.spec, node))
        && (!honours(&c.node_taints_policy, false) || basic::taints(pod, node).is_ok())
}

impl Spread {
    pub(super) fn new(snapshot: &Snapshot, pod: &PodInfo) -> Self {
        let all = pod.spec.topology_spread_constraints.iter().flatten();
        let hard: Vec<_> = all.filter(|c| c.when_unsatisfiable == "DoNotSchedule").collect();
        let complete = |n: &Node| hard.iter().all(|c| n.label(&c.topology_key).is_some());
        let one = |c: &&TopologySpreadConstraint| {
            let s = selector(c, pod);
            let mut counts: HashMap<String, i64> = HashMap::new();
            for (node, info) in snapshot.nodes().filter(|(n, _)| complete(n) && includes(c, pod, n)) {
                if let Some(domain) = node.label(&c.topology_key) {
                    *counts.entry(domain.to_owned()).or_default() += count(info, pod.pod.namespace(), &s);
                }
            }
            let few = (counts.len() as i64) < i64::from(c.min_domains.unwrap_or(1));
            Constraint {
                key: c.topology_key.clone(),
                max_skew: c.max_skew.into(),
                // with no domain at all upstream's minimum is the largest number, so nothing is too much
                min: if few { 0 } else { counts.values().copied().min().unwrap_or(i64::MAX / 2) },
                counts,
                own: select::matches(&s, pod.pod.metadata.labels.as_ref()).into(),
            }
        };
        Self(hard.iter().map(one).collect())
    }

    pub(super) fn check(&self, node: &Node) -> Verdict {
        for c in &self.0 {
            let Some(domain) = node.label(&c.key) else {
                return no("node(s) didn't match pod topology spread constraints (missing required label)", true);
            };
            let there = c.counts.get(domain).copied().unwrap_or(0);
            if there + c.own - c.min > c.max_skew {
                return no("node(s) didn't match pod topology spread constraints", false);
            }
        }
        Ok(())
    }
}
