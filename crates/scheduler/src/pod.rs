//! A pod with what scheduling asks of it, computed once.

use crate::resources::{self, Resources};
use client::Kind;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec};
use std::sync::Arc;

/// A port on the node's own addresses: address, protocol and number.
pub type HostPort = (String, String, i32);

#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub spec: PodSpec,
    pub requests: Resources,
    /// Requests with defaults for what is left out; for scores.
    pub counted: Resources,
    pub host_ports: Vec<HostPort>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let (requests, counted) = (resources::of_pod(&spec, false), resources::of_pod(&spec, true));
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
        let one = |p: &k8s_openapi::api::core::v1::ContainerPort| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".into()), port))
        };
        let host_ports = ports.filter_map(one).collect();
        Self { pod, requests, counted, host_ports, spec }
    }

    pub fn uid(&self) -> &str {
        self.pod.uid()
    }

    pub fn priority(&self) -> i32 {
        self.spec.priority.unwrap_or(0)
    }

    pub fn required_affinity(&self) -> &[PodAffinityTerm] {
        let a = self.spec.affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
        a.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }

    pub fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        let a = self.spec.affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
        a.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }
}
