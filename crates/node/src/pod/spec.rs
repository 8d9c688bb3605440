//! Reading a pod's specification: what upstream's `podutil` helpers answer.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::LazyLock;

pub type ResourceList = BTreeMap<String, Quantity>;

static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    Main,
    Ephemeral,
}

pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)` (upstream: `format.Pod`).
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

pub fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Ephemeral containers in the form of ordinary ones.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let list = spec(pod).ephemeral_containers.as_deref().unwrap_or_default();
    list.iter()
        .filter_map(|e| serde_json::to_value(e).ok())
        .filter_map(|v| serde_json::from_value::<Container>(v).ok())
        .collect()
}

/// The container that an ephemeral one joins.
pub fn ephemeral_target<'a>(pod: &'a Pod, container: &str) -> Option<&'a str> {
    let list = spec(pod).ephemeral_containers.as_deref().unwrap_or_default();
    list.iter().find(|e| e.name == container)?.target_container_name.as_deref().filter(|t| !t.is_empty())
}

/// A container by name, with its role.
pub fn find(pod: &Pod, container: &str) -> Option<(Role, Container)> {
    if let Some(c) = init_containers(pod).iter().find(|c| c.name == container) {
        return Some((if is_sidecar(c) { Role::Sidecar } else { Role::Init }, c.clone()));
    }
    if let Some(c) = spec(pod).containers.iter().find(|c| c.name == container) {
        return Some((Role::Main, c.clone()));
    }
    ephemeral_containers(pod).into_iter().find(|c| c.name == container).map(|c| (Role::Ephemeral, c))
}

/// Names of all containers in the order of their start.
pub fn all_names(pod: &Pod) -> Vec<String> {
    let ephemeral = spec(pod).ephemeral_containers.as_deref().unwrap_or_default();
    init_containers(pod)
        .iter()
        .map(|c| c.name.clone())
        .chain(spec(pod).containers.iter().map(|c| c.name.clone()))
        .chain(ephemeral.iter().map(|c| c.name.clone()))
        .collect()
}

/// Whether a container that ended is started again (upstream: `podutil.ContainerShouldRestart`).
pub fn should_restart(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        if matching_rule(container, exit_code).is_some() {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match spec(pod).restart_policy.as_deref() {
        Some("OnFailure") => exit_code != 0,
        Some("Never") => false,
        _ => true,
    }
}

/// The action of the first restart rule that the exit code meets.
fn matching_rule(container: &Container, exit_code: i32) -> Option<&str> {
    container.restart_policy_rules.as_deref().unwrap_or_default().iter().find_map(|rule| {
        let codes = rule.exit_codes.as_ref()?;
        let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
        let met = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (met && matches!(rule.action.as_str(), "Restart" | "RestartAllContainers"))
            .then_some(rule.action.as_str())
    })
}

/// Whether probe failures lead to a restart (upstream: `shouldRestartOnFailure` and the container's own policy).
pub fn restarts_after_failure(container: &Container, pod: &Pod) -> bool {
    match container.restart_policy.as_deref() {
        Some(policy) => policy != "Never",
        None => spec(pod).restart_policy.as_deref() != Some("Never"),
    }
}

/// Seconds between the stop signal and the kill when the pod is stopped: at least 1
/// (upstream: `calculateEffectiveGracePeriod`).
pub fn grace(pod: &Pod) -> u64 {
    let grace = if deleted(pod) { pod.metadata.deletion_grace_period_seconds } else { None };
    let grace = grace.or(spec(pod).termination_grace_period_seconds).unwrap_or(30);
    u64::try_from(grace.max(1)).unwrap_or(1)
}

/// The host name inside the pod, at most 63 characters (upstream: `GeneratePodHostNameAndDomain`).
pub fn host_name_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = spec(pod);
    if let Some(over) = spec.hostname_override.as_deref() {
        return (truncate_host_name(over), String::new());
    }
    let host = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or_else(|| name(pod));
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(sub) => format!("{sub}.{}.svc.{cluster_domain}", namespace(pod)),
        None => String::new(),
    };
    (truncate_host_name(host), domain)
}

fn truncate_host_name(host: &str) -> String {
    let cut: String = host.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// A quantity's value in the machine's form; a malformed one is nothing (the API validated it).
pub fn quantity(list: Option<&ResourceList>, resource: &str) -> Option<meta::quantity::Quantity> {
    meta::quantity::Quantity::parse(&list?.get(resource)?.0).ok()
}
