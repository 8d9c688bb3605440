//! The spreading that is wished for but not required (upstream: `plugins/podtopologyspread/scoring.go`).
//!
//! Pods without constraints of their own are spread over hosts and zones by their controller, as upstream's system
//! defaults do; upstream finds the pods of the same set by the selectors of Services and controllers, this by the
//! controller's uid.

use super::{Candidate, MAX};
use crate::filters::{spread_count, spread_includes, spread_selector};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use client::Kind;
use k8s_openapi::api::core::v1::Node;
use std::collections::HashMap;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

struct Wish<'a> {
    key: String,
    max_skew: i64,
    count: Box<dyn Fn(&NodeInfo) -> i64 + 'a>,
    includes: Box<dyn Fn(&Node) -> bool + 'a>,
}

fn wishes(pod: &PodInfo) -> Vec<Wish<'_>> {
    let own: Vec<_> = pod.spec.topology_spread_constraints.iter().flatten().collect();
    if own.is_empty() {
        let Some(owner) = pod.pod.controller() else { return Vec::new() };
        let wish = |key: &str, max_skew| Wish {
            key: key.to_owned(),
            max_skew,
            count: Box::new(|info: &NodeInfo| {
                let same = |p: &&std::sync::Arc<PodInfo>| {
                    !p.pod.is_deleting() && p.pod.controller().is_some_and(|c| c.uid == owner.uid)
                };
                info.pods.values().filter(same).count() as i64
            }),
            includes: Box::new(|_| true),
        };
        return vec![wish(HOST, 3), wish(ZONE, 5)];
    }
    let soft = own.into_iter().filter(|c| c.when_unsatisfiable == "ScheduleAnyway");
    soft.map(|c| {
        let s = spread_selector(c, pod);
        Wish {
            key: c.topology_key.clone(),
            max_skew: c.max_skew.into(),
            count: Box::new(move |info| spread_count(info, pod.pod.namespace(), &s)),
            includes: Box::new(move |n| spread_includes(c, pod, n)),
        }
    })
    .collect()
}

/// 0 to 100 for each candidate; all the same when there is nothing to spread.
pub(super) fn scores(snapshot: &Snapshot, pod: &PodInfo, candidates: &[Candidate<'_>]) -> Vec<i64> {
    let wishes = wishes(pod);
    if wishes.is_empty() {
        return vec![0; candidates.len()];
    }
    let all_keys = pod.spec.topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty());
    let ignored: Vec<bool> =
        candidates.iter().map(|(n, _)| all_keys && wishes.iter().any(|w| n.label(&w.key).is_none())).collect();
    let mut raw = vec![0.0; candidates.len()];
    for w in &wishes {
        let mut domains: HashMap<&str, i64> = HashMap::new();
        for (n, _) in candidates {
            if let Some(v) = n.label(&w.key) {
                domains.entry(v).or_insert(0);
            }
        }
        for (n, info) in snapshot.nodes().filter(|(n, _)| (w.includes)(n)) {
            if let Some(c) = n.label(&w.key).and_then(|v| domains.get_mut(v)) {
                *c += (w.count)(info);
            }
        }
        // the more domains, the less one more pod in one of them matters
        let weight = ((domains.len() + 2) as f64).ln();
        for (i, (n, _)) in candidates.iter().enumerate() {
            if let Some(v) = n.label(&w.key) {
                raw[i] += domains.get(v).copied().unwrap_or(0) as f64 * weight + (w.max_skew - 1) as f64;
            }
        }
    }
    let rounded: Vec<i64> = raw.iter().map(|r| r.round() as i64).collect();
    let counted = || rounded.iter().zip(&ignored).filter(|(_, i)| !**i).map(|(r, _)| *r);
    let (max, min) = (counted().max().unwrap_or(0), counted().min().unwrap_or(0));
    let one = |(r, ignored): (&i64, &bool)| match (ignored, max) {
        (true, _) => 0,
        (false, 0) => MAX,
        (false, max) => MAX * (max + min - r) / max,
    };
    rounded.iter().zip(&ignored).map(one).collect()
}
