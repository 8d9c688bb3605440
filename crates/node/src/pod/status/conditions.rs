//! The pod's conditions that the node owns (upstream: `status/generate.go`).

use super::{Inputs, condition, is_terminal};
use crate::pod::model::Step;
use crate::pod::spec;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions that nobody else writes.
pub const OWNED: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Verdict of a condition: status, reason, message.
type Verdict = (bool, String, String);

fn yes() -> Verdict {
    (true, String::new(), String::new())
}

fn no(reason: &str, message: String) -> Verdict {
    (false, reason.into(), message)
}

/// Adds the conditions to a status whose containers and phase are filled in.
pub fn add(i: &Inputs<'_>, s: &mut PodStatus) {
    let containers = containers_ready(i, s);
    let ready = match &containers {
        (true, _, _) => gates(i),
        other => other.clone(),
    };
    let verdicts = [
        ("PodReadyToStartContainers", sandbox(i)),
        ("Initialized", initialized(i, s)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", yes()),
    ];
    let list = verdicts.into_iter().map(|(kind, v)| build(i, kind, v)).collect();
    s.conditions = Some(list);
}

fn build(i: &Inputs<'_>, kind: &str, (status, reason, message): Verdict) -> PodCondition {
    let status = if status { "True" } else { "False" };
    let before = condition(i.old, kind);
    let since = match before {
        Some(b) if b.status == status => b.last_transition_time.clone(),
        _ => None,
    };
    let text = |t: String| (!t.is_empty()).then_some(t);
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: text(reason),
        message: text(message),
        last_transition_time: since.or(Some(Time(i.now))),
        last_probe_time: None,
        observed_generation: i.pod.metadata.generation,
    }
}

fn sandbox(i: &Inputs<'_>) -> Verdict {
    if i.local.sandbox == Step::Done && i.local.teardown != Step::Done {
        return yes();
    }
    let message =
        if i.local.record.sandbox == 0 { "no pod sandbox exists" } else { "pod sandbox is not ready" };
    no("PodSandboxNotReady", message.into())
}

fn all(s: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten())
}

/// Go's text of a list of strings.
fn bracketed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(i: &Inputs<'_>, s: &PodStatus) -> Verdict {
    let wanted: Vec<&Container> = spec::init_containers(i.pod)
        .iter()
        .filter(|c| spec::is_sidecar(c))
        .chain(&spec::spec(i.pod).containers)
        .collect();
    match s.phase.as_deref() {
        Some("Succeeded") => return no("PodCompleted", String::new()),
        Some("Failed") => return no("PodFailed", String::new()),
        _ => {}
    }
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for c in wanted {
        match all(s).find(|st| st.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(st) if !st.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", bracketed(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", bracketed(&unready)));
    }
    if messages.is_empty() { yes() } else { no("ContainersNotReady", messages.join(", ")) }
}

fn gates(i: &Inputs<'_>) -> Verdict {
    let mut messages = Vec::new();
    for gate in spec::spec(i.pod).readiness_gates.as_deref().unwrap_or_default() {
        let kind = &gate.condition_type;
        let api = i.pod.status.as_ref().and_then(|s| condition(s, kind));
        match api {
            None => messages
                .push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(c) if c.status != "True" => messages
                .push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status)),
            Some(_) => {}
        }
    }
    if messages.is_empty() { yes() } else { no("ReadinessGatesNotReady", messages.join(", ")) }
}

fn initialized(i: &Inputs<'_>, s: &PodStatus) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for c in spec::init_containers(i.pod) {
        match all(s).find(|st| st.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(st) => {
                let done = if spec::is_sidecar(c) { st.started == Some(true) } else { st.ready };
                if !done {
                    incomplete.push(c.name.as_str());
                }
            }
        }
    }
    if s.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return (true, "PodCompleted".into(), String::new());
    }
    let started = s.container_statuses.iter().flatten().any(|st| {
        st.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    });
    if started
        || condition(i.old, "Initialized").is_some_and(|c| c.status == "True")
            && !is_terminal(s.phase.as_deref())
    {
        return yes();
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", bracketed(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", bracketed(&incomplete)));
    }
    if messages.is_empty() { yes() } else { no("ContainersNotInitialized", messages.join(", ")) }
}
