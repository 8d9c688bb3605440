//! Who uses what: pods their claims, claims and volumes their classes. Pure.

use crate::common::pods;
use client::Kind;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolume, PersistentVolumeClaim, Pod, Volume};

/// Names of the claims of a pod's volumes.
pub(super) fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    volumes(pod).filter_map(|v| match &v.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => v.ephemeral.as_ref().map(|_| claim_name(pod, v)),
    })
}

/// Whether a pod needs the claim to stay. One that is not yet on a node does not: the kubelet starts no pod whose
/// claim is being deleted (upstream: `podUsesPVCForDeletion`).
pub(super) fn holds(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    // done with, and perhaps waiting for the claim to go first (upstream: `podIsShutDown`)
    let shut_down = pod.is_deleting() && pod.metadata.deletion_grace_period_seconds == Some(0);
    !pods::node_name(pod).is_empty()
        && volumes(pod).any(|v| by_name(v, claim) || !shut_down && made_for(pod, v, claim))
}

/// Whether a pod that has not ended names the claim (upstream: `podUsesPVCForUnusedSince`).
pub(super) fn names(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    !has_ended(pod) && volumes(pod).any(|v| by_name(v, claim) || made_for(pod, v, claim))
}

pub(super) fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let class = volume.spec.as_ref()?.volume_attributes_class_name.as_deref();
    class.filter(|c| !c.is_empty())
}

/// The class asked for, the present one and the one on its way.
pub(super) fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let asked = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let present = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let coming = status.and_then(|s| s.modify_volume_status.as_ref());
    let coming = coming.and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [asked, present, coming].into_iter().flatten().filter(|c| !c.is_empty())
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

fn by_name(volume: &Volume, claim: &PersistentVolumeClaim) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == claim.name())
}

/// Whether the claim is the one that was made for a pod's own volume (upstream: `ephemeral.VolumeIsForPod`).
fn made_for(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> bool {
    volume.ephemeral.is_some()
        && claim_name(pod, volume) == claim.name()
        && claim.controller().is_some_and(|c| c.uid == pod.uid())
}

/// Upstream: `ephemeral.VolumeClaimName`.
fn claim_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", pod.name(), volume.name)
}

/// Upstream: `volumeutil.IsPodTerminated`.
fn has_ended(pod: &Pod) -> bool {
    let idle = |list: &Option<Vec<ContainerStatus>>| {
        let state = |c: &ContainerStatus| c.state.clone().unwrap_or_default();
        list.iter().flatten().map(state).all(|s| s.terminated.is_some() || s.waiting.is_some())
    };
    let status = pod.status.clone().unwrap_or_default();
    pods::is_terminal(pod)
        || pod.is_deleting()
            && idle(&status.init_container_statuses)
            && idle(&status.container_statuses)
            && idle(&status.ephemeral_container_statuses)
}
