//! Which of the nodes that can take a pod is best. Each row gives a node 0 to 100, weighted as upstream's defaults.

mod spread;

use crate::pod::PodInfo;
use crate::select;
use crate::snapshot::{NodeInfo, Snapshot, image_name};
use k8s_openapi::api::core::v1::Node;
use std::sync::Arc;

pub(crate) const MAX: i64 = 100;

/// Smallest sum of image sizes that counts, and the largest per container, in bytes (upstream: `imagelocality`).
const IMAGES_MIN: i64 = 23 << 20;
const IMAGES_MAX: i64 = 1000 << 20;

type Candidate<'a> = (&'a Arc<Node>, &'a NodeInfo);

/// The weighted sum for each candidate.
pub fn score(snapshot: &Snapshot, pod: &PodInfo, candidates: &[Candidate<'_>]) -> Vec<i64> {
    let each = |f: &dyn Fn(&Node, &NodeInfo) -> i64| candidates.iter().map(|(n, i)| f(n, i)).collect::<Vec<i64>>();
    let total = snapshot.nodes().count();
    let rows: [(i64, Vec<i64>); 6] = [
        (3, normalized(each(&|n, _| intolerable(pod, n)), true)),
        (2, normalized(each(&|n, _| preferred(pod, n)), false)),
        (2, spread::scores(snapshot, pod, candidates)),
        (1, each(&|_, i| least_allocated(pod, i))),
        (1, each(&|_, i| balanced(pod, i))),
        (1, each(&|_, i| images(snapshot, pod, i, total))),
    ];
    (0..candidates.len()).map(|c| rows.iter().map(|(weight, scores)| weight * scores[c]).sum()).collect()
}

/// Scales to 0..=100 by the largest (upstream: `helper.DefaultNormalizeScore`).
fn normalized(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or(0);
    for s in &mut scores {
        *s = if max == 0 { 0 } else { *s * MAX / max };
        if reverse {
            *s = MAX - *s;
        }
    }
    scores
}

/// Taints that the pod would rather not have.
fn intolerable(pod: &PodInfo, node: &Node) -> i64 {
    let tolerations = pod.spec.tolerations.as_deref().unwrap_or_default();
    let soft = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|t| !select::tolerates(tolerations, t)).count() as i64
}

/// Weights of the preferred terms that the node meets.
fn preferred(pod: &PodInfo, node: &Node) -> i64 {
    let affinity = pod.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let met = terms.unwrap_or_default().iter().filter(|t| select::node_term(&t.preference, node));
    met.map(|t| i64::from(t.weight)).sum()
}

/// The share that stays free, averaged over cpu and memory (upstream: `leastResourceScorer`).
fn least_allocated(pod: &PodInfo, info: &NodeInfo) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for name in ["cpu", "memory"] {
        let has = info.allocatable.get(name);
        if has <= 0 {
            continue;
        }
        let want = info.counted.get(name) + pod.counted.get(name);
        sum += if want > has { 0 } else { (has - want) * MAX / has };
        weights += 1;
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// How much more even the use of cpu and memory becomes (upstream: `balancedResourceScorer`).
fn balanced(pod: &PodInfo, info: &NodeInfo) -> i64 {
    let names = ["cpu", "memory"];
    if names.iter().all(|n| pod.requests.get(n) == 0) {
        return 0;
    }
    let evenness = |with_pod: bool| {
        let fraction = |n: &&str| {
            let has = info.allocatable.get(n);
            let used = info.requested.get(n) + if with_pod { pod.requests.get(n) } else { 0 };
            (has > 0).then(|| (used as f64 / has as f64).min(1.0))
        };
        let all: Vec<f64> = names.iter().filter_map(fraction).collect();
        let deviation = if all.len() == 2 { (all[0] - all[1]).abs() / 2.0 } else { 0.0 };
        ((1.0 - deviation) * MAX as f64) as i64
    };
    MAX / 2 + (MAX / 2 + evenness(true) - evenness(false)) / 2
}

/// Images that need not be pulled; those that are everywhere count fully, rare ones little.
fn images(snapshot: &Snapshot, pod: &PodInfo, info: &NodeInfo, nodes: usize) -> i64 {
    let spec = &pod.spec;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers = containers.map(|c| c.image.clone().unwrap_or_default());
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref());
    let all: Vec<String> = of_containers.chain(volumes.map(|v| v.reference.clone().unwrap_or_default())).collect();
    if all.is_empty() || nodes == 0 {
        return 0;
    }
    let scaled = |name: &String| {
        let name = image_name(name);
        let size = info.images.get(&name)?;
        Some((*size as f64 * snapshot.nodes_with_image(&name) as f64 / nodes as f64) as i64)
    };
    let max = IMAGES_MAX * all.len() as i64;
    let sum: i64 = all.iter().filter_map(scaled).sum();
    MAX * (sum.clamp(IMAGES_MIN, max) - IMAGES_MIN) / (max - IMAGES_MIN)
}
