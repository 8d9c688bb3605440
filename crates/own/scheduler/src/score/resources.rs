//! Scores by what a node has left: much, and of all kinds alike.

use super::MAX;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Prefers nodes with much left of CPU and memory (upstream: `noderesources/least_allocated.go`).
pub(super) fn least_allocated(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let wanted = &pod.requests.with_defaults;
    let one = |n: &&NodeInfo| {
        let (has, used) = (&n.allocatable, &n.requested_with_defaults);
        let pairs = [
            (used.milli_cpu.saturating_add(wanted.milli_cpu), has.milli_cpu),
            (used.memory.saturating_add(wanted.memory), has.memory),
        ];
        let shares = pairs.iter().filter(|(_, has)| *has > 0);
        let (count, sum) = shares.fold((0, 0), |(n, s), (used, has)| (n + 1, s + left(*used, *has)));
        if count == 0 { 0 } else { sum / count }
    };
    Some(nodes.iter().map(one).collect())
}

fn left(used: i64, has: i64) -> i64 {
    let share = i128::from(has.saturating_sub(used).max(0)) * i128::from(MAX) / i128::from(has.max(1));
    i64::try_from(share).unwrap_or(MAX)
}

/// Prefers nodes whose use of CPU and of memory the pod makes more alike (upstream:
/// `noderesources/balanced_allocation.go#balancedResourceScorer`).
pub(super) fn balanced(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let wanted = &pod.requests.exact;
    if wanted.milli_cpu == 0 && wanted.memory == 0 {
        return None;
    }
    let one = |n: &&NodeInfo| {
        let (has, used) = (&n.allocatable, &n.requested);
        let before = evenness(&[(used.milli_cpu, has.milli_cpu), (used.memory, has.memory)]);
        let (cpu, memory) = (used.milli_cpu + wanted.milli_cpu, used.memory.saturating_add(wanted.memory));
        let after = evenness(&[(cpu, has.milli_cpu), (memory, has.memory)]);
        MAX / 2 + (MAX / 2 + after - before) / 2
    };
    Some(nodes.iter().map(one).collect())
}

/// [`MAX`] when both shares are the same.
fn evenness(pairs: &[(i64, i64); 2]) -> i64 {
    let share = |(used, has): &(i64, i64)| (*has > 0).then(|| (*used as f64 / *has as f64).min(1.0));
    let deviation = match (share(&pairs[0]), share(&pairs[1])) {
        (Some(a), Some(b)) => ((a - b) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX as f64) as i64
}
