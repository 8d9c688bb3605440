//! How fast nodes may be emptied when many are silent (upstream: `ComputeZoneState`, `handleDisruption`).

use client::Kind;
use k8s_openapi::api::core::v1::Node;
use std::collections::HashMap;
use std::time::Duration;

/// Share of silent nodes from which a zone counts as disrupted (`--unhealthy-zone-threshold`).
const UNHEALTHY_SHARE: f64 = 0.55;
/// Nodes emptied a second (`--node-eviction-rate`, `--secondary-node-eviction-rate`).
const RATE: f64 = 0.1;
const SLOW_RATE: f64 = 0.01;
/// Clusters up to this size do not empty nodes of a disrupted zone at all (`--large-cluster-size-threshold`).
const LARGE_CLUSTER: usize = 50;

/// The state of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Normal,
    /// Most of its nodes are silent.
    Partial,
    /// All of its nodes are silent, but not all of the cluster's.
    Full,
    /// All nodes of the cluster are silent.
    AllDown,
}

pub(super) fn zone(node: &Node) -> String {
    let label = |k: &str| node.label(k).unwrap_or("");
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// The state of each zone, from each node's zone and readiness.
pub fn modes(nodes: &[(String, bool)]) -> HashMap<String, Mode> {
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
    for (zone, ready) in nodes {
        let (up, down) = counts.entry(zone).or_default();
        *(if *ready { up } else { down }) += 1;
    }
    let all_down = counts.values().all(|(up, _)| *up == 0);
    let mode = |(up, down): (usize, usize)| {
        if all_down {
            Mode::AllDown
        } else if up == 0 {
            Mode::Full
        } else if down > 2 && down as f64 / (up + down) as f64 >= UNHEALTHY_SHARE {
            Mode::Partial
        } else {
            Mode::Normal
        }
    };
    counts.into_iter().map(|(z, c)| (z.to_owned(), mode(c))).collect()
}

/// When each zone's last node was given up.
#[derive(Default)]
pub(super) struct Budget(HashMap<String, Duration>);

impl Budget {
    /// Whether one more node of the zone may be emptied now.
    pub(super) fn take(&mut self, zone: &str, mode: Mode, nodes: usize, now: Duration) -> bool {
        let rate = match mode {
            Mode::AllDown => return false,
            Mode::Partial if nodes <= LARGE_CLUSTER => return false,
            Mode::Partial => SLOW_RATE,
            Mode::Normal | Mode::Full => RATE,
        };
        let wait = Duration::from_secs_f64(1.0 / rate);
        let ok = self.0.get(zone).is_none_or(|last| now.saturating_sub(*last) >= wait);
        if ok {
            self.0.insert(zone.to_owned(), now);
        }
        ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        let n = |z: &str, up: usize, down: usize| {
            let one = |ready: bool| (z.to_owned(), ready);
            std::iter::repeat_n(one(true), up)
                .chain(std::iter::repeat_n(one(false), down))
                .collect::<Vec<_>>()
        };
        let all = [n("a", 2, 2), n("b", 1, 3), n("c", 0, 1)].concat();
        let m = modes(&all);
        assert_eq!((m["a"], m["b"], m["c"]), (Mode::Normal, Mode::Partial, Mode::Full));
        assert_eq!(modes(&n("a", 0, 1))["a"], Mode::AllDown);
    }

    #[test]
    fn one_node_in_ten_seconds() {
        let mut b = Budget::default();
        let s = Duration::from_secs;
        assert!(b.take("z", Mode::Normal, 3, s(0)));
        assert!(!b.take("z", Mode::Normal, 3, s(9)));
        assert!(b.take("z", Mode::Full, 3, s(10)));
        assert!(!b.take("z", Mode::Partial, 3, s(500)));
        assert!(b.take("z", Mode::Partial, 100, s(500)));
    }
}
