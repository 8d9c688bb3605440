//! Endpoint slices of Services with a selector: which pods answer, at which addresses and ports.
//!
//! Invariant: slices are changed only when our copy shows all that was written before for the same Service.
//! upstream: `pkg/controller/endpointslice`, `k8s.io/endpointslice`

pub(crate) mod plan;
pub(crate) mod ports;
#[cfg(test)]
mod tests;
pub(crate) mod tracker;

pub use plan::{Plan, World, plan};

use crate::common::{pods, select};
use crate::deployment::is_terminating_namespace;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::{Change, Informer};
use client::{Client, DeleteOptions, Kind};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::Status;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tracker::{Tracker, TriggerTimes};

const WORKERS: usize = 5;
/// Value of the managed-by label (upstream: `ControllerName`).
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Wait for our copy to show what was written.
const STALE_WAIT: Duration = Duration::from_millis(20);

struct SliceController {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    tracker: Tracker,
    triggers: TriggerTimes,
    recorder: Recorder,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let services = setup.informers.of::<Service>();
    let pods = setup.informers.of::<Pod>();
    let slices = setup.informers.of::<EndpointSlice>();
    let nodes = setup.informers.of::<Node>();
    let client = setup.client("endpointslice-controller");
    let this = Arc::new(SliceController {
        recorder: setup.recorder(&client, "endpoint-slice-controller"),
        client,
        services: services.clone(),
        pods: pods.clone(),
        slices: slices.clone(),
        nodes: nodes.clone(),
        tracker: Tracker::default(),
        triggers: TriggerTimes::default(),
    });
    let (for_pods, for_slices) = (this.clone(), this.clone());
    Controller::new("endpointslice", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&services, |c, q| c.latest().into_iter().for_each(|s| q.add(ObjectKey::of(&**s))))
        .watches(&slices, move |c, q| {
            for slice in c.old.iter().chain(&c.new).filter(|s| s.label(MANAGED_BY_LABEL) == Some(MANAGER)) {
                if let Some(service) = slice.label(SERVICE_LABEL) {
                    let key = ObjectKey::new(slice.namespace(), service);
                    if c.new.is_none() {
                        for_slices.tracker.gone(&key, slice.uid());
                    }
                    q.add(key);
                }
            }
        })
        .watches(&pods, move |c, q| services_of(&for_pods.services, c).into_iter().for_each(|k| q.add(k)))
        .needs(&nodes)
        .start(setup.cancel.clone())
}

impl SliceController {
    async fn write(&self, key: &ObjectKey, service: &Service, plan: Plan) -> Result<(), Status> {
        for slice in plan.create {
            match self.client.create(&slice).await {
                Ok(made) => self.tracker.wrote(key, &made),
                Err(e) if is_terminating_namespace(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        for slice in plan.update {
            let made = self.client.update(&slice).await?;
            self.tracker.wrote(key, &made);
        }
        for slice in plan.delete {
            match self
                .client
                .delete::<EndpointSlice>(service.namespace(), slice.name(), &DeleteOptions::default())
                .await
            {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => self.tracker.deleted(key, &slice),
            }
        }
        Ok(())
    }
}

/// The Services whose endpoints a change of a pod may change.
pub(crate) fn services_of(services: &Informer<Service>, change: &Change<Pod>) -> Vec<ObjectKey> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && facts(old) == facts(new)
    {
        return Vec::new();
    }
    let labels: Vec<_> = change.old.iter().chain(&change.new).map(|p| p.metadata.labels.as_ref()).collect();
    let Some(pod) = change.latest() else { return Vec::new() };
    let fits = |s: &&Arc<Service>| {
        let selector = s.spec.as_ref().and_then(|s| s.selector.as_ref());
        labels.iter().any(|l| select::matches_set(selector, *l))
    };
    let all = services.store().by_namespace(pod.namespace());
    all.iter().filter(fits).map(|s| ObjectKey::of(&**s)).collect()
}

/// What of a pod shows in endpoints.
fn facts(pod: &Pod) -> impl PartialEq + use<> {
    let spec = pod.spec.as_ref();
    (
        pod.status.as_ref().map(|s| (s.pod_ips.clone(), s.pod_ip.clone())),
        pods::is_ready(pod),
        pods::is_terminal(pod),
        pod.is_deleting(),
        spec.map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone())),
        pod.metadata.labels.clone(),
    )
}

#[async_trait]
impl Reconcile for SliceController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(service) = self.services.store().get(&key.namespace, &key.name) else {
            self.tracker.forget(key);
            self.triggers.forget(key);
            return Ok(After::Done);
        };
        let spec = service.spec.clone().unwrap_or_default();
        if spec.selector.is_none() || spec.type_.as_deref() == Some("ExternalName") {
            return Ok(After::Done);
        }
        let all = self.slices.store().by_namespace(&key.namespace);
        let ours = |s: &&Arc<EndpointSlice>| {
            s.label(SERVICE_LABEL) == Some(key.name.as_str()) && s.label(MANAGED_BY_LABEL) == Some(MANAGER)
        };
        let slices: Vec<EndpointSlice> = all.iter().filter(ours).map(|s| (**s).clone()).collect();
        if self.tracker.is_stale(key, &slices) {
            return Ok(After::Again(STALE_WAIT));
        }
        let slices = slices.into_iter().filter(|s| !s.is_deleting()).collect();
        let selected = self.pods.store().by_namespace(&key.namespace).into_iter();
        let selected: Vec<_> = selected
            .filter(|p| select::matches_set(spec.selector.as_ref(), p.metadata.labels.as_ref()))
            .collect();
        let trigger = self.triggers.of_change(key, &service, &selected);
        let mut zones = HashMap::new();
        for node in self.nodes.store().list() {
            zones
                .insert(node.name().to_owned(), node.label("topology.kubernetes.io/zone").map(str::to_owned));
        }
        let plan = plan(&World { service: &service, pods: &selected, slices, zones: &zones, trigger });
        let unknown_nodes = plan.unknown_nodes.clone();
        if let Err(e) = self.write(key, &service, plan).await {
            if !e.is_conflict() {
                let (reason, ns, name) = ("FailedToUpdateEndpointSlices", &key.namespace, &key.name);
                let text = format!("Error updating Endpoint Slices for Service {ns}/{name}: {e}");
                self.recorder.event(&reference(&*service), EventType::Warning, reason, text);
            }
            return Err(e.into());
        }
        // the node's registration is no event for this controller: try again
        match unknown_nodes.first() {
            Some(text) => Err(text.clone().into()),
            None => Ok(After::Done),
        }
    }
}
