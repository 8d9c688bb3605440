//! A request that goes on to another API server, and its answer
//! (upstream: kube-aggregator `pkg/apiserver/handler_proxy.go`, apimachinery `pkg/util/proxy/upgradeaware.go`).
//!
//! Invariants: the client is never sent elsewhere by another server (CVE-2022-3172); connections are joined only after
//! that server has changed the protocol, and one on which it has not is never used again (CVE-2018-1002105); an answer
//! goes through piece by piece, as fast as the client takes it.

use super::{Backend, headers};
use crate::filters::audit::AuditScope;
use crate::reply::full;
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::splice;
use crate::splice::Upgrade;
use auth::identity::Identity;
use bytes::Bytes;
use client::Body;
use client::https::Wire;
use client::outbound;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a server may take to say what it serves, as clients wait for all servers' word
/// (upstream: `aggregatedDiscoveryTimeout`).
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// An authorised request for another server.
pub struct Forward<'a> {
    pub server: &'a Arc<Server>,
    pub backend: &'a Backend,
    pub parts: &'a http::request::Parts,
    pub info: &'a RequestInfo,
    pub user: &'a Identity,
    pub body: Bytes,
    pub upgrade: Option<Upgrade>,
    pub audit: &'a Arc<AuditScope>,
    pub peer: IpAddr,
    /// When the answer has to be complete; `None` for a stream.
    pub deadline: Option<Instant>,
}

impl Forward<'_> {
    /// The answer: the other server's, or why there is none.
    pub async fn serve(mut self) -> Response<Body> {
        if !self.backend.available {
            return refused(503, "service unavailable");
        }
        // What was authorised must be what the other server reads: it may take an escaped slash for one that parts.
        if self.parts.uri.path().to_ascii_lowercase().contains("%2f") {
            return refused(400, "an escaped slash in the path is not passed on");
        }
        let client = self.upgrade.take().filter(|_| headers::wants_upgrade(&self.parts.headers));
        let wire = if client.is_some() { Wire::Http1Once } else { Wire::Http1 };
        let (to, at) = match self.server.aggregator.server(self.backend, wire) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(service = %self.backend.name, %error, "an API server cannot be found");
                return refused(503, "service unavailable");
            }
        };
        let request = match self.request(&at, client.is_some()) {
            Ok(request) => request,
            Err(why) => return refused(503, &format!("error trying to reach service: {why}")),
        };
        let sent = self.server.aggregator.outbound.send(&to, request);
        let answer = match tokio::time::timeout(self.patience(), sent).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => {
                let why = outbound::why(&at, &*e);
                return refused(503, &format!("error trying to reach service: {why}"));
            }
            Err(_) => return refused(503, "error trying to reach service: context deadline exceeded"),
        };
        match client {
            Some(client) => self.upgraded(client, answer),
            None => self.answered(answer),
        }
    }

    fn request(&self, at: &str, upgrade: bool) -> Result<Request<Bytes>, String> {
        let path = self.parts.uri.path();
        let query = self.info.query.encode();
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut request = Request::builder().method(self.parts.method.clone()).uri(uri);
        if let Some(all) = request.headers_mut() {
            let id = self.audit.id();
            *all = headers::onward(&self.parts.headers, self.user, self.peer, at, path, &id, upgrade)?;
        }
        request.body(self.body.clone()).map_err(|e| e.to_string())
    }

    /// The time for the answer's head.
    fn patience(&self) -> Duration {
        let segments = self.info.path.split('/').filter(|s| !s.is_empty()).count();
        let rest = self.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match rest {
            Some(rest) if !self.info.is_resource && segments == 3 => rest.min(DISCOVERY_TIMEOUT),
            Some(rest) => rest,
            None => Duration::from_secs(u64::from(u32::MAX)),
        }
    }

    fn answered(&self, answer: Response<Body>) -> Response<Body> {
        if answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION) {
            let text = "the backend attempted to redirect this request, which is not permitted";
            let mut out = Response::new(full(Bytes::from_static(text.as_bytes())));
            *out.status_mut() = StatusCode::BAD_GATEWAY;
            return out;
        }
        let (parts, body) = answer.into_parts();
        let body = match self.deadline {
            Some(at) => Bounded { inner: body, end: Box::pin(tokio::time::sleep_until(at)) }.boxed_unsync(),
            None => body,
        };
        let mut out = Response::new(body);
        *out.status_mut() = parts.status;
        *out.headers_mut() = headers::back(&parts.headers, false);
        out.headers_mut()
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, private"));
        out
    }

    fn upgraded(&self, client: Upgrade, mut answer: Response<Body>) -> Response<Body> {
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return match status.as_u16() {
                code if code < 400 => refused(503, &format!("invalid upgrade response: status code {code}")),
                _ => self.answered(answer),
            };
        }
        let other = hyper::upgrade::on(&mut answer);
        let mut out = Response::new(full(Bytes::new()));
        *out.status_mut() = status;
        *out.headers_mut() = headers::back(answer.headers(), true);
        splice::join(client, other, self.audit.clone(), self.server.draining.child_token());
        out
    }
}

/// A refusal as upstream's handler writes it: plain text (Go's `http.Error`).
fn refused(code: u16, text: &str) -> Response<Body> {
    let mut out =
        crate::reply::response(code, "text/plain; charset=utf-8", full(Bytes::from(format!("{text}\n"))));
    out.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    out
}

/// A body that has to be through by a time.
struct Bounded {
    inner: Body,
    end: Pin<Box<Sleep>>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = client::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, client::BoxError>>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the answer took too long".into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
