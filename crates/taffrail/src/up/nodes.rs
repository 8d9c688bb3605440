//! The nodes of this machine: their link, the first of them in this process, the others in processes of their own.

use super::control_plane::{ControlPlane, text};
use crate::config::UpOptions;
use crate::node::process::{Order, READY, kubelet_tls};
use crate::node::{NODE_PIN, NodeOptions, RunningNode, cleanup};
use apiserver::inprocess::InProcess;
use auth::identity::{Identity, KUBE_PROXY, NODES};
use auth::pki::{Leaf, Pki};
use base::clock::SystemClock;
use client::Client;
use client::kubeconfig::{Entry, merge};
use network::{Cidr, NodeLink};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the first node's DNS answers the other nodes' questions.
const RESOLVER_PORT: u16 = 1053;
/// Pause before a node's process is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often a node's process is started before the cluster gives up on starting with it.
const STARTS_MAX: usize = 3;
/// How long a node's process may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The bridge that holds the nodes' addresses.
pub const LINK: &str = "taffrail0";

/// What is the `n`-th node's own, counted from 1.
pub fn dir(data_dir: &Path, n: usize) -> PathBuf {
    data_dir.join("nodes").join(n.to_string())
}

/// Whether this kernel has IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Blocks of a flag: one, or one of each family; IPv6 ones only where the kernel has it.
pub fn cidrs(flag: &str, text: &str) -> Result<Vec<Cidr>, String> {
    let all: Vec<Cidr> = text
        .split(',')
        .map(|c| c.trim().parse().map_err(|e| format!("--{flag}: {e}")))
        .collect::<Result<_, _>>()?;
    if all.len() > 2 || all.len() == 2 && all[0].is_ipv4() == all[1].is_ipv4() {
        return Err(format!("--{flag}: one range, or one of each family"));
    }
    Ok(all.into_iter().filter(|c| c.is_ipv4() || has_ipv6()).collect())
}

/// Addresses of the `n`-th node with the prefix of their block.
fn addresses(options: &UpOptions, n: usize) -> Result<Vec<Cidr>, String> {
    cidrs("node-cidr", &options.node_cidr)?
        .into_iter()
        .map(|c| {
            let ip =
                c.nth(n as u128).ok_or_else(|| format!("--node-cidr: {c} has no address for node {n}"))?;
            Cidr::new(ip, c.prefix).map_err(|e| format!("--node-cidr: {e}"))
        })
        .collect()
}

/// Addresses of the `n`-th node.
pub fn ips(options: &UpOptions, n: usize) -> Result<Vec<IpAddr>, String> {
    Ok(addresses(options, n)?.into_iter().map(|c| c.address).collect())
}

/// Makes the link with the first node's addresses.
pub async fn link(options: &UpOptions) -> Result<NodeLink, String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "a node needs root for namespaces, mounts and cgroups: run with sudo, or run the control \
                    plane alone with --nodes 0"
                .into(),
        );
    }
    NodeLink::ensure(None, LINK, &addresses(options, 1)?).await.map_err(|e| {
        format!("cannot make the nodes' link: {e}; `taffrail doctor` says what this machine lacks")
    })
}

/// The machine's name.
pub fn host_name() -> Result<String, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|n| n.trim().to_owned()).map_err(|e| format!("read the host name: {e}"))
}

/// Name of the first node: the machine's (upstream: `nodeutil.GetHostname`).
pub fn first_name(options: &UpOptions) -> Result<String, String> {
    let given = options.hostname_override.trim();
    let name = if given.is_empty() { host_name()? } else { given.to_owned() };
    let name = name.trim().to_lowercase();
    match kinds::helpers::dns_subdomain_errors(&name, false).as_slice() {
        [] => Ok(name),
        [why, ..] => {
            Err(format!("the node name {name:?} is not valid: {why}; choose one with --hostname-override"))
        }
    }
}

/// What the `n`-th node is told.
fn node_options(options: &UpOptions, n: usize) -> Result<NodeOptions, String> {
    let first = first_name(options)?;
    let service_cidrs = cidrs("service-cluster-ip-range", &options.service_cluster_ip_range)?;
    // Only the first node's namespace leads out of the machine, to its resolvers as well.
    let resolvers: Vec<SocketAddr> = match options.nodes {
        0 | 1 => Vec::new(),
        _ => ips(options, 1)?.into_iter().map(|ip| SocketAddr::new(ip, RESOLVER_PORT)).collect(),
    };
    let of = |this: bool, list: &[SocketAddr]| if this { list.to_vec() } else { Vec::new() };
    Ok(NodeOptions {
        name: if n == 1 { first } else { format!("{first}-{n}") },
        dir: dir(&options.data_dir, n),
        images: options.data_dir.join("images"),
        ips: ips(options, n)?,
        cluster_cidrs: cidrs("cluster-cidr", &options.cluster_cidr)?,
        dns_ips: service_cidrs.iter().filter_map(|c| c.nth(super::bootstrap::DNS_OFFSET)).collect(),
        service_cidrs,
        domain: options.cluster_domain.clone(),
        dns_listen: of(n == 1, &resolvers),
        dns_upstream: of(n != 1, &resolvers),
        masqueraded: if n == 1 { cidrs("node-cidr", &options.node_cidr)? } else { Vec::new() },
        cgroup_root: format!("{}/{n}", cleanup::cgroup_root(&options.data_dir)),
    })
}

/// Certificate and key of a kubelet's endpoint.
fn kubelet_leaf(pki: &Pki, o: &NodeOptions) -> Result<Leaf, String> {
    let mut names = vec![o.name.clone()];
    names.extend(o.ips.iter().map(ToString::to_string));
    pki.server(&kubelet_file(o), &format!("system:node:{}", o.name), &names).map_err(text)
}

fn kubelet_file(o: &NodeOptions) -> String {
    format!("kubelet-{}", o.name)
}

/// The running nodes of this machine.
pub struct Nodes {
    first: RunningNode,
    others: Vec<Process>,
}

impl Nodes {
    /// Starts all nodes and waits until they are Ready.
    pub async fn start(
        options: &UpOptions,
        plane: &ControlPlane,
        link: &NodeLink,
        cancel: &CancellationToken,
    ) -> Result<Self, String> {
        let mut others = Vec::new();
        for n in 2..=usize::from(options.nodes) {
            others.push(Process::start(options, plane, link, n).await?);
        }
        let first = first(options, plane, cancel).await?;
        for other in &mut others {
            other.ready().await?;
        }
        Ok(Self { first, others })
    }

    /// Stops the agents; containers run on.
    pub async fn stop(self) {
        for other in self.others {
            other.stop().await;
        }
        self.first.stop().await;
    }
}

async fn first(
    options: &UpOptions,
    plane: &ControlPlane,
    cancel: &CancellationToken,
) -> Result<RunningNode, String> {
    let o = node_options(options, 1)?;
    let leaf = kubelet_leaf(&plane.pki, &o)?;
    let tls = kubelet_tls(
        plane.pki.ca_der().map_err(text)?,
        leaf.certificate_der().map_err(text)?,
        leaf.key_der().map_err(text)?,
    )?;
    let client = Client::new(InProcess::new(plane.server.clone(), Identity::node(&o.name), "kubelet"));
    let proxy = Identity::system(KUBE_PROXY, &[]);
    let proxy = Client::new(InProcess::new(plane.server.clone(), proxy, "kube-proxy"));
    let mut node = RunningNode::start(o, client, proxy, tls, SystemClock::shared(), cancel).await?;
    node.connect().await?;
    node.ready().await?;
    Ok(node)
}

/// A further node in a process of its own, started again when it ends.
struct Process {
    ready: watch::Receiver<Option<Result<(), String>>>,
    stop: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl Process {
    async fn start(
        options: &UpOptions,
        plane: &ControlPlane,
        link: &NodeLink,
        n: usize,
    ) -> Result<Self, String> {
        let o = node_options(options, n)?;
        std::fs::create_dir_all(&o.dir).map_err(|e| format!("make {}: {e}", o.dir.display()))?;
        let netns = o.dir.join(NODE_PIN);
        if !sys::netns::is_pinned(&netns) {
            sys::netns::create(&netns).map_err(|e| e.to_string())?;
        }
        link.attach(&netns, "eth0", &addresses(options, n)?, &ips(options, 1)?)
            .await
            .map_err(|e| format!("connect the node {}: {e}", o.name))?;
        let order = order(options, plane, o, netns)?;
        let file = order.options.dir.join("node.json");
        let bytes = serde_json::to_vec_pretty(&order).map_err(|e| e.to_string())?;
        private(&file, &bytes)?;
        let (ready_tx, ready) = watch::channel(None);
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(file, order.options.name, ready_tx, stop.clone()));
        Ok(Self { ready, stop, keeper })
    }

    async fn ready(&mut self) -> Result<(), String> {
        match self.ready.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err("a node process is no longer kept".to_owned()),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        let _ = self.keeper.await;
    }
}

/// What the process of a node is told, with the credentials that it uses.
fn order(options: &UpOptions, plane: &ControlPlane, o: NodeOptions, netns: PathBuf) -> Result<Order, String> {
    kubelet_leaf(&plane.pki, &o)?;
    let server = SocketAddr::new(ips(options, 1)?[0], options.secure_port);
    let kubeconfig = |file: &str, user: &str, groups: &[&str]| -> Result<PathBuf, String> {
        let leaf = plane.pki.client(&format!("{file}-{}", o.name), user, groups).map_err(text)?;
        let path = o.dir.join(format!("{file}.kubeconfig"));
        let entry = Entry {
            name: "taffrail".to_owned(),
            server: format!("https://{server}"),
            ca_pem: plane.pki.ca_pem().as_bytes().to_vec(),
            identity_pem: Some((leaf.certificate_pem.into_bytes(), leaf.key_pem.into_bytes())),
            token: None,
        };
        merge(&path, &entry).map_err(text)?;
        Ok(path)
    };
    let node_user = format!("system:node:{}", o.name);
    let pki = options.data_dir.join("pki");
    Ok(Order {
        node_kubeconfig: kubeconfig("kubelet-client", &node_user, &[NODES])?,
        proxy_kubeconfig: kubeconfig("kube-proxy", KUBE_PROXY, &[])?,
        certificate: pki.join(format!("{}.crt", kubelet_file(&o))),
        key: pki.join(format!("{}.key", kubelet_file(&o))),
        client_ca: pki.join("ca.crt"),
        log_level: options.log_level.clone(),
        options: o,
        netns,
    })
}

/// Writes a file for its owner only.
fn private(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut options = std::fs::OpenOptions::new();
    options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut f| f.write_all(bytes))
        .map_err(|e| format!("write {}: {e}", file.display()))
}

/// Runs the node's process, again after a pause when it ends, until told to stop.
async fn keep(
    order: PathBuf,
    name: String,
    ready: watch::Sender<Option<Result<(), String>>>,
    stop: CancellationToken,
) {
    let mut starts = 0;
    while !stop.is_cancelled() {
        let outcome = once(&order, &ready, &stop).await;
        starts += 1;
        if stop.is_cancelled() {
            return;
        }
        let why = outcome.err().unwrap_or_else(|| "it ended".to_owned());
        tracing::error!(target: "node", node = name, "the node's process is started again: {why}");
        if ready.borrow().is_none() && starts >= STARTS_MAX {
            ready.send_replace(Some(Err(format!("the node {name} did not start: {why}"))));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

async fn once(
    order: &Path,
    ready: &watch::Sender<Option<Result<(), String>>>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| format!("find this program's file: {e}"))?;
    let mut child = Command::new(program)
        .arg("__node")
        .arg(order)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C is for the cluster's process: this one is stopped by it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("start the node's process: {e}"))?;
    let stdin = child.stdin.take();
    let mut last = String::new();
    if let Some(out) = child.stdout.take() {
        let mut lines = tokio::io::BufReader::new(out).lines();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                line = lines.next_line() => match line {
                    Ok(Some(line)) if line == READY => {
                        ready.send_replace(Some(Ok(())));
                    }
                    Ok(Some(line)) => last = line,
                    _ => break,
                },
            }
        }
    }
    drop(stdin);
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) if last.is_empty() => Err(status.to_string()),
        Ok(Ok(_)) => Err(last),
        Ok(Err(e)) => Err(e.to_string()),
        // Dropping it ends it.
        Err(_) => Err(format!("it did not end within {} s", STOP_TIMEOUT.as_secs())),
    }
}
