//! Endpoints of Services with a selector, the older form of endpoint slices.
//!
//! Invariant: an object is changed only when our copy shows what was written before.
//! upstream: `pkg/controller/endpoint`

mod plan;
pub(crate) mod subsets;
#[cfg(test)]
mod tests;

pub use plan::plan;

use crate::common::select;
use crate::deployment::is_terminating_namespace;
use crate::endpoint_slice::services_of;
use crate::endpoint_slice::tracker::TriggerTimes;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Queue, RateLimiter, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// Wait for our copy to show what was written.
const STALE_WAIT: Duration = Duration::from_millis(20);
/// An object that elects a leader has no Service and stays.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Service(ObjectKey),
    /// Once: what is left of Services that went while nobody looked (upstream: `checkLeftoverEndpoints`).
    Leftovers,
}

struct EndpointsController {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    triggers: TriggerTimes,
    /// Versions that were replaced, so that our copy is behind while it shows them (upstream: `staleEndpointsTracker`).
    replaced: Mutex<HashMap<ObjectKey, String>>,
    recorder: Recorder,
    queue: Arc<Queue<Work>>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let (services, pods) = (setup.informers.of::<Service>(), setup.informers.of::<Pod>());
    let endpoints = setup.informers.of::<Endpoints>();
    let client = setup.client("endpoint-controller");
    let queue = Arc::new(Queue::new(setup.clock.clone(), RateLimiter::default()));
    let this = Arc::new(EndpointsController {
        recorder: setup.recorder(&client, "endpoint-controller"),
        client,
        services: services.clone(),
        pods: pods.clone(),
        endpoints: endpoints.clone(),
        triggers: TriggerTimes::default(),
        replaced: Mutex::default(),
        queue: queue.clone(),
    });
    queue.add(Work::Leftovers);
    let of_services = services.clone();
    Controller::new("endpoint", this, setup.clock.clone())
        .with_queue(queue)
        .workers(WORKERS)
        .watches(&services, |c, q| {
            c.latest().into_iter().for_each(|s| q.add(Work::Service(ObjectKey::of(&**s))));
        })
        .watches(&pods, move |c, q| {
            services_of(&of_services, c).into_iter().for_each(|k| q.add(Work::Service(k)));
        })
        .watches(&endpoints, |c, q| {
            if let (Some(gone), None) = (&c.old, &c.new) {
                q.add(Work::Service(ObjectKey::of(&**gone)));
            }
        })
        .start(setup.cancel.clone())
}

impl EndpointsController {
    async fn service(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(service) = self.services.store().get(&key.namespace, &key.name) else {
            self.triggers.forget(key);
            self.replaced.lock().remove(key);
            let options = DeleteOptions::default();
            return match self.client.delete::<Endpoints>(&key.namespace, &key.name, &options).await {
                Err(e) if !e.is_not_found() => Err(e.into()),
                _ => Ok(After::Done),
            };
        };
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") || spec.selector.is_none() {
            return Ok(After::Done);
        }
        let mut selected = self.pods.store().by_namespace(&key.namespace);
        selected.retain(|p| select::matches_set(spec.selector.as_ref(), p.metadata.labels.as_ref()));
        let current = self.endpoints.store().get(&key.namespace, &key.name);
        let version = current.as_ref().map(|c| c.resource_version().to_owned());
        if version.is_some() && self.replaced.lock().get(key) == version.as_ref() {
            return Ok(After::Again(STALE_WAIT));
        }
        let trigger = self.triggers.of_change(key, &service, &selected);
        let Some(new) = plan(&service, &selected, current.as_deref(), trigger) else {
            return Ok(After::Done);
        };
        self.write(key, &new, version).await
    }

    async fn write(&self, key: &ObjectKey, new: &Endpoints, version: Option<String>) -> Result<After, Error> {
        let (ns, name) = (&key.namespace, &key.name);
        let (result, reason, text) = match &version {
            None => {
                let text = format!("Failed to create endpoint for service {ns}/{name}");
                (self.client.create(new).await, "FailedToCreateEndpoint", text)
            }
            Some(_) => {
                let text = format!("Failed to update endpoint {ns}/{name}");
                (self.client.update(new).await, "FailedToUpdateEndpoint", text)
            }
        };
        match result {
            Ok(written) => {
                if let Some(old) = version.filter(|v| *v != written.resource_version()) {
                    self.replaced.lock().insert(key.clone(), old);
                }
                Ok(After::Done)
            }
            Err(e) if version.is_none() && is_terminating_namespace(&e) => Ok(After::Done),
            Err(e) => {
                self.recorder.event(&reference(new), EventType::Warning, reason, format!("{text}: {e}"));
                Err(e.into())
            }
        }
    }
}

#[async_trait]
impl Reconcile for EndpointsController {
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<After, Error> {
        match work {
            Work::Service(key) => self.service(key).await,
            Work::Leftovers => {
                for object in self.endpoints.store().list() {
                    if object.annotation(LEADER).is_none() {
                        self.queue.add(Work::Service(ObjectKey::of(&*object)));
                    }
                }
                Ok(After::Done)
            }
        }
    }
}
