//! Spreading over topologies where possible: what the pod asks for, or pods of one service or controller over hosts and
//! zones (upstream: `podtopologyspread/scoring.go`).

use super::MAX;
use crate::filter::spread::{includes, matching};
use crate::pod::{PodInfo, Spread};
use crate::snapshot::{NodeInfo, Snapshot};
use std::collections::HashMap;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Upstream: `podtopologyspread#systemDefaultConstraints`.
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];

pub(super) fn score(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let own = pod.spec().and_then(|s| s.topology_spread_constraints.as_ref()).is_some_and(|c| !c.is_empty());
    let constraints = if own { pod.soft_spread.clone() } else { defaults(pod) };
    if constraints.is_empty() {
        return None;
    }
    // with the defaults a node without a zone is still spread over by its host name
    let ignored = |n: &NodeInfo| own && constraints.iter().any(|c| n.label(&c.topology_key).is_none());
    let considered: Vec<&NodeInfo> = nodes.iter().copied().filter(|n| !ignored(n)).collect();
    let mut counts: Vec<HashMap<&str, usize>> = vec![HashMap::new(); constraints.len()];
    for (c, counts) in constraints.iter().zip(&mut counts) {
        if c.topology_key == HOSTNAME {
            continue;
        }
        counts.extend(considered.iter().map(|n| (n.label(&c.topology_key).unwrap_or(""), 0)));
        for node in snapshot.nodes().iter().filter(|n| !ignored(n) && includes(c, pod, n)) {
            if let Some(count) = counts.get_mut(node.label(&c.topology_key).unwrap_or("")) {
                *count += matching(c, pod, node);
            }
        }
    }
    let raw = |node: &&NodeInfo| -> Option<i64> {
        if ignored(node) {
            return None;
        }
        let mut sum = 0.0;
        for (c, counts) in constraints.iter().zip(&counts) {
            let Some(value) = node.label(&c.topology_key) else { continue };
            let host = c.topology_key == HOSTNAME;
            let count = if host { matching(c, pod, node) } else { counts.get(value).copied().unwrap_or(0) };
            let size = if host { considered.len() } else { counts.len() };
            sum += count as f64 * ((size + 2) as f64).ln() + f64::from(c.max_skew - 1);
        }
        Some(sum.round() as i64)
    };
    Some(reversed(&nodes.iter().map(raw).collect::<Vec<_>>()))
}

/// Few matching pods give a high score; ignored nodes get none.
fn reversed(raw: &[Option<i64>]) -> Vec<i64> {
    let least = raw.iter().flatten().copied().min().unwrap_or(0);
    let most = raw.iter().flatten().copied().max().unwrap_or(0);
    let one = |s: &Option<i64>| match s {
        None => 0,
        Some(_) if most == 0 => MAX,
        Some(s) => MAX * (most + least - s) / most,
    };
    raw.iter().map(one).collect()
}

fn defaults(pod: &PodInfo) -> Vec<Spread> {
    let Some(selector) = pod.siblings.as_ref().filter(|s| !s.is_empty()) else { return Vec::new() };
    let one = |(key, max_skew): (&str, i32)| Spread {
        topology_key: key.to_owned(),
        max_skew,
        min_domains: 1,
        selector: selector.clone(),
        honor_affinity: true,
        honor_taints: false,
    };
    DEFAULTS.into_iter().map(one).collect()
}
