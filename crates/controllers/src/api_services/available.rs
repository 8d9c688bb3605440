//! Whether the server of an APIService answers: the condition Available
//! (upstream: kube-aggregator `pkg/controllers/status/{local,remote}`).
//!
//! Invariant: the condition is written only when it changed, and checked again every half minute, as a server may go
//! away without any object telling so.

use super::{Verdict, set};
use crate::endpoint_slice::SERVICE_LABEL;
use crate::start::Setup;
use async_trait::async_trait;
use auth::identity::SYSTEM_MASTERS;
use base::clock::SharedClock;
use base::metrics::Family;
use bytes::Bytes;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Queue, RateLimiter, Reconcile};
use client::https::Wire;
use client::informer::Informer;
use client::outbound::{self, Credentials, Outbound, Resolve, Server};
use client::{Client, Kind};
use http::{Request, header};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, ServiceReference};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// How often all are checked again.
const RESYNC: Duration = Duration::from_secs(30);
/// How long a server may take for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Checks at a time; one that passes is enough, as there may be several servers behind the Service.
const ATTEMPTS: usize = 5;
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How other API servers are reached.
#[derive(Clone)]
pub struct Reach {
    pub outbound: Arc<Outbound>,
    pub resolve: Arc<dyn Resolve>,
    /// The front-proxy certificate.
    pub identity: Arc<Credentials>,
    /// How often each was found unavailable, and why.
    pub unavailable: Arc<Family>,
}

/// The metric of [`Reach::unavailable`].
#[must_use]
pub fn unavailable() -> Family {
    Family::counter(
        "aggregator_unavailable_apiservice_total",
        "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
    )
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reach")
    }
}

struct Availability {
    client: Client,
    services: Informer<APIService>,
    backends: Informer<Service>,
    slices: Informer<EndpointSlice>,
    reach: Option<Reach>,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let services = setup.informers.of::<APIService>();
    let backends = setup.informers.of::<Service>();
    let slices = setup.informers.of::<EndpointSlice>();
    let this = Availability {
        client: setup.system.clone(),
        services: services.clone(),
        backends: backends.clone(),
        slices: slices.clone(),
        reach: setup.config.aggregation.clone(),
        clock: setup.clock.clone(),
    };
    let limiter = RateLimiter { base: RETRY_MIN, max: RETRY_MAX, ..RateLimiter::default() };
    let queue = Arc::new(Queue::new(setup.clock.clone(), limiter));
    let (of_services, of_slices, all) = (services.clone(), services.clone(), services.clone());
    Controller::new("api-service-availability", Arc::new(this), setup.clock.clone())
        .with_queue(queue)
        .workers(WORKERS)
        .watches(&services, |c, q| c.new.iter().for_each(|s| q.add(ObjectKey::of(&**s))))
        .watches(&backends, move |c, q| {
            if let Some(s) = c.latest() {
                behind(&of_services, s.namespace(), s.name()).for_each(|k| q.add(k));
            }
        })
        .watches(&slices, move |c, q| {
            if let Some(s) = c.latest()
                && let Some(service) = s.label(SERVICE_LABEL)
            {
                behind(&of_slices, s.namespace(), service).for_each(|k| q.add(k));
            }
        })
        .resync(RESYNC, move || {
            let remote = |s: &Arc<APIService>| reference(s).is_some();
            all.store().list().iter().filter(|s| remote(s)).map(|s| ObjectKey::of(&**s)).collect()
        })
        .start(setup.cancel.clone())
}

/// The APIServices whose server is behind a Service.
fn behind(services: &Informer<APIService>, ns: &str, name: &str) -> impl Iterator<Item = ObjectKey> {
    let is = |s: &&Arc<APIService>| {
        let r = reference(s);
        r.is_some_and(|r| r.namespace.as_deref() == Some(ns) && r.name.as_deref() == Some(name))
    };
    services.store().list().iter().filter(is).map(|s| ObjectKey::of(&**s)).collect::<Vec<_>>().into_iter()
}

fn reference(service: &APIService) -> Option<&ServiceReference> {
    service.spec.as_ref()?.service.as_ref()
}

fn port_of(r: &ServiceReference) -> i32 {
    r.port.unwrap_or(443)
}

/// What the objects alone say; `None` where the server itself has to be asked.
#[must_use]
pub fn of_objects(
    r: &ServiceReference,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
) -> Option<Verdict> {
    let (ns, name) = (r.namespace.as_deref().unwrap_or(""), r.name.as_deref().unwrap_or(""));
    let Some(spec) = service.map(|s| s.spec.clone().unwrap_or_default()) else {
        let message = format!("service/{name} in {ns:?} is not present");
        return Some(Verdict::new("False", "ServiceNotFound", message));
    };
    if spec.type_.as_deref() != Some("ClusterIP") {
        return None;
    }
    let port = port_of(r);
    let Some(found) = spec.ports.iter().flatten().find(|p| p.port == port) else {
        let message = format!("service/{name} in {ns:?} is not listening on port {port}");
        return Some(Verdict::new("False", "ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {ns:?}");
        return Some(Verdict::new("False", "EndpointsNotFound", message));
    }
    let port_name = found.name.as_deref().unwrap_or("");
    if !slices.iter().any(|s| has_endpoint(s, port_name)) {
        let message = format!(
            "endpointslices for service/{name} in {ns:?} have no addresses with port name {port_name:?}"
        );
        return Some(Verdict::new("False", "MissingEndpoints", message));
    }
    None
}

/// Upstream: `hasAvailableEndpoint`.
fn has_endpoint(slice: &EndpointSlice, port_name: &str) -> bool {
    let ready = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
        e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    };
    let port = |p: &k8s_openapi::api::discovery::v1::EndpointPort| {
        p.name.as_deref() == Some(port_name) && p.port.is_some()
    };
    slice.endpoints.iter().flatten().any(ready) && slice.ports.iter().flatten().any(port)
}

/// What a server has to be able to answer.
fn path_of(service: &APIService) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let (group, version) = (spec.group.unwrap_or_default(), spec.version.unwrap_or_default());
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

impl Reach {
    /// Asks several times at once; the last failure counts when all fail.
    async fn check(&self, service: &APIService, r: &ServiceReference) -> Result<(), String> {
        let mut attempts = tokio::task::JoinSet::new();
        for _ in 0..ATTEMPTS {
            let (reach, service, r) = (self.clone(), service.clone(), r.clone());
            attempts.spawn(async move { reach.attempt(&service, &r).await });
        }
        let mut last = Ok(());
        while let Some(outcome) = attempts.join_next().await {
            match outcome {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => last = Err(why),
                Err(e) => last = Err(e.to_string()),
            }
        }
        last
    }

    async fn attempt(&self, service: &APIService, r: &ServiceReference) -> Result<(), String> {
        let (ns, name) = (r.namespace.as_deref().unwrap_or(""), r.name.as_deref().unwrap_or(""));
        let port = u16::try_from(port_of(r)).map_err(|e| e.to_string())?;
        let at = self.resolve.resolve(ns, name, port)?;
        let spec = service.spec.as_ref();
        let server = Server {
            ca_pem: spec.and_then(|s| s.ca_bundle.as_ref()).map(|b| b.0.clone()).unwrap_or_default(),
            insecure: spec.and_then(|s| s.insecure_skip_tls_verify).unwrap_or(false),
            service: Some((at.clone(), format!("{name}.{ns}.svc"))),
            identity_pem: self.identity.pem(),
            // A connection that is kept says nothing of the server now.
            wire: Wire::Http1Once,
            ..Server::default()
        };
        let path = path_of(service);
        let url = format!("https://{at}{path}");
        let failed = |why: String| format!("failing or missing response from {url}: {why}");
        let request = Request::get(&path)
            .header(header::HOST, &at)
            .header("X-Remote-User", "system:kube-aggregator")
            .header("X-Remote-Group", SYSTEM_MASTERS)
            .body(Bytes::new())
            .map_err(|e| failed(e.to_string()))?;
        match tokio::time::timeout(TIMEOUT, self.outbound.send(&server, request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(failed(format!("bad status from {url}: {}", answer.status().as_u16()))),
            Ok(Err(e)) => Err(failed(format!("Get {url:?}: {}", outbound::why(&at, &*e)))),
            Err(_) => Err(failed(format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ))),
        }
    }
}

#[async_trait]
impl Reconcile for Availability {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(service) = self.services.store().get("", &key.name) else { return Ok(After::Done) };
        let verdict = match reference(&service) {
            None => Verdict::new("True", "Local", "Local APIServices are always available"),
            Some(r) => self.verdict(&service, r).await,
        };
        let mut changed = (*service).clone();
        if set(&mut changed, &verdict, self.clock.now()) {
            self.client.update_status(&changed).await?;
            if let Some(reach) = self.reach.as_ref().filter(|_| verdict.status == "False") {
                reach.unavailable.add(&[("name", &key.name), ("reason", verdict.reason)]);
            }
        }
        match verdict.reason {
            // not only at the next round
            "FailedDiscoveryCheck" => Err(verdict.message.into()),
            _ => Ok(After::Done),
        }
    }
}

impl Availability {
    async fn verdict(&self, service: &APIService, r: &ServiceReference) -> Verdict {
        let (ns, name) = (r.namespace.as_deref().unwrap_or(""), r.name.as_deref().unwrap_or(""));
        let backend = self.backends.store().get(ns, name);
        let slices = self.slices.store().by_namespace(ns);
        let slices: Vec<_> = slices.into_iter().filter(|s| s.label(SERVICE_LABEL) == Some(name)).collect();
        if let Some(verdict) = of_objects(r, backend.as_deref(), &slices) {
            return verdict;
        }
        let checked = match &self.reach {
            Some(reach) => reach.check(service, r).await,
            None => Ok(()),
        };
        match checked {
            Ok(()) => Verdict::new("True", "Passed", "all checks passed"),
            Err(why) => Verdict::new("False", "FailedDiscoveryCheck", why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn of<T: DeserializeOwned>(v: Value) -> T {
        serde_json::from_value(v).expect("an object")
    }

    #[test]
    fn objects_tell_before_the_server_is_asked() {
        let r: ServiceReference = of(json!({"namespace": "n", "name": "s", "port": 443}));
        let check = |service: Option<Value>, slices: Vec<Value>| {
            let service: Option<Service> = service.map(of);
            let slices: Vec<Arc<EndpointSlice>> = slices.into_iter().map(|s| Arc::new(of(s))).collect();
            of_objects(&r, service.as_ref(), &slices).map(|v| (v.reason, v.message))
        };
        let service = |port: i32| {
            json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP",
            "ports": [{"name": "https", "port": port}]}})
        };
        let slice = |ready: bool, port: &str| {
            json!({"metadata": {"name": "s-1"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
            "ports": [{"name": port, "port": 6443}]})
        };
        let told = |reason, message: &str| Some((reason, message.to_owned()));
        assert_eq!(check(None, vec![]), told("ServiceNotFound", "service/s in \"n\" is not present"));
        assert_eq!(
            check(Some(service(80)), vec![]),
            told("ServicePortError", "service/s in \"n\" is not listening on port 443")
        );
        assert_eq!(
            check(Some(service(443)), vec![]),
            told("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"")
        );
        let missing = "endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
        for bad in [slice(false, "https"), slice(true, "http")] {
            assert_eq!(check(Some(service(443)), vec![bad]), told("MissingEndpoints", missing));
        }
        assert_eq!(check(Some(service(443)), vec![slice(true, "https")]), None);
        let external =
            json!({"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "x"}});
        assert_eq!(check(Some(external), vec![]), None);
    }

    #[test]
    fn the_time_changes_with_the_status_alone() {
        let at = |s: &str| s.parse::<jiff::Timestamp>().expect("a time");
        let (first, later) = (at("2026-01-02T03:04:05Z"), at("2026-01-02T04:04:05Z"));
        let mut s = APIService::default();
        assert!(set(&mut s, &Verdict::new("False", "ServiceNotFound", "a"), first));
        assert!(!set(&mut s, &Verdict::new("False", "ServiceNotFound", "a"), later));
        assert!(set(&mut s, &Verdict::new("False", "MissingEndpoints", "b"), later));
        let time = |s: &APIService| {
            let all = s.status.as_ref().and_then(|s| s.conditions.as_ref()).expect("conditions");
            all[0].last_transition_time.as_ref().expect("a time").0
        };
        assert_eq!(time(&s), first);
        assert!(set(&mut s, &Verdict::new("True", "Passed", "all checks passed"), later));
        assert_eq!(time(&s), later);
    }
}
