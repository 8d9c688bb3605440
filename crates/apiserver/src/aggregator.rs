//! Other API servers behind this one: group versions that an APIService gives to a Service
//! (upstream: kube-aggregator `pkg/apiserver`).
//!
//! Invariants: a request goes on to another server only after it has passed the whole chain here, as the user whom this
//! server knows, proved by the front-proxy certificate; the caller's own credentials never travel on. What is known of
//! other servers' documents is what they last told, marked when they no longer answer.

mod discovery;
mod headers;
mod proxy;
mod specs;
mod table;
mod v2;

pub use discovery::Discovered;
pub use proxy::Forward;
pub use specs::Specs;
pub use table::{Backend, Group, Served, Table};

use async_trait::async_trait;
use auth::identity::Identity;
use base::clock::SharedClock;
use bytes::Bytes;
use client::controller::{After, Controller, Error, Handle, Queue, RateLimiter, Reconcile};
use client::https::Wire;
use client::outbound::{self, Credentials, Outbound, Resolve};
use http::{HeaderMap, Request, header};
use registry::Registry;
use registry::snapshot::Snapshot;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a server is asked (upstream: `discoveryRefreshInterval`, `successfulUpdateDelay`).
const REFRESH: Duration = Duration::from_secs(60);
/// The longest wait before a server that did not answer is asked again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How requests for other servers find and reach them, and what is known of what they serve.
pub struct Aggregator {
    services: Arc<Snapshot<Table>>,
    outbound: Arc<Outbound>,
    resolve: Arc<dyn Resolve>,
    /// The front-proxy certificate.
    identity: Arc<Credentials>,
    pub discovered: Discovered,
    pub specs: Specs,
}

/// What another server answered to a question of this one's own.
struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
}

impl Aggregator {
    /// Follows the stored APIServices until cancelled.
    pub fn start(
        registry: &Arc<Registry>,
        outbound: Arc<Outbound>,
        resolve: Arc<dyn Resolve>,
        identity: Arc<Credentials>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let row = registry.kinds().resource(kinds::apiregistration::GROUP, "v1", "apiservices");
        let services = match row {
            Some(row) => Snapshot::start(registry, &row, Table::read, cancel),
            None => Snapshot::fixed(Table::default()),
        };
        let (discovered, specs) = (Discovered::default(), Specs::default());
        Arc::new(Self { services, outbound, resolve, identity, discovered, specs })
    }

    pub fn table(&self) -> Arc<Table> {
        self.services.get()
    }

    /// The server that answers a path; `None` for this one.
    pub fn backend_of(&self, path: &str) -> Option<Arc<Backend>> {
        let table = self.services.get();
        if let Some(backend) = table.backend_of(path) {
            return Some(backend.clone());
        }
        // Their documents are theirs to answer, too.
        let key = path.strip_prefix("/openapi/v3/")?;
        self.specs.server_of(key).and_then(|name| table.backend(&name).cloned())
    }

    /// Which servers do not answer, as text (upstream: `pkg/controllers/status/metrics`).
    pub fn metrics(&self) -> String {
        let mut out = "# HELP aggregator_unavailable_apiservice Gauge of APIServices which are marked as unavailable broken down by APIService name.\n# TYPE aggregator_unavailable_apiservice gauge\n".to_owned();
        let table = self.services.get();
        let mut all: Vec<&Arc<Backend>> = table.backends().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        for b in all {
            let down = u8::from(!b.available);
            out.push_str(&format!("aggregator_unavailable_apiservice{{name={:?}}} {down}\n", b.name));
        }
        out
    }

    /// Where a server is now, and how to speak to it.
    fn server(&self, backend: &Backend, wire: Wire) -> Result<(outbound::Server, String), String> {
        let at = self.resolve.resolve(&backend.namespace, &backend.service, backend.port)?;
        let server = outbound::Server {
            ca_pem: backend.ca_pem.clone(),
            service: Some((at.clone(), format!("{}.{}.svc", backend.service, backend.namespace))),
            identity_pem: self.identity.pem(),
            insecure: backend.insecure,
            wire,
            ..outbound::Server::default()
        };
        Ok((server, at))
    }

    /// Asks a server something for this one itself, and reads the bounded answer.
    async fn ask(
        &self,
        backend: &Backend,
        path: &str,
        accept: &str,
        etag: &str,
        user: &Identity,
        timeout: Duration,
    ) -> Result<Answer, String> {
        let (server, at) = self.server(backend, Wire::Http1)?;
        let mut request = Request::get(path).header(header::HOST, &at).header(header::ACCEPT, accept);
        if !etag.is_empty() {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let mut request = request.body(Bytes::new()).map_err(|e| e.to_string())?;
        headers::identify(request.headers_mut(), user)?;
        let call = async {
            let response = self.outbound.send(&server, request).await;
            let (parts, body) = response.map_err(|e| outbound::why(&at, &*e))?.into_parts();
            let body = outbound::bounded(body).await?;
            Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, body })
        };
        let late = |_| format!("no answer in {} s", timeout.as_secs());
        tokio::time::timeout(timeout, call).await.map_err(late)?
    }
}

/// Keeps what other servers say of themselves up to date: their discovery and their OpenAPI documents.
pub fn follow(aggregator: &Arc<Aggregator>, clock: &SharedClock, cancel: &CancellationToken) -> Vec<Handle> {
    let discovery = controller::<discovery::Discovery>("aggregated-discovery", aggregator, clock);
    let specs = controller::<specs::OpenApi>("aggregated-openapi", aggregator, clock);
    let queues = [discovery.queue().clone(), specs.queue().clone()];
    let feed = tokio::spawn(feed(aggregator.clone(), queues, cancel.clone()));
    vec![
        discovery.start(cancel.clone()),
        specs.start(cancel.clone()),
        Handle::of_task("aggregated-servers", feed),
    ]
}

/// Asks for servers that are new, changed or gone.
async fn feed(aggregator: Arc<Aggregator>, queues: [Arc<Queue<String>>; 2], cancel: CancellationToken) {
    let mut changes = aggregator.services.changes();
    let mut known: HashMap<String, Arc<Backend>> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let now: HashMap<String, Arc<Backend>> =
            aggregator.table().backends().map(|b| (b.name.clone(), b.clone())).collect();
        let gone = known.keys().filter(|name| !now.contains_key(*name));
        let changed = now.iter().filter(|(name, b)| known.get(*name) != Some(*b)).map(|(name, _)| name);
        for name in gone.chain(changed) {
            queues.iter().for_each(|q| q.add(name.clone()));
        }
        known = now;
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn controller<Q: Question>(
    name: &'static str,
    aggregator: &Arc<Aggregator>,
    clock: &SharedClock,
) -> Controller<Refresh<Q>> {
    let limiter = RateLimiter { base: Q::RETRY, max: RETRY_MAX, ..RateLimiter::default() };
    let queue = Arc::new(Queue::new(clock.clone(), limiter));
    let refresh = Arc::new(Refresh(aggregator.clone(), PhantomData));
    Controller::new(name, refresh, clock.clone()).with_queue(queue).workers(2)
}

/// What every other server is asked again and again.
#[async_trait]
trait Question: Send + Sync + 'static {
    /// As errors name it.
    const WHAT: &'static str;
    /// The first wait after a failure.
    const RETRY: Duration;

    /// There is no such APIService any more.
    fn forget(aggregator: &Aggregator, name: &str);

    /// Asks a server, and keeps what it says.
    async fn ask(aggregator: &Aggregator, backend: &Backend) -> Result<(), String>;
}

/// Asks one APIService's server, by its name.
struct Refresh<Q>(Arc<Aggregator>, PhantomData<Q>);

#[async_trait]
impl<Q: Question> Reconcile for Refresh<Q> {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Result<After, Error> {
        let table = self.0.table();
        let Some(backend) = table.backend(name) else {
            Q::forget(&self.0, name);
            return Ok(After::Done);
        };
        match Q::ask(&self.0, backend).await {
            Ok(()) => Ok(After::Again(REFRESH)),
            Err(why) => Err(format!("{} of {name}: {why}", Q::WHAT).into()),
        }
    }
}
