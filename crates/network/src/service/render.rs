//! From a Service and its endpoints to the entries it wants. Pure.

use super::model::{Back, EntryKey, EntryValue, Fragment, Front, LOCAL_SLOTS, Masquerade, Shape, Target};
use crate::cidr::Cidr;
use crate::spec::{Endpoint, HostPort, Policy, ServicePort, ServiceSpec, SliceSpec};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use sys::nft::Family;

/// Most endpoints of one Service port that are used; further ones get no traffic.
pub const ENDPOINTS_MAX: usize = 16_384;

/// What of the node's configuration matters here.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub node_name: String,
    /// This node's pod blocks.
    pub pod_cidrs: Vec<Cidr>,
    /// Addresses bound on this node itself: they get no entries.
    pub local_service_ips: BTreeSet<IpAddr>,
    /// Whether `spec.externalIPs` are served.
    pub allow_external_ips: bool,
}

/// The entries of a Service.
pub fn service<'a>(
    service: &ServiceSpec,
    slices: impl Iterator<Item = &'a SliceSpec> + Clone,
    rules: &Rules,
) -> Fragment {
    let mut out = Fragment::new();
    for ip in service.cluster_ips.iter().filter(|ip| !rules.local_service_ips.contains(ip)) {
        out.insert(EntryKey::ClusterIp(*ip), EntryValue::Present);
    }
    for port in &service.ports {
        for family in Family::BOTH {
            port_entries(&mut out, service, port, family, slices.clone(), rules);
        }
    }
    out
}

/// The entries of a pod's host ports.
pub fn host_ports(ips: &[IpAddr], ports: &[HostPort]) -> Fragment {
    let mut out = Fragment::new();
    for port in ports {
        for ip in ips {
            if port.host_ip.is_some_and(|h| h.is_ipv4() != ip.is_ipv4()) {
                continue;
            }
            let address = port.host_ip.unwrap_or_else(|| unspecified(Family::of(*ip)));
            let front = Front { address, protocol: port.protocol.number(), port: port.host_port };
            let shape = Shape {
                family: Family::of(*ip),
                any_address: front.any_address(),
                masquerade: Masquerade::Never,
                affinity_seconds: None,
                local: false,
                slots: 1,
                in_cluster_slots: None,
            };
            put_chain(&mut out, front, shape);
            let back = Back { address: *ip, port: port.container_port };
            out.insert(EntryKey::Slot(front, 0), EntryValue::Back(back));
            out.insert(EntryKey::Hairpin(*ip), EntryValue::Present);
        }
    }
    out
}

/// A Service port's usable endpoints.
struct Usable {
    cluster: BTreeSet<Back>,
    local: BTreeSet<Back>,
}

fn port_entries<'a>(
    out: &mut Fragment,
    service: &ServiceSpec,
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a SliceSpec>,
    rules: &Rules,
) {
    let usable = usable(port, family, slices, rules);
    let mut fronts: Vec<(IpAddr, Policy, bool)> = vec![];
    let of_family = |ip: &&IpAddr| Family::of(**ip) == family && !rules.local_service_ips.contains(ip);
    for ip in service.cluster_ips.iter().filter(of_family) {
        fronts.push((*ip, service.internal_policy, false));
    }
    let external_ips = service.external_ips.iter().filter(|_| rules.allow_external_ips);
    for ip in external_ips.chain(&service.load_balancer_ips).filter(of_family) {
        fronts.push((*ip, service.external_policy, true));
    }
    let mut entries = vec![];
    for (ip, policy, external) in fronts {
        entries.push((
            Front { address: ip, protocol: port.protocol.number(), port: port.port },
            policy,
            external,
        ));
    }
    // A node port is served in the families that the Service has.
    if port.node_port != 0 && service.cluster_ips.iter().any(|ip| Family::of(*ip) == family) {
        let address = unspecified(family);
        let front = Front { address, protocol: port.protocol.number(), port: port.node_port };
        entries.push((front, service.external_policy, true));
    }
    let reached = !entries.is_empty();
    for (front, policy, external) in entries {
        front_entries(out, service, front, policy, external, &usable);
    }
    if reached {
        for back in usable.cluster.iter().chain(&usable.local) {
            if rules.pod_cidrs.iter().any(|c| c.contains(back.address)) {
                out.insert(EntryKey::Hairpin(back.address), EntryValue::Present);
            }
        }
    }
}

fn front_entries(
    out: &mut Fragment,
    service: &ServiceSpec,
    front: Front,
    policy: Policy,
    external: bool,
    usable: &Usable,
) {
    let local = policy == Policy::Local;
    let slots = if local { &usable.local } else { &usable.cluster };
    if usable.cluster.is_empty() && usable.local.is_empty() {
        out.insert(EntryKey::Front(front), EntryValue::Target(Target::Reject));
        return;
    }
    // Within the cluster an external address means all endpoints, whatever its policy.
    let in_cluster = (local && external && !usable.cluster.is_empty()).then_some(&usable.cluster);
    if slots.is_empty() && in_cluster.is_none() {
        out.insert(EntryKey::Front(front), EntryValue::Target(Target::Drop));
        return;
    }
    let masquerade = match (external, local) {
        (false, _) => Masquerade::OffCluster,
        (true, false) => Masquerade::Always,
        (true, true) => Masquerade::Never,
    };
    let shape = Shape {
        family: front.family(),
        any_address: front.any_address(),
        masquerade,
        affinity_seconds: service.affinity_seconds,
        local,
        slots: slots.len() as u32,
        in_cluster_slots: in_cluster.map(|s| s.len() as u32),
    };
    put_chain(out, front, shape);
    let first = if local { LOCAL_SLOTS } else { 0 };
    let numbered = |first: u32, set: &BTreeSet<Back>| -> Vec<(u32, Back)> {
        set.iter().enumerate().map(|(i, b)| (first + i as u32, *b)).collect()
    };
    let mut all = numbered(first, slots);
    all.extend(in_cluster.map(|s| numbered(0, s)).unwrap_or_default());
    for (slot, back) in all {
        out.insert(EntryKey::Slot(front, slot), EntryValue::Back(back));
        if service.affinity_seconds.is_some() {
            out.insert(EntryKey::Member(front, back), EntryValue::Present);
        }
    }
}

fn put_chain(out: &mut Fragment, front: Front, shape: Shape) {
    out.insert(EntryKey::Chain(shape), EntryValue::Present);
    if let Some(other) = shape.in_cluster() {
        out.insert(EntryKey::Chain(other), EntryValue::Present);
    }
    out.insert(EntryKey::Front(front), EntryValue::Target(Target::Chain(shape)));
}

/// Ready endpoints, or with none of them those that still serve while they terminate; for all and for this node
/// independently.
/// upstream: pkg/proxy/topology.go#CategorizeEndpoints
fn usable<'a>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a SliceSpec>,
    rules: &Rules,
) -> Usable {
    let mut ready = BTreeSet::new();
    let mut fallback = BTreeSet::new();
    for slice in slices {
        let named = |p: &&crate::spec::EndpointPort| p.name == port.name && p.protocol == port.protocol;
        for target in slice.ports.iter().filter(named) {
            for endpoint in &slice.endpoints {
                // An endpoint's addresses are alternatives; as upstream, only the first is used.
                let Some(address) = endpoint.addresses.first().filter(|a| Family::of(**a) == family) else {
                    continue;
                };
                let entry = (Back { address: *address, port: target.port }, is_local(endpoint, rules));
                if endpoint.ready {
                    ready.insert(entry);
                } else if endpoint.serving && endpoint.terminating {
                    fallback.insert(entry);
                }
            }
        }
    }
    let choose = |wanted: fn(bool) -> bool| -> BTreeSet<Back> {
        let pick = |set: &BTreeSet<(Back, bool)>| -> BTreeSet<Back> {
            set.iter().filter(|(_, local)| wanted(*local)).map(|(b, _)| *b).take(ENDPOINTS_MAX).collect()
        };
        let first = pick(&ready);
        if first.is_empty() { pick(&fallback) } else { first }
    };
    Usable { cluster: choose(|_| true), local: choose(|local| local) }
}

fn is_local(endpoint: &Endpoint, rules: &Rules) -> bool {
    endpoint.node_name.as_deref() == Some(rules.node_name.as_str())
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::Ip4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ip6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
