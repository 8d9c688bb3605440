//! A stream of bytes as messages of a WebSocket, for logs and watches in browsers
//! (upstream: `k8s.io/streaming/pkg/httpstream/wsstream/stream.go`, apiserver `handlers/watch.go#HandleWS`).
//!
//! The client only reads; what it sends is thrown away, and its closing ends the stream.

use crate::context::Context;
use crate::reply::Reply;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::Body;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use meta::status::{Result, Status};
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The largest message that a client may send, in bytes; it has nothing to say.
const INCOMING_BYTES_MAX: usize = 4 << 10;
/// How long a message may wait for a client that reads nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Whether the client asks for a WebSocket.
pub fn wanted(ctx: &Context) -> bool {
    let upgrade = ctx.headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or("");
    upgrade.eq_ignore_ascii_case("websocket")
}

/// How bytes become messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Binary,
    Base64,
    Text,
}

/// Upgrades the connection and sends the body over it, in the protocol that the client names.
pub fn stream(ctx: &Context, body: Body) -> Result<Reply> {
    let protocol = protocol(ctx)?;
    let framing = if protocol == Some(BASE64) { Framing::Base64 } else { Framing::Binary };
    upgraded(ctx, body, protocol, framing)
}

/// Upgrades the connection and sends each piece of the body as a message, without a protocol of its own.
pub fn messages(ctx: &Context, body: Body, text: bool) -> Result<Reply> {
    upgraded(ctx, body, None, if text { Framing::Text } else { Framing::Binary })
}

fn upgraded(ctx: &Context, body: Body, protocol: Option<&'static str>, framing: Framing) -> Result<Reply> {
    let key = ctx.headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key.ok_or_else(|| Status::bad_request("the request for a WebSocket has no key"))?;
    let Some(upgrade) = ctx.upgrade.lock().take() else {
        return Err(Status::bad_request("unable to upgrade: the connection does not support it"));
    };
    let mut out = Response::new(crate::reply::full(Bytes::new()));
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = out.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(key)).map_err(Status::internal)?;
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let (scope, draining) = (ctx.audit.clone(), ctx.server.draining.child_token());
    scope.hold();
    tokio::spawn(async move {
        if let Ok((upgraded, _place)) = upgrade.taken().await {
            tokio::select! {
                () = send(upgraded, body, framing) => {}
                () = draining.cancelled() => {}
            }
        }
        scope.complete();
    });
    Ok(Reply::Raw(out))
}

/// The protocol that both know; none when the client names none.
fn protocol(ctx: &Context) -> Result<Option<&'static str>> {
    let named: Vec<&str> = ctx
        .headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(str::trim))
        .filter(|p| !p.is_empty())
        .collect();
    if named.is_empty() {
        return Ok(None);
    }
    let known = named.iter().find_map(|n| [BINARY, BASE64].into_iter().find(|k| k == n));
    known.map(Some).ok_or_else(|| {
        Status::bad_request(format!("unable to negotiate a protocol: client supports {named:?}"))
    })
}

async fn send(upgraded: TokioIo<hyper::upgrade::Upgraded>, mut body: Body, framing: Framing) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(INCOMING_BYTES_MAX))
        .max_frame_size(Some(INCOMING_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    loop {
        tokio::select! {
            frame = body.frame() => {
                let Some(Ok(frame)) = frame else { break };
                let Ok(data) = frame.into_data() else { continue };
                let message = match framing {
                    Framing::Binary => Message::binary(data),
                    Framing::Base64 => Message::text(STANDARD.encode(&data)),
                    Framing::Text => Message::text(String::from_utf8_lossy(&data).into_owned()),
                };
                let sent = tokio::time::timeout(SEND_TIMEOUT, sink.send(message)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            said = source.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    let closure = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(closure))).await;
}
