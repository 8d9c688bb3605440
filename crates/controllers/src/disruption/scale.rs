//! How many pods what controls them asks for: from local copies of the workloads, from the scale subresource of all else.
//!
//! upstream: `pkg/controller/disruption/disruption.go#finders`

use client::controller::Error;
use client::informer::Informer;
use client::kind::path;
use client::{Client, Kind};
use http::Method;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use meta::object;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Where workloads are looked up.
pub(super) struct Workloads {
    pub(super) client: Client,
    pub(super) deployments: Informer<Deployment>,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) replication_controllers: Informer<ReplicationController>,
    pub(super) stateful_sets: Informer<StatefulSet>,
}

/// The sum over all that controls some pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) pods: i32,
    /// Names of pods that nothing controls.
    pub(super) unmanaged: Vec<String>,
}

type Found = Option<(String, i32)>;

impl Workloads {
    /// # Errors
    /// What controls a pod is not found, has no scale, or could not be read.
    pub(super) async fn scale(&self, pods: &[Arc<Pod>]) -> Result<Scale, Error> {
        let mut by_uid: HashMap<String, i32> = HashMap::new();
        let mut out = Scale::default();
        for pod in pods {
            let Some(owner) = pod.controller() else {
                out.unmanaged.push(pod.name().to_owned());
                continue;
            };
            if by_uid.contains_key(&owner.uid) {
                continue;
            }
            let found = match self.known(owner, pod.namespace()) {
                Some(found) => Some(found),
                None => self.by_subresource(owner, pod.namespace()).await?,
            };
            let (uid, replicas) =
                found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
            by_uid.insert(uid, replicas);
        }
        out.pods = by_uid.values().fold(0i32, |sum, n| sum.saturating_add(*n));
        Ok(out)
    }

    fn known(&self, owner: &OwnerReference, ns: &str) -> Found {
        let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let rc = held(&self.replication_controllers, owner, ns)?;
                Some((owner.uid.clone(), rc.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            ("apps" | "extensions", "ReplicaSet") => self.of_replica_set(owner, ns),
            ("apps", "StatefulSet") => {
                let set = held(&self.stateful_sets, owner, ns)?;
                Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// Of the deployment, where one controls the set.
    fn of_replica_set(&self, owner: &OwnerReference, ns: &str) -> Found {
        let set = held(&self.replica_sets, owner, ns)?;
        let Some(above) = set.controller().filter(|c| c.kind == "Deployment") else {
            return Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)));
        };
        if !matches!(above.api_version.split_once('/').map(|(g, _)| g), Some("apps" | "extensions")) {
            return None;
        }
        let deployment = held(&self.deployments, above, ns)?;
        Some((above.uid.clone(), deployment.spec.replicas.unwrap_or(1)))
    }

    /// upstream: `getScaleController`
    async fn by_subresource(&self, owner: &OwnerReference, ns: &str) -> Result<Found, Error> {
        let (group, version) = match owner.api_version.split('/').collect::<Vec<_>>()[..] {
            [version] => ("", version),
            [group, version] => (group, version),
            _ => return Err(format!("unexpected GroupVersion string: {}", owner.api_version).into()),
        };
        let unknown = || format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version);
        let base = if group.is_empty() { "/api/".to_owned() } else { format!("/apis/{group}/") };
        let served = match self.client.raw(Method::GET, &format!("{base}{version}"), None).await {
            Err(e) if e.is_not_found() => return Err(unknown().into()),
            other => other?,
        };
        let served = served["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
        let plural = plural_of(served, &owner.kind).ok_or_else(unknown)?;
        let at = path(group, version, plural, ns, &owner.name, "scale");
        match self.client.raw(Method::GET, &at, None).await {
            Ok(scale) if object::uid(&scale) != owner.uid => Ok(None),
            Ok(scale) => {
                let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
                Ok(Some((owner.uid.clone(), i32::try_from(replicas).unwrap_or(i32::MAX))))
            }
            Err(e) if e.is_not_found() && has_scale(served, plural) => Ok(None),
            Err(e) if e.is_not_found() => {
                let of = meta::GroupResource::new(group, plural);
                Err(format!("{of} does not implement the scale subresource").into())
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// The local copy of what a reference names.
fn held<K: Kind>(informer: &Informer<K>, owner: &OwnerReference, ns: &str) -> Option<Arc<K>> {
    informer.store().get(ns, &owner.name).filter(|o| o.uid() == owner.uid)
}

fn plural_of<'a>(served: &'a [Value], kind: &str) -> Option<&'a str> {
    let names = served.iter().filter(|r| r["kind"] == kind).filter_map(|r| r["name"].as_str());
    names.into_iter().find(|n| !n.contains('/'))
}

/// upstream: `implementsScale`
fn has_scale(served: &[Value], plural: &str) -> bool {
    let name = format!("{plural}/scale");
    served.iter().any(|r| r["name"] == name.as_str() && r["kind"] == "Scale")
}
