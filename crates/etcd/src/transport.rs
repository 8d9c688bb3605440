//! One HTTP/2 connection to one endpoint.
//!
//! Invariant: a connection whose peer is silent is noticed by pings and closed; nothing waits on it for ever.

use crate::config::Endpoint;
use crate::{Error, EtcdConfig, tls};
use bytes::Bytes;
use http_body::Frame;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How long one endpoint may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// upstream: apiserver `pkg/storage/storagebackend/factory/etcd3.go#keepaliveTime`.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// upstream: the same file, `#keepaliveTimeout`.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a stream may send before we read it, in bytes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What all streams of a connection may send before we read it, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A request's body: one message, or a stream of them for a watch.
pub(crate) enum Body {
    Once(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Once(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(messages) => messages.poll_recv(cx).map(|m| m.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Once(None))
    }
}

/// A live connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub sender: SendRequest<Body>,
    /// `https://HOST:PORT`, to make request URLs from.
    pub origin: Arc<str>,
    /// Tells connections apart.
    pub id: u64,
}

/// Connects within the bound.
pub(crate) async fn connect(config: &EtcdConfig, to: &Endpoint, id: u64) -> Result<Connection, Error> {
    let failed = |why: String| Error::Connect(format!("{}: {why}", to.authority()));
    let connecting = async {
        let tcp = TcpStream::connect((to.bare_host(), to.port)).await.map_err(|e| failed(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        if !to.tls {
            return handshake(tcp).await.map_err(|e| failed(e.to_string()));
        }
        let tls = tls::client_config(config)?;
        let name = ServerName::try_from(to.bare_host().to_owned()).map_err(|e| failed(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(name, tcp).await.map_err(|e| failed(e.to_string()))?;
        handshake(stream).await.map_err(|e| failed(e.to_string()))
    };
    let timed = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    let sender = timed.map_err(|_| failed(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs())))??;
    let scheme = if to.tls { "https" } else { "http" };
    Ok(Connection { sender, origin: format!("{scheme}://{}", to.authority()).into(), id })
}

async fn handshake<S>(stream: S) -> hyper::Result<SendRequest<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // Ends when the last sender is dropped or the connection breaks; who waits for an answer hears of that.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
