//! Which of the possible nodes is best: upstream's default scores with their weights.

mod interpod;
mod resources;
mod spread;

use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::taint;

/// Best score of one plugin for one node, before its weight.
pub(crate) const MAX: i64 = 100;

/// An image of this size or less does not count; from the second size on, per container, it counts fully, in bytes
/// (upstream: `imagelocality#minThreshold`, `maxContainerThreshold`).
const IMAGE_MIN: i64 = 23 << 20;
const IMAGE_MAX: i64 = 1000 << 20;

type Plugin = fn(&Snapshot, &PodInfo, &[&NodeInfo]) -> Option<Vec<i64>>;

/// Scores with their weights (upstream: `pkg/scheduler/apis/config/v1/default_plugins.go`). `None` means that a plugin
/// has nothing to say about the pod.
const PLUGINS: [(i64, Plugin); 7] = [
    (3, taints),
    (2, node_affinity),
    (1, resources::least_allocated),
    (2, spread::score),
    (2, interpod::score),
    (1, resources::balanced),
    (1, images),
];

/// The total score of each node.
pub(crate) fn score(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0i64; nodes.len()];
    for (weight, plugin) in PLUGINS {
        let Some(scores) = plugin(snapshot, pod, nodes) else { continue };
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    }
    totals
}

/// Stretches scores so that the greatest is [`MAX`] (upstream: `helper#DefaultNormalizeScore`).
fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let greatest = scores.iter().copied().max().unwrap_or(0);
    for s in &mut scores {
        let stretched = if greatest == 0 { 0 } else { MAX * *s / greatest };
        *s = if reverse { MAX - stretched } else { stretched };
    }
    scores
}

fn taints(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let count = |n: &&NodeInfo| {
        i64::try_from(taint::disliked(n.taints(), pod.tolerations())).unwrap_or(i64::MAX / MAX)
    };
    Some(normalize(nodes.iter().map(count).collect(), true))
}

fn node_affinity(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    if pod.preferred_nodes.is_empty() {
        return None;
    }
    let sum =
        |n: &&NodeInfo| pod.preferred_nodes.iter().filter(|(_, t)| t.matches(&n.node)).map(|(w, _)| w).sum();
    Some(normalize(nodes.iter().map(sum).collect(), false))
}

/// Prefers nodes that have the pod's images; an image on many nodes counts more, so that no single node attracts all.
fn images(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let spec = pod.spec()?;
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
    let wanted = containers.map(|c| c.image.as_deref().unwrap_or("")).chain(volumes);
    let wanted: Vec<String> = wanted.map(normalized_image).collect();
    let total = snapshot.nodes().len().max(1) as f64;
    let limit = IMAGE_MAX * i64::try_from(wanted.len()).unwrap_or(1).max(1);
    let one = |node: &&NodeInfo| {
        let here = wanted.iter().filter_map(|name| Some((name, node.images.get(name)?)));
        let scaled =
            here.map(|(name, size)| (*size as f64 * (snapshot.nodes_with_image(name) as f64 / total)) as i64);
        MAX * (scaled.sum::<i64>().clamp(IMAGE_MIN, limit) - IMAGE_MIN) / (limit - IMAGE_MIN)
    };
    Some(nodes.iter().map(one).collect())
}

/// Upstream: `imagelocality#normalizedImageName`.
fn normalized_image(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_have_a_tag() {
        let cases = [
            ("busybox", "busybox:latest"),
            ("a/b:1", "a/b:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("host:5000/a:1", "host:5000/a:1"),
        ];
        for (name, expected) in cases {
            assert_eq!(normalized_image(name), expected);
        }
    }

    #[test]
    fn stretching() {
        assert_eq!(normalize(vec![1, 2, 0], true), [50, 0, 100]);
        assert_eq!(normalize(vec![0, 0], true), [100, 100]);
        assert_eq!(normalize(vec![5, 20], false), [25, 100]);
    }
}
