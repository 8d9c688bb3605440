//! Tells of node ports that two Services have and of those outside of the range.
//!
//! Which ports are taken is known from the Services themselves at every start, so that there is nothing to be repaired.
//! upstream: `pkg/registry/core/service/portallocator/controller/repair.go`

use crate::start::Setup;
use async_trait::async_trait;
use client::Kind;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::events::{EventType, Flavor, Recorder, reference};
use client::informer::Informer;
use k8s_openapi::api::core::v1::Service;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "portallocator-repair-controller";
/// Upstream: `RepairServicesInterval`.
const EVERY: Duration = Duration::from_secs(180);

struct Ports {
    services: Informer<Service>,
    recorder: Recorder,
    range: RangeInclusive<u16>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let services = setup.informers.of::<Service>();
    let client = setup.system.clone();
    let this = Ports {
        services: services.clone(),
        recorder: Recorder::new(client, NAME, "", Flavor::Events, setup.clock.clone()),
        range: setup.config.node_ports.clone(),
    };
    let controller = Controller::new(NAME, Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller.needs(&services).resync(EVERY, || vec![()]).start(setup.cancel.clone())
}

/// The node ports of a Service; one that two of its protocols share counts once (upstream: `collectServiceNodePorts`).
fn ports_of(service: &Service) -> Vec<i32> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut seen: HashMap<i32, HashSet<&str>> = HashMap::new();
    let mut out = Vec::new();
    let listed = spec.ports.iter().flatten().map(|p| (p.node_port, p.protocol.as_deref().unwrap_or("TCP")));
    for (port, protocol) in listed.chain([(spec.health_check_node_port, "TCP")]) {
        let Some(port) = port.filter(|p| *p != 0) else { continue };
        let protocols = seen.entry(port).or_default();
        let shared = !protocols.is_empty() && !protocols.contains(protocol);
        protocols.insert(protocol);
        if !shared {
            out.push(port);
        }
    }
    out
}

/// What is to be told, of which Service: reason and text. Pure.
fn plan<'a>(
    services: &'a [Arc<Service>],
    range: &RangeInclusive<u16>,
) -> Vec<(&'a Service, &'static str, String)> {
    let mut taken = HashSet::new();
    let mut out: Vec<(&Service, &str, String)> = Vec::new();
    for service in services {
        for port in ports_of(service) {
            let inside = u16::try_from(port).is_ok_and(|p| range.contains(&p));
            if !inside {
                let (from, to) = (range.start(), range.end());
                let text =
                    format!("Port {port} is not within the port range {from}-{to}; please recreate service");
                out.push((service, "PortOutOfRange", text));
            } else if !taken.insert(port) {
                let text = format!("Port {port} was assigned to multiple services; please recreate service");
                out.push((service, "PortAlreadyAllocated", text));
            }
        }
    }
    out
}

#[async_trait]
impl Reconcile for Ports {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        for (service, reason, text) in plan(&self.services.store().list(), &self.range) {
            tracing::warn!(target: "controllers", ns = service.namespace(), service = service.name(), "{text}");
            self.recorder.action(&reference(service), EventType::Warning, reason, "PortAllocation", text);
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, ports: Value) -> Arc<Service> {
        let spec = json!({"type": "NodePort", "ports": ports});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
    }

    #[test]
    fn twice_taken_and_out_of_range() {
        let dns = json!([
            {"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 53, "protocol": "UDP", "nodePort": 30053},
        ]);
        let all = [
            service("a", dns),
            service(
                "b",
                json!([{"port": 1, "nodePort": 30053}, {"port": 2, "nodePort": 20000}, {"port": 3}]),
            ),
        ];
        let told: Vec<(&str, String)> = plan(&all, &(30_000..=32_767))
            .into_iter()
            .map(|(s, r, t)| (s.name(), format!("{r}: {t}")))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "b",
                    "PortAlreadyAllocated: Port 30053 was assigned to multiple services; please recreate service"
                        .to_owned()
                ),
                (
                    "b",
                    "PortOutOfRange: Port 20000 is not within the port range 30000-32767; please recreate service"
                        .to_owned()
                ),
            ]
        );
    }
}
