//! A further node of this machine: this program again, in a network and a mount namespace of its own, joined over
//! HTTPS with the node's own credentials.
//!
//! It runs until its standard input ends, which the cluster's process holds open: a cluster that dies takes its node
//! processes with it, and leaves their containers. A node that starts again enters the mount namespace of its living
//! shims, where its pods' volumes are.

use super::{NodeOptions, RunningNode};
use base::clock::SystemClock;
use client::https::HttpsApi;
use client::{Client, kubeconfig};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::{mount, namespace};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

/// The line by which a node process says that its node is Ready.
pub const READY: &str = "ready";
/// How long a former process of the same node may take to end.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// What a node process is told, in a file that only root can read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub options: NodeOptions,
    /// Pin of the node's network namespace.
    pub netns: PathBuf,
    /// How the node and its service proxy reach the API.
    pub node_kubeconfig: PathBuf,
    pub proxy_kubeconfig: PathBuf,
    /// Certificate and key of the kubelet's endpoint, and the CA of its clients, as PEM files.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
    pub log_level: String,
}

/// The process's main, to be called before any thread exists. The argument is the order's file.
pub fn main(args: &[String]) -> i32 {
    match args.last().ok_or("the node needs an order".to_owned()).and_then(|file| run(Path::new(file))) {
        Ok(()) => 0,
        Err(e) => {
            println!("{e}");
            1
        }
    }
}

fn run(file: &Path) -> Result<(), String> {
    let text = std::fs::read(file).map_err(|e| format!("read {}: {e}", file.display()))?;
    let order: Order = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    let _turn = turn(&order.options.dir)?;
    enter(&order).map_err(|e| e.to_string())?;
    crate::logging::start(&order.options.dir, &order.log_level)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "TLS is set up twice".to_owned())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the async runtime: {e}"))?;
    runtime.block_on(serve(order))
}

/// One process per node: waits for a former one that has not ended yet.
fn turn(dir: &Path) -> Result<File, String> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| format!("make {}: {e}", path.display()))?;
    let begun = Instant::now();
    while file.try_lock().is_err() {
        if begun.elapsed() > TURN_TIMEOUT {
            return Err(format!("another process of this node holds {}", path.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

fn enter(order: &Order) -> sys::error::Result<()> {
    namespace::enter_path(&order.netns, namespace::NET)?;
    match node::runtime::living_shim(&super::shims(&order.options.dir)) {
        Some(pid) => namespace::enter_path(&PathBuf::from(format!("/proc/{pid}/ns/mnt")), namespace::MOUNT),
        None => {
            namespace::unshare(namespace::MOUNT)?;
            // The machine's later mounts are seen here; the node's are not seen there.
            mount::spread_below(Path::new("/"), mount::Spread::Slave)
        }
    }
}

async fn serve(order: Order) -> Result<(), String> {
    let cancel = CancellationToken::new();
    let tls = endpoint_tls(&order)?;
    let [node, proxy] =
        [client(&order.node_kubeconfig, "kubelet")?, client(&order.proxy_kubeconfig, "kube-proxy")?];
    let mut node =
        RunningNode::start(order.options, node, proxy, tls, SystemClock::shared(), &cancel).await?;
    node.connect().await?;
    node.ready().await?;
    println!("{READY}");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    let mut byte = [0];
    // Nobody writes: what comes is the end.
    let _ = tokio::io::stdin().read(&mut byte).await;
    node.stop().await;
    Ok(())
}

fn client(file: &Path, component: &str) -> Result<Client, String> {
    let mut config = kubeconfig::load(file, None).map_err(|e| e.to_string())?;
    config.user_agent = format!("taffrail/{} {component}", env!("CARGO_PKG_VERSION"));
    Ok(Client::new(Arc::new(HttpsApi::new(&config).map_err(|e| e.to_string())?)))
}

fn endpoint_tls(order: &Order) -> Result<Arc<ServerConfig>, String> {
    let certificate = |path: &Path| {
        CertificateDer::from_pem_file(path)
            .map_err(|e| format!("read the certificate {}: {e}", path.display()))
    };
    let key = PrivateKeyDer::from_pem_file(&order.key)
        .map_err(|e| format!("read the key {}: {e}", order.key.display()))?;
    kubelet_tls(certificate(&order.client_ca)?, certificate(&order.certificate)?, key)
}

/// TLS of a kubelet's endpoint: a client certificate is verified when there is one; who may do what is asked of the API.
pub fn kubelet_tls(
    client_ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(client_ca).map_err(|e| e.to_string())?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|e| e.to_string())?;
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(config))
}
