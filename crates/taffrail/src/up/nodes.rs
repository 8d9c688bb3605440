//! The nodes of this machine: their link, and the first of them in this process.

use super::control_plane::{ControlPlane, roots, text};
use crate::config::UpOptions;
use crate::node::{NodeOptions, RunningNode, cleanup};
use apiserver::inprocess::InProcess;
use auth::identity::{Identity, KUBE_PROXY};
use auth::pki::Pki;
use base::clock::SystemClock;
use client::Client;
use network::{Cidr, NodeLink};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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

/// Name of the first node: the machine's (upstream: `nodeutil.GetHostname`).
pub fn first_name(options: &UpOptions) -> Result<String, String> {
    let given = options.hostname_override.trim();
    let name = if given.is_empty() {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|e| format!("read the host name: {e}"))?
    } else {
        given.to_owned()
    };
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
    Ok(NodeOptions {
        name: if n == 1 { first } else { format!("{first}-{n}") },
        dir: dir(&options.data_dir, n),
        images: options.data_dir.join("images"),
        ips: ips(options, n)?,
        cluster_cidrs: cidrs("cluster-cidr", &options.cluster_cidr)?,
        dns_ips: service_cidrs.iter().filter_map(|c| c.nth(super::bootstrap::DNS_OFFSET)).collect(),
        service_cidrs,
        domain: options.cluster_domain.clone(),
        cgroup_root: format!("{}/{n}", cleanup::cgroup_root(&options.data_dir)),
    })
}

/// TLS of a kubelet's endpoint: a client certificate is verified when there is one; who may do what is asked of the API.
fn kubelet_tls(pki: &Pki, o: &NodeOptions) -> Result<Arc<ServerConfig>, String> {
    let mut names = vec![o.name.clone()];
    names.extend(o.ips.iter().map(ToString::to_string));
    let leaf = pki
        .server(&format!("kubelet-{}", o.name), &format!("system:node:{}", o.name), &names)
        .map_err(text)?;
    let verifier =
        WebPkiClientVerifier::builder(roots(pki)?).allow_unauthenticated().build().map_err(text)?;
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.certificate_der().map_err(text)?], leaf.key_der().map_err(text)?)
        .map_err(text)?;
    Ok(Arc::new(config))
}

/// Starts the first node and waits until it is Ready.
pub async fn start(
    options: &UpOptions,
    plane: &ControlPlane,
    cancel: &CancellationToken,
) -> Result<RunningNode, String> {
    let o = node_options(options, 1)?;
    let tls = kubelet_tls(&plane.pki, &o)?;
    let client = Client::new(InProcess::new(plane.server.clone(), Identity::node(&o.name), "kubelet"));
    let proxy = Identity::system(KUBE_PROXY, &[]);
    let proxy = Client::new(InProcess::new(plane.server.clone(), proxy, "kube-proxy"));
    let mut node = RunningNode::start(o, client, proxy, tls, SystemClock::shared(), cancel).await?;
    node.connect().await?;
    node.ready().await?;
    Ok(node)
}
