//! The network between the nodes of one machine: a bridge that holds the first node's addresses, and a cable from it
//! into the namespace of each further node.
//!
//! It is also where a node gets an address when the machine itself has none. Invariant: only the bridge and the
//! cables' ends carry our link group; deleting the bridge's namespace or the bridge leaves the other nodes unplugged,
//! never half configured.

use crate::cidr::Cidr;
use crate::error::{Error, Result};
use crate::links::{EEXIST, LOOPBACK, Links, Mac, Pair, Route};
use base::hash::fnv1a;
use std::net::IpAddr;
use std::path::Path;

/// The bridge of one namespace.
#[derive(Debug, Clone)]
pub struct NodeLink {
    links: Links,
    name: String,
    index: u32,
}

impl NodeLink {
    /// Makes the bridge `name` (upstream has none; ours is `taffrail0`) with the addresses, or finds it and adds what
    /// is missing. `netns` is where it lives (`None`: the caller's namespace). Must be called within tokio.
    pub async fn ensure(netns: Option<&Path>, name: &str, addresses: &[Cidr]) -> Result<Self> {
        let links = Links::open(netns)?;
        links.up(LOOPBACK).await?;
        let index = links.ensure_bridge(name, mac_of(name.as_bytes())).await?;
        for address in addresses {
            links.add_address(index, *address).await?;
        }
        Ok(Self { links, name: name.into(), index })
    }

    /// Lays a cable from the bridge into the namespace that `netns_pin` names. Its inner end is called `name`, has the
    /// addresses, and is the way to everything through `gateways` (at most one per family). Idempotent.
    pub async fn attach(
        &self,
        netns_pin: &Path,
        name: &str,
        addresses: &[Cidr],
        gateways: &[IpAddr],
    ) -> Result<()> {
        let netns = sys::netns::open(netns_pin)?;
        let inner = Links::open(Some(netns_pin))?;
        let outer_name = outer_name(netns_pin);
        let inner_mac = mac_of(outer_name.as_bytes());
        if inner.index(name).await?.is_none() {
            let pair = Pair {
                name: &outer_name,
                mac: None,
                peer_name: name,
                peer_mac: Some(inner_mac),
                peer_netns: &netns,
                bridge: Some(self.index),
            };
            match self.links.add_pair(&pair).await {
                Err(Error::Netlink { errno: EEXIST, .. }) => {
                    self.links.delete(&outer_name).await?;
                    self.links.add_pair(&pair).await?;
                }
                other => other?,
            }
            inner.no_address_tests(name)?;
        }
        inner.up(LOOPBACK).await?;
        let index = inner.need(name).await?;
        inner.up(index).await?;
        for address in addresses {
            inner.add_address(index, *address).await?;
            // Known beforehand: a link that has just come up cannot ask for its neighbours yet.
            self.links.set_neighbour(self.index, address.address, inner_mac).await?;
        }
        for gateway in gateways {
            inner.set_neighbour(index, *gateway, mac_of(self.name.as_bytes())).await?;
            let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let to = everything.parse()?;
            let route = Route { to, via: Some(*gateway), link: Some(index), onlink: true, source: None };
            inner.set_route(route).await?;
        }
        Ok(())
    }

    /// Unplugs a node's namespace.
    pub async fn detach(&self, netns_pin: &Path) -> Result<()> {
        self.links.delete(&outer_name(netns_pin)).await
    }

    /// Removes the bridge. The cables' ends go with the namespaces they lead to.
    pub async fn remove(&self) -> Result<()> {
        self.links.delete(&self.name).await
    }
}

fn outer_name(netns_pin: &Path) -> String {
    format!("tn{}", short_hash(netns_pin.as_os_str().as_encoded_bytes()))
}

/// 13 hexadecimal digits for a name: with two letters before them as long as a link's name may be.
pub(crate) fn short_hash(bytes: &[u8]) -> String {
    format!("{:016x}", fnv1a(bytes)).chars().take(13).collect()
}

/// A hardware address for a name: locally administered, unicast, the same at every start.
pub(crate) fn mac_of(name: &[u8]) -> Mac {
    let h = fnv1a(name).to_be_bytes();
    [0x02, h[3], h[4], h[5], h[6], h[7]]
}
