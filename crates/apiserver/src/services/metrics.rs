//! What is told of addresses and node ports (upstream: `pkg/registry/core/service/{ipallocator,portallocator}/metrics.go`).

use super::addresses::Addresses;
use super::ports::Ports;
use base::metrics::Family;
use kinds::ip::Cidr;

/// How an address or a port was chosen.
#[derive(Clone, Copy)]
pub enum Scope {
    /// By who made the Service.
    Static,
    Dynamic,
}

impl Scope {
    fn text(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }
}

pub struct Metrics {
    addresses: Family,
    address_errors: Family,
    ports: Family,
    port_errors: Family,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            addresses: Family::counter(
                "kube_apiserver_clusterip_allocator_allocation_total",
                "Number of Cluster IPs allocations",
            ),
            address_errors: Family::counter(
                "kube_apiserver_clusterip_allocator_allocation_errors_total",
                "Number of errors trying to allocate Cluster IPs",
            ),
            ports: Family::counter(
                "kube_apiserver_nodeport_allocator_allocation_total",
                "Number of NodePort allocations",
            ),
            port_errors: Family::counter(
                "kube_apiserver_nodeport_allocator_allocation_errors_total",
                "Number of errors trying to allocate NodePort",
            ),
        }
    }
}

impl Metrics {
    /// An address of a range was given out, or not. What is in no range belongs to no series.
    pub fn address(&self, range: Option<Cidr>, scope: Scope, given: bool) {
        let Some(range) = range else { return };
        let family = if given { &self.addresses } else { &self.address_errors };
        family.add(&[("cidr", &range.to_string()), ("scope", scope.text())]);
    }

    pub fn port(&self, scope: Scope, given: bool) {
        let family = if given { &self.ports } else { &self.port_errors };
        family.add(&[("scope", scope.text())]);
    }

    pub fn render(&self, out: &mut String, addresses: &Addresses, ports: &Ports) {
        let allocated = Family::gauge(
            "kube_apiserver_clusterip_allocator_allocated_ips",
            "Gauge measuring the number of allocated IPs for Services",
        );
        let available = Family::gauge(
            "kube_apiserver_clusterip_allocator_available_ips",
            "Gauge measuring the number of available IPs for Services",
        );
        for (range, used, left) in addresses.usage() {
            let range = range.to_string();
            allocated.set(&[("cidr", &range)], used);
            available.set(&[("cidr", &range)], left);
        }
        let allocated_ports = Family::gauge(
            "kube_apiserver_nodeport_allocator_allocated_ports",
            "Gauge measuring the number of allocated NodePorts for Services",
        );
        let available_ports = Family::gauge(
            "kube_apiserver_nodeport_allocator_available_ports",
            "Gauge measuring the number of available NodePorts for Services",
        );
        let (used, left) = ports.usage();
        allocated_ports.set(&[], used);
        available_ports.set(&[], left);
        for family in [&allocated, &available, &self.addresses, &self.address_errors] {
            family.render(out);
        }
        for family in [&allocated_ports, &available_ports, &self.ports, &self.port_errors] {
            family.render(out);
        }
    }
}
