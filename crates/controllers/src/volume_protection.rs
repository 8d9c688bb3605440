//! Volumes, claims and classes of volume attributes stay until nobody uses them: each has a finalizer that goes then.
//! Claims also tell since when nobody has used them.
//!
//! upstream: `pkg/controller/volume/pvprotection`, `pvcprotection`, `vacprotection`

#[cfg(test)]
mod tests;
mod usage;

use crate::common::time;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Kind, ListOptions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod,
};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;

const VOLUME: &str = "kubernetes.io/pv-protection";
const CLAIM: &str = "kubernetes.io/pvc-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

/// Starts the three controllers.
pub(crate) fn start(setup: &Setup) -> [Handle; 3] {
    [start_volumes(setup), start_claims(setup), start_classes(setup)]
}

/// What a finalizer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Is not there and should be.
    Add,
    /// Is there and the object is to go, as soon as nobody uses it.
    Judge,
    Nothing,
}

/// upstream: `protectionutil.NeedToAddFinalizer`, `IsDeletionCandidate`
fn hold(meta: &ObjectMeta, finalizer: &str) -> Hold {
    let held = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match (meta.deletion_timestamp.is_some(), held) {
        (false, false) => Hold::Add,
        (true, true) => Hold::Judge,
        _ => Hold::Nothing,
    }
}

/// Adds a finalizer where it should be and takes it away where the object is to go and is not used.
async fn keep<K: Kind>(client: &Client, object: &K, finalizer: &str, used: bool) -> Result<(), Error> {
    let mut new = object.clone();
    let list = new.metadata_mut().finalizers.get_or_insert_default();
    match hold(object.metadata(), finalizer) {
        Hold::Add => list.push(finalizer.to_owned()),
        Hold::Judge if !used => list.retain(|f| f != finalizer),
        _ => return Ok(()),
    }
    match client.update(&new).await {
        Err(e) if !e.is_not_found() => Err(e.into()),
        _ => Ok(()),
    }
}

struct Volumes {
    client: Client,
    volumes: Informer<PersistentVolume>,
}

fn start_volumes(setup: &Setup) -> Handle {
    let volumes = setup.informers.of::<PersistentVolume>();
    let this = Volumes { client: setup.client("pv-protection-controller"), volumes: volumes.clone() };
    Controller::new("persistentvolume-protection", Arc::new(this), setup.clock.clone())
        .watches(&volumes, |c, q| c.new.iter().for_each(|v| q.add(ObjectKey::of(&**v))))
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Volumes {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        if let Some(volume) = self.volumes.store().get("", &key.name) {
            let used = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            keep(&self.client, &*volume, VOLUME, used).await?;
        }
        Ok(After::Done)
    }
}

struct Claims {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
    clock: SharedClock,
}

fn start_claims(setup: &Setup) -> Handle {
    let (claims, pods) = (setup.informers.of::<PersistentVolumeClaim>(), setup.informers.of::<Pod>());
    let this = Claims {
        client: setup.client("pvc-protection-controller"),
        claims: claims.clone(),
        pods: pods.clone(),
        clock: setup.clock.clone(),
    };
    Controller::new("persistentvolumeclaim-protection", Arc::new(this), setup.clock.clone())
        .watches(&claims, |c, q| c.new.iter().for_each(|v| q.add(ObjectKey::of(&**v))))
        .watches(&pods, |c, q| {
            for pod in c.old.iter().chain(&c.new) {
                usage::claims_of(pod).for_each(|name| q.add(ObjectKey::new(pod.namespace(), &name)));
            }
        })
        .start(setup.cancel.clone())
}

impl Claims {
    /// Whether a pod uses the claim. That none does is only believed from the API server itself.
    async fn is_used(
        &self,
        claim: &PersistentVolumeClaim,
        uses: fn(&Pod, &PersistentVolumeClaim) -> bool,
    ) -> Result<bool, Error> {
        if self.pods.store().by_namespace(claim.namespace()).iter().any(|p| uses(p, claim)) {
            return Ok(true);
        }
        let live = self.client.list::<Pod>(Some(claim.namespace()), &ListOptions::default()).await?;
        Ok(live.items.iter().any(|p| uses(p, claim)))
    }
}

/// The claim with the condition that tells whether a pod names it, where that is news
/// (upstream: `updateUnusedCondition`).
fn told(claim: &PersistentVolumeClaim, used: bool, now: Timestamp) -> Option<PersistentVolumeClaim> {
    let (status, reason, message) = match used {
        true => ("False", "PodUsingPVC", "A pod is currently referencing this PVC"),
        false => ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC"),
    };
    let mut new = claim.clone();
    let list = new.status.get_or_insert_default().conditions.get_or_insert_default();
    let at = list.iter().position(|c| c.type_ == "Unused");
    let condition = PersistentVolumeClaimCondition {
        type_: "Unused".into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(time(now)),
        ..PersistentVolumeClaimCondition::default()
    };
    match at {
        // an unknown status is left to say so while the claim is used
        Some(i) if list[i].status == status || used && list[i].status != "True" => return None,
        Some(i) => list[i] = condition,
        None => list.push(condition),
    }
    Some(new)
}

#[async_trait]
impl Reconcile for Claims {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(claim) = self.claims.store().get(&key.namespace, &key.name) else { return Ok(After::Done) };
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if bound && !claim.is_deleting() {
            let used = self.is_used(&claim, usage::names).await?;
            if let Some(new) = told(&claim, used, self.clock.now()) {
                self.client.update_status(&new).await?;
                // the change comes back, and with it the version that a finalizer could be added to
                return Ok(After::Done);
            }
        }
        let used = match hold(&claim.metadata, CLAIM) {
            Hold::Judge => self.is_used(&claim, usage::holds).await?,
            _ => false,
        };
        keep(&self.client, &*claim, CLAIM, used).await?;
        Ok(After::Done)
    }
}

struct Classes {
    client: Client,
    classes: Informer<VolumeAttributesClass>,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
}

fn start_classes(setup: &Setup) -> Handle {
    let classes = setup.informers.of::<VolumeAttributesClass>();
    let volumes = setup.informers.of::<PersistentVolume>();
    let claims = setup.informers.of::<PersistentVolumeClaim>();
    let this = Classes {
        client: setup.client("volumeattributesclass-protection-controller"),
        classes: classes.clone(),
        volumes: volumes.clone(),
        claims: claims.clone(),
    };
    Controller::new("volumeattributesclass-protection", Arc::new(this), setup.clock.clone())
        .watches(&classes, |c, q| c.new.iter().for_each(|v| q.add(ObjectKey::of(&**v))))
        .watches(&volumes, |c, q| {
            c.old.iter().filter_map(|v| usage::class_of_volume(v)).for_each(|n| q.add(ObjectKey::new("", n)));
        })
        .watches(&claims, |c, q| {
            c.old.iter().flat_map(|v| usage::classes_of_claim(v)).for_each(|n| q.add(ObjectKey::new("", n)));
        })
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Classes {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(class) = self.classes.store().get("", &key.name) else { return Ok(After::Done) };
        let name = class.name();
        let by_volume = |v: &Arc<PersistentVolume>| usage::class_of_volume(v) == Some(name);
        let by_claim = |c: &Arc<PersistentVolumeClaim>| usage::classes_of_claim(c).any(|n| n == name);
        let used = self.volumes.store().list().iter().any(by_volume)
            || self.claims.store().list().iter().any(by_claim);
        keep(&self.client, &*class, CLASS, used).await?;
        Ok(After::Done)
    }
}
