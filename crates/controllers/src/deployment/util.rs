//! Facts about a deployment and its replica sets (upstream: `pkg/controller/deployment/util`).

use crate::common::scaled;
use client::Kind;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
pub const HASH_LABEL: &str = "pod-template-hash";
/// Longest text of old revisions, in bytes.
const MAX_HISTORY_CHARS: usize = 2000;

pub fn desired(d: &Deployment) -> i32 {
    d.spec.replicas.unwrap_or(1)
}

pub fn spec_replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.replicas.unwrap_or(1)
}

pub fn actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

pub fn ready(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

pub fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub fn template(rs: &ReplicaSet) -> PodTemplateSpec {
    rs.spec.template.clone().unwrap_or_default()
}

pub fn is_rolling(d: &Deployment) -> bool {
    strategy(d) == "RollingUpdate"
}

pub fn strategy(d: &Deployment) -> &str {
    d.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// Most pods above and below the desired number during a rolling update (upstream: `ResolveFenceposts`).
fn fences(d: &Deployment) -> (i32, i32) {
    let rolling = d.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), desired(d), true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), desired(d), false);
    // with neither, no step would be possible
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub fn max_surge(d: &Deployment) -> i32 {
    if is_rolling(d) { fences(d).0 } else { 0 }
}

pub fn max_unavailable(d: &Deployment) -> i32 {
    if !is_rolling(d) || desired(d) == 0 { 0 } else { fences(d).1.min(desired(d)) }
}

pub fn has_progress_deadline(d: &Deployment) -> bool {
    d.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX)
}

/// A revision annotation: 0 when absent, `None` when it is no number.
pub fn revision(rs: &ReplicaSet) -> Option<i64> {
    rs.annotation(REVISION).map_or(Some(0), |r| r.parse().ok())
}

pub fn rollback_to(d: &Deployment) -> Option<i64> {
    d.annotation(ROLLBACK_TO)?.parse().ok()
}

/// Oldest first, then by name.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let made = |rs: &ReplicaSet| rs.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |t| t.0);
    made(a).cmp(&made(b)).then_with(|| a.name().cmp(b.name()))
}

/// Whether two pod templates ask for the same, but for the hash label.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let bare = |t: &PodTemplateSpec| {
        let mut t = t.clone();
        if let Some(labels) = t.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        t
    };
    let (a, b) = (bare(a), bare(b));
    a == b || normal(&a) == normal(&b)
}

/// The template as a tree in which empty and absent lists and maps, and differently written amounts, are equal
/// (upstream: `apiequality.Semantic`).
fn normal(t: &PodTemplateSpec) -> Value {
    fn walk(v: &mut Value, amounts: bool) {
        match v {
            Value::Object(m) => {
                for (k, v) in m.iter_mut() {
                    walk(v, matches!(k.as_str(), "limits" | "requests" | "overhead"));
                }
                let plain = [
                    "labels",
                    "annotations",
                    "nodeSelector",
                    "matchLabels",
                    "limits",
                    "requests",
                    "metadata",
                ];
                m.retain(|k, v| match v {
                    Value::Null => false,
                    Value::Array(a) => !a.is_empty(),
                    Value::Object(o) => !o.is_empty() || !plain.contains(&k.as_str()),
                    _ => true,
                });
                if amounts {
                    for v in m.values_mut() {
                        let q = v.as_str().and_then(|s| meta::quantity::Quantity::parse(s).ok());
                        if let Some(q) = q {
                            *v = q.to_string().into();
                        }
                    }
                }
            }
            Value::Array(a) => a.iter_mut().for_each(|v| walk(v, false)),
            _ => {}
        }
    }
    let mut tree = serde_json::to_value(t).unwrap_or_default();
    walk(&mut tree, false);
    tree
}

/// The hash in names and labels. Upstream's is FNV over a dump of Go memory, which nothing else can compute; this one is
/// FNV-1a over the template's JSON and, like upstream's, the number of collisions so far.
pub fn template_hash(t: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let bytes = serde_json::to_vec(t).unwrap_or_default();
    let collisions = collisions.map(i32::to_le_bytes);
    let mut hash: u32 = 0x811c_9dc5;
    for b in bytes.iter().chain(collisions.iter().flatten()) {
        hash = (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193);
    }
    base::rng::safe_encode(&hash.to_string())
}

/// `DEPLOYMENT-HASH`, shortened to fit a name.
pub fn replica_set_name(deployment: &str, hash: &str) -> String {
    let room = 253 - 1 - hash.len();
    format!("{}-{hash}", deployment.get(..deployment.len().min(room)).unwrap_or(deployment))
}

pub fn annotations(
    meta: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> &mut BTreeMap<String, String> {
    meta.annotations.get_or_insert_default()
}

/// Sets an annotation and says whether that changed anything.
fn set(map: &mut BTreeMap<String, String>, key: &str, value: &str) -> bool {
    map.insert(key.to_owned(), value.to_owned()).as_deref() != Some(value)
}

/// Writes the sizes that a proportional scaling needs later.
pub fn set_replicas_annotations(rs: &mut ReplicaSet, d: &Deployment) -> bool {
    let map = annotations(&mut rs.metadata);
    let a = set(map, DESIRED_REPLICAS, &desired(d).to_string());
    let b = set(map, MAX_REPLICAS, &(desired(d) + max_surge(d)).to_string());
    a || b
}

pub fn replicas_annotation(rs: &ReplicaSet, key: &str) -> Option<i32> {
    rs.annotation(key)?.parse().ok().filter(|n| *n >= 0)
}

pub fn is_ours(annotation: &str) -> bool {
    [LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO]
        .contains(&annotation)
}

/// Brings a new replica set's annotations up to date (upstream: `SetNewReplicaSetAnnotations`).
pub fn annotate(d: &Deployment, rs: &mut ReplicaSet, new_revision: i64, exists: bool) -> bool {
    let mut changed = false;
    let map = annotations(&mut rs.metadata);
    for (k, v) in d.metadata.annotations.iter().flatten().filter(|(k, _)| !is_ours(k)) {
        changed |= set(map, k, v);
    }
    let old = map.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(n) => n,
            Err(_) => return false,
        },
    };
    if old_number < new_revision {
        changed |= set(map, REVISION, &new_revision.to_string());
        if let Some(old) = old {
            remember(map, &old);
        }
    }
    if !exists && set_replicas_annotations(rs, d) {
        changed = true;
    }
    changed
}

/// Appends a revision to the history, dropping the oldest ones when it gets too long.
fn remember(map: &mut BTreeMap<String, String>, old: &str) {
    let history = map.get(REVISION_HISTORY).cloned().unwrap_or_default();
    let mut all: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
    all.push(old);
    while all.len() > 1 && all.iter().map(|r| r.len() + 1).sum::<usize>() - 1 > MAX_HISTORY_CHARS {
        all.remove(0);
    }
    map.insert(REVISION_HISTORY.to_owned(), all.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(v: Value) -> PodTemplateSpec {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn templates_that_mean_the_same() {
        let a = template(json!({"metadata": {"labels": {"a": "1", HASH_LABEL: "x"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1000m"}}}]}}));
        let b = template(json!({"metadata": {"labels": {"a": "1"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "env": [], "resources": {"limits": {"cpu": "1"}}}]}}));
        let c = template(json!({"metadata": {"labels": {"a": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}));
        assert!(same_template(&a, &b));
        assert!(!same_template(&a, &c));
        assert_eq!(template_hash(&c, None), template_hash(&c.clone(), None));
        assert_ne!(template_hash(&c, None), template_hash(&c, Some(1)));
    }

    #[test]
    fn history_keeps_the_newest() {
        let mut map = BTreeMap::from([(REVISION_HISTORY.to_owned(), "1,2".to_owned())]);
        remember(&mut map, "5");
        assert_eq!(map[REVISION_HISTORY], "1,2,5");
        map.insert(REVISION_HISTORY.to_owned(), vec!["1234567"; 250].join(","));
        remember(&mut map, "9");
        assert!(map[REVISION_HISTORY].len() <= MAX_HISTORY_CHARS && map[REVISION_HISTORY].ends_with(",9"));
    }
}
