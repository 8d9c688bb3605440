//! Preferred nearness and distance between pods (upstream: `interpodaffinity/scoring.go`).

use super::MAX;
use crate::pod::{PodInfo, Term};
use crate::snapshot::{NodeInfo, Snapshot};
use std::collections::HashMap;

/// What a required affinity of a running pod to the new one counts (upstream: `HardPodAffinityWeight`).
const REQUIRED_WEIGHT: i64 = 1;

pub(super) fn score(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let mut places: HashMap<(String, String), i64> = HashMap::new();
    let labels = pod.namespace_labels.as_ref();
    for node in snapshot.nodes() {
        let mut count = |t: &Term, weight: i64| {
            if let Some(value) = node.label(&t.topology_key) {
                *places.entry((t.topology_key.clone(), value.to_owned())).or_default() += weight;
            }
        };
        if !pod.terms.preferred.is_empty() {
            for other in &node.pods {
                let hit = pod.terms.preferred.iter().filter(|(_, t)| t.means(other, None));
                hit.for_each(|(weight, t)| count(t, *weight));
            }
        }
        for other in &node.pods_with_terms {
            other
                .terms
                .required
                .iter()
                .filter(|t| t.means(pod, labels))
                .for_each(|t| count(t, REQUIRED_WEIGHT));
            let hit = other.terms.preferred.iter().filter(|(_, t)| t.means(pod, labels));
            hit.for_each(|(weight, t)| count(t, *weight));
        }
    }
    if places.is_empty() {
        return None;
    }
    let sum = |n: &&NodeInfo| -> i64 {
        places.iter().filter(|((key, value), _)| n.label(key) == Some(value)).map(|(_, w)| w).sum()
    };
    let raw: Vec<i64> = nodes.iter().map(sum).collect();
    let (least, most) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    let range = most - least;
    Some(raw.iter().map(|s| if range == 0 { 0 } else { MAX * (s - least) / range }).collect())
}
