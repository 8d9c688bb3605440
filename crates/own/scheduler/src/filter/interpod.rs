//! Affinity and anti-affinity between pods, as far as they must hold (upstream: `interpodaffinity/filtering.go`).

use super::Refusal;
use crate::pod::{PodInfo, Term};
use crate::snapshot::{NodeInfo, Snapshot};
use std::collections::HashSet;

/// A topology key and value.
type Place = (String, String);

/// Where pods are that matter to the pod to be placed.
#[derive(Default)]
pub(super) struct Interpod {
    /// Pods are here that do not want it near.
    existing_anti: HashSet<Place>,
    /// Pods are here that it wants near.
    wanted: HashSet<Place>,
    /// Pods are here that it does not want near.
    unwanted: HashSet<Place>,
}

impl Interpod {
    pub(super) fn new(snapshot: &Snapshot, pod: &PodInfo) -> Self {
        let mut out = Self::default();
        let place = |node: &NodeInfo, t: &Term| {
            node.label(&t.topology_key).map(|v| (t.topology_key.clone(), v.to_owned()))
        };
        let (wanted, unwanted) = (&pod.terms.required, &pod.terms.required_anti);
        for node in snapshot.nodes() {
            let anti = node.pods_with_terms.iter().flat_map(|p| &p.terms.required_anti);
            let hit = anti.filter(|t| t.means(pod, pod.namespace_labels.as_ref()));
            out.existing_anti.extend(hit.filter_map(|t| place(node, t)));
            if wanted.is_empty() && unwanted.is_empty() {
                continue;
            }
            for other in &node.pods {
                if !wanted.is_empty() && wanted.iter().all(|t| t.means(other, None)) {
                    out.wanted.extend(wanted.iter().filter_map(|t| place(node, t)));
                }
                let hit = unwanted.iter().filter(|t| t.means(other, None));
                out.unwanted.extend(hit.filter_map(|t| place(node, t)));
            }
        }
        out
    }

    pub(super) fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        if !self.affinity_holds(pod, node) {
            return Some(Refusal::fixed("node(s) didn't match pod affinity rules"));
        }
        let is_in = |places: &HashSet<Place>, t: &Term| {
            node.label(&t.topology_key)
                .is_some_and(|v| places.contains(&(t.topology_key.clone(), v.to_owned())))
        };
        if !self.unwanted.is_empty() && pod.terms.required_anti.iter().any(|t| is_in(&self.unwanted, t)) {
            return Some(Refusal::movable("node(s) didn't match pod anti-affinity rules"));
        }
        let refused = self.existing_anti.iter().any(|(key, value)| node.label(key) == Some(value));
        refused.then(|| Refusal::movable("node(s) didn't satisfy existing pods anti-affinity rules"))
    }

    /// The first of a group of pods that want each other has nobody to be near, and is let in.
    fn affinity_holds(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut all_near = true;
        for t in &pod.terms.required {
            let Some(value) = node.label(&t.topology_key) else { return false };
            all_near &= self.wanted.contains(&(t.topology_key.clone(), value.to_owned()));
        }
        all_near || (self.wanted.is_empty() && pod.terms.required.iter().all(|t| t.means(pod, None)))
    }
}
