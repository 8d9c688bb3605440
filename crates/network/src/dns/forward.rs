//! Names that are not the cluster's: asked from the machine's resolvers.
//!
//! Invariant: each question goes out on a socket and with an id of its own, and only an answer from the asked address
//! with that id is taken.

use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Resolvers tried for one question.
const ATTEMPTS_MAX: usize = 3;
const DNS_PORT: u16 = 53;
const MESSAGE_BYTES_MAX: usize = 65_535;
const ID_BYTES: usize = 2;

/// Where other names are asked.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// The `nameserver` lines of a resolv.conf, read again when the file changes.
    File(PathBuf),
    Fixed(Vec<SocketAddr>),
}

/// The resolvers of the machine.
#[derive(Debug)]
pub struct Forwarder {
    upstream: Upstream,
    /// Our own addresses, which must not be asked.
    own: Vec<IpAddr>,
    cache: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
}

impl Forwarder {
    pub fn new(upstream: Upstream, own: Vec<IpAddr>) -> Self {
        Self { upstream, own, cache: Mutex::default() }
    }

    /// Asks the resolvers one after the other; `None` when none answered.
    pub async fn ask(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        if question.len() < ID_BYTES {
            return None;
        }
        for server in self.servers().into_iter().take(ATTEMPTS_MAX) {
            let asked = async {
                if over_tcp { ask_tcp(server, question).await } else { ask_udp(server, question).await }
            };
            match tokio::time::timeout(TIMEOUT, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(target: "network", %server, %error, "resolver failed"),
                Err(_) => tracing::debug!(target: "network", %server, "resolver did not answer in time"),
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let file = match &self.upstream {
            Upstream::Fixed(list) => return list.clone(),
            Upstream::File(file) => file,
        };
        let changed = std::fs::metadata(file).and_then(|m| m.modified()).ok();
        let mut cache = self.cache.lock();
        if changed.is_none() || cache.0 != changed {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let servers = crate::resolv::parse(&text).servers;
            let usable = servers.iter().filter_map(|s| s.parse().ok()).filter(|ip| !self.own.contains(ip));
            *cache = (changed, usable.map(|ip| SocketAddr::new(ip, DNS_PORT)).collect());
        }
        cache.1.clone()
    }
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = fastrand::u16(..).to_be_bytes();
    let mut message = question.to_vec();
    message[..ID_BYTES].copy_from_slice(&id);
    socket.send(&message).await?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(&buffer[..len], id, question) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = fastrand::u16(..).to_be_bytes();
    let mut message = (question.len() as u16).to_be_bytes().to_vec();
    message.extend(id);
    message.extend(&question[ID_BYTES..]);
    stream.write_all(&message).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    matching(&answer, id, question).ok_or_else(|| std::io::Error::other("the answer is to another question"))
}

/// The answer with the asker's id, when it is one to the question sent under `id`.
fn matching(answer: &[u8], id: [u8; 2], question: &[u8]) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    const HEADER_BYTES: usize = 12;
    if answer.len() < HEADER_BYTES || answer[..ID_BYTES] != id || answer[2] & RESPONSE == 0 {
        return None;
    }
    let mut answer = answer.to_vec();
    answer[..ID_BYTES].copy_from_slice(&question[..ID_BYTES]);
    Some(answer)
}
