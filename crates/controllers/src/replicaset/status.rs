//! A replica set's status (upstream: `replica_set_utils.go#calculateStatus`).

use crate::common::{pods, select, time};
use crate::deployment::util::spec_replicas;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use meta::Status;
use std::sync::Arc;

pub(super) type NewStatus = ReplicaSetStatus;

pub(super) fn calculate(
    rs: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Status>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = &rs.spec;
    let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
    let labelled = |p: &Pod| {
        labels.as_ref().is_none_or(|l| l.is_empty())
            || select::matches_set(labels.as_ref(), p.metadata.labels.as_ref())
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count = |f: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| f(p)).count() as i32;
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let old = rs.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    let failed_before = conditions.iter().any(is_failure);
    match failure {
        Some(e) if !failed_before => {
            let few = (active.len() as i64) < i64::from(spec_replicas(rs));
            conditions.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".into()),
                status: Some("True".into()),
                reason: Some(if few { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(e.to_string()),
                last_transition_time: Some(time(now)),
            });
        }
        Some(_) => {}
        None => conditions.retain(|c| !is_failure(c)),
    }
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: some(count(&labelled)),
        ready_replicas: some(count(&pods::is_ready)),
        available_replicas: some(count(&|p| pods::is_available(p, min_ready, now))),
        terminating_replicas: Some(terminating as i32),
        observed_generation: rs.metadata.generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    }
}

fn is_failure(c: &ReplicaSetCondition) -> bool {
    c.type_.as_deref() == Some("ReplicaFailure")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_and_conditions() {
        let rs: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"generation": 7},
            "spec": {"replicas": 3, "minReadySeconds": 10, "selector": {}, "template": {"metadata": {"labels": {"a": "1", "b": "2"}}}},
        }))
        .unwrap();
        let pod = |labels: serde_json::Value, since: &str| -> Arc<Pod> {
            let c = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
            let v = json!({"metadata": {"labels": labels}, "status": {"phase": "Running", "conditions": c}});
            Arc::new(serde_json::from_value(v).unwrap())
        };
        let active = [
            pod(json!({"a": "1", "b": "2"}), "2026-01-01T00:00:00Z"),
            pod(json!({"a": "1"}), "2026-01-01T00:00:55Z"),
        ];
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let failure = Status::bad_request("no");
        let s = calculate(&rs, &active, 1, Some(&failure), now);
        let counts = (
            s.replicas,
            s.fully_labeled_replicas,
            s.ready_replicas,
            s.available_replicas,
            s.terminating_replicas,
        );
        assert_eq!(counts, (2, Some(1), Some(2), Some(1), Some(1)));
        assert_eq!(s.observed_generation, Some(7));
        let c = &s.conditions.clone().unwrap()[0];
        assert_eq!((c.reason.as_deref(), c.message.as_deref()), (Some("FailedCreate"), Some("no")));
        let again = ReplicaSet { status: Some(s), ..rs };
        assert_eq!(calculate(&again, &active, 0, None, now).conditions, None);
    }
}
