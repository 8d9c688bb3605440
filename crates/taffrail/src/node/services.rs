//! Feeds the data plane's directory with Services and EndpointSlices of the API.

use client::informer::{Event, Informers};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::Directory;
use network::spec::{Endpoint, EndpointPort, Key, Policy, Protocol, ServicePort, ServiceSpec, SliceSpec};
use std::collections::HashSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Seconds of ClientIP affinity when the Service does not say (upstream: `DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_SECONDS: i32 = 10_800;

/// Follows both kinds until cancelled.
pub async fn feed(directory: Arc<Directory>, informers: Informers, cancel: CancellationToken) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let (mut service_events, mut slice_events) = (services.subscribe(), slices.subscribe());
    tokio::select! {
        () = cancel.cancelled() => return,
        () = async { services.synced().await; slices.synced().await } => {}
    }
    let all_services = || services.store().list().iter().map(|s| service(s)).collect::<Vec<_>>();
    let all_slices = || slices.store().list().iter().map(|s| slice(s)).collect::<Vec<_>>();
    replace_services(&directory, all_services());
    replace_slices(&directory, all_slices());
    directory.set_synced();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            event = service_events.next() => match event {
                Some(Event::Applied(s)) => directory.apply_service(service(&s)),
                Some(Event::Deleted(s)) => {
                    let key = service(&s);
                    directory.remove_service(&key.namespace, &key.name);
                }
                Some(Event::Resync) => replace_services(&directory, all_services()),
                None => return,
            },
            event = slice_events.next() => match event {
                Some(Event::Applied(s)) => directory.apply_slice(slice(&s)),
                Some(Event::Deleted(s)) => {
                    let key = slice(&s);
                    directory.remove_slice(&key.namespace, &key.name);
                }
                Some(Event::Resync) => replace_slices(&directory, all_slices()),
                None => return,
            },
        }
    }
}

fn replace_services(directory: &Directory, all: Vec<ServiceSpec>) {
    let keep: HashSet<Key> = all.iter().map(ServiceSpec::key).collect();
    let gone: Vec<Key> =
        directory.read().services().map(|(k, _)| k.clone()).filter(|k| !keep.contains(k)).collect();
    for key in gone {
        directory.remove_service(&key.namespace, &key.name);
    }
    all.into_iter().for_each(|s| directory.apply_service(s));
}

fn replace_slices(directory: &Directory, all: Vec<SliceSpec>) {
    let keep: HashSet<Key> = all.iter().map(SliceSpec::key).collect();
    let gone: Vec<Key> = directory.read().slice_keys().filter(|k| !keep.contains(k)).cloned().collect();
    for key in gone {
        directory.remove_slice(&key.namespace, &key.name);
    }
    all.into_iter().for_each(|s| directory.apply_slice(s));
}

/// A port number of the API; what is out of range was refused before it was stored.
fn port(number: i32) -> u16 {
    u16::try_from(number).unwrap_or(0)
}

fn protocol(text: Option<&String>) -> Protocol {
    Protocol::parse(text.map_or("", String::as_str)).unwrap_or_default()
}

fn service(s: &Service) -> ServiceSpec {
    let spec = s.spec.clone().unwrap_or_default();
    let policy =
        |p: Option<&String>| if p.is_some_and(|p| p == "Local") { Policy::Local } else { Policy::Cluster };
    let parse = |texts: Vec<String>| texts.iter().filter_map(|t| t.parse().ok()).collect();
    let ingress =
        s.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone()).unwrap_or_default();
    let vip = ingress.into_iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip);
    ServiceSpec {
        namespace: s.metadata.namespace.clone().unwrap_or_default(),
        name: s.metadata.name.clone().unwrap_or_default(),
        headless: spec.cluster_ip.as_deref() == Some("None"),
        cluster_ips: parse(spec.cluster_ips.unwrap_or_default()),
        external_name: spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")),
        affinity_seconds: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let seconds =
                spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
            u32::try_from(seconds.unwrap_or(AFFINITY_SECONDS)).unwrap_or(0)
        }),
        internal_policy: policy(spec.internal_traffic_policy.as_ref()),
        external_policy: policy(spec.external_traffic_policy.as_ref()),
        external_ips: parse(spec.external_ips.unwrap_or_default()),
        load_balancer_ips: parse(vip.collect()),
        ports: spec
            .ports
            .unwrap_or_default()
            .iter()
            .map(|p| ServicePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(p.protocol.as_ref()),
                port: port(p.port),
                node_port: port(p.node_port.unwrap_or(0)),
            })
            .collect(),
    }
}

fn slice(s: &EndpointSlice) -> SliceSpec {
    let label =
        |name: &str| s.metadata.labels.as_ref().and_then(|l| l.get(name)).cloned().unwrap_or_default();
    SliceSpec {
        namespace: s.metadata.namespace.clone().unwrap_or_default(),
        name: s.metadata.name.clone().unwrap_or_default(),
        service: label("kubernetes.io/service-name"),
        ports: s
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                Some(EndpointPort {
                    name: p.name.clone().unwrap_or_default(),
                    protocol: protocol(p.protocol.as_ref()),
                    port: port(p.port?),
                })
            })
            .collect(),
        endpoints: s
            .endpoints
            .iter()
            .flatten()
            .map(|e| {
                let c = e.conditions.clone().unwrap_or_default();
                let ready = c.ready.unwrap_or(true);
                Endpoint {
                    addresses: e.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
                    ready,
                    serving: c.serving.unwrap_or(ready),
                    terminating: c.terminating.unwrap_or(false),
                    node_name: e.node_name.clone(),
                    hostname: e.hostname.clone(),
                }
            })
            .collect(),
    }
}
