//! The pod's sandbox: network, files under /etc, shim and cgroup.

use super::references::pod_reference;
use super::{resources, settings, spec};
use crate::context::NodeContext;
use crate::ports::{HostPort, PodNetRequest};
use crate::runtime::SandboxSpec;
use k8s_openapi::api::core::v1::Pod;
use network::resolv::{self, DnsPolicy, HostAlias, NodeDns, PodDnsConfig, ResolvConf};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why a sandbox does not stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The node's network is not up yet.
    #[error("network is not ready: {0}")]
    NetworkNotReady(String),
    #[error("{0}")]
    Other(String),
}

/// Sets up network and shim; harmless when they are there. Returns the pod's own addresses, none on the node's
/// network.
///
/// # Errors
/// What failed, for the event.
pub async fn start(ctx: &NodeContext, pod: &Pod, existing: Vec<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
    let uid = spec::uid(pod);
    let (mut ips, mut netns) = (Vec::new(), None);
    if !spec::host_network(pod) {
        if let Some(why) = ctx.net.not_ready() {
            return Err(Failure::NetworkNotReady(why));
        }
        let request = PodNetRequest {
            uid: uid.to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            name: spec::name(pod).to_owned(),
            host_ports: host_ports(pod),
            existing,
        };
        let network = ctx
            .net
            .setup(&request)
            .await
            .map_err(|e| Failure::Other(format!("failed to set up pod network: {e}")))?;
        ips = network.ips;
        netns = Some(network.netns);
    }
    write_etc(ctx, pod, &ips).await.map_err(Failure::Other)?;
    let started = ctx.runtime.start_sandbox(&sandbox_spec(ctx, pod, netns)).await;
    started.map_err(|e| Failure::Other(e.to_string()))?;
    Ok(ips)
}

/// Ends all processes of the pod and gives its network back.
///
/// # Errors
/// What could not be removed; to be tried again.
pub async fn stop(ctx: &NodeContext, pod: &Pod) -> Result<(), String> {
    let uid = spec::uid(pod);
    ctx.runtime.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    if spec::host_network(pod) { Ok(()) } else { ctx.net.teardown(uid).await }
}

fn sandbox_spec(ctx: &NodeContext, pod: &Pod, netns: Option<PathBuf>) -> SandboxSpec {
    let s = spec::spec(pod);
    let sysctls = s.security_context.as_ref().and_then(|c| c.sysctls.as_deref()).unwrap_or_default();
    SandboxSpec {
        pod_uid: spec::uid(pod).to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
        hostname: settings::host_name(ctx, pod),
        netns,
        host_pid: s.host_pid.unwrap_or(false),
        host_ipc: s.host_ipc.unwrap_or(false),
        share_pid: s.share_process_namespace.unwrap_or(false),
        cgroup: resources::cgroup(&ctx.config.cgroup_root, pod),
        resources: resources::pod_cgroup(pod, ctx.config.pod_pids_limit),
        sysctls: sysctls.iter().map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let all =
        spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).chain(&spec::spec(pod).containers);
    all.flat_map(|c| c.ports.as_deref().unwrap_or_default())
        .filter_map(|p| {
            Some(HostPort {
                host_ip: p.host_ip.as_deref().and_then(|i| i.parse().ok()),
                host_port: u16::try_from(p.host_port?).ok().filter(|n| *n > 0)?,
                container_port: u16::try_from(p.container_port).ok()?,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}

async fn write_etc(ctx: &NodeContext, pod: &Pod, ips: &[IpAddr]) -> Result<(), String> {
    let dir = ctx.config.pod_dir(spec::uid(pod)).join("etc");
    let files = [
        ("hosts", hosts(ctx, pod, ips).await),
        ("resolv.conf", resolver(ctx, pod).await.content()),
        ("hostname", format!("{}\n", settings::host_name(ctx, pod))),
    ];
    tokio::fs::create_dir_all(&dir).await.map_err(|e| format!("make {}: {e}", dir.display()))?;
    for (name, text) in files {
        // Written in place: containers that run have the file mounted.
        let path = dir.join(name);
        tokio::fs::write(&path, text).await.map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    Ok(())
}

async fn hosts(ctx: &NodeContext, pod: &Pod, ips: &[IpAddr]) -> String {
    let aliases = spec::spec(pod).host_aliases.iter().flatten();
    let aliases: Vec<HostAlias> = aliases
        .map(|a| HostAlias { ip: a.ip.clone(), hostnames: a.hostnames.clone().unwrap_or_default() })
        .collect();
    if spec::host_network(pod) {
        return resolv::host_network_hosts(&read(Path::new("/etc/hosts")).await, &aliases);
    }
    let (host, domain) = spec::host_name_and_domain(pod, &ctx.config.cluster_domain);
    resolv::hosts(ips, &host, &domain, &aliases)
}

async fn resolver(ctx: &NodeContext, pod: &Pod) -> ResolvConf {
    let node = NodeDns {
        cluster_dns: ctx.config.cluster_dns.clone(),
        cluster_domain: ctx.config.cluster_domain.clone(),
        host: Some(resolv::parse(&read(&ctx.config.resolv_conf).await)),
        node_ips: ctx.config.node_ips.clone(),
    };
    let s = spec::spec(pod);
    let config = s.dns_config.as_ref().map(|c| PodDnsConfig {
        nameservers: c.nameservers.clone().unwrap_or_default(),
        searches: c.searches.clone().unwrap_or_default(),
        options: c
            .options
            .iter()
            .flatten()
            .map(|o| (o.name.clone().unwrap_or_default(), o.value.clone()))
            .collect(),
    });
    let policy = DnsPolicy::parse(s.dns_policy.as_deref().unwrap_or_default());
    let (conf, warnings) = resolv::pod_dns(
        &node,
        spec::namespace(pod),
        &spec::display(pod),
        policy,
        spec::host_network(pod),
        config.as_ref(),
    );
    for w in warnings {
        ctx.api.event(&pod_reference(pod), true, w.reason, &w.message);
    }
    conf
}

/// A file of the node; one that is not there is empty.
async fn read(path: &Path) -> String {
    tokio::fs::read_to_string(path).await.unwrap_or_default()
}
