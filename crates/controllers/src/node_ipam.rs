//! Every node has its own range of pod addresses, in each family of the cluster network.
//!
//! Invariant: no two nodes get the same range; ranges of nodes that are there are known before one is given.
//! upstream: `pkg/controller/nodeipam/ipam/range_allocator.go`

use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::events::{EventType, Recorder, reference};
use client::informer::Informer;
use client::{Client, Kind, Patch};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A network to give ranges from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    base: u128,
    prefix: u8,
    node_prefix: u8,
    v6: bool,
}

impl Network {
    /// From `10.244.0.0/16` and the prefix length of a node's range.
    ///
    /// # Errors
    /// The text is no network, or the node's range does not fit in it.
    pub fn parse(cidr: &str, mask_v4: u8, mask_v6: u8) -> Result<Self, String> {
        let (ip, prefix) =
            cidr.split_once('/').ok_or_else(|| format!("cluster CIDR {cidr:?} has no prefix length"))?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("cluster CIDR {cidr:?} is no network"))?;
        let prefix: u8 =
            prefix.parse().map_err(|_| format!("cluster CIDR {cidr:?} has a bad prefix length"))?;
        let (base, v6, bits) = match ip {
            IpAddr::V4(a) => (u128::from(a.to_bits()), false, 32),
            IpAddr::V6(a) => (a.to_bits(), true, 128),
        };
        let node_prefix = if v6 { mask_v6 } else { mask_v4 };
        if prefix > bits || node_prefix < prefix || node_prefix > bits {
            return Err(format!("node mask /{node_prefix} does not fit in the cluster CIDR {cidr}"));
        }
        let size = 1u128.checked_shl(u32::from(bits - prefix)).unwrap_or(0);
        let base = if size == 0 { 0 } else { base & !(size - 1) };
        Ok(Self { base, prefix, node_prefix, v6 })
    }

    /// Most ranges (upstream bounds the size of its bit map alike).
    fn count(&self) -> u128 {
        1u128 << (self.node_prefix - self.prefix).min(16)
    }

    fn range(&self, i: u128) -> String {
        let bits = if self.v6 { 128 } else { 32 };
        let at = self.base + (i << (bits - u32::from(self.node_prefix)));
        let ip = if self.v6 {
            IpAddr::V6(Ipv6Addr::from_bits(at))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(at as u32))
        };
        format!("{ip}/{}", self.node_prefix)
    }
}

struct Ipam {
    client: Client,
    nodes: Informer<Node>,
    networks: Vec<Network>,
    recorder: Recorder,
    /// Ranges given to nodes whose update has not been seen yet.
    given: Mutex<HashMap<String, Vec<String>>>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let nodes = setup.informers.of::<Node>();
    let client = setup.client("node-controller");
    let c = &setup.config;
    let parse = |cidr: &String| match Network::parse(cidr, c.node_mask_v4, c.node_mask_v6) {
        Ok(n) => Some(n),
        Err(e) => {
            tracing::error!("{e}");
            None
        }
    };
    let this = Ipam {
        recorder: setup.recorder(&client, "cidrAllocator"),
        client,
        nodes: nodes.clone(),
        networks: c.cluster_cidrs.iter().filter_map(parse).collect(),
        given: Mutex::default(),
    };
    // one worker: ranges are given one after the other
    Controller::new("node-ipam", Arc::new(this), setup.clock.clone())
        .watches(&nodes, |c, q| c.latest().into_iter().for_each(|n| q.add(ObjectKey::of(&**n))))
        .start(setup.cancel.clone())
}

fn ranges(node: &Node) -> Vec<String> {
    let spec = node.spec.clone().unwrap_or_default();
    spec.pod_cidrs
        .filter(|c| !c.is_empty())
        .unwrap_or_else(|| spec.pod_cidr.into_iter().filter(|c| !c.is_empty()).collect())
}

/// The first free range of each network; `None` when one is used up.
pub fn plan(networks: &[Network], used: &dyn Fn(&str) -> bool) -> Option<Vec<String>> {
    networks.iter().map(|n| (0..n.count()).map(|i| n.range(i)).find(|r| !used(r))).collect()
}

#[async_trait]
impl Reconcile for Ipam {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(node) = self.nodes.store().get("", &key.name) else {
            self.given.lock().remove(&key.name);
            return Ok(After::Done);
        };
        if !ranges(&node).is_empty() {
            self.given.lock().remove(&key.name);
            return Ok(After::Done);
        }
        if self.networks.is_empty() || node.is_deleting() {
            return Ok(After::Done);
        }
        let wanted = {
            let mut given = self.given.lock();
            let used: std::collections::HashSet<String> = self
                .nodes
                .store()
                .list()
                .iter()
                .flat_map(|n| ranges(n))
                .chain(given.iter().filter(|(n, _)| **n != key.name).flat_map(|(_, r)| r.clone()))
                .collect();
            let wanted =
                given.get(&key.name).cloned().or_else(|| plan(&self.networks, &|r| used.contains(r)));
            if let Some(w) = &wanted {
                given.insert(key.name.clone(), w.clone());
            }
            wanted
        };
        let Some(wanted) = wanted else {
            let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&reference(&*node), EventType::Normal, "CIDRNotAvailable", text);
            return Err("no range of pod addresses is free; use a larger cluster CIDR".into());
        };
        let patch = json!({"spec": {"podCIDR": wanted.first(), "podCIDRs": wanted}});
        match self.client.patch::<Node>("", &key.name, None, Patch::Strategic(patch)).await {
            Err(e) if e.is_not_found() => Ok(After::Done),
            other => other.map(|_| After::Done).map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_free_range_of_each_family() {
        let n = |c: &str| Network::parse(c, 24, 64).unwrap();
        let both = [n("10.244.7.0/16"), n("fd00:10::/48")];
        assert_eq!(plan(&both, &|_| false).unwrap(), ["10.244.0.0/24", "fd00:10::/64"]);
        let used = ["10.244.0.0/24", "10.244.1.0/24", "fd00:10::/64"];
        assert_eq!(plan(&both, &|r| used.contains(&r)).unwrap(), ["10.244.2.0/24", "fd00:10:0:1::/64"]);
        assert_eq!(plan(&[n("10.0.0.0/24")], &|r| r == "10.0.0.0/24"), None);
        assert!(Network::parse("10.0.0.0/25", 24, 64).is_err());
        assert!(Network::parse("10.0.0.0", 24, 64).is_err());
    }
}
