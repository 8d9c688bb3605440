//! Replication controllers, seen as replica sets of an older API.
//!
//! upstream: `pkg/controller/replication/conversion.go`

use super::Managed;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use meta::selector::LabelSelector;
use std::borrow::Cow;

impl Managed for ReplicationController {
    const LOGGED_AS: &'static str = "replicationcontroller";
    const IDENTITY: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn view(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.clone().unwrap_or_default();
        let condition = |c: &ReplicationControllerCondition| ReplicaSetCondition {
            type_: Some(c.type_.clone()),
            status: Some(c.status.clone()),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_transition_time: c.last_transition_time.clone(),
        };
        let status = self.status.as_ref().map(|s| ReplicaSetStatus {
            replicas: s.replicas,
            fully_labeled_replicas: s.fully_labeled_replicas,
            ready_replicas: s.ready_replicas,
            available_replicas: s.available_replicas,
            terminating_replicas: None,
            observed_generation: s.observed_generation,
            conditions: s.conditions.as_ref().map(|all| all.iter().map(condition).collect()),
        });
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: Typed { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            },
            status,
        })
    }

    fn selector(&self) -> LabelSelector {
        let pairs = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        // without a selector nothing is selected, where an empty one would select everything
        let Some(pairs) = pairs.filter(|p| !p.is_empty()) else { return LabelSelector::nothing() };
        let typed = Typed { match_labels: Some(pairs.clone()), match_expressions: None };
        crate::common::select::selector(&typed)
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_.unwrap_or_default(),
            status: c.status.unwrap_or_default(),
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::Setup;
    use base::clock::SystemClock;
    use client::fake::FakeApi;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn there_and_back() {
        let rc = json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "c"},
            "spec": {"replicas": 3, "selector": {"a": "1"}, "minReadySeconds": 5, "template": {"metadata": {"labels": {"a": "1"}}}},
            "status": {"replicas": 2, "readyReplicas": 1, "observedGeneration": 4, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]},
        });
        let typed: ReplicationController = serde_json::from_value(rc.clone()).unwrap();
        let view = typed.view().into_owned();
        assert_eq!((view.spec.replicas, view.spec.min_ready_seconds), (Some(3), Some(5)));
        assert_eq!(typed.selector().to_string(), "a=1");
        assert_eq!(serde_json::to_value(typed.with_status(view.status.unwrap())).unwrap(), rc);
        assert!(ReplicationController::default().selector().is_nothing());
    }

    #[tokio::test]
    async fn pods_are_made() {
        let api = Arc::new(FakeApi::new());
        let labels = json!({"a": "1"});
        api.seed("/api/v1/namespaces/n/replicationcontrollers", &json!({"metadata": {"name": "c", "namespace": "n"},
            "spec": {"replicas": 2, "selector": labels, "template": {"metadata": {"labels": labels}, "spec": {"containers": []}}}}));
        let setup = Setup::of_fake(&api, SystemClock::shared());
        let handle = super::super::start::<ReplicationController>(&setup);
        let status =
            || api.object("/api/v1/namespaces/n/replicationcontrollers/c").unwrap()["status"].clone();
        for _ in 0..500 {
            if status()["replicas"] == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((&status()["replicas"], status().get("terminatingReplicas")), (&json!(2), None));
        let pods = api.objects("/api/v1/namespaces/n/pods");
        let owner = &pods[0]["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["apiVersion"], &owner["kind"]), (&json!("v1"), &json!("ReplicationController")));
        setup.cancel.cancel();
        handle.stopped().await;
    }
}
