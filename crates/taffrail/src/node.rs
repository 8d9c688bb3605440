//! One node in this process: agent, runtime, pod network, service proxy, DNS, kubelet endpoint.
//!
//! It reaches the API by the client that it is given and by nothing else, so a node of this program's own and one in a
//! process of its own are made by the same code. Stopping it leaves containers, links and tables as they are: the next
//! start finds them.

pub mod cleanup;
pub mod process;
mod services;

use base::clock::SharedClock;
use client::Client;
use client::informer::{Event, Informer, Informers};
use k8s_openapi::api::core::v1::Node;
use network::dns::Upstream;
use network::{
    Cidr, Directory, DnsConfig, DnsServer, Ipam, Peer, PodNetwork, PodNetworkConfig, ServiceProxy,
    ServiceProxyConfig,
};
use node::agent::{NodeAgent, NodeHandle};
use node::config::NodeConfig;
use node::image_store::StoredImages;
use node::net::NodeNet;
use node::ports::RegistryAuth;
use node::runtime::ShimRuntime;
use node::server::access::Access;
use node::server::{Server, serve};
use oci::{ImageStore, Login};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Port of the kubelet's endpoint.
pub const KUBELET_PORT: u16 = 10250;
/// How long the making of the built-in image may take, and how often it is looked for.
const BUILTIN_TIMEOUT: Duration = Duration::from_secs(60);
const BUILTIN_POLL: Duration = Duration::from_millis(10);
/// How long the control plane may take to give the node its pod addresses.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a node is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOptions {
    pub name: String,
    /// What is the node's own is kept here.
    pub dir: PathBuf,
    /// The image store, which all nodes of a machine share.
    pub images: PathBuf,
    /// One per family, the primary family first.
    pub ips: Vec<IpAddr>,
    pub cluster_cidrs: Vec<Cidr>,
    pub service_cidrs: Vec<Cidr>,
    pub dns_ips: Vec<IpAddr>,
    pub domain: String,
    /// Where DNS is also answered, for the other nodes of this machine.
    pub dns_listen: Vec<SocketAddr>,
    /// Servers for names outside of the cluster; the machine's own when there are none.
    pub dns_upstream: Vec<SocketAddr>,
    /// Blocks that leave the machine under this node's address, besides its pods.
    pub masqueraded: Vec<Cidr>,
    /// Parent of the node's cgroups; empty for the root.
    pub cgroup_root: String,
}

impl NodeOptions {
    fn pins(&self) -> PathBuf {
        pins(&self.dir)
    }
}

/// Files that pin the pods' network namespaces.
pub fn pins(dir: &Path) -> PathBuf {
    dir.join("netns")
}

/// File below a node's directory that pins the node's own network namespace, when it has one.
pub const NODE_PIN: &str = "node.netns";

/// Directories of the pods' shims.
pub fn shims(dir: &Path) -> PathBuf {
    dir.join("shims")
}

/// State of the pod network.
pub fn network_state(dir: &Path) -> PathBuf {
    dir.join("network")
}

/// A running node.
pub struct RunningNode {
    handle: Option<Arc<NodeHandle>>,
    net: Arc<NodeNet>,
    /// The node's own, and the service proxy's.
    informers: [Informers; 2],
    options: NodeOptions,
    cancel: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    dns: Option<DnsServer>,
}

fn because<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{what}: {e}")
}

impl RunningNode {
    /// Starts agent and kubelet endpoint. Pods are connected from [`Self::connect`] on. `client` acts as the node,
    /// `proxy_client` as the service proxy.
    pub async fn start(
        options: NodeOptions,
        client: Client,
        proxy_client: Client,
        tls: Arc<rustls::ServerConfig>,
        clock: SharedClock,
        cancel: &CancellationToken,
    ) -> Result<Self, String> {
        let cancel = cancel.child_token();
        let informers = Informers::new(client.clone(), clock.clone());
        let api =
            Arc::new(node::api::ClientApi::new(client.clone(), &informers, &options.name, clock.clone()));
        let program = std::env::current_exe().map_err(because("find this program's file"))?;
        let runtime = ShimRuntime::new(shims(&options.dir), program).map_err(because("start the runtime"))?;
        let store = Arc::new(ImageStore::open(&options.images).map_err(because("open the image store"))?);
        let into = store.clone();
        let fetch = move |name, logins| fetch(into.clone(), name, logins);
        let images = Arc::new(StoredImages::new(store, Box::new(move |n, l| Box::pin(fetch(n, l)))));
        let net = Arc::new(NodeNet::new(options.pins()));
        let mut config = NodeConfig::new(&options.name, &options.dir);
        config.node_ips.clone_from(&options.ips);
        config.cluster_dns.clone_from(&options.dns_ips);
        config.cluster_domain.clone_from(&options.domain);
        config.cgroup_root.clone_from(&options.cgroup_root);
        config.port = KUBELET_PORT;
        let handle =
            NodeAgent::start(config, api, runtime.clone(), images, net.clone(), clock.clone(), &cancel)?;
        let handle = Arc::new(handle);
        let server = Arc::new(Server {
            node: handle.clone(),
            runtime,
            access: Access::new(client, &options.name, options.pins()),
            clock,
        });
        let mut tasks = Vec::new();
        for ip in &options.ips {
            let address = SocketAddr::new(*ip, KUBELET_PORT);
            let listener = TcpListener::bind(address).await.map_err(|e| {
                format!("cannot listen on {address}: {e}; is another kubelet running on this machine?")
            })?;
            tasks.push(tokio::spawn(serve(server.clone(), listener, tls.clone(), cancel.clone())));
        }
        // Services, endpoints and other nodes are the proxy's to see (upstream: `system:node-proxier`).
        let proxied = Informers::new(proxy_client, server.clock.clone());
        Ok(Self {
            handle: Some(handle),
            net,
            informers: [informers, proxied],
            options,
            cancel,
            tasks,
            dns: None,
        })
    }

    /// Brings the pod network, Services and DNS up, once the node knows its pod addresses.
    pub async fn connect(&mut self) -> Result<(), String> {
        let pod_cidrs = self.pod_cidrs().await?;
        let o = &self.options;
        let directory = Directory::new();
        let proxy = ServiceProxyConfig {
            netns: None,
            node_name: o.name.clone(),
            node_ips: o.ips.clone(),
            pod_cidrs: pod_cidrs.clone(),
            cluster_cidrs: o.cluster_cidrs.clone(),
            service_cidrs: o.service_cidrs.clone(),
            local_service_ips: o.dns_ips.clone(),
            allow_external_ips: false,
        };
        let proxy = ServiceProxy::start(proxy, directory.clone())
            .await
            .map_err(because("start the service proxy"))?;
        let state_dir = network_state(&o.dir);
        let pods = PodNetworkConfig {
            netns: None,
            state_dir: state_dir.clone(),
            pod_cidrs: pod_cidrs.clone(),
            cluster_cidrs: o.cluster_cidrs.clone(),
            node_ips: o.ips.clone(),
            masqueraded: o.masqueraded.clone(),
        };
        let pods = PodNetwork::new(pods, Some(proxy)).await.map_err(because("start the pod network"))?;
        let pods = Arc::new(pods);
        let addresses = Ipam::open(state_dir.join("addresses.json"), &pod_cidrs)
            .map_err(because("open the pod addresses"))?;
        let known: BTreeSet<String> = addresses.pods().map(|(uid, _)| uid.to_owned()).collect();
        pods.retain(&known).await.map_err(because("remove what is left of former pods"))?;
        let dns = DnsConfig {
            netns: None,
            domain: o.domain.clone(),
            service_ips: o.dns_ips.clone(),
            listen: o.dns_listen.clone(),
            upstream: match o.dns_upstream.as_slice() {
                [] => Upstream::File("/etc/resolv.conf".into()),
                servers => Upstream::Fixed(servers.to_vec()),
            },
            own_cidrs: o.cluster_cidrs.iter().chain(&o.service_cidrs).copied().collect(),
        };
        self.dns = Some(DnsServer::bind(dns, directory.clone()).await.map_err(because("start DNS"))?);
        self.tasks.push(tokio::spawn(services::feed(
            directory,
            self.informers[1].clone(),
            self.cancel.clone(),
        )));
        let nodes = self.informers[1].of::<Node>();
        self.tasks.push(tokio::spawn(peers(nodes, o.name.clone(), pods.clone(), self.cancel.clone())));
        self.net.set(pods, addresses);
        Ok(())
    }

    /// The pod blocks that the control plane gives the node.
    async fn pod_cidrs(&self) -> Result<Vec<Cidr>, String> {
        let nodes = self.informers[1].of::<Node>();
        let mut changes = nodes.subscribe();
        let given = async {
            while changes.next().await.is_some() {
                let node = nodes.store().get("", &self.options.name);
                let cidrs = node.and_then(|n| n.spec.as_ref()?.pod_cidrs.clone()).unwrap_or_default();
                if !cidrs.is_empty() {
                    return Ok(cidrs);
                }
            }
            Err("the watch on nodes ended".to_owned())
        };
        let cidrs = tokio::time::timeout(REGISTER_TIMEOUT, given)
            .await
            .map_err(|_| format!("the node {} was given no pod addresses in time", self.options.name))??;
        let usable = cidrs.iter().map(|c| c.parse().map_err(because("the node's pod addresses")));
        usable.collect()
    }

    /// Waits until the node says that it is Ready.
    pub async fn ready(&self) -> Result<(), String> {
        let handle = self.handle.as_ref().ok_or("the node is stopping")?;
        let mut node = handle.node();
        let ready = node.wait_for(|n| n.as_ref().is_some_and(is_ready));
        tokio::time::timeout(REGISTER_TIMEOUT, ready)
            .await
            .map_err(|_| format!("the node {} is not ready; see `taffrail logs kubelet`", self.options.name))?
            .map(drop)
            .map_err(|_| "the node agent ended".to_owned())
    }

    /// Stops the agent; containers run on.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        self.informers.iter().for_each(Informers::stop);
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
        drop(self.dns.take());
        if let Some(handle) = self.handle.take().and_then(Arc::into_inner) {
            handle.stop().await;
        }
    }
}

/// Pulls an image. One that was imported counts as pulled where its registry cannot be reached.
async fn fetch(store: Arc<ImageStore>, name: String, logins: Vec<RegistryAuth>) -> Result<(), String> {
    // No registry has it; on a new machine it is still being made when the first pods come.
    if name == oci::builtin::NAME {
        let made = async {
            while store.find(&name).is_none() {
                tokio::time::sleep(BUILTIN_POLL).await;
            }
        };
        let late = || format!("{name} was not made in time; see `taffrail logs apiserver`");
        return tokio::time::timeout(BUILTIN_TIMEOUT, made).await.map_err(|_| late());
    }
    let logins: Vec<Login> = logins
        .into_iter()
        .map(|l| Login { username: l.username, password: l.password, token: l.identity_token })
        .collect();
    match oci::pull(&store, &name, &logins, &|_, _| {}).await {
        Ok(_) => Ok(()),
        Err(oci::Error::Unreachable { .. }) if store.find(&name).is_some_and(|i| i.imported) => Ok(()),
        Err(e) => Err(base::error::chain(&e)),
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Keeps routes to the other nodes' pods.
async fn peers(nodes: Informer<Node>, own: String, pods: Arc<PodNetwork>, cancel: CancellationToken) {
    let mut changes = nodes.subscribe();
    loop {
        let all: Vec<Peer> = nodes
            .store()
            .list()
            .iter()
            .filter(|n| n.metadata.name.as_ref() != Some(&own))
            .map(|n| peer(n))
            .collect();
        if nodes.has_synced()
            && let Err(error) = pods.set_peers(&all).await
        {
            tracing::warn!(target: "network", %error, "routes to other nodes are not complete");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            change = changes.next() => if change.is_none() { return },
        }
        // Only names, addresses and blocks count: what else came meanwhile is taken together.
        while let Some(Some(event)) = futures::FutureExt::now_or_never(changes.next()) {
            drop::<Event<Node>>(event);
        }
    }
}

fn peer(node: &Node) -> Peer {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let ips = addresses.iter().filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok());
    let cidrs = node.spec.as_ref().and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
    Peer { node_ips: ips.collect(), cidrs: cidrs.iter().filter_map(|c| c.parse().ok()).collect() }
}
