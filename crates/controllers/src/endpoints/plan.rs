//! The Endpoints of a Service, decided without I/O.

use super::subsets::repack;
use crate::common::pods;
use crate::endpoint_slice::plan::{HEADLESS_LABEL, TRIGGER};
use crate::endpoint_slice::ports;
use client::Kind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses in one object (upstream: `maxCapacity`).
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

type Labels = BTreeMap<String, String>;

/// The object to write; `None` when the present one says the same (upstream: `syncService`).
pub fn plan(
    service: &Service,
    selected: &[Arc<Pod>],
    current: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Endpoints> {
    let subsets = repack(&subsets(service, selected));
    let of_service = service.metadata.labels.clone().unwrap_or_default();
    if let Some(now) = current {
        let held = now.subsets.as_deref().unwrap_or_default();
        let same = (held == subsets || repack(held) == subsets)
            && labels_follow(now.metadata.labels.as_ref(), &of_service)
            && held.iter().map(size).sum::<usize>() <= CAPACITY
            && now.annotation(OVER_CAPACITY).is_none();
        if same {
            return None;
        }
    }
    let mut new = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let mut labels = of_service;
    labels.remove(HEADLESS_LABEL);
    if matches!(service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()), None | Some("" | "None")) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    new.metadata.labels = Some(labels);
    let mut subsets = subsets;
    let truncated = truncate(&mut subsets);
    new.subsets = Some(subsets).filter(|s| !s.is_empty());
    let mut annotations = new.metadata.annotations.take().unwrap_or_default();
    let mut annotate = |name: &str, value: Option<String>| match value {
        Some(value) => drop(annotations.insert(name.to_owned(), value)),
        None => drop(annotations.remove(name)),
    };
    annotate(TRIGGER, trigger.map(|t| t.to_string()));
    annotate(OVER_CAPACITY, truncated.then(|| "truncated".to_owned()));
    new.metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
    Some(new)
}

/// One subset for each pod and port.
fn subsets(service: &Service, selected: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publish = spec.publish_not_ready_addresses == Some(true);
    let service_ports = spec.ports.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    for pod in selected.iter().filter(|p| answers(p, publish)) {
        let Some(address) = address(service, pod) else { continue };
        let mut add = |port: Option<EndpointPort>| {
            let addresses = Some(vec![address.clone()]);
            let ready = publish || pods::is_ready(pod);
            out.push(EndpointSubset {
                addresses: addresses.clone().filter(|_| ready),
                not_ready_addresses: addresses.filter(|_| !ready),
                ports: port.map(|p| vec![p]),
            });
        };
        if service_ports.is_empty() && spec.cluster_ip.as_deref() == Some("None") {
            add(None);
        }
        for port in service_ports {
            let Some(number) = ports::number(pod, port) else { continue };
            add(Some(EndpointPort {
                name: port.name.clone().filter(|n| !n.is_empty()),
                port: number,
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            }));
        }
    }
    out
}

/// Upstream: `ShouldPodBeInEndpoints`.
fn answers(pod: &Pod, terminating_too: bool) -> bool {
    let status = pod.status.as_ref();
    let ip = status.and_then(|s| s.pod_ip.as_deref()).is_some_and(|i| !i.is_empty());
    let ips = status.and_then(|s| s.pod_ips.as_ref()).is_some_and(|i| !i.is_empty());
    !pods::is_terminal(pod) && (ip || ips) && (terminating_too || !pod.is_deleting())
}

/// The pod's address of the Service's first family (upstream: `podToEndpointAddressForService`).
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let (spec, status) = (service.spec.as_ref()?, pod.status.as_ref()?);
    let cluster_ip = spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None"));
    let v6 = match spec.ip_families.iter().flatten().next() {
        Some(family) => family == "IPv6",
        None => cluster_ip.or(status.pod_ip.as_deref()).is_some_and(|ip| ip.contains(':')),
    };
    let ips = status.pod_ips.iter().flatten().filter_map(|i| i.ip.parse::<IpAddr>().ok());
    let ip = ips.into_iter().find(|ip| ip.is_ipv6() == v6)?;
    let of_pod = pod.spec.as_ref();
    let here = of_pod.and_then(|s| s.subdomain.as_deref()) == Some(service.name());
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: of_pod.and_then(|s| s.hostname.clone()).filter(|h| here && !h.is_empty()),
        node_name: of_pod.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

/// Whether the labels are the Service's and the controller's own (upstream: `labelsCorrectForEndpoints`).
fn labels_follow(held: Option<&Labels>, of_service: &Labels) -> bool {
    let Some(held) = held.filter(|h| h.get(MANAGED_BY).is_some_and(|m| m == MANAGER)) else { return false };
    let own = |k: &str| k == HEADLESS_LABEL || k == MANAGED_BY;
    let copied: Vec<_> = held.iter().filter(|(k, _)| !own(k)).collect();
    copied.len() == of_service.len() && copied.iter().all(|(k, v)| of_service.get(*k) == Some(*v))
}

fn size(subset: &EndpointSubset) -> usize {
    [&subset.addresses, &subset.not_ready_addresses].iter().map(|l| l.as_ref().map_or(0, Vec::len)).sum()
}

/// Leaves as many addresses as one object may hold, the ready ones first, each subset its share
/// (upstream: `truncateEndpoints`).
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |of: fn(&EndpointSubset) -> &Option<Vec<EndpointAddress>>, all: &[EndpointSubset]| {
        all.iter().map(|s| of(s).as_ref().map_or(0, Vec::len)).sum::<usize>()
    };
    let ready = count(|s| &s.addresses, subsets);
    let not_ready = count(|s| &s.not_ready_addresses, subsets);
    if ready + not_ready <= CAPACITY {
        return false;
    }
    let cut_ready = ready > CAPACITY;
    let (room, total) = if cut_ready { (CAPACITY, ready) } else { (CAPACITY - ready, not_ready) };
    let mut left = room;
    for subset in subsets {
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let have = list.as_ref().map_or(0, Vec::len);
        let share = (have * room).div_ceil(total).min(left);
        if let Some(list) = list {
            list.truncate(share);
        }
        left -= have.min(share);
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                *list = None;
            }
        }
    }
    true
}
