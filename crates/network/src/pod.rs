//! The pod network of a node: a routed pair of links per pod, no bridge.
//!
//! A pod has its addresses as /32 and /128, a default route through a made-up neighbour, and permanent neighbours on
//! both ends, so nothing is ever asked for or waited for on the wire. The node routes each pod address to its link
//! and other nodes' pod blocks to those nodes. A bridge in one subnet would let answers of a Service go from pod to
//! pod untranslated; routed, they cannot pass the node by.
//!
//! Invariant: links, routes, table and settings are found by name, group, protocol number and state file, so
//! [`PodNetwork::cleanup`] works after any crash.

use crate::cidr::{Cidr, octets};
use crate::error::{Error, Result};
use crate::links::{EEXIST, LOOPBACK, Links, Mac, Pair, Route};
use crate::nodelink::{mac_of, short_hash};
use crate::service::ServiceProxy;
use crate::spec::HostPort;
use crate::sysctl;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use sys::nft::expr::{self as e, REGISTER, Side};
use sys::nft::{Batch, ChainKind, Data, Family, Field, Hook, SetData, SetSpec, Socket, Verdict};
use tokio::sync::Mutex;

/// The link's name inside a pod.
pub const POD_LINK: &str = "eth0";
/// The pods' next hops; no machine has these addresses.
const GATEWAY_4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The hardware address of every pod link's outer end.
const HOST_MAC: Mac = [0xee; 6];
const TABLE: &str = "taffrail-pods";
/// Set of addresses that pods reach under their own address although they are outside of the pod network.
const NODES: &str = "nodes";
const POD_LINK_PREFIX: &str = "tp";

/// What a node's pod network is made of.
#[derive(Debug, Clone, Default)]
pub struct PodNetworkConfig {
    /// File that pins the node's network namespace; `None`: the program's own.
    pub netns: Option<PathBuf>,
    /// Where old kernel settings are kept (`sysctl.json`).
    pub state_dir: PathBuf,
    /// This node's pod blocks.
    pub pod_cidrs: Vec<Cidr>,
    /// All pods' blocks (`--cluster-cidr`): within them nothing is masqueraded.
    pub cluster_cidrs: Vec<Cidr>,
    /// This node's addresses, at most one per family: the source of its own packets to pods.
    pub node_ips: Vec<IpAddr>,
    /// Blocks besides the pods' whose packets leave under this node's address (other nodes behind it).
    pub masqueraded: Vec<Cidr>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// At most one per family.
    pub node_ips: Vec<IpAddr>,
    pub cidrs: Vec<Cidr>,
}

/// The pod network of one node.
pub struct PodNetwork {
    config: PodNetworkConfig,
    links: Links,
    proxy: Option<ServiceProxy>,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    /// Pod block to the node that has it, as routed.
    routes: BTreeMap<Cidr, IpAddr>,
    /// Addresses of other nodes, as in the set of the table.
    nodes: BTreeSet<IpAddr>,
}

impl PodNetwork {
    /// Prepares the node: loopback up, forwarding on, masquerading table in place. `proxy` serves the pods' host
    /// ports. Must be called within tokio.
    pub async fn new(config: PodNetworkConfig, proxy: Option<ServiceProxy>) -> Result<Self> {
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|e| Error::file(format!("make {}", config.state_dir.display()), &e))?;
        let links = Links::open(config.netns.as_deref())?;
        links.up(LOOPBACK).await?;
        sys::netns::run_in(config.netns.as_deref(), || -> Result<()> {
            sysctl::enable_forwarding(&state_file(&config.state_dir))?;
            Ok(table(&config).commit(&Socket::open()?)?)
        })??;
        let routes = links.our_gateway_routes().await?.into_iter().collect();
        tracing::info!(target: "network", pod_cidrs = ?config.pod_cidrs, "pod network is up");
        let peers = Mutex::new(Peers { routes, nodes: BTreeSet::new() });
        Ok(Self { config, links, proxy, peers })
    }

    /// Connects a pod: makes its namespace if `netns_pin` is none yet, and its links, addresses and routes. Idempotent;
    /// after an error it can be called again or undone by [`PodNetwork::teardown`].
    pub async fn setup(
        &self,
        pod_uid: &str,
        netns_pin: &Path,
        ips: &[IpAddr],
        host_ports: &[HostPort],
    ) -> Result<()> {
        if !host_ports.is_empty() && self.proxy.is_none() {
            return Err(Error::check("the pod asks for host ports, but no service proxy runs on this node"));
        }
        if !sys::netns::is_pinned(netns_pin) {
            sys::netns::create(netns_pin)?;
        }
        let name = link_name(pod_uid);
        let inner = Links::open(Some(netns_pin))?;
        if inner.index(POD_LINK).await?.is_none() {
            self.connect(&name, pod_uid, netns_pin).await?;
        }
        let (outer_index, index) = (self.links.need(&name).await?, inner.need(POD_LINK).await?);
        inner.up(LOOPBACK).await?;
        inner.up(index).await?;
        let inside = async {
            for ip in ips {
                inner.add_address(index, Cidr::host(*ip)).await?;
                let (gateway, everything) =
                    if ip.is_ipv4() { (GATEWAY_4, "0.0.0.0/0") } else { (GATEWAY_6, "::/0") };
                inner.set_neighbour(index, gateway, HOST_MAC).await?;
                let to = everything.parse()?;
                let out = Route { to, via: Some(gateway), link: Some(index), onlink: true, source: None };
                inner.set_route(out).await?;
            }
            Result::Ok(())
        };
        let outside = async {
            for ip in ips {
                self.links.set_neighbour(outer_index, *ip, mac_of(pod_uid.as_bytes())).await?;
                let source = self.config.node_ips.iter().copied().find(|n| n.is_ipv4() == ip.is_ipv4());
                let (to, link) = (Cidr::host(*ip), Some(outer_index));
                self.links.set_route(Route { to, via: None, link, onlink: false, source }).await?;
            }
            Result::Ok(())
        };
        tokio::try_join!(inside, outside)?;
        if let Some(proxy) = &self.proxy {
            proxy.set_host_ports(pod_uid, ips, host_ports);
        }
        tracing::info!(target: "network", pod_uid, ?ips, "pod connected");
        Ok(())
    }

    async fn connect(&self, name: &str, pod_uid: &str, netns_pin: &Path) -> Result<()> {
        sys::netns::run_in(Some(netns_pin), || -> Result<()> {
            if sysctl::exists("ipv6/conf/default/accept_dad") {
                sysctl::write("ipv6/conf/default/accept_dad", "0")?;
                sysctl::write("ipv6/conf/default/accept_ra", "0")?;
            }
            Ok(())
        })??;
        let netns = sys::netns::open(netns_pin)?;
        let pair = Pair {
            name,
            mac: Some(HOST_MAC),
            peer_name: POD_LINK,
            peer_mac: Some(mac_of(pod_uid.as_bytes())),
            peer_netns: &netns,
            bridge: None,
        };
        match self.links.add_pair(&pair).await {
            // Left by a pod sandbox of the same pod that is gone.
            Err(Error::Netlink { errno: EEXIST, .. }) => {
                self.links.delete(name).await?;
                self.links.add_pair(&pair).await
            }
            other => other,
        }
    }

    /// Disconnects a pod; its namespace is the caller's to delete. An unknown pod is success.
    pub async fn teardown(&self, pod_uid: &str) -> Result<()> {
        if let Some(proxy) = &self.proxy {
            proxy.remove_host_ports(pod_uid);
        }
        tracing::info!(target: "network", pod_uid, "pod disconnected");
        self.links.delete(&link_name(pod_uid)).await
    }

    /// Removes the links of pods that are not in `known` (uids): what a crash left over. Returns how many.
    pub async fn retain(&self, known: &BTreeSet<String>) -> Result<usize> {
        let wanted: BTreeSet<String> = known.iter().map(|uid| link_name(uid)).collect();
        let ours = self.links.our_links().await?;
        let stale: Vec<_> =
            ours.iter().filter(|l| l.starts_with(POD_LINK_PREFIX) && !wanted.contains(*l)).collect();
        for link in &stale {
            self.links.delete(link).await?;
        }
        Ok(stale.len())
    }

    /// Says which other nodes there are: routes to their pods, replacing the ones set before. All are tried; the first
    /// error is returned, and a later call with the same peers tries again.
    pub async fn set_peers(&self, peers: &[Peer]) -> Result<()> {
        let mut current = self.peers.lock().await;
        let mut wanted = BTreeMap::new();
        for peer in peers {
            for cidr in &peer.cidrs {
                if let Some(ip) = peer.node_ips.iter().find(|ip| ip.is_ipv4() == cidr.is_ipv4()) {
                    wanted.insert(cidr.network(), *ip);
                }
            }
        }
        let mut outcome = Ok(());
        let stale: Vec<Cidr> = current.routes.keys().filter(|c| !wanted.contains_key(*c)).copied().collect();
        for cidr in stale {
            match self.links.delete_route(cidr).await {
                Ok(()) => drop(current.routes.remove(&cidr)),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        for (to, via) in wanted {
            if current.routes.get(&to) == Some(&via) {
                continue;
            }
            let source = self.config.node_ips.iter().copied().find(|n| n.is_ipv4() == via.is_ipv4());
            let route = Route { to, via: Some(via), link: None, onlink: false, source };
            match self.links.set_route(route).await {
                Ok(()) => drop(current.routes.insert(to, via)),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        let nodes: BTreeSet<IpAddr> = peers.iter().flat_map(|p| p.node_ips.iter().copied()).collect();
        if nodes != current.nodes {
            match self.set_nodes(&nodes) {
                Ok(()) => current.nodes = nodes,
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    /// Nodes are reached by pods without masquerading, as pods are.
    fn set_nodes(&self, nodes: &BTreeSet<IpAddr>) -> Result<()> {
        let mut config = self.config.clone();
        config.node_ips.extend(nodes);
        let commit = || -> Result<()> { Ok(table(&config).commit(&Socket::open()?)?) };
        sys::netns::run_in(self.config.netns.as_deref(), commit)?
    }

    /// Removes everything of ours from the node's namespace and puts the kernel settings back. The service proxy must
    /// be idle or dropped: a change after this would make its table anew.
    pub async fn cleanup(&self) -> Result<()> {
        Self::cleanup_node(self.config.netns.as_deref(), &self.config.state_dir).await
    }

    /// As [`PodNetwork::cleanup`], for `reset` with no cluster running: links (pods', node links', service link),
    /// routes, both tables, settings. Must be called within tokio.
    pub async fn cleanup_node(netns: Option<&Path>, state_dir: &Path) -> Result<()> {
        let links = Links::open(netns)?;
        for link in links.our_links().await? {
            links.delete(&link).await?;
        }
        links.delete_our_routes().await?;
        sys::netns::run_in(netns, || -> Result<()> {
            let mut batch = Batch::new();
            for family in Family::BOTH {
                for table in [TABLE, crate::service::TABLE] {
                    batch.add_table(family, table);
                    batch.delete_table(family, table);
                }
            }
            batch.commit(&Socket::open()?)?;
            sysctl::restore(&state_file(state_dir))
        })?
    }
}

impl std::fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodNetwork").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The name of a pod's link on the node.
pub fn link_name(pod_uid: &str) -> String {
    format!("{POD_LINK_PREFIX}{}", short_hash(pod_uid.as_bytes()))
}

fn state_file(state_dir: &Path) -> PathBuf {
    state_dir.join("sysctl.json")
}

fn table(config: &PodNetworkConfig) -> Batch {
    let mut batch = Batch::new();
    for family in Family::BOTH {
        replace_table(&mut batch, family, config);
    }
    batch
}

/// Pods of this node that leave the cluster do so under the node's address.
fn replace_table(batch: &mut Batch, family: Family, config: &PodNetworkConfig) {
    const CHAIN: &str = "postrouting";
    batch.add_table(family, TABLE);
    batch.delete_table(family, TABLE);
    batch.add_table(family, TABLE);
    let spec =
        SetSpec { name: NODES, key: &[Field::address(family)], data: SetData::None, dynamic_size: None };
    batch.add_set(family, TABLE, &spec);
    let nodes = config.node_ips.iter().filter(|ip| Family::of(**ip) == family);
    batch.add_elements(family, TABLE, NODES, nodes.map(|ip| (octets(*ip), Data::None)));
    batch.add_base_chain(family, TABLE, CHAIN, ChainKind::Nat, Hook::Postrouting, 100);
    let of_family = |cidrs: &[Cidr]| -> Vec<Cidr> {
        cidrs.iter().filter(|c| Family::of(c.address) == family).map(Cidr::network).collect()
    };
    for cidr in of_family(&config.cluster_cidrs) {
        let mut rule = in_block(family, Side::Destination, &cidr);
        rule.push(e::verdict(Verdict::Return));
        batch.add_rule(family, TABLE, CHAIN, rule);
    }
    let to_node = vec![
        e::load_address(family, Side::Destination, REGISTER),
        e::lookup(NODES, REGISTER),
        e::verdict(Verdict::Return),
    ];
    batch.add_rule(family, TABLE, CHAIN, to_node);
    for cidr in of_family(&config.pod_cidrs).into_iter().chain(of_family(&config.masqueraded)) {
        let mut rule = in_block(family, Side::Source, &cidr);
        rule.push(e::masquerade());
        batch.add_rule(family, TABLE, CHAIN, rule);
    }
}

/// Goes on only when the packet's address is in the block.
pub(crate) fn in_block(family: Family, side: Side, block: &Cidr) -> Vec<e::Expr> {
    let mask = block.mask_bytes();
    let zero = vec![0; mask.len()];
    vec![
        e::load_address(family, side, REGISTER),
        e::mask(REGISTER, &mask, &zero),
        e::equal(REGISTER, &octets(block.network().address)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        let a = link_name("7b1e7c6e-2a52-4f6c-9a4e-1f6a2f1f3a01");
        let b = link_name("7b1e7c6e-2a52-4f6c-9a4e-1f6a2f1f3a02");
        assert_ne!(a, b);
        assert_eq!(a.len(), 15);
        assert_eq!(a, link_name("7b1e7c6e-2a52-4f6c-9a4e-1f6a2f1f3a01"));
    }
}
