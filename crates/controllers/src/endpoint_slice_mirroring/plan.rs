//! Which slices mirror an Endpoints object, decided without I/O.
//!
//! upstream: `pkg/controller/endpointslicemirroring/reconciler.go`

use super::MANAGER;
use crate::endpoint_slice::plan::{TRIGGER, identity};
use crate::endpoint_slice::{MANAGED_BY_LABEL, SERVICE_LABEL, ports};
use crate::endpoints::subsets::repack;
use client::Kind;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Addresses of one subset that are mirrored (upstream: `--mirroring-max-endpoints-per-subset`).
pub const MAX_PER_SUBSET: usize = 1000;
/// Longest name of a generated slice's prefix: a DNS subdomain with room for the random part.
const PREFIX_MAX: usize = 248;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<EndpointSlice>,
    /// Addresses that are no IPs.
    pub invalid: usize,
    /// Addresses left out for that or because there are too many.
    pub skipped: usize,
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    wanted: BTreeMap<String, Endpoint>,
    slices: Vec<EndpointSlice>,
    family: &'static str,
}

/// Decides (upstream: `reconcile`). `slices` are those that this controller manages for the Service.
pub fn plan(endpoints: &Endpoints, slices: Vec<EndpointSlice>) -> Plan {
    let mut out = Plan::default();
    let mut groups: BTreeMap<(&'static str, Vec<String>), Group> = BTreeMap::new();
    for subset in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let of_subset: Vec<EndpointPort> = subset.ports.iter().flatten().map(|p| port(p.clone())).collect();
        let (mut added, mut total) = (0, 0);
        for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
            for address in list.iter().flatten() {
                total += 1;
                if added >= MAX_PER_SUBSET {
                    continue;
                }
                let Some((family, endpoint)) = endpoint(address, ready) else {
                    out.invalid += 1;
                    continue;
                };
                let group = groups.entry((family, ports::key(&of_subset))).or_default();
                group.family = family;
                group.ports.clone_from(&of_subset);
                group.wanted.insert(identity(&endpoint), endpoint);
                added += 1;
            }
        }
        out.skipped += total - added;
    }
    for slice in slices {
        let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
        let key = (family, ports::key(slice.ports.as_deref().unwrap_or_default()));
        match groups.get_mut(&key) {
            Some(group) => group.slices.push(slice),
            None => out.delete.push(slice),
        }
    }
    for group in groups.into_values() {
        plan_group(endpoints, group, &mut out);
    }
    recycle(&mut out);
    if endpoints.is_deleting() {
        out.create.clear();
    }
    out
}

/// One slice for a set of ports and a family (upstream: `reconcileByPortMapping`).
fn plan_group(endpoints: &Endpoints, group: Group, out: &mut Plan) {
    let mut slices = group.slices.into_iter();
    let first = slices.next();
    out.delete.extend(slices);
    let mut new = slice_of(endpoints, group.family, group.ports);
    new.endpoints = Some(group.wanted.into_values().take(MAX_PER_SUBSET).collect());
    let Some(old) = first else {
        out.create.push(new);
        return;
    };
    if !says(&old, &new, endpoints) {
        new.metadata.generate_name = None;
        new.metadata.name = old.metadata.name;
        out.update.push(new);
    }
}

/// Whether a slice says what it is to say already.
fn says(old: &EndpointSlice, new: &EndpointSlice, endpoints: &Endpoints) -> bool {
    fn set(slice: &EndpointSlice) -> BTreeMap<String, Endpoint> {
        slice.endpoints.iter().flatten().map(|e| (identity(e), e.clone())).collect()
    }
    let (before, after) = (set(old), set(new));
    let labels = |s: &EndpointSlice| s.metadata.labels.clone().unwrap_or_default();
    let annotations = |s: &EndpointSlice| s.metadata.annotations.clone().unwrap_or_default();
    let same_endpoint = |(key, e): (&String, &Endpoint)| {
        after.get(key).is_some_and(|n| {
            let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready);
            n.node_name == e.node_name && n.zone == e.zone && ready(n) == ready(e)
        })
    };
    before.len() == after.len()
        && before.iter().all(same_endpoint)
        && labels(old) == labels(new)
        && annotations(old) == annotations(new)
        && old.metadata.owner_references.iter().flatten().any(|o| o.uid == endpoints.uid())
}

/// Slices to be deleted take the content of those to be created (upstream: `recycleSlices`).
fn recycle(plan: &mut Plan) {
    let mut create = Vec::new();
    for mut new in std::mem::take(&mut plan.create) {
        let at = plan.delete.iter().position(|old| old.address_type == new.address_type);
        match at {
            Some(i) => {
                new.metadata.generate_name = None;
                new.metadata.name = plan.delete.remove(i).metadata.name;
                plan.update.push(new);
            }
            None => create.push(new),
        }
    }
    plan.create = create;
}

fn slice_of(endpoints: &Endpoints, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|k, _| k != TRIGGER && k != LAST_APPLIED);
    let name = endpoints.name();
    let prefix = if name.len() < PREFIX_MAX { format!("{name}-") } else { name.to_owned() };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![endpoints.controller_ref()]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: None,
        ports: Some(ports),
    }
}

fn port(p: k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(p.name.unwrap_or_default()),
        port: Some(p.port),
        protocol: Some(p.protocol.unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: p.app_protocol,
    }
}

/// An address as an endpoint, with its family; `None` for one that is no IP.
fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}
