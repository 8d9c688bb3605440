//! The canonical form of an Endpoints object's subsets: each set of addresses once, with all its ports.
//!
//! upstream: `pkg/api/v1/endpoints/util.go`. The order of subsets and ports, upstream's by an internal hash, is by
//! their content here.

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};
use std::collections::BTreeMap;

/// IP and uid of what answers: the same address may be two things' (upstream: `addressKey`).
type Key = (String, Option<String>);
/// Whether the address is ready; one that is also said not to be is not.
type Addresses = BTreeMap<Key, bool>;

/// Brings subsets into the canonical form (upstream: `RepackSubsets`).
pub(crate) fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut known: BTreeMap<Key, EndpointAddress> = BTreeMap::new();
    // by the port's text, absent for subsets without ports
    let mut by_port: BTreeMap<String, (Option<EndpointPort>, Addresses)> = BTreeMap::new();
    for subset in subsets {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let ports: Vec<Option<&EndpointPort>> =
            if ports.is_empty() { vec![None] } else { ports.iter().map(Some).collect() };
        for port in ports {
            let text = port.map(|p| serde_json::to_string(p).unwrap_or_default()).unwrap_or_default();
            let (_, addresses) = by_port.entry(text).or_insert_with(|| (port.cloned(), Addresses::new()));
            for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
                for address in list.iter().flatten() {
                    let key = key(address);
                    known.entry(key.clone()).or_insert_with(|| address.clone());
                    let known_ready = addresses.entry(key).or_insert(ready);
                    *known_ready &= ready;
                }
            }
        }
    }
    let mut by_addresses: BTreeMap<Addresses, Vec<EndpointPort>> = BTreeMap::new();
    for (port, addresses) in by_port.into_values() {
        by_addresses.entry(addresses).or_default().extend(port);
    }
    let some = |list: Vec<EndpointAddress>| Some(list).filter(|l| !l.is_empty());
    let subsets = by_addresses.into_iter().map(|(addresses, ports)| {
        let of = |ready: bool| {
            let keys = addresses.iter().filter(|(_, r)| **r == ready).map(|(k, _)| k);
            keys.filter_map(|k| known.get(k).cloned()).collect()
        };
        EndpointSubset {
            addresses: some(of(true)),
            not_ready_addresses: some(of(false)),
            ports: Some(ports).filter(|p| !p.is_empty()),
        }
    });
    subsets.collect()
}

fn key(address: &EndpointAddress) -> Key {
    (address.ip.clone(), address.target_ref.as_ref().map(|t| t.uid.clone().unwrap_or_default()))
}
