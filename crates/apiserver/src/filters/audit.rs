//! The record of each request: begun before anything can refuse it, completed when its last byte went out.

pub mod webhook;

use super::latency::Latencies;
use crate::request_info::RequestInfo;
use crate::server::Server;
use arc_swap::ArcSwap;
use audit::context::Arrival;
use audit::event::{Content, ObjectRef, User};
use audit::log::LogBackend;
use audit::{AuditContext, Level, Policy, Stage};
use auth::identity::Identity;
use base::clock::SharedClock;
use bytes::Bytes;
use client::Body;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use meta::status::Status;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tracing::{error, warn};
use trail::Trail;

/// Policy and sinks of the server.
pub struct AuditLog {
    policy: ArcSwap<Policy>,
    pub trail: Arc<Trail>,
    log: Option<LogBackend>,
    webhook: Option<webhook::Webhook>,
    clock: SharedClock,
    events: AtomicU64,
    errors: AtomicU64,
    rejected: AtomicU64,
    levels: [AtomicU64; 4],
}

impl AuditLog {
    pub fn new(
        policy: Policy,
        trail: Arc<Trail>,
        log: Option<LogBackend>,
        webhook: Option<webhook::Webhook>,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            policy: ArcSwap::from_pointee(policy),
            trail,
            log,
            webhook,
            clock,
            events: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            levels: Default::default(),
        })
    }

    pub fn policy_hash(&self) -> String {
        self.policy.load().hash.clone()
    }

    /// Writes an event to every sink; what a sink elsewhere makes of it is told later.
    pub fn write(&self, event: &audit::Event, record: Option<u64>) -> Sent {
        self.events.fetch_add(1, Ordering::Relaxed);
        let kept = self.trail.append(event, record);
        if let Err(e) = &kept {
            self.errors.fetch_add(1, Ordering::Relaxed);
            error!(error = %e, "an audit event could not be stored");
        }
        let logged = self.log.as_ref().is_none_or(|l| l.write(event));
        let told = self.webhook.as_ref().map_or(Ok(true), |w| w.write(event));
        let sent = *told.as_ref().unwrap_or(&true);
        Sent { kept: kept.is_ok() && logged && sent, told: told.err() }
    }

    /// Sends and writes what waits in the sinks.
    pub async fn close(&self) {
        if let Some(webhook) = &self.webhook {
            webhook.close().await;
        }
        if let Some(log) = &self.log {
            log.close();
        }
    }

    /// Upstream's four metrics, in text; `trail` is a plugin of ours.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let mut lost = BTreeMap::from([("trail", n(&self.errors))]);
        let mut add = |plugin, count: &AtomicU64| *lost.entry(plugin).or_default() += n(count);
        if let Some(c) = self.log.as_ref().map(LogBackend::counters) {
            add("log", &c.log);
            add("buffered", &c.buffered);
            add("truncate", &c.truncate);
        }
        if let Some(c) = self.webhook.as_ref().map(webhook::Webhook::counters) {
            add("webhook", &c.webhook);
            add("buffered", &c.buffered);
            add("truncate", &c.truncate);
        }
        let mut counter = |name: &str, help: &str, series: &[(String, u64)]| {
            let _ = writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter");
            for (labels, count) in series {
                let _ = writeln!(out, "{name}{labels} {count}");
            }
        };
        let one = |count: &AtomicU64| [(String::new(), n(count))];
        let lost: Vec<_> = lost.iter().map(|(p, c)| (format!("{{plugin=\"{p}\"}}"), *c)).collect();
        let levels = ["None", "Metadata", "Request", "RequestResponse"].iter().zip(&self.levels);
        let levels: Vec<_> = levels.map(|(l, c)| (format!("{{level=\"{l}\"}}"), n(c))).collect();
        counter(
            "apiserver_audit_error_total",
            "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
            &lost,
        );
        counter(
            "apiserver_audit_event_total",
            "Counter of audit events generated and sent to the audit backend.",
            &one(&self.events),
        );
        counter(
            "apiserver_audit_level_total",
            "Counter of policy levels for audit events (1 per request).",
            &levels,
        );
        counter(
            "apiserver_audit_requests_rejected_total",
            "Counter of apiserver requests rejected due to an error in audit logging backend.",
            &one(&self.rejected),
        );
        out
    }
}

/// What became of an event.
#[must_use]
pub struct Sent {
    /// No sink that must not lose anything has lost it so far.
    kept: bool,
    /// The answer of a sink that is waited for.
    told: Option<tokio::sync::oneshot::Receiver<bool>>,
}

impl Sent {
    const NOTHING: Self = Self { kept: true, told: None };

    /// Waits for all sinks; `false` when one that must not lose anything has lost it.
    pub async fn kept(self) -> bool {
        let told = match self.told {
            Some(told) => told.await.unwrap_or(false),
            None => true,
        };
        self.kept && told
    }

    /// Where nothing can wait any more: the sinks count what they lose.
    pub fn forget(self) {}
}

/// One request on the record.
pub struct AuditScope {
    log: Arc<AuditLog>,
    context: Mutex<AuditContext>,
    pub latency: Latencies,
    /// The store's record of the request's commit.
    record: Mutex<Option<u64>>,
    begun: Duration,
    /// Somebody else completes the event (a spliced stream).
    held: AtomicBool,
    /// Nothing more is to be sent.
    done: AtomicBool,
}

/// Begins the record of a request.
pub fn begin(
    server: &Server,
    info: &RequestInfo,
    parts: &http::request::Parts,
    peer: SocketAddr,
    user: Option<&Identity>,
) -> Arc<AuditScope> {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let user = user.map(shown);
    let decision = server.audit.policy.load().evaluate(&audit::Attributes {
        user: user.as_ref(),
        verb: &info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
    });
    server.audit.levels[decision.level as usize].fetch_add(1, Ordering::Relaxed);
    let client_id = parts.headers.get("audit-id").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let arrival = Arrival {
        audit_id: client_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        request_uri: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        verb: info.verb.clone(),
        user: user.unwrap_or_default(),
        source_ips: audit::source::source_ips(
            header("x-forwarded-for"),
            header("x-real-ip"),
            Some(peer.ip()),
        ),
        user_agent: audit::source::user_agent(header("user-agent").unwrap_or("")),
        object_ref: info.is_resource.then(|| object_ref(info)),
        received: server.clock.now(),
    };
    Arc::new(AuditScope {
        log: server.audit.clone(),
        context: Mutex::new(AuditContext::begin(arrival, decision)),
        latency: Latencies::default(),
        record: Mutex::new(None),
        begun: server.clock.monotonic(),
        held: AtomicBool::new(false),
        done: AtomicBool::new(false),
    })
}

fn object_ref(info: &RequestInfo) -> ObjectRef {
    ObjectRef {
        resource: info.resource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        subresource: info.subresource.clone(),
        ..ObjectRef::default()
    }
}

/// An identity in the wire's form.
pub fn shown(id: &Identity) -> User {
    User {
        username: id.name.clone(),
        uid: id.uid.clone(),
        groups: id.groups.clone(),
        extra: id.extra.clone(),
    }
}

impl AuditScope {
    pub fn id(&self) -> String {
        self.context.lock().id().to_owned()
    }

    pub fn wants_request(&self) -> bool {
        self.context.lock().wants_request()
    }

    pub fn wants_response(&self) -> bool {
        self.context.lock().wants_response()
    }

    pub fn elapsed(&self) -> Duration {
        self.log.clock.monotonic().saturating_sub(self.begun)
    }

    /// The first stage. `false` when the request must not go on without its record.
    pub async fn received(&self) -> bool {
        let stored = self.send(Stage::RequestReceived).kept().await;
        if !stored {
            self.log.rejected.fetch_add(1, Ordering::Relaxed);
            self.done.store(true, Ordering::SeqCst);
        }
        stored
    }

    pub fn annotate(&self, key: &str, value: &str) {
        let mut context = self.context.lock();
        if !context.annotate(key, value) {
            warn!(key, audit_id = context.id(), "an audit annotation was already set to another value");
        }
    }

    pub fn impersonated(&self, user: &Identity, constraint: &str) {
        self.context.lock().impersonated(shown(user), constraint);
    }

    pub fn reference_from(&self, obj: &Value) {
        self.context.lock().reference_from(obj);
    }

    pub fn request_object(&self, json: &[u8]) {
        self.context.lock().request_object(json);
    }

    pub fn request_value(&self, object: &Value) {
        self.context.lock().request_value(object);
    }

    /// What rides in the commit of this request's write.
    pub fn core(&self) -> Option<Bytes> {
        self.context.lock().core().map(Bytes::from)
    }

    pub fn committed(&self, record: u64) {
        *self.record.lock() = Some(record);
    }

    /// A failed login is one event of its own shape.
    pub async fn failed_authentication(&self, refused: &Status) {
        self.context.lock().response_status(refused.code, Some(&refused.to_value()));
        self.send(Stage::ResponseStarted).kept().await;
        self.done.store(true, Ordering::SeqCst);
    }

    /// The answer; `status` when it is a Status object.
    pub fn answered(&self, code: u16, object: Option<&Content>, status: Option<&Value>) {
        let mut context = self.context.lock();
        context.response_status(code, status);
        if let Some(object) = object {
            context.response_object(object.clone());
        }
    }

    pub fn refused(&self, refused: &Status, object: Option<&Content>) {
        self.answered(refused.code, object, Some(&refused.to_value()));
    }

    pub fn panicked(&self, text: &str) {
        let status = serde_json::json!({
            "status": "Failure", "reason": "InternalError", "message": format!("APIServer panic'd: {text}"),
        });
        self.context.lock().response_status(500, Some(&status));
        self.send(Stage::Panic).forget();
        self.done.store(true, Ordering::SeqCst);
    }

    /// Keeps the record open past the response; [`AuditScope::complete`] ends it.
    pub fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// The last event. Sent once, whoever comes first.
    pub fn complete(&self) {
        if !self.done.swap(true, Ordering::SeqCst) {
            self.send(Stage::ResponseComplete).forget();
        }
    }

    fn send(&self, stage: Stage) -> Sent {
        let mut context = self.context.lock();
        if context.level() == Level::None {
            return Sent::NOTHING;
        }
        if stage == Stage::ResponseComplete {
            for (key, value) in self.latency.annotations(self.elapsed()) {
                context.annotate(&key, &value);
            }
        }
        let record =
            if matches!(stage, Stage::ResponseComplete | Stage::Panic) { *self.record.lock() } else { None };
        let now = self.log.clock.now();
        context.stage(stage, now).map_or(Sent::NOTHING, |event| self.log.write(event, record))
    }
}

/// A request whose client went away is dropped where it waits: its record ends too.
impl Drop for AuditScope {
    fn drop(&mut self) {
        if self.done.load(Ordering::SeqCst) {
            return;
        }
        let context = self.context.get_mut();
        if context.event().response_status.is_none() {
            // Upstream's words for a handler that never answered.
            let status = serde_json::json!({"status": "Success", "message": "Connection closed early"});
            context.response_status(200, Some(&status));
        }
        self.complete();
    }
}

/// Completes the record with the response: at once, or when a stream ends.
pub async fn complete_with_body(
    scope: Arc<AuditScope>,
    long_running: bool,
    response: Response<Body>,
) -> Response<Body> {
    if scope.done.load(Ordering::SeqCst) {
        return response;
    }
    if !long_running {
        if !scope.done.swap(true, Ordering::SeqCst) {
            scope.send(Stage::ResponseComplete).kept().await;
        }
        return response;
    }
    scope.send(Stage::ResponseStarted).kept().await;
    if scope.held.load(Ordering::SeqCst) {
        return response;
    }
    response.map(|inner| Streamed { inner, scope }.boxed_unsync())
}

/// A streaming body that completes the record when it ends or is dropped.
struct Streamed {
    inner: Body,
    scope: Arc<AuditScope>,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = client::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, client::BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.scope.complete();
    }
}
