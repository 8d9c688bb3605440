//! What the data plane needs to know of Services, their endpoints and pods: small plain structures.

use std::net::IpAddr;

/// A namespaced name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IP protocol's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => sys::nft::expr::TCP,
            Self::Udp => sys::nft::expr::UDP,
            Self::Sctp => sys::nft::expr::SCTP,
        }
    }

    /// By the API's word; an empty one is TCP.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As in a DNS SRV name: `tcp`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A traffic policy: `Cluster` or `Local`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Cluster,
    Local,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    pub namespace: String,
    pub name: String,
    /// `spec.clusterIPs`; empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `spec.externalName` of type ExternalName.
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    /// Seconds of ClientIP affinity; `None` without.
    pub affinity_seconds: Option<u32>,
    pub internal_policy: Policy,
    pub external_policy: Policy,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` (mode VIP).
    pub load_balancer_ips: Vec<IpAddr>,
}

impl ServiceSpec {
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// 0: none.
    pub node_port: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceSpec {
    pub namespace: String,
    pub name: String,
    /// The label `kubernetes.io/service-name`.
    pub service: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

impl SliceSpec {
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, where unset counts as true.
    pub ready: bool,
    /// `conditions.serving`, where unset counts as `ready`.
    pub serving: bool,
    pub terminating: bool,
    pub node_name: Option<String>,
    pub hostname: Option<String>,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Protocol,
    pub host_port: u16,
    /// `None`: every address of the node.
    pub host_ip: Option<IpAddr>,
    pub container_port: u16,
}
