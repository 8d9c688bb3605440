//! The pod's status as the API shows it (upstream: `kubelet_pods.go#generateAPIPodStatus`, `status/generate.go`).
//!
//! Pure: made from the specification, what is known of the pod, the status before and the time.

pub mod conditions;
pub mod containers;
pub mod phase;

use super::model::{Local, Waiting};
use super::{resources, spec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most bytes of termination messages in one pod's status (upstream: `MaxPodTerminationMessageLogLength`).
const MESSAGES_MAX: usize = 12 * 1024;

/// What a status is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub local: &'a Local,
    /// The status written before, or the API's.
    pub old: &'a PodStatus,
    /// Containers that the plan lets wait.
    pub waiting: &'a BTreeMap<String, Waiting>,
    pub host_ips: &'a [IpAddr],
    pub now: Timestamp,
}

impl Inputs<'_> {
    /// All containers have ended and none will start again.
    fn terminal(&self) -> bool {
        self.local.stopping && !self.local.could_run()
    }
}

/// A condition of the pod by type.
pub fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.as_deref().unwrap_or_default().iter().find(|c| c.type_ == kind)
}

/// Whether the phase is one that is never left.
pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The new status.
pub fn generate(i: &Inputs<'_>) -> PodStatus {
    let mut s = PodStatus {
        observed_generation: i.pod.metadata.generation,
        qos_class: Some(resources::qos(i.pod).as_str().into()),
        ..PodStatus::default()
    };
    s.start_time = i.old.start_time.clone().or(Some(Time(i.now)));
    if let Some(refusal) = &i.local.record.failed
        && i.local.record.sandbox == 0
        && i.local.record.instances.is_empty()
    {
        // Never admitted: nothing but the refusal is known (upstream: `rejectPod`).
        s.phase = Some("Failed".into());
        s.reason = Some(refusal.reason.clone());
        s.message = Some(refusal.message.clone());
        return s;
    }
    container_statuses(i, &mut s);
    addresses(i, &mut s);
    let requests = resources::pod_requests(i.pod);
    if !requests.is_empty() {
        s.allocated_resources = Some(resources::api_list(&requests));
    }
    s.resources = spec::spec(i.pod).resources.clone();
    phase_and_reason(i, &mut s);
    conditions::add(i, &mut s);
    bound_messages(i.pod, &mut s);
    s
}

fn container_statuses(i: &Inputs<'_>, s: &mut PodStatus) {
    let p = spec::spec(i.pod);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let mut main = containers::statuses(i, &p.containers, false, i.old.container_statuses.as_deref());
    main.sort_by(|a, b| a.name.cmp(&b.name));
    s.container_statuses = some(main);
    let init = spec::init_containers(i.pod);
    s.init_container_statuses =
        some(containers::statuses(i, init, true, i.old.init_container_statuses.as_deref()));
    let ephemeral = spec::ephemeral_containers(i.pod);
    let mut ephemeral =
        containers::statuses(i, &ephemeral, false, i.old.ephemeral_container_statuses.as_deref());
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    s.ephemeral_container_statuses = some(ephemeral);
}

fn addresses(i: &Inputs<'_>, s: &mut PodStatus) {
    let host: Vec<String> = i.host_ips.iter().map(ToString::to_string).collect();
    s.host_ip = host.first().cloned();
    s.host_ips = (!host.is_empty()).then(|| host.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let ips: Vec<String> = if spec::host_network(i.pod) {
        host
    } else if i.local.stopping && i.local.record.ips.is_empty() {
        // Nothing is known here any more; what was shown stays.
        i.old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect()
    } else {
        i.local.record.ips.iter().map(ToString::to_string).collect()
    };
    s.pod_ip = ips.first().cloned();
    s.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

fn phase_and_reason(i: &Inputs<'_>, s: &mut PodStatus) {
    let statuses: Vec<ContainerStatus> = s
        .container_statuses
        .iter()
        .flatten()
        .chain(s.init_container_statuses.iter().flatten())
        .cloned()
        .collect();
    let initialized = spec::spec(i.pod).containers.iter().any(|c| i.local.record.active(&c.name).is_some());
    let mut phase = phase::phase(i.pod, &statuses, i.terminal(), initialized);
    let api = i.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if let Some(before) = [i.old.phase.as_deref(), api].into_iter().flatten().find(|p| is_terminal(Some(*p)))
        && !is_terminal(Some(phase))
    {
        phase = if before == "Failed" { "Failed" } else { "Succeeded" };
    }
    if i.old.phase.as_deref() == Some(phase) {
        s.reason = i.old.reason.clone();
        s.message = i.old.message.clone();
    }
    if let Some(failed) = &i.local.record.failed {
        phase = "Failed";
        s.reason = Some(failed.reason.clone());
        s.message = Some(failed.message.clone());
    }
    // A pod is not shown as ended while something of it may run (upstream: `mergePodStatus`).
    if is_terminal(Some(phase)) && !is_terminal(i.old.phase.as_deref()) && i.local.could_run() {
        phase = match i.old.phase.as_deref() {
            Some("Running") => "Running",
            _ => "Pending",
        };
        s.reason = i.old.reason.clone();
        s.message = i.old.message.clone();
    }
    s.phase = Some(phase.into());
}

/// Cuts termination messages to their share (upstream: `normalizeStatus`).
fn bound_messages(pod: &Pod, s: &mut PodStatus) {
    let share = MESSAGES_MAX / spec::all_names(pod).len().max(1);
    let lists =
        [&mut s.container_statuses, &mut s.init_container_statuses, &mut s.ephemeral_container_statuses];
    for status in lists.into_iter().flat_map(|l| l.iter_mut().flatten()) {
        for state in [&mut status.state, &mut status.last_state].into_iter().flatten() {
            if let Some(message) = state.terminated.as_mut().and_then(|t| t.message.as_mut()) {
                let mut end = share.min(message.len());
                while !message.is_char_boundary(end) {
                    end -= 1;
                }
                message.truncate(end);
            }
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
