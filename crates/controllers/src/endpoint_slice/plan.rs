//! Which slices to create, update and delete, decided without I/O.

use super::{MANAGED_BY_LABEL, MANAGER, SERVICE_LABEL, ports};
use crate::common::pods;
use client::Kind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Most endpoints in a slice (upstream: `--max-endpoints-per-slice`).
const MAX_ENDPOINTS: usize = 100;
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
pub(crate) const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What the decision depends on.
pub struct World<'a> {
    pub service: &'a Service,
    /// The pods that the Service selects.
    pub pods: &'a [Arc<Pod>],
    /// The slices of this Service that this controller manages.
    pub slices: Vec<EndpointSlice>,
    /// The known nodes and their zones.
    pub zones: &'a HashMap<String, Option<String>>,
    /// When the change happened that leads to this.
    pub trigger: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<EndpointSlice>,
    /// Pods left out because their node is not known, as texts for an error.
    pub unknown_nodes: Vec<String>,
}

type Endpoints = BTreeMap<String, Endpoint>;

/// Endpoints of one set of ports, wanted and there.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    wanted: Endpoints,
    is_wanted: bool,
    slices: Vec<EndpointSlice>,
}

/// Decides (upstream: `Reconciler.Reconcile`).
pub fn plan(world: &World<'_>) -> Plan {
    let mut out = Plan::default();
    let families = address_types(world.service);
    out.delete =
        world.slices.iter().filter(|s| !families.contains(&s.address_type.as_str())).cloned().collect();
    for family in families {
        let mut part = plan_family(world, family);
        reuse(world.service, &mut part);
        out.create.append(&mut part.create);
        out.update.append(&mut part.update);
        out.delete.append(&mut part.delete);
        out.unknown_nodes.append(&mut part.unknown_nodes);
    }
    if world.service.is_deleting() {
        out.create.clear();
    }
    for slice in out.create.iter_mut().chain(&mut out.update) {
        stamp(slice, world.trigger);
    }
    out
}

fn plan_family(world: &World<'_>, family: &'static str) -> Plan {
    let mut out = Plan::default();
    let mut groups: BTreeMap<Vec<String>, Group> = BTreeMap::new();
    let existing = world.slices.iter().filter(|s| s.address_type == family);
    let mut count = 0;
    for slice in existing {
        count += 1;
        if owned_by(slice, world.service) {
            let key = ports::key(slice.ports.as_deref().unwrap_or_default());
            groups.entry(key).or_default().slices.push(slice.clone());
        } else {
            out.delete.push(slice.clone());
        }
    }
    for pod in world.pods.iter().filter(|p| has_address(p)) {
        let node = pods::node_name(pod);
        let known = world.zones.get(node);
        let publish = world.service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
        let of_pod = ports::of_pod(world.service, pod);
        let group = groups.entry(ports::key(&of_pod)).or_default();
        group.is_wanted = true;
        group.ports = of_pod;
        if known.is_none() && !publish {
            let (ns, service) = (world.service.namespace(), world.service.name());
            out.unknown_nodes.push(format!(
                "skipping Pod {} for Service {ns}/{service}: Node {node} Not Found",
                pod.name()
            ));
            continue;
        }
        let endpoint = endpoint(pod, world.service, family, known.and_then(Clone::clone));
        if !endpoint.addresses.is_empty() {
            group.wanted.insert(identity(&endpoint), endpoint);
        }
    }
    for group in groups.into_values() {
        if group.is_wanted {
            plan_group(world.service, family, group, &mut out);
        } else {
            out.delete.extend(group.slices);
        }
    }
    // a Service always has a slice, so that consumers know that it was looked at
    if count == out.delete.len() && out.create.is_empty() {
        let placeholder = new_slice(world.service, family, Vec::new());
        let is_placeholder = |s: &EndpointSlice| {
            s.endpoints.as_ref().is_none_or(Vec::is_empty)
                && s.ports.as_ref().is_none_or(Vec::is_empty)
                && s.metadata.labels == placeholder.metadata.labels
                && owned_by(s, world.service)
        };
        match out.delete.as_slice() {
            [one] if is_placeholder(one) => out.delete.clear(),
            _ => out.create.push(placeholder),
        }
    }
    out
}

/// Fills existing slices of one set of ports before making new ones, with few writes
/// (upstream: `reconcileByPortMapping`).
fn plan_group(service: &Service, family: &'static str, group: Group, out: &mut Plan) {
    let Group { ports, mut wanted, slices, .. } = group;
    let (mut update, mut unchanged) = (Vec::new(), Vec::new());
    for mut slice in slices {
        let before = slice.endpoints.take().unwrap_or_default();
        let kept: Vec<(Endpoint, bool)> = before
            .iter()
            .filter_map(|old| wanted.remove(&identity(old)).map(|new| (new.clone(), !same(&new, old))))
            .collect();
        let changed = kept.len() != before.len() || kept.iter().any(|(_, c)| *c);
        let labels = labels_of(service);
        let relabelled = slice.metadata.labels.as_ref() != Some(&labels);
        slice.endpoints = Some(if changed { kept.into_iter().map(|(e, _)| e).collect() } else { before });
        if changed && slice.endpoints.as_ref().is_none_or(Vec::is_empty) {
            out.delete.push(slice);
        } else if changed || relabelled {
            slice.metadata.labels = Some(labels);
            update.push(slice);
        } else {
            unchanged.push(slice);
        }
    }
    update.sort_by_key(|s: &EndpointSlice| std::cmp::Reverse(size(s)));
    for slice in &mut update {
        fill(slice, &mut wanted);
    }
    while !wanted.is_empty() {
        let room = |s: &EndpointSlice| MAX_ENDPOINTS.checked_sub(size(s) + wanted.len());
        let best = (0..unchanged.len())
            .filter(|i| room(&unchanged[*i]).is_some())
            .min_by_key(|i| room(&unchanged[*i]));
        match best {
            Some(i) => {
                let mut slice = unchanged.swap_remove(i);
                fill(&mut slice, &mut wanted);
                update.push(slice);
            }
            None => {
                let mut slice = new_slice(service, family, ports.clone());
                fill(&mut slice, &mut wanted);
                out.create.push(slice);
            }
        }
    }
    out.update.extend(update);
}

/// A slice to be deleted takes the content of one to be created (upstream: `finalize`). What is immutable must fit.
fn reuse(service: &Service, plan: &mut Plan) {
    let mut i = 0;
    while i < plan.delete.len() {
        let old = &plan.delete[i];
        let fits = !plan.create.is_empty() && owned_by(old, service);
        if fits && let Some(mut new) = plan.create.pop() {
            let old = plan.delete.remove(i);
            new.metadata = ObjectMeta { labels: new.metadata.labels, ..old.metadata };
            plan.update.push(new);
        } else {
            i += 1;
        }
    }
}

fn size(s: &EndpointSlice) -> usize {
    s.endpoints.as_ref().map_or(0, Vec::len)
}

fn fill(slice: &mut EndpointSlice, wanted: &mut Endpoints) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < MAX_ENDPOINTS
        && let Some((_, e)) = wanted.pop_first()
    {
        endpoints.push(e);
    }
}

fn new_slice(service: &Service, family: &'static str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: Some(service.namespace().to_owned()),
            labels: Some(labels_of(service)),
            owner_references: Some(vec![service.controller_ref()]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    }
}

fn labels_of(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or("");
    if matches!(ip, "" | "None") {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_LABEL.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    labels
}

fn owned_by(slice: &EndpointSlice, service: &Service) -> bool {
    slice.metadata.owner_references.iter().flatten().any(|o| o.uid == service.uid() && o.kind == "Service")
}

fn address_types(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.clone().unwrap_or_default();
    let families: Vec<_> = spec.ip_families.iter().flatten().collect();
    let ip = spec.cluster_ip.as_deref().unwrap_or("");
    match (families.is_empty(), ip) {
        (false, _) => ["IPv4", "IPv6"].into_iter().filter(|f| families.iter().any(|x| x == f)).collect(),
        (true, "" | "None") => vec!["IPv4", "IPv6"],
        (true, ip) => vec![if ip.contains(':') { "IPv6" } else { "IPv4" }],
    }
}

fn has_address(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let ips = status.and_then(|s| s.pod_ips.as_ref()).is_some_and(|i| !i.is_empty());
    let ip = status.and_then(|s| s.pod_ip.as_ref()).is_some_and(|i| !i.is_empty());
    !pods::is_terminal(pod) && (ip || ips)
}

fn endpoint(pod: &Pod, service: &Service, family: &str, zone: Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.is_deleting();
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
    let addresses =
        ips.filter_map(|i| i.ip.parse::<IpAddr>().ok()).filter(|i| i.is_ipv6() == (family == "IPv6"));
    let spec = pod.spec.clone().unwrap_or_default();
    let hostname =
        spec.hostname.filter(|h| !h.is_empty() && spec.subdomain.as_deref() == Some(service.name()));
    Endpoint {
        addresses: addresses.map(|i| i.to_string()).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace().to_owned()),
            name: Some(pod.name().to_owned()),
            uid: Some(pod.uid().to_owned()),
            ..ObjectReference::default()
        }),
        node_name: spec.node_name.filter(|n| !n.is_empty()),
        zone,
        hostname,
        ..Endpoint::default()
    }
}

/// What makes two endpoints the same one (upstream: `hashEndpoint`).
pub(crate) fn identity(e: &Endpoint) -> String {
    let mut addresses = e.addresses.clone();
    addresses.sort_unstable();
    let target = e.target_ref.as_ref();
    let part = |p: Option<&String>| p.map(String::as_str).unwrap_or("").to_owned();
    let uid = part(target.and_then(|t| t.uid.as_ref()));
    format!(
        "{}|{}|{}|{uid}",
        addresses.join(","),
        part(e.hostname.as_ref()),
        part(target.and_then(|t| t.name.as_ref()))
    )
}

fn same(a: &Endpoint, b: &Endpoint) -> bool {
    a.node_name == b.node_name && a.zone == b.zone && a.conditions == b.conditions
}

fn stamp(slice: &mut EndpointSlice, trigger: Option<Timestamp>) {
    match trigger {
        Some(t) => {
            slice.metadata.annotations.get_or_insert_default().insert(TRIGGER.to_owned(), t.to_string());
        }
        None => {
            if let Some(a) = &mut slice.metadata.annotations {
                a.remove(TRIGGER);
            }
        }
    }
}
