//! The server's parts, and the listener that feeds it.

use crate::aggregator::Aggregator;
use crate::bursts::Bursts;
use crate::chain::{self, Connection};
use crate::encoded::Encoded;
use crate::extension::Extension;
use crate::filters::audit::AuditLog;
use crate::filters::flow::FlowControl;
use crate::health::Check;
use crate::kubelet::KubeletClient;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::outflow::Outflow;
use crate::serving::ServingThreads;
use crate::tokens::Tokens;
use admission::Chain;
use auth::authenticate::Authenticator;
use auth::authorize::Authorizer;
use base::clock::SharedClock;
use base::rng::Rng;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use meta::permit::PermitMaker;
use registry::Registry;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Connections at a time; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 16_384;
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 streams of one connection (upstream: `--http2-max-streams-per-connection`, 100 since CVE-2023-44487).
const STREAMS_MAX: u32 = 250;
/// Streams reset by the peer and not yet gone, per connection; more end the connection.
const RESET_STREAMS_MAX: usize = 64;
/// Bytes of one HTTP/2 stream that wait to be sent, beyond the piece that is being given to it.
const SEND_BYTES_MAX: usize = 128 << 10;
/// After how much silence it is asked whether the other side is there at all (upstream: `net.ListenConfig.KeepAlive`).
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(180);
/// Bytes of request headers.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// What a server is built from.
pub struct ServerOptions {
    pub registry: Arc<Registry>,
    pub admission: Chain,
    pub authenticator: Arc<Authenticator>,
    pub authorizer: Arc<Authorizer>,
    pub audit: Arc<AuditLog>,
    pub tokens: Arc<Tokens>,
    pub kubelet: Arc<KubeletClient>,
    pub clock: SharedClock,
    pub rng: Arc<Rng>,
    pub checks: Vec<Check>,
    pub extensions: Vec<Arc<dyn Extension>>,
    /// `host:port` that discovery names.
    pub advertise: String,
    pub flow: Arc<FlowControl>,
    pub aggregator: Arc<Aggregator>,
}

pub struct Server {
    pub registry: Arc<Registry>,
    pub admission: Chain,
    pub authenticator: Arc<Authenticator>,
    pub authorizer: Arc<Authorizer>,
    pub audit: Arc<AuditLog>,
    pub tokens: Arc<Tokens>,
    pub kubelet: Arc<KubeletClient>,
    pub clock: SharedClock,
    pub rng: Arc<Rng>,
    pub checks: Vec<Check>,
    pub advertise: String,
    pub flow: Arc<FlowControl>,
    pub aggregator: Arc<Aggregator>,
    pub metrics: Metrics,
    pub outflow: Arc<Outflow>,
    pub openapi: OpenApi,
    pub encoded: Arc<Encoded>,
    pub bursts: Arc<Bursts>,
    /// Cancelled when the server stops taking new work: watches end, listeners close.
    pub draining: CancellationToken,
    pub(crate) permits: PermitMaker,
    extensions: Vec<Arc<dyn Extension>>,
}

impl Server {
    /// `permits` is the process's one maker of permits.
    pub fn new(options: ServerOptions, permits: PermitMaker) -> Arc<Self> {
        let ServerOptions {
            registry,
            admission,
            authenticator,
            authorizer,
            audit,
            tokens,
            kubelet,
            clock,
            rng,
            checks,
            extensions,
            advertise,
            flow,
            aggregator,
        } = options;
        Arc::new(Self {
            registry,
            admission,
            authenticator,
            authorizer,
            audit,
            tokens,
            kubelet,
            clock,
            rng,
            checks,
            advertise,
            flow,
            aggregator,
            metrics: Metrics::default(),
            outflow: Outflow::new(),
            openapi: OpenApi::default(),
            encoded: Arc::default(),
            bursts: Arc::default(),
            draining: CancellationToken::new(),
            permits,
            extensions,
        })
    }

    /// The extension that owns a path.
    pub fn extension(&self, path: &str) -> Option<&Arc<dyn Extension>> {
        self.extensions.iter().find(|e| path.starts_with(e.prefix()))
    }

    /// Serves a bound listener until the server drains.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        threads: Arc<ServingThreads>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        tokio::spawn(self.outflow.clone().run(self.draining.child_token()));
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let local = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
        info!(address = %local, "serving");
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = self.draining.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = self.clone();
                    let acceptor = acceptor.clone();
                    let serve = move |stream| async move {
                        server.connection(stream, peer, acceptor).await;
                        drop(slot);
                    };
                    if let Err(error) = threads.hand_over(stream, serve).await {
                        warn!(%peer, %error, "a connection could not be served");
                    }
                }
                Err(error) => {
                    // Out of descriptors: accepting again at once would spin.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        acceptor: TlsAcceptor,
    ) {
        let _ = stream.set_nodelay(true);
        // A watcher whose machine has gone says nothing for ever.
        let _ = set_socket_keepalive(&stream, true).and_then(|()| set_tcp_keepidle(&stream, TCP_KEEP_ALIVE));
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return warn!(%peer, %error, "a connection could not be served"),
        };
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.handshake_failed();
                return debug!(%peer, %error, "TLS handshake failed");
            }
            Err(_) => {
                self.metrics.handshake_failed();
                return debug!(%peer, "TLS handshake timed out");
            }
        };
        let mut sent = stream.get_ref().1.peer_certificates().into_iter().flatten().map(|c| c.to_vec());
        let certificate = sent.next();
        let chain = sent.collect();
        let cut = CancellationToken::new();
        let connection = Arc::new(Connection { peer, certificate, chain, identity: None, cut: cut.clone() });
        let server = self.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (server, connection) = (server.clone(), connection.clone());
            async move { Ok::<_, std::convert::Infallible>(chain::serve(server, connection, request).await) }
        });
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(Some(Duration::from_secs(30)));
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let result = tokio::select! {
            result = serving.as_mut() => result,
            () = self.draining.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            // Dropped as it is: its client does not read.
            () = cut.cancelled() => Ok(()),
        };
        if let Err(error) = result {
            debug!(%peer, error = %error, "connection ended");
        }
    }
}
