//! Statuses of the containers (upstream: `kubelet_pods.go#convertToAPIContainerStatuses`, `prober#UpdatePodStatus`).

use super::Inputs;
use crate::pod::model::{Exit, Instance, State, from_ns};
use crate::pod::plan::awaited;
use crate::pod::spec::{self, Role};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Prefix of container ids in the API.
pub const ID_SCHEME: &str = "taffrail://";

/// Statuses in the order of `containers`.
pub fn statuses(
    i: &Inputs<'_>,
    containers: &[Container],
    init: bool,
    old: Option<&[ContainerStatus]>,
) -> Vec<ContainerStatus> {
    let old = |name: &str| old.unwrap_or_default().iter().find(|s| s.name == name);
    containers.iter().map(|c| one(i, c, init, old(&c.name))).collect()
}

fn role(c: &Container, init: bool) -> Role {
    match (init, spec::is_sidecar(c)) {
        (true, true) => Role::Sidecar,
        (true, false) => Role::Init,
        (false, _) => Role::Main,
    }
}

fn one(i: &Inputs<'_>, c: &Container, init: bool, old: Option<&ContainerStatus>) -> ContainerStatus {
    let role = role(c, init);
    let record = &i.local.record;
    let shown: Vec<&Instance> = record
        .instances
        .iter()
        .rev()
        .filter(|x| x.name == c.name && x.state != State::Created)
        .take(2)
        .collect();
    let mut status = match shown.first() {
        Some(latest) => from_instance(c, latest),
        None => never_started(i, c, old),
    };
    if let Some(previous) = shown.get(1).and_then(|p| p.exit().map(|e| (p, e))) {
        status.last_state = Some(terminated(previous.0, previous.1));
    }
    if !shown.is_empty() {
        status.resources = Some(c.resources.clone().unwrap_or_default());
        status.allocated_resources = c.resources.as_ref().and_then(|r| r.requests.clone());
    }
    status.volume_mounts = volume_mounts(c);
    let track = i.local.track(&c.name);
    if awaited(i.pod, c, role, i.local) {
        let waiting = i.waiting.get(&c.name).or_else(|| track.and_then(|t| t.waiting.as_ref()));
        if let Some(w) = waiting {
            if let Some(state) = status.state.take().filter(|s| s.terminated.is_some()) {
                status.last_state = Some(state);
            }
            status.state = Some(waiting_state(&w.reason, &w.message));
        }
    }
    readiness(i, c, role, &mut status);
    status
}

/// The status of a container that nothing is known of but what the API says.
fn never_started(i: &Inputs<'_>, c: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let has_init = !spec::init_containers(i.pod).is_empty();
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut status = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        state: Some(waiting_state(reason, "")),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    let was = old.state.clone().unwrap_or_default();
    if was.terminated.is_some() {
        return ContainerStatus { started: None, ready: false, ..old.clone() };
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let had_last = old.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
    if was.running.is_some() && !had_last {
        let lost = ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running".into(),
            ),
            exit_code: 137,
            ..ContainerStateTerminated::default()
        };
        status.last_state = Some(ContainerState { terminated: Some(lost), ..ContainerState::default() });
        if !spec::deleted(i.pod) {
            status.restart_count += 1;
        }
    }
    status
}

fn from_instance(c: &Container, instance: &Instance) -> ContainerStatus {
    let state = match &instance.state {
        State::Running { started_ns } => {
            let running = ContainerStateRunning { started_at: Some(Time(from_ns(*started_ns))) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        State::Exited(exit) => terminated(instance, exit),
        State::Created => {
            ContainerState { waiting: Some(ContainerStateWaiting::default()), ..ContainerState::default() }
        }
    };
    let user = &instance.user;
    let linux = LinuxContainerUser {
        uid: i64::from(user.uid),
        gid: i64::from(user.gid),
        supplemental_groups: Some(user.groups.iter().map(|g| i64::from(*g)).collect()),
    };
    ContainerStatus {
        name: c.name.clone(),
        restart_count: instance.restart_count,
        image: instance.image.clone(),
        image_id: instance.image_ref.clone(),
        container_id: Some(format!("{ID_SCHEME}{}", instance.id)),
        state: Some(state),
        user: Some(ContainerUser { linux: Some(linux) }),
        ..ContainerStatus::default()
    }
}

fn terminated(instance: &Instance, exit: &Exit) -> ContainerState {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{ID_SCHEME}{}", instance.id)),
        exit_code: exit.exit_code,
        reason: text(&exit.reason),
        message: text(&exit.message),
        started_at: Some(Time(from_ns(exit.started_ns))),
        finished_at: Some(Time(from_ns(exit.finished_ns))),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let waiting = ContainerStateWaiting { reason: text(reason), message: text(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn volume_mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list: Vec<_> = c
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|r| *r),
            recursive_read_only: m.read_only.filter(|r| *r).map(|_| {
                let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
                if recursive { "Enabled" } else { "Disabled" }.to_owned()
            }),
            volume_status: None,
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

fn readiness(i: &Inputs<'_>, c: &Container, role: Role, status: &mut ContainerStatus) {
    let state = status.state.clone().unwrap_or_default();
    let running = state.running.is_some();
    let track = i.local.track(&c.name);
    let started = running && (c.startup_probe.is_none() || track.and_then(|t| t.startup) == Some(true));
    if role == Role::Init {
        status.started = Some(running);
        status.ready = state.terminated.is_some_and(|t| t.exit_code == 0);
        return;
    }
    status.started = Some(started);
    status.ready = started && (c.readiness_probe.is_none() || track.is_some_and(|t| t.readiness));
}
