//! [`PodNet`] over the crate `network`: addresses from the node's pod blocks, one pinned namespace per pod.
//!
//! The blocks are only known once the node is registered, so the network is put in later ([`NodeNet::set`]); until
//! then the node is not Ready.

use crate::ports::{HostPort, PodNet, PodNetRequest, PodNetwork};
use async_trait::async_trait;
use network::spec::Protocol;
use network::{Ipam, PodNetwork as Network};
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Up {
    network: Arc<Network>,
    addresses: Mutex<Ipam>,
}

/// The pod network of one node.
pub struct NodeNet {
    pins: PathBuf,
    up: RwLock<Option<Arc<Up>>>,
}

impl NodeNet {
    /// `pins` is the directory of the files that pin the pods' namespaces.
    pub fn new(pins: impl Into<PathBuf>) -> Self {
        Self { pins: pins.into(), up: RwLock::new(None) }
    }

    /// Puts the network in: from now on pods can be connected.
    pub fn set(&self, network: Arc<Network>, addresses: Ipam) {
        *self.up.write() = Some(Arc::new(Up { network, addresses: Mutex::new(addresses) }));
    }

    fn pin(&self, uid: &str) -> PathBuf {
        self.pins.join(uid)
    }

    fn up(&self) -> Option<Arc<Up>> {
        self.up.read().clone()
    }
}

fn host_port(p: &HostPort) -> network::spec::HostPort {
    network::spec::HostPort {
        protocol: match p.protocol.as_str() {
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        host_port: p.host_port,
        // An unspecified address is every address.
        host_ip: p.host_ip.filter(|ip| !ip.is_unspecified()),
        container_port: p.container_port,
    }
}

#[async_trait]
impl PodNet for NodeNet {
    async fn setup(&self, request: &PodNetRequest) -> Result<PodNetwork, String> {
        let up = self.up().ok_or("the pod network is not up yet")?;
        std::fs::create_dir_all(&self.pins).map_err(|e| format!("make {}: {e}", self.pins.display()))?;
        let ips = up.addresses.lock().allocate(&request.uid).map_err(|e| e.to_string())?;
        let netns = self.pin(&request.uid);
        let ports: Vec<_> = request.host_ports.iter().map(host_port).collect();
        up.network.setup(&request.uid, &netns, &ips, &ports).await.map_err(|e| e.to_string())?;
        Ok(PodNetwork { netns, ips })
    }

    async fn teardown(&self, uid: &str) -> Result<(), String> {
        let pin = self.pin(uid);
        if let Some(up) = self.up() {
            up.network.teardown(uid).await.map_err(|e| e.to_string())?;
            unpin(&pin)?;
            return up.addresses.lock().release(uid).map_err(|e| e.to_string());
        }
        if pin.exists() {
            return Err("the pod network is not up yet".into());
        }
        Ok(())
    }

    fn not_ready(&self) -> Option<String> {
        self.up.read().is_none().then(|| "the pod network is not up yet".to_owned())
    }
}

fn unpin(pin: &Path) -> Result<(), String> {
    sys::netns::delete(pin).map_err(|e| e.to_string())
}
