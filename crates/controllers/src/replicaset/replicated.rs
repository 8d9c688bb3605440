//! What keeps a number of pods: replica sets, and replication controllers seen as such
//! (upstream: `pkg/controller/replication/conversion.go`).

use client::Kind;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A kind that the controller serves.
pub trait Replicated: Kind {
    fn selector(&self) -> LabelSelector;

    fn as_replica_set(&self) -> ReplicaSet;

    fn with_status(&self, status: &ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    fn selector(&self) -> LabelSelector {
        self.spec.selector.clone()
    }

    fn as_replica_set(&self) -> ReplicaSet {
        self.clone()
    }

    fn with_status(&self, status: &ReplicaSetStatus) -> Self {
        Self { status: Some(status.clone()), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    fn selector(&self) -> LabelSelector {
        let match_labels = self.spec.as_ref().and_then(|s| s.selector.clone());
        LabelSelector { match_labels, ..LabelSelector::default() }
    }

    fn as_replica_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.as_ref().map(|s| ReplicaSetStatus {
            replicas: s.replicas,
            fully_labeled_replicas: s.fully_labeled_replicas,
            ready_replicas: s.ready_replicas,
            available_replicas: s.available_replicas,
            observed_generation: s.observed_generation,
            conditions: s.conditions.as_ref().map(|all| all.iter().map(condition_of_set).collect()),
            terminating_replicas: None,
        });
        ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                replicas: spec.replicas,
                min_ready_seconds: spec.min_ready_seconds,
                selector: self.selector(),
                template: spec.template,
            },
            status,
        }
    }

    fn with_status(&self, status: &ReplicaSetStatus) -> Self {
        let s = status.clone();
        let status = ReplicationControllerStatus {
            replicas: s.replicas,
            fully_labeled_replicas: s.fully_labeled_replicas,
            ready_replicas: s.ready_replicas,
            available_replicas: s.available_replicas,
            observed_generation: s.observed_generation,
            conditions: s.conditions.map(|all| all.into_iter().map(condition_of_controller).collect()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn condition_of_set(c: &ReplicationControllerCondition) -> ReplicaSetCondition {
    let c = c.clone();
    ReplicaSetCondition {
        type_: Some(c.type_),
        status: Some(c.status),
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    }
}

fn condition_of_controller(c: ReplicaSetCondition) -> ReplicationControllerCondition {
    ReplicationControllerCondition {
        type_: c.type_.unwrap_or_default(),
        status: c.status.unwrap_or_default(),
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    }
}
