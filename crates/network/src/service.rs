//! The service proxy: Services of the [`Directory`] as entries of a few global nf_tables maps.
//!
//! [`render`] turns a Service into the entries it wants, [`table`] finds what changed, [`encode`] writes it as one
//! transaction; a thread of its own applies it. Invariant: the kernel's table is always that of some past directory
//! as a whole per Service: changes are atomic, and after a failed one the table is rebuilt in one replacement. A
//! restart changes nothing until the directory is complete.

mod encode;
mod flows;
pub mod model;
pub mod render;
pub mod table;
#[cfg(test)]
mod tests;

use crate::cidr::Cidr;
use crate::directory::{Changes, Directory};
use crate::error::{Error, Result};
use crate::links::{Links, Route};
use crate::spec::HostPort;
use encode::{Encoder, Skeleton};
use model::{Change, Fragment};
use parking_lot::Mutex;
use render::Rules;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use sys::nft::{Batch, Socket};
use table::{Owner, Table};

/// The name of the proxy's table, in both families.
pub const TABLE: &str = "taffrail";
/// The link that holds the addresses of Services served by this node itself, and the route to all of them.
pub const SERVICE_LINK: &str = "taffrail-dns";

/// How long a change waits for others to go with it.
const SETTLE: Duration = Duration::from_millis(2);
/// How long after a failed change the table is rebuilt.
const RETRY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(3600);
/// Most changed entries of one transaction; a single Service may take more.
const BATCH_MAX: usize = 1000;

/// What a node's service proxy is made of.
#[derive(Debug, Clone, Default)]
pub struct ServiceProxyConfig {
    /// File that pins the node's network namespace; `None`: the program's own.
    pub netns: Option<PathBuf>,
    /// The node's name, to tell its endpoints from others'.
    pub node_name: String,
    /// This node's addresses, at most one per family.
    pub node_ips: Vec<IpAddr>,
    /// This node's pod blocks.
    pub pod_cidrs: Vec<Cidr>,
    /// All pods' blocks.
    pub cluster_cidrs: Vec<Cidr>,
    /// `--service-cluster-ip-range`: unused addresses of it lead nowhere.
    pub service_cidrs: Vec<Cidr>,
    /// Addresses of Services that this node answers itself (DNS): left alone.
    pub local_service_ips: Vec<IpAddr>,
    /// Serve `spec.externalIPs` (off by default: anyone who may write a Service could take over an address).
    pub allow_external_ips: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// Transactions that the kernel took.
    pub commits: u64,
    /// Whole tables among them.
    pub rebuilds: u64,
    pub failures: u64,
    /// UDP flows forgotten.
    pub flows_forgotten: u64,
}

/// A running service proxy; clones are the same one. The last one dropped stops it and leaves the kernel's table as
/// it is, so that traffic goes on over a restart.
#[derive(Clone)]
pub struct ServiceProxy(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    config: ServiceProxyConfig,
    directory: Arc<Directory>,
    changes: Arc<Changes>,
    /// Wanted host ports of pods whose fragment the thread has not taken yet.
    pods: Mutex<HashMap<String, Fragment>>,
    stop: AtomicBool,
    error: Mutex<Option<String>>,
    commits: AtomicU64,
    rebuilds: AtomicU64,
    failures: AtomicU64,
    flows_forgotten: AtomicU64,
}

impl ServiceProxy {
    /// Makes the service link with the routes that lead local packets to Services, and starts the proxy's thread.
    /// Must be called within tokio. Nothing is programmed before [`Directory::set_synced`].
    pub async fn start(config: ServiceProxyConfig, directory: Arc<Directory>) -> Result<Self> {
        let links = Links::open(config.netns.as_deref())?;
        let link = links.ensure_holder(SERVICE_LINK).await?;
        for cidr in &config.service_cidrs {
            let source = config.node_ips.iter().copied().find(|ip| ip.is_ipv4() == cidr.is_ipv4());
            let to = cidr.network();
            links.set_route(Route { to, via: None, link: Some(link), onlink: false, source }).await?;
        }
        let shared = Arc::new(Shared {
            changes: directory.subscribe(),
            directory,
            config,
            pods: Mutex::default(),
            stop: AtomicBool::new(false),
            error: Mutex::new(None),
            commits: AtomicU64::new(0),
            rebuilds: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            flows_forgotten: AtomicU64::new(0),
        });
        shared.changes.add([]);
        let mut executor =
            Executor { shared: shared.clone(), table: Table::default(), built: false, socket: None };
        let netns = shared.config.netns.clone();
        let thread = sys::netns::spawn_in(netns.as_deref(), "service-proxy", move || executor.run())?;
        Ok(Self(Arc::new(Running { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Sets the host ports of a pod.
    pub fn set_host_ports(&self, pod_uid: &str, ips: &[IpAddr], ports: &[HostPort]) {
        self.put_pod(pod_uid, render::host_ports(ips, ports));
    }

    pub fn remove_host_ports(&self, pod_uid: &str) {
        self.put_pod(pod_uid, Fragment::new());
    }

    /// Waits until everything said so far is in the kernel. Blocks the thread.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.0.shared.changes.add_waiter(tell);
        match told.recv_timeout(timeout) {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(Error::check(error)),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::check(format!("the service proxy did not finish within {timeout:?}")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::check(
                "the service proxy waits for the first complete list of Services, or is stopping",
            )),
        }
    }

    /// The failure that the proxy is recovering from, if any.
    pub fn error(&self) -> Option<String> {
        self.0.shared.error.lock().clone()
    }

    pub fn stats(&self) -> ProxyStats {
        let s = &self.0.shared;
        ProxyStats {
            commits: s.commits.load(Ordering::Relaxed),
            rebuilds: s.rebuilds.load(Ordering::Relaxed),
            failures: s.failures.load(Ordering::Relaxed),
            flows_forgotten: s.flows_forgotten.load(Ordering::Relaxed),
        }
    }

    fn put_pod(&self, pod_uid: &str, fragment: Fragment) {
        self.0.shared.pods.lock().insert(pod_uid.to_owned(), fragment);
        self.0.shared.changes.add([]);
    }
}

impl std::fmt::Debug for ServiceProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceProxy").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.changes.add([]);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// The thread that applies changes.
struct Executor {
    shared: Arc<Shared>,
    table: Table,
    /// The kernel's table is that of `self.table`.
    built: bool,
    /// Kept open: closing it makes the kernel wait for all of its readers, 10 to 20 ms.
    socket: Option<Socket>,
}

impl Executor {
    fn run(&mut self) {
        let mut wait = IDLE;
        loop {
            let pending = self.shared.changes.take(wait, SETTLE);
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            if !self.shared.directory.synced() {
                wait = IDLE;
                continue;
            }
            let services = pending.services.into_iter().collect::<Vec<_>>();
            let result = if self.built { self.update(&services) } else { self.rebuild() };
            let error = result.err().map(|e| e.to_string());
            wait = IDLE;
            if let Some(error) = &error {
                tracing::error!(target: "network", error, "service table not updated, rebuilding it");
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                // A failed change is followed by a rebuild at once, a failed rebuild by another one later.
                wait = if self.built { Duration::from_millis(1) } else { RETRY };
                self.built = false;
                self.socket = None;
            }
            self.shared.error.lock().clone_from(&error);
            for waiter in pending.waiters {
                let _ = waiter.try_send(error.clone());
            }
        }
    }

    fn rules(&self) -> Rules {
        let config = &self.shared.config;
        Rules {
            node_name: config.node_name.clone(),
            pod_cidrs: config.pod_cidrs.clone(),
            local_service_ips: config.local_service_ips.iter().copied().collect(),
            allow_external_ips: config.allow_external_ips,
        }
    }

    fn skeleton(&self) -> Skeleton {
        let config = &self.shared.config;
        Skeleton {
            cluster_cidrs: config.cluster_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            local_service_ips: config.local_service_ips.clone(),
        }
    }

    fn rebuild(&mut self) -> Result<()> {
        let rules = self.rules();
        let mut wanted: BTreeMap<Owner, Fragment> = BTreeMap::new();
        {
            let state = self.shared.directory.read();
            for (key, service) in state.services() {
                let fragment = render::service(service, Filtered(&state, key).iter(), &rules);
                wanted.insert(Owner::Service(key.clone()), fragment);
            }
        }
        let gone: Vec<Owner> = self.table.owners().filter(|o| is_gone(o, &wanted)).cloned().collect();
        for owner in gone {
            self.table.replace(owner, Fragment::new());
        }
        for (owner, fragment) in wanted {
            self.table.replace(owner, fragment);
        }
        self.take_pods();
        let skeleton = self.skeleton();
        let batch = Encoder { table: TABLE, skeleton: &skeleton }.rebuild(self.table.all());
        self.commit(batch)?;
        self.built = true;
        self.shared.rebuilds.fetch_add(1, Ordering::Relaxed);
        let all: Vec<Change> = self.table.all().map(|(k, v)| Change::Add(k, v)).collect();
        self.forget_flows(&all)
    }

    fn update(&mut self, services: &[crate::spec::Key]) -> Result<()> {
        let rules = self.rules();
        let mut changes = self.take_pods();
        for key in services {
            let fragment = {
                let state = self.shared.directory.read();
                match state.service(key) {
                    Some(service) => render::service(service, Filtered(&state, key).iter(), &rules),
                    None => Fragment::new(),
                }
            };
            changes.extend(self.table.replace(Owner::Service(key.clone()), fragment));
            if changes.len() >= BATCH_MAX {
                self.apply(std::mem::take(&mut changes))?;
            }
        }
        self.apply(changes)
    }

    fn take_pods(&mut self) -> Vec<Change> {
        let pods = std::mem::take(&mut *self.shared.pods.lock());
        pods.into_iter().flat_map(|(uid, f)| self.table.replace(Owner::Pod(uid), f)).collect()
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<()> {
        let changes = table::merge(changes);
        if changes.is_empty() {
            return Ok(());
        }
        let skeleton = self.skeleton();
        let mut batch = Batch::new();
        Encoder { table: TABLE, skeleton: &skeleton }.apply(&mut batch, &changes);
        self.commit(batch)?;
        self.forget_flows(&changes)
    }

    fn socket(&mut self) -> Result<&Socket> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open()?,
        };
        Ok(self.socket.insert(socket))
    }

    fn commit(&mut self, batch: Batch) -> Result<()> {
        batch.commit(self.socket()?)?;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A kernel without the connection tracking interface must not stop Services from working.
    fn forget_flows(&mut self, changes: &[Change]) -> Result<()> {
        let touched = flows::touched(changes, &self.table);
        if touched.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        match flows::forget(self.socket()?, &touched, &shared.config.node_ips) {
            Ok(count) => drop(self.shared.flows_forgotten.fetch_add(count as u64, Ordering::Relaxed)),
            Err(error) => tracing::warn!(
                target: "network", %error,
                "stale UDP flows not removed: they end by their own timeout (needs the kernel's nf_conntrack_netlink)"
            ),
        }
        Ok(())
    }
}

fn is_gone(owner: &Owner, wanted: &BTreeMap<Owner, Fragment>) -> bool {
    matches!(owner, Owner::Service(_)) && !wanted.contains_key(owner)
}

/// A Service's slices as an iterator that can be started again.
struct Filtered<'a>(&'a crate::directory::State, &'a crate::spec::Key);

impl<'a> Filtered<'a> {
    fn iter(&self) -> impl Iterator<Item = &'a crate::spec::SliceSpec> + Clone + use<'a> {
        self.0.slices(self.1).collect::<Vec<_>>().into_iter()
    }
}
