//! The way to nodes and pods: a TLS client to kubelets, plain streams for logs and spliced ones for exec
//! (upstream: `pkg/kubelet/client`, apimachinery `pkg/util/proxy/upgradeaware.go`).
//!
//! Addresses come from Node objects and are checked as dialled; a kubelet's certificate must be its node's; the
//! client's own credentials never travel on.

use crate::context::Context;
use crate::reply::Reply;
use crate::websocket;
use bytes::Bytes;
use client::Body;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meta::status::{Result, Status};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const KUBELET_PORT: u16 = 10250;

/// Dials kubelets with the API server's own client certificate.
pub struct KubeletClient {
    tls: Arc<ClientConfig>,
}

impl KubeletClient {
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls }
    }

    async fn connect(
        &self,
        address: SocketAddr,
        node: &str,
    ) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>> {
        let failed = |e: String| Status::internal(format!("error dialing backend: {e}"));
        let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| failed(format!("dial tcp {address}: i/o timeout")))?
            .map_err(|e| failed(format!("dial tcp {address}: {e}")))?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(node.to_owned()).map_err(|e| failed(e.to_string()))?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, stream);
        let stream = tokio::time::timeout(DIAL_TIMEOUT, tls)
            .await
            .map_err(|_| failed("TLS handshake timeout".into()))?
            .map_err(|e| failed(e.to_string()))?;
        handshake(TokioIo::new(stream)).await
    }
}

async fn handshake<T>(io: TokioIo<T>) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(Status::internal)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "kubelet connection ended");
        }
    });
    Ok(sender)
}

/// A request to a kubelet.
pub struct Target {
    pub address: SocketAddr,
    pub node: String,
    pub method: Method,
    pub path: String,
    pub query: String,
}

impl Target {
    fn uri(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

/// The address of a node's kubelet: its InternalIP, and the port it reports.
pub fn address(ctx: &Context, node: &str) -> Result<SocketAddr> {
    let row = ctx.server.registry.kinds().resource("", "v1", "nodes");
    let row = row.ok_or_else(Status::no_such_resource)?;
    let obj = ctx.server.registry.get_value(&ctx.permit, &row, "", node)?;
    let addresses = obj["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str());
    let ip: IpAddr = internal.and_then(|a| a.parse().ok()).ok_or_else(|| {
        Status::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
    })?;
    let ip = dialable(ip)?;
    let port = obj["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
    Ok(SocketAddr::new(ip, port))
}

/// An address that a node or pod may have: who can write a status must not be able to point the server at itself or at
/// a metadata service (upstream: apimachinery `net.IsProxyableIP`, CVE-2022-3294).
fn dialable(ip: IpAddr) -> Result<IpAddr> {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(ip)
}

/// An ordinary request whose answer is streamed to the client as it comes.
pub async fn fetch(ctx: &Context, target: Target) -> Result<Reply> {
    let mut sender = ctx.server.kubelet.connect(target.address, &target.node).await?;
    let mut request = Request::builder().method(target.method.clone()).uri(target.uri());
    request = request.header(header::HOST, target.node.as_str());
    for (name, value) in forwardable(&ctx.headers).filter(|(n, _)| !n.as_str().starts_with("sec-websocket-"))
    {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(ctx.body.clone())).map_err(Status::internal)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))?;
    let code = response.status();
    if code.is_redirection() {
        // A kubelet has no business sending the API server elsewhere.
        return Err(Status::internal("the kubelet answered with a redirect, which is not followed"));
    }
    if ctx.info.subresource == "log" && !code.is_success() {
        let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        return Err(kubelet_failure(code, &body));
    }
    if ctx.info.subresource == "log" && websocket::wanted(ctx) {
        return websocket::stream(ctx, response.into_body().map_err(client::BoxError::from).boxed_unsync());
    }
    Ok(Reply::Raw(streamed(response)))
}

/// The kubelet's plain-text failure as a Status (upstream: `errors.NewGenericServerResponse`).
fn kubelet_failure(code: StatusCode, body: &[u8]) -> Status {
    let text = String::from_utf8_lossy(&body[..body.len().min(2048)]).trim().to_owned();
    match code.as_u16() {
        400 => Status::bad_request(text),
        404 => Status::new(
            404,
            meta::Reason::NotFound,
            format!("the server could not find the requested resource: {text}"),
        ),
        other => Status::new(other, meta::Reason::InternalError, text),
    }
}

fn streamed(response: Response<hyper::body::Incoming>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let mut out = Response::new(body.map_err(client::BoxError::from).boxed_unsync());
    *out.status_mut() = parts.status;
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = parts.headers.get(&name) {
            out.headers_mut().insert(name, value.clone());
        }
    }
    out
}

/// Headers that may travel on; credentials and hop-by-hop ones do not.
fn forwardable(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &http::HeaderValue)> {
    headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        matches!(name, "accept" | "content-type" | "user-agent" | "accept-language")
            || name.starts_with("sec-websocket-")
            || name.starts_with("x-stream-protocol-version")
    })
}

/// Upgrades both sides and copies bytes between them until one ends.
pub async fn splice(ctx: &Context, target: Target) -> Result<Reply> {
    let Some(protocol) = ctx.headers.get(header::UPGRADE).cloned() else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let Some(client_side) = ctx.upgrade.lock().take() else {
        return Err(Status::bad_request("unable to upgrade: the connection does not support it"));
    };
    let mut sender = ctx.server.kubelet.connect(target.address, &target.node).await?;
    let mut request = Request::builder().method(target.method.clone()).uri(target.uri());
    request = request
        .header(header::HOST, target.node.as_str())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, protocol);
    for (name, value) in forwardable(&ctx.headers) {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::new())).map_err(Status::internal)?;
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Not upgraded: the backend connection is closed, never reused (CVE-2018-1002105).
        let code = response.status();
        let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        return Err(kubelet_failure(code, &body));
    }
    let mut out = Response::new(crate::reply::full(Bytes::new()));
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        let keep = matches!(*name, header::UPGRADE | header::CONNECTION)
            || name.as_str().starts_with("sec-websocket-")
            || name.as_str().starts_with("x-stream-protocol");
        if keep {
            out.headers_mut().append(name, value.clone());
        }
    }
    let backend = hyper::upgrade::on(&mut response);
    crate::splice::join(client_side, backend, ctx.audit.clone(), ctx.server.draining.child_token());
    Ok(Reply::Raw(out))
}

/// `pods/proxy`: an HTTP request to the pod's own address.
pub async fn proxy_to_pod(ctx: &Context, pod: &Value, port: Option<u16>, query: &str) -> Result<Reply> {
    let ip: IpAddr = pod["status"]["podIP"]
        .as_str()
        .and_then(|a| a.parse().ok())
        .ok_or_else(|| Status::bad_request("address not allowed"))?;
    let ip = dialable(ip)?;
    let declared = pod["spec"]["containers"].as_array().into_iter().flatten();
    let first = declared.filter_map(|c| c["ports"][0]["containerPort"].as_u64()).next();
    let port = port.or_else(|| first.and_then(|p| u16::try_from(p).ok())).unwrap_or(80);
    let address = SocketAddr::new(ip, port);
    let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| {
            Status::unavailable(format!("error trying to reach service: dial tcp {address}: i/o timeout"))
        })?
        .map_err(|e| {
            Status::unavailable(format!("error trying to reach service: dial tcp {address}: {e}"))
        })?;
    let mut sender = handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder().method(match ctx.info.verb.as_str() {
        "create" => Method::POST,
        "update" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" => Method::DELETE,
        _ => Method::GET,
    });
    let path = &ctx.info.rest;
    let uri = if query.is_empty() { format!("/{path}") } else { format!("/{path}?{query}") };
    request = request.uri(uri).header(header::HOST, address.to_string());
    for (name, value) in forwardable(&ctx.headers) {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(ctx.body.clone())).map_err(Status::internal)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| Status::unavailable(format!("error trying to reach service: {e}")))?;
    Ok(Reply::Raw(streamed(response)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nobody_may_be_sent_to() {
        for bad in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "::",
        ] {
            assert!(dialable(bad.parse().expect("an address")).is_err(), "{bad}");
        }
        for good in ["10.89.0.1", "fd00:89::1", "192.0.2.1"] {
            assert!(dialable(good.parse().expect("an address")).is_ok(), "{good}");
        }
    }
}
