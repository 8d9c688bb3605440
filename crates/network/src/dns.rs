//! The cluster's DNS server, in process: names of the cluster from the [`Directory`], the rest from the machine's
//! resolvers.
//!
//! It runs on a thread of its own inside the node's network namespace and listens on the DNS Service's addresses,
//! which it adds to the service link. Invariant: an authoritative answer never waits for anything; questions that wait
//! for a resolver and TCP connections are bounded, and what is beyond the bound gets SERVFAIL or is closed.

pub mod answer;
pub mod forward;
mod respond;
#[cfg(test)]
mod tests;

use crate::cidr::Cidr;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::links::Links;
use crate::service::SERVICE_LINK;
use answer::Zone;
use forward::Forwarder;
pub use forward::Upstream;
pub use respond::{Reply, Responder};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

/// Questions that may wait for the machine's resolvers at once.
const WAITING_MAX: usize = 512;
/// TCP connections at once.
const CONNECTIONS_MAX: usize = 256;
/// How long a TCP connection may be idle.
const TCP_IDLE: Duration = Duration::from_secs(10);
const UDP_BYTES_MAX: usize = 4096;
const DNS_PORT: u16 = 53;

/// What the DNS server is made of.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// File that pins the node's network namespace; `None`: the program's own.
    pub netns: Option<PathBuf>,
    /// `cluster.local`
    pub domain: String,
    /// The DNS Service's addresses: added to the service link, listened on at port 53.
    pub service_ips: Vec<IpAddr>,
    /// Further addresses to listen on.
    pub listen: Vec<SocketAddr>,
    pub upstream: Upstream,
    /// Pod and Service blocks: reverse names in them are answered here, never forwarded.
    pub own_cidrs: Vec<Cidr>,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DnsStats {
    /// Answered from the directory.
    pub answered: u64,
    /// Asked from the machine's resolvers.
    pub forwarded: u64,
    /// Refused because too many were waiting.
    pub refused: u64,
}

/// A running DNS server; dropping it stops it.
pub struct DnsServer {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
    counts: Arc<Counts>,
    directory: Arc<Directory>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    forwarded: AtomicU64,
    refused: AtomicU64,
}

impl DnsServer {
    /// Adds the addresses, binds all sockets and starts to answer. Must be called within tokio.
    pub async fn bind(config: DnsConfig, directory: Arc<Directory>) -> Result<Self> {
        if !config.service_ips.is_empty() {
            let links = Links::open(config.netns.as_deref())?;
            let link = links.ensure_holder(SERVICE_LINK).await?;
            for ip in &config.service_ips {
                links.add_service_address(link, *ip).await?;
            }
        }
        let addresses: Vec<SocketAddr> = config
            .service_ips
            .iter()
            .map(|ip| SocketAddr::new(*ip, DNS_PORT))
            .chain(config.listen.iter().copied())
            .collect();
        let zone = Zone::new(&config.domain, config.service_ips.clone(), config.own_cidrs.clone());
        let forwarder = Forwarder::new(config.upstream.clone(), config.service_ips.clone());
        let counts = Arc::new(Counts::default());
        let responder = Arc::new(Responder { zone, directory: directory.clone(), forwarder });
        let server = Server {
            responder,
            counts: counts.clone(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let thread = sys::netns::spawn_in(config.netns.as_deref(), "dns", move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => {
                    let _ = ready.send(Err(Error::file("start the DNS server", &e)));
                    return;
                }
            };
            runtime.block_on(async {
                match server.open(&addresses).await {
                    Ok(()) => {
                        let _ = ready.send(Ok(()));
                        let mut stopped = stopped;
                        // Ends when told to, or when the owner is gone.
                        let _ = stopped.wait_for(|s| *s).await;
                    }
                    Err(e) => drop(ready.send(Err(e))),
                }
            });
        })?;
        is_ready.await.map_err(|_| Error::check("the DNS server's thread ended at its start"))??;
        Ok(Self { stop, thread: Some(thread), counts, directory })
    }

    /// Whether names of the cluster are answered.
    pub fn ready(&self) -> bool {
        self.directory.synced()
    }

    pub fn stats(&self) -> DnsStats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        DnsStats {
            answered: get(&self.counts.answered),
            forwarded: get(&self.counts.forwarded),
            refused: get(&self.counts.refused),
        }
    }
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Server {
    responder: Arc<Responder>,
    counts: Arc<Counts>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Binds every address, then serves them on tasks of the current runtime, which end with it.
    async fn open(&self, addresses: &[SocketAddr]) -> Result<()> {
        let mut bound = vec![];
        for address in addresses {
            let failed = |e: std::io::Error| Error::file(format!("DNS: listen on {address}"), &e);
            let udp = UdpSocket::bind(address).await.map_err(failed)?;
            let tcp = TcpListener::bind(address).await.map_err(failed)?;
            bound.push((udp, tcp));
        }
        for (udp, tcp) in bound {
            tokio::spawn(self.clone().serve_udp(Arc::new(udp)));
            tokio::spawn(self.clone().serve_tcp(tcp));
        }
        Ok(())
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; UDP_BYTES_MAX];
        loop {
            // An error is one of an earlier answer (its port unreachable); the socket is still good.
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
            match self.responder.respond(&buffer[..len], true) {
                Reply::None => {}
                Reply::Send(answer) => {
                    self.counts.answered.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(&answer, from).await;
                }
                Reply::Later(unfinished) => {
                    let Ok(permit) = self.waiting.clone().try_acquire_owned() else {
                        self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        let _ = socket.send_to(&unfinished.refuse(), from).await;
                        continue;
                    };
                    let (server, socket) = (self.clone(), socket.clone());
                    tokio::spawn(async move {
                        server.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                        let answer = server.responder.finish(*unfinished).await;
                        let _ = socket.send_to(&answer, from).await;
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        // A failed connection concerns its asker only.
                        let _ = server.serve_connection(stream).await;
                        drop(permit);
                    });
                }
                // Out of descriptors: wait for some to be closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let Ok(len) = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await else { return Ok(()) };
            let mut message = vec![0; usize::from(len?)];
            let Ok(read) = tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut message)).await else {
                return Ok(());
            };
            read?;
            let answer = match self.responder.respond(&message, false) {
                Reply::None => return Ok(()),
                Reply::Send(answer) => {
                    self.counts.answered.fetch_add(1, Ordering::Relaxed);
                    answer
                }
                Reply::Later(unfinished) => match self.waiting.clone().try_acquire_owned() {
                    Ok(permit) => {
                        self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                        let answer = self.responder.finish(*unfinished).await;
                        drop(permit);
                        answer
                    }
                    Err(_) => {
                        self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        unfinished.refuse()
                    }
                },
            };
            let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
            framed.extend(answer);
            stream.write_all(&framed).await?;
        }
    }
}
