//! The way of a request, whole and in order
//! (upstream: apiserver `pkg/server/config.go#DefaultBuildHandlerChain`).

use crate::aggregator::Forward;
use crate::context::{Context, Warnings};
use crate::filters::flow::Slot;
use crate::filters::latency::Layer;
use crate::filters::{audit, authentication, authorization, impersonation};
use crate::negotiate::{self, Accepted, Encoding, View};
use crate::nonresource;
use crate::outflow::Patience;
use crate::reply::{self, Rendered, Rendering, Reply};
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::splice::Upgrade;
use crate::verbs;
use auth::identity::Identity;
use bytes::Bytes;
use client::Body;
use futures::FutureExt as _;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use meta::status::{Result, Status};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a request that does not stream may take (upstream: `--request-timeout`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest request body (upstream: `MaxRequestBodyBytes`).
const BODY_BYTES_MAX: usize = 3 << 20;

/// How long the rest of a body that is too large is read and let go (Go: net/http `rstAvoidanceDelay`).
const LINGER: Duration = Duration::from_millis(500);

/// Where a request came from.
pub struct Connection {
    pub peer: SocketAddr,
    /// The client's certificate, DER, already verified against the client CA or that of a proxy in front.
    pub certificate: Option<Vec<u8>>,
    /// The certificates that the client sent with it, DER.
    pub chain: Vec<Vec<u8>>,
    /// The identity of a caller in this process.
    pub identity: Option<Arc<Identity>>,
    /// Ends the connection.
    pub cut: CancellationToken,
}

/// Serves a request from the network.
pub async fn serve(server: Arc<Server>, from: Arc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, mut body) = request.into_parts();
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    // Streaming bodies (an exec over SPDY) belong to the upgraded connection.
    let upgrading = parts.headers.contains_key(http::header::UPGRADE);
    // Nobody takes in the rest of a body that is too large.
    let unread = AtomicBool::new(false);
    let read = async {
        if upgrading {
            return Ok(Bytes::new());
        }
        match Limited::new(&mut body, BODY_BYTES_MAX).collect().await {
            Ok(all) => Ok(all.to_bytes()),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => {
                unread.store(true, Ordering::Relaxed);
                // A client that is still writing when the connection goes would not see the answer.
                let rest = async { while let Some(Ok(_)) = body.frame().await {} };
                let _ = tokio::time::timeout(LINGER, rest).await;
                Err(Status::too_large(format!("Request entity too large: limit is {BODY_BYTES_MAX}")))
            }
            Err(e) => Err(Status::bad_request(format!("unable to read the request body: {e}"))),
        }
    };
    // The URL is read once; every later step takes its word.
    let info = RequestInfo::parse(&parts.method, &parts.uri);
    let patience = match (info.verb.as_str(), info.is_long_running()) {
        ("watch", _) => Patience::WhileRead,
        (_, true) => Patience::Open,
        _ => Patience::Within(timeout_of(&info).unwrap_or(REQUEST_TIMEOUT)),
    };
    let (outflow, cut) = (server.outflow.clone(), from.cut.clone());
    let multiplexed = parts.version >= http::Version::HTTP_2;
    let mut response = handle(server, from, info, parts, read, upgrade).await;
    if unread.into_inner() && !multiplexed {
        // Nothing else can come over this connection (Go: `http.MaxBytesReader`).
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if http_body::Body::size_hint(response.body()).exact().is_some() {
        return response;
    }
    response.map(|body| outflow.watch(body, patience, cut))
}

/// Serves a request from this process.
pub async fn serve_local(
    server: Arc<Server>,
    from: Arc<Connection>,
    request: Request<Bytes>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let info = RequestInfo::parse(&parts.method, &parts.uri);
    handle(server, from, info, parts, async { Ok(body) }, None).await
}

/// The order of the filters. Each step says why it stands where it does.
async fn handle(
    server: Arc<Server>,
    from: Arc<Connection>,
    info: RequestInfo,
    mut parts: http::request::Parts,
    body: impl Future<Output = Result<Bytes>> + Send,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Response<Body> {
    let accepted = negotiate::accept(&parts.headers, &info.query);
    let plain = negotiate::of_refusals(&parts.headers, &info.query);
    let long = info.is_long_running();
    let deadline = if long { Ok(Duration::from_secs(u64::from(u32::MAX))) } else { timeout_of(&info) };
    let deadline = match deadline {
        Ok(deadline) => deadline,
        // Upstream refuses this before it knows who asks, and records it like a failed login.
        Err(refused) => return unknown(&server, &info, &parts, from.peer, plain, &refused, &[]).await,
    };
    // Who it is comes first: the audit record needs a name, and a failed login has a record of its own shape.
    let clock = server.clock.clone();
    let begun = clock.monotonic();
    let known = match authentication::identify(&server, &from, &mut parts.headers, &info.path).await {
        Ok(known) => known,
        Err(refusal) => {
            let refused = Status::unauthorized();
            let notes = &refusal.annotations;
            return unknown(&server, &info, &parts, from.peer, plain, &refused, notes).await;
        }
    };
    // From here on everything is on the record: refusals by later filters, panics, cut connections.
    let user = known.identity;
    let scope = audit::begin(&server, &info, &parts, from.peer, Some(&user));
    scope.latency.spent(Layer::Authentication, clock.monotonic().saturating_sub(begun));
    known.annotations.iter().for_each(|(key, value)| scope.annotate(key, value));
    let of_credential = Warnings::default();
    known.warnings.iter().for_each(|text| of_credential.add(text));
    if !scope.received().await {
        return finish(&server, &info, scope, reply::unrecorded(&parts.uri), Vec::new()).await;
    }
    // Priority and fairness stand before authorisation, whose cost they also bound.
    let begun = clock.monotonic();
    let entered = server.flow.enter(&info, &user, long).await;
    let upgrading = upgrade.filter(|_| parts.headers.contains_key(http::header::UPGRADE));
    let entered =
        entered.and_then(|slot| Ok((slot, upgrading.map(|u| Ok((u, server.flow.upgrade()?))).transpose()?)));
    let (mut slot, upgrade) = match entered {
        Ok((mut slot, upgrade)) => {
            scope.latency.spent(Layer::FlowWait, clock.monotonic().saturating_sub(begun));
            slot.running = long.then(|| Arc::new(server.metrics.running(&info)));
            let upgrade = upgrade.map(|(u, permit)| Upgrade::new(u, permit, slot.running.clone()));
            (slot, upgrade)
        }
        Err(refused) => {
            let rendered = reply::refusal(&refused, plain, scope.wants_response());
            scope.refused(&refused, rendered.object.as_ref());
            return finish(&server, &info, scope, rendered, Vec::new()).await;
        }
    };
    // Of what another server answers, this one does not know when a watch has begun.
    if long && server.aggregator.backend_of(&info.path).is_some() {
        slot.streams();
    }
    let work = AssertUnwindSafe(authorized(
        &server,
        &from,
        &info,
        parts,
        body,
        upgrade,
        user,
        (accepted, plain),
        &scope,
    ));
    // A panic answers this request with 500 and leaves a Panic event; the process goes on.
    let outcome = tokio::time::timeout(deadline, work.catch_unwind()).await;
    if long {
        slot.streams();
    }
    let uids = slot.uids.take();
    let response = match outcome {
        Ok(Ok((rendered, warnings))) => {
            let warnings = [of_credential.headers(), warnings].concat();
            finish(&server, &info, scope, rendered, warnings).await
        }
        Ok(Err(panic)) => {
            let text = panic_text(&*panic);
            scope.panicked(&text);
            server.metrics.panic();
            let refused =
                Status::internal("an error on the server has prevented the request from succeeding");
            finish(&server, &info, scope, reply::refusal(&refused, plain, false), Vec::new()).await
        }
        Err(_) => {
            let refused = Status::timeout("request did not complete within the allotted timeout", 0);
            let rendered = reply::refusal(&refused, plain, scope.wants_response());
            scope.refused(&refused, rendered.object.as_ref());
            finish(&server, &info, scope, rendered, Vec::new()).await
        }
    };
    // What is still being made while it is sent keeps its place, and so does a stream.
    let streams = http_body::Body::size_hint(response.body()).exact().is_none();
    let held = |inner| Held { inner, _slot: slot }.boxed_unsync();
    told(if streams { response.map(held) } else { response }, uids)
}

/// Refuses a request of nobody knows whom: one event of its own shape.
async fn unknown(
    server: &Arc<Server>,
    info: &RequestInfo,
    parts: &http::request::Parts,
    peer: SocketAddr,
    plain: Encoding,
    refused: &Status,
    annotations: &[(&'static str, String)],
) -> Response<Body> {
    let scope = audit::begin(server, info, parts, peer, None);
    annotations.iter().for_each(|(key, value)| scope.annotate(key, value));
    let rendered = reply::refusal(refused, plain, scope.wants_response());
    scope.failed_authentication(refused).await;
    finish(server, info, scope, rendered, Vec::new()).await
}

/// Clients are told which flow they were (upstream: `setResponseHeaders` of the priority and fairness filter).
fn told(mut response: Response<Body>, uids: Option<(String, String)>) -> Response<Body> {
    let (schema, level) = uids.unwrap_or_default();
    for (name, uid) in
        [("x-kubernetes-pf-flowschema-uid", schema), ("x-kubernetes-pf-prioritylevel-uid", level)]
    {
        if let Ok(value) = HeaderValue::from_str(&uid)
            && !uid.is_empty()
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A body keeps its request's place until it ends.
struct Held {
    inner: Body,
    _slot: Slot,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = client::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<std::result::Result<http_body::Frame<Bytes>, client::BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Impersonation, authorisation, and the verb.
async fn authorized(
    server: &Arc<Server>,
    from: &Connection,
    info: &RequestInfo,
    mut parts: http::request::Parts,
    body: impl Future<Output = Result<Bytes>> + Send,
    upgrade: Option<Upgrade>,
    user: Arc<Identity>,
    (accepted, plain): (Result<Accepted>, Encoding),
    scope: &Arc<audit::AuditScope>,
) -> (Rendered, Vec<String>) {
    let keep = scope.wants_response();
    let mut warnings = Vec::new();
    let result: Result<Rendered> = async {
        // Acting as somebody else needs a permission of its own, and authorisation then sees that somebody.
        let now = || server.clock.monotonic();
        let begun = now();
        let asked = user.clone();
        let user = impersonation::resolve(server, info, &mut parts.headers, user, scope).await?;
        if !Arc::ptr_eq(&asked, &user) {
            scope.latency.spent(Layer::Impersonation, now().saturating_sub(begun));
        }
        // The permit is the only key to the registry.
        let begun = now();
        let permit = authorization::permit(server, info, &user, scope).await?;
        scope.latency.spent(Layer::Authorization, now().saturating_sub(begun));
        let body = body.await?;
        if let Some(backend) = server.aggregator.backend_of(&info.path) {
            let left = timeout_of(info)?.saturating_sub(scope.elapsed());
            let deadline = (!info.is_long_running()).then(|| tokio::time::Instant::now() + left);
            let forward = Forward {
                server,
                backend: &backend,
                parts: &parts,
                info,
                user: &user,
                body,
                upgrade,
                audit: scope,
                peer: from.peer.ip(),
                deadline,
            };
            return Ok(reply::plain(forward.serve().await));
        }
        let ctx = Context {
            server: server.clone(),
            info: info.clone(),
            user,
            permit,
            headers: parts.headers,
            unacceptable: accepted.as_ref().err().cloned(),
            accepted: accepted.unwrap_or_default(),
            audit: scope.clone(),
            body,
            warnings: Warnings::default(),
            upgrade: Mutex::new(upgrade),
            peer: from.peer.ip(),
        };
        let answer = answer(&ctx).await;
        warnings = ctx.warnings.headers();
        let rendering = Rendering {
            accepted: ctx.accepted,
            include_object: info.query.get("includeObject"),
            now: server.clock.now(),
            keep: keep && !info.is_long_running(),
            encoded: &server.encoded,
        };
        let answer = answer?;
        let begun = now();
        let rendered = answer.render(&rendering);
        scope.latency.spent(Layer::Serialization, now().saturating_sub(begun));
        rendered
    }
    .await;
    let rendered = match result {
        Ok(rendered) => {
            let code = rendered.response.status().as_u16();
            scope.answered(code, rendered.object.as_ref(), rendered.status.as_ref());
            rendered
        }
        Err(refused) => {
            let rendered = reply::refusal(&refused, plain, keep);
            scope.refused(&refused, rendered.object.as_ref());
            rendered
        }
    };
    (rendered, warnings)
}

async fn answer(ctx: &Context) -> Result<Reply> {
    let object = ctx.info.query.get("includeObject");
    if ctx.accepted.view == View::Table && !matches!(object, "" | "None" | "Metadata" | "Object") {
        return Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {object:?}: must be 'Metadata', 'Object', 'None', or empty"
        )));
    }
    if ctx.info.is_resource { verbs::dispatch(ctx).await } else { nonresource::dispatch(ctx).await }
}

/// How long an answer may take: the client may ask for less time than the server grants (`timeout=10s`).
///
/// # Errors
/// It is no duration (upstream: `parseTimeout` in `request_deadline.go`).
fn timeout_of(info: &RequestInfo) -> Result<Duration> {
    let asked = info.query.get("timeout");
    if asked.is_empty() {
        return Ok(REQUEST_TIMEOUT);
    }
    let (positive, text) = asked.strip_prefix('-').map_or((true, asked), |rest| (false, rest));
    let wrong = |e: String| {
        let e = e.replace(&format!("duration \"{text}\""), &format!("duration \"{asked}\""));
        format!("invalid timeout specified in the request URL - {e}")
    };
    let time = meta::time::parse_duration(text).map_err(|e| Status::bad_request(wrong(e)))?;
    Ok(if positive && !time.is_zero() { time.min(REQUEST_TIMEOUT) } else { REQUEST_TIMEOUT })
}

/// Headers that every response has; the record is completed when the last byte went out.
async fn finish(
    server: &Arc<Server>,
    info: &RequestInfo,
    scope: Arc<audit::AuditScope>,
    rendered: Rendered,
    warnings: Vec<String>,
) -> Response<Body> {
    let mut response = rendered.response;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_bytes(scope.id().as_bytes()) {
        headers.entry("audit-id").or_insert(id);
    }
    for w in warnings {
        if let Ok(value) = HeaderValue::from_str(&w) {
            headers.append(http::header::WARNING, value);
        }
    }
    server.metrics.request(info, response.status().as_u16(), scope.elapsed(), scope.latency.waited());
    audit::complete_with_body(scope, info.is_long_running(), response).await
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_may_ask_for_less_time() {
        let of = |q: &str| {
            let uri = format!("/api/v1/pods?timeout={q}").parse().expect("a URI");
            timeout_of(&RequestInfo::parse(&http::Method::GET, &uri)).map_err(|s| s.message)
        };
        assert_eq!(of("10s"), Ok(Duration::from_secs(10)));
        for long in ["2m", "0s", "-5s", ""] {
            assert_eq!(of(long), Ok(REQUEST_TIMEOUT), "{long}");
        }
        let wrong = "invalid timeout specified in the request URL - time: missing unit in duration \"-5\"";
        assert_eq!(of("-5"), Err(wrong.to_owned()));
    }
}
