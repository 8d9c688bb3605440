//! Endpoints that people write for Services without a selector are mirrored to endpoint slices.
//!
//! Invariant: slices are changed only when our copy shows all that was written before for the same object.
//! upstream: `pkg/controller/endpointslicemirroring`

mod plan;
#[cfg(test)]
mod tests;

pub use plan::{MAX_PER_SUBSET, Plan, plan};

use crate::deployment::is_terminating_namespace;
use crate::endpoint_slice::tracker::Tracker;
use crate::endpoint_slice::{MANAGED_BY_LABEL, SERVICE_LABEL};
use crate::endpoints::LEADER;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::Status;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// Value of the managed-by label (upstream: `ControllerName`).
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Wait for our copy to show what was written.
const STALE_WAIT: Duration = Duration::from_millis(20);

struct MirrorController {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    tracker: Tracker,
    recorder: Recorder,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let services = setup.informers.of::<Service>();
    let endpoints = setup.informers.of::<Endpoints>();
    let slices = setup.informers.of::<EndpointSlice>();
    let client = setup.client("endpointslicemirroring-controller");
    let this = Arc::new(MirrorController {
        recorder: setup.recorder(&client, "endpoint-slice-mirroring-controller"),
        client,
        services: services.clone(),
        endpoints: endpoints.clone(),
        slices: slices.clone(),
        tracker: Tracker::default(),
    });
    let for_slices = this.clone();
    Controller::new("endpointslicemirroring", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&services, |c, q| c.latest().into_iter().for_each(|s| q.add(ObjectKey::of(&**s))))
        .watches(&endpoints, |c, q| {
            if c.old.iter().chain(&c.new).any(|e| is_mirrored(e)) {
                c.latest().into_iter().for_each(|e| q.add(ObjectKey::of(&**e)));
            }
        })
        .watches(&slices, move |c, q| {
            for slice in c.old.iter().chain(&c.new).filter(|s| s.label(MANAGED_BY_LABEL) == Some(MANAGER)) {
                if let Some(service) = slice.label(SERVICE_LABEL).filter(|s| !s.is_empty()) {
                    let key = ObjectKey::new(slice.namespace(), service);
                    if c.new.is_none() {
                        for_slices.tracker.gone(&key, slice.uid());
                    }
                    q.add(key);
                }
            }
        })
        .start(setup.cancel.clone())
}

/// Upstream: `shouldMirror`.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP_LABEL) != Some("true") && endpoints.annotation(LEADER).is_none()
}

impl MirrorController {
    /// The object to mirror, where there is one and its Service has no selector.
    fn wanted(&self, key: &ObjectKey) -> Option<Arc<Endpoints>> {
        let endpoints = self.endpoints.store().get(&key.namespace, &key.name).filter(|e| is_mirrored(e))?;
        let service = self.services.store().get(&key.namespace, &key.name)?;
        let selects = service.spec.as_ref().is_some_and(|s| s.selector.is_some());
        (!selects).then_some(endpoints)
    }

    fn tell(&self, endpoints: &Endpoints, plan: &Plan) {
        let about = reference(endpoints);
        if plan.invalid > 0 {
            let n = plan.invalid;
            let text = format!("Skipped {n} invalid IP addresses when mirroring to EndpointSlices");
            self.recorder.event(&about, EventType::Warning, "InvalidIPAddress", text);
        }
        if plan.skipped > plan.invalid {
            let n = plan.skipped;
            let text = format!(
                "A max of {MAX_PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. {n} addresses were skipped"
            );
            self.recorder.event(&about, EventType::Warning, "TooManyAddressesToMirror", text);
        }
    }

    async fn write(&self, key: &ObjectKey, plan: Plan) -> Result<(), Status> {
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
        self.delete(key, plan.delete).await
    }

    async fn delete(&self, key: &ObjectKey, slices: Vec<EndpointSlice>) -> Result<(), Status> {
        for slice in slices {
            let options = DeleteOptions::default();
            match self.client.delete::<EndpointSlice>(&key.namespace, slice.name(), &options).await {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => self.tracker.deleted(key, &slice),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for MirrorController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let all = self.slices.store().by_namespace(&key.namespace);
        let ours = |s: &&Arc<EndpointSlice>| {
            s.label(SERVICE_LABEL) == Some(key.name.as_str()) && s.label(MANAGED_BY_LABEL) == Some(MANAGER)
        };
        let slices: Vec<EndpointSlice> = all.iter().filter(ours).map(|s| (**s).clone()).collect();
        let Some(endpoints) = self.wanted(key) else {
            self.delete(key, slices).await?;
            self.tracker.forget(key);
            return Ok(After::Done);
        };
        if self.tracker.is_stale(key, &slices) {
            return Ok(After::Again(STALE_WAIT));
        }
        let plan = plan(&endpoints, slices);
        self.tell(&endpoints, &plan);
        self.write(key, plan).await?;
        Ok(After::Done)
    }
}
