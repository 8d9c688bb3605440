//! How many pods to create, or which to delete.

use super::rank;
use crate::deployment::util::{spec_replicas, template};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::sync::Arc;

/// Most pods created or deleted in one go (upstream: `BurstReplicas`).
const BURST: usize = 500;

/// What the decision depends on.
pub struct World<'a> {
    pub replica_set: &'a ReplicaSet,
    /// The owned pods that neither ended nor are being deleted.
    pub active: &'a [Arc<Pod>],
    /// Pods of the same deployment; only asked for when some are to be deleted.
    pub related: &'a dyn Fn() -> Vec<Arc<Pod>>,
    pub now: Timestamp,
}

#[derive(Debug)]
pub enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Decides (upstream: `manageReplicas`).
pub fn plan(world: &World<'_>) -> Plan {
    let want = usize::try_from(spec_replicas(world.replica_set)).unwrap_or(0);
    let have = world.active.len();
    if have < want {
        Plan::Create((want - have).min(BURST))
    } else if have > want {
        Plan::Delete(rank::victims(world.active, &(world.related)(), (have - want).min(BURST), world.now))
    } else {
        Plan::Nothing
    }
}

/// The pod to create.
pub(super) fn pod(rs: &ReplicaSet, owner: OwnerReference) -> Pod {
    let template = template(rs);
    Pod {
        metadata: super::pod_meta(template.metadata.as_ref(), rs, owner),
        spec: template.spec,
        status: None,
    }
}
