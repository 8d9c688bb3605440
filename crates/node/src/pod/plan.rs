//! What to do next for a pod: a pure function of what is known ([`Local`]), the specification and the time.
//!
//! The plan names only what can be done now and the time at which to plan again; it never repeats what is under way.
//! Starting is one at a time per pod, in upstream's order: ephemeral, init, main (upstream:
//! `kuberuntime_manager.go#computePodActions`, `kuberuntime_container.go#computeInitContainerActions`).

use super::model::{Busy, Instance, Local, State, Step, Track, Waiting};
use super::spec::{self, Role};
use crate::backoff::go_seconds;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeMap;

/// How long a failed pull is shown as such before it is shown as being waited out.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);
/// The shortest time between stop signal and kill, in seconds (upstream: `minimumGracePeriodInSeconds`).
pub const MINIMUM_GRACE: u64 = 2;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Directories and volumes.
    Prepare,
    /// Network, shim, cgroup.
    StartSandbox,
    /// Image, settings, start, postStart hook.
    Start {
        name: String,
    },
    Kill(Kill),
    /// The activeDeadlineSeconds are over.
    Expire,
    /// Remove sandbox and network.
    Teardown,
    /// Unmount volumes.
    CleanUp,
    /// Last status, then deletion from the API where `delete`; all files go.
    Farewell {
        delete: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub name: String,
    pub id: String,
    /// Text of the event; empty for upstream's default.
    pub message: String,
    /// Seconds for the preStop hook and the stop signal together.
    pub grace: u64,
    /// Containers that have to end first, as long as the grace lasts.
    pub after: Vec<String>,
}

/// What a plan says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Plan again then, at the latest.
    pub wake: Option<Timestamp>,
    /// Containers that wait because of the plan, with upstream's reason and message.
    pub waiting: BTreeMap<String, Waiting>,
    /// The pod has nothing left to run: it ends.
    pub over: bool,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// What has to happen now.
pub fn plan(pod: &Pod, local: &Local, now: Timestamp) -> Plan {
    let mut out = Plan::default();
    if local.stopping {
        stop(pod, local, now, &mut out);
        return out;
    }
    if deadline(pod, local, now, &mut out) {
        return out;
    }
    for (step, action) in [(local.volumes, Action::Prepare), (local.sandbox, Action::StartSandbox)] {
        if step == Step::Done {
            continue;
        }
        if action == Action::StartSandbox && local.sandbox_lost && !revive(pod, local) {
            out.over = true;
            return out;
        }
        match step.due(now) {
            Ok(()) => out.actions.push(action),
            Err(at) => at.into_iter().for_each(|at| out.wake_at(at)),
        }
        return out;
    }
    sync(pod, local, now, &mut out);
    out
}

/// Whether a pod whose sandbox was lost gets a new one.
fn revive(pod: &Pod, local: &Local) -> bool {
    let containers = &spec::spec(pod).containers;
    if local.record.instances.is_empty() {
        return true;
    }
    let policy = spec::spec(pod).restart_policy.as_deref();
    if policy == Some("Never") && containers.iter().all(|c| c.restart_policy.is_none()) {
        return false;
    }
    let started = containers.iter().any(|c| local.record.latest(&c.name).is_some());
    !started || containers.iter().any(|c| wants_start(pod, c, local.record.latest(&c.name), None))
}

fn deadline(pod: &Pod, local: &Local, now: Timestamp, out: &mut Plan) -> bool {
    let Some(seconds) = spec::spec(pod).active_deadline_seconds else { return false };
    let start = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let start = start.or_else(|| local.record.pod.status.as_ref()?.start_time.as_ref().map(|t| t.0));
    let Some(end) = start.and_then(|s| s.saturating_add(SignedDuration::from_secs(seconds)).ok()) else {
        return false;
    };
    if now < end {
        out.wake_at(end);
        return false;
    }
    out.actions.push(Action::Expire);
    true
}

/// upstream: `kubecontainer.ShouldContainerBeRestarted`
fn wants_start(pod: &Pod, container: &Container, latest: Option<&Instance>, track: Option<&Track>) -> bool {
    if spec::deleted(pod) {
        return false;
    }
    match latest.map(|i| &i.state) {
        None => true,
        Some(State::Running { .. } | State::Created) => false,
        Some(State::Exited(e)) => {
            track.is_some_and(|t| t.force) || spec::should_restart(container, pod, e.exit_code)
        }
    }
}

/// What the walk over the containers found.
#[derive(Default)]
struct Findings {
    starts: Vec<String>,
    kills: Vec<Kill>,
}

fn sync(pod: &Pod, local: &Local, now: Timestamp, out: &mut Plan) {
    let mut found = Findings::default();
    for c in spec::ephemeral_containers(pod) {
        if local.record.latest(&c.name).is_none() {
            found.starts.push(c.name);
        }
    }
    let mut starts = std::mem::take(&mut found.starts);
    match init_containers(pod, local, &mut found) {
        Init::Failed => {
            kill_all(pod, local, spec::grace(pod), out);
            out.over = true;
            return;
        }
        Init::Running => {
            starts.append(&mut found.starts);
        }
        Init::Done => {
            let init_starts = std::mem::take(&mut found.starts);
            let kept = main_containers(pod, local, &mut found);
            if kept == 0 && found.starts.is_empty() {
                kill_all(pod, local, spec::grace(pod), out);
                out.over = !local.could_run();
                return;
            }
            starts.extend(init_starts);
            starts.append(&mut found.starts);
        }
    }
    let free = |k: &Kill| local.track(&k.name).is_none_or(|t| t.busy.is_none());
    out.actions.extend(found.kills.into_iter().filter(free).map(Action::Kill));
    start_next(pod, local, &starts, now, out);
}

/// The first container that may start now; the others wait their turn or their back-off.
fn start_next(pod: &Pod, local: &Local, starts: &[String], now: Timestamp, out: &mut Plan) {
    let mut free = !local.tracks.values().any(|t| t.busy == Some(Busy::Starting));
    let idle = Track::default();
    for name in starts {
        let track = local.track(name).unwrap_or(&idle);
        if track.busy.is_some() || local.record.latest(name).is_some_and(Instance::alive) {
            continue;
        }
        if let Some(until) = waits(pod, local, track, name, now, out) {
            out.wake_at(until);
            continue;
        }
        if free {
            out.actions.push(Action::Start { name: name.clone() });
            free = false;
        }
    }
}

/// Until when a container must not be started, noting why it waits.
fn waits(
    pod: &Pod,
    local: &Local,
    track: &Track,
    name: &str,
    now: Timestamp,
    out: &mut Plan,
) -> Option<Timestamp> {
    if let Some(end) = local.record.latest(name).and_then(Instance::exit)
        && !track.force
    {
        let finished = super::model::from_ns(end.finished_ns);
        if let Some(until) = track.crash.until(finished, now) {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                go_seconds(track.crash.delay()),
                spec::display(pod)
            );
            out.waiting.insert(name.to_owned(), Waiting { reason: "CrashLoopBackOff".into(), message });
            return Some(until);
        }
    }
    if let Some(failure) = &track.pull_failure
        && let Some(until) = track.pull.until(failure.at, now)
    {
        let shown = failure.at.saturating_add(PULL_ERROR_SHOWN).unwrap_or(failure.at);
        if now < shown {
            return Some(shown.min(until));
        }
        let message = format!("Back-off pulling image {:?}: {}", failure.image, failure.error);
        out.waiting.insert(name.to_owned(), Waiting { reason: "ImagePullBackOff".into(), message });
        return Some(until);
    }
    track.retry_at.filter(|at| *at > now)
}

enum Init {
    Done,
    Running,
    /// An init container failed for good.
    Failed,
}

fn kill(pod: &Pod, container: &Container, id: &str, message: String, grace: Option<i64>) -> Kill {
    let whole = spec::spec(pod).termination_grace_period_seconds.unwrap_or(30);
    let grace = if spec::deleted(pod) { None } else { grace }.unwrap_or(whole);
    let grace = u64::try_from(grace).unwrap_or(0);
    Kill { name: container.name.clone(), id: id.to_owned(), message, grace, after: Vec::new() }
}

fn init_containers(pod: &Pod, local: &Local, found: &mut Findings) -> Init {
    let inits = spec::init_containers(pod);
    if inits.is_empty() {
        return Init::Done;
    }
    let record = &local.record;
    let mut initialized = spec::spec(pod).containers.iter().any(|c| record.active(&c.name).is_some());
    let mut previously = initialized;
    for (i, c) in inits.iter().enumerate().rev() {
        let sidecar = spec::is_sidecar(c);
        let Some(instance) = record.active(&c.name) else {
            if previously && sidecar {
                found.starts.push(c.name.clone());
            }
            continue;
        };
        if previously && !sidecar {
            continue;
        }
        let last = i + 1 == inits.len();
        match &instance.state {
            State::Created => {}
            State::Running { .. } if !sidecar => {}
            State::Running { .. } => {
                if sidecar_started(pod, c, instance, local.track(&c.name), found) {
                    if last {
                        initialized = true;
                    } else if !previously {
                        found.starts.push(inits[i + 1].name.clone());
                    }
                }
            }
            State::Exited(_) if sidecar => found.starts.push(c.name.clone()),
            State::Exited(e) if e.exit_code != 0 => {
                if !spec::should_restart(c, pod, e.exit_code) {
                    return Init::Failed;
                }
                found.starts.push(c.name.clone());
            }
            State::Exited(_) if last => initialized = true,
            State::Exited(_) => found.starts.push(inits[i + 1].name.clone()),
        }
        previously = true;
    }
    if !previously {
        found.starts.push(inits[0].name.clone());
    }
    found.starts.reverse();
    if initialized { Init::Done } else { Init::Running }
}

/// Looks at a running sidecar; whether the next container may start.
fn sidecar_started(
    pod: &Pod,
    c: &Container,
    instance: &Instance,
    track: Option<&Track>,
    found: &mut Findings,
) -> bool {
    let end = |found: &mut Findings, message: String, grace: Option<i64>| {
        found.kills.push(kill(pod, c, &instance.id, message, grace));
    };
    let grace = |p: &Option<k8s_openapi::api::core::v1::Probe>| {
        p.as_ref().and_then(|p| p.termination_grace_period_seconds)
    };
    if c.startup_probe.is_some() {
        match track.and_then(|t| t.startup) {
            None => return false,
            Some(false) => {
                let message = format!("Init container {} failed startup probe", c.name);
                end(found, message, grace(&c.startup_probe));
                return false;
            }
            Some(true) => {}
        }
    }
    if instance.spec_image != c.image.as_deref().unwrap_or_default() {
        end(found, format!("Init container {} definition changed", c.name), None);
    } else if track.and_then(|t| t.liveness) == Some(false) {
        end(found, format!("Init container {} failed liveness probe", c.name), grace(&c.liveness_probe));
    }
    true
}

/// Finds what to start and to kill; how many run on.
fn main_containers(pod: &Pod, local: &Local, found: &mut Findings) -> usize {
    let mut kept = 0;
    for c in &spec::spec(pod).containers {
        let latest = local.record.latest(&c.name);
        let track = local.track(&c.name);
        let Some(instance) = latest.filter(|i| i.alive()) else {
            if wants_start(pod, c, latest, track) {
                found.starts.push(c.name.clone());
            }
            continue;
        };
        if !instance.running() {
            kept += 1;
            continue;
        }
        let changed = instance.spec_image != c.image.as_deref().unwrap_or_default();
        let (mut message, grace) = if changed {
            (format!("Container {} definition changed", c.name), None)
        } else if track.and_then(|t| t.liveness) == Some(false) {
            let grace = c.liveness_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
            (format!("Container {} failed liveness probe", c.name), grace)
        } else if track.and_then(|t| t.startup) == Some(false) {
            let grace = c.startup_probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
            (format!("Container {} failed startup probe", c.name), grace)
        } else {
            kept += 1;
            continue;
        };
        let restart = changed || spec::restarts_after_failure(c, pod);
        if restart {
            message.push_str(", will be restarted");
            found.starts.push(c.name.clone());
        }
        found.kills.push(kill(pod, c, &instance.id, message, grace));
    }
    kept
}

/// Stops all that runs: main containers at once, sidecars after them from the last to the first
/// (upstream: `kuberuntime_termination_order.go`).
fn kill_all(pod: &Pod, local: &Local, grace: u64, out: &mut Plan) {
    let alive = |name: &str| local.record.latest(name).filter(|i| i.running());
    let mains: Vec<String> = spec::spec(pod)
        .containers
        .iter()
        .filter(|c| alive(&c.name).is_some())
        .map(|c| c.name.clone())
        .collect();
    let mut later_sidecar: Option<String> = None;
    let mut order: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for c in spec::init_containers(pod).iter().rev().filter(|c| spec::is_sidecar(c)) {
        let mut after = mains.clone();
        after.extend(later_sidecar.take().filter(|n| alive(n).is_some()));
        order.insert(c.name.clone(), after);
        later_sidecar = Some(c.name.clone());
    }
    for instance in local.record.instances.iter().filter(|i| i.running()) {
        let again = match local.track(&instance.name).and_then(|t| t.busy) {
            None => true,
            Some(Busy::Stopping { grace: before }) => grace < before,
            Some(Busy::Starting) => false,
        };
        if again {
            out.actions.push(Action::Kill(Kill {
                name: instance.name.clone(),
                id: instance.id.clone(),
                message: String::new(),
                grace,
                after: order.get(&instance.name).cloned().unwrap_or_default(),
            }));
        }
    }
}

/// The way out: containers, sandbox, volumes, API.
fn stop(pod: &Pod, local: &Local, now: Timestamp, out: &mut Plan) {
    kill_all(pod, local, spec::grace(pod), out);
    if local.record.any_alive() || local.busy() {
        return;
    }
    out.over = true;
    let away = local.gone || spec::deleted(pod);
    let steps = [
        (local.teardown, Action::Teardown),
        (local.cleanup, Action::CleanUp),
        (local.farewell, Action::Farewell { delete: !local.gone }),
    ];
    for (step, action) in steps {
        if step == Step::Done {
            continue;
        }
        if matches!(action, Action::Farewell { .. }) && !away {
            return;
        }
        match step.due(now) {
            Ok(()) => out.actions.push(action),
            Err(at) => at.into_iter().for_each(|at| out.wake_at(at)),
        }
        return;
    }
}

/// Whether a container counts as one whose start is awaited: used to show its waiting reason.
pub fn awaited(pod: &Pod, container: &Container, role: Role, local: &Local) -> bool {
    let latest = match role {
        Role::Init | Role::Sidecar => {
            local.record.active(&container.name).or_else(|| local.record.latest(&container.name))
        }
        _ => local.record.latest(&container.name),
    };
    if role == Role::Init && latest.and_then(Instance::exit).is_some_and(|e| e.exit_code == 0) {
        return false;
    }
    wants_start(pod, container, latest.filter(|i| i.state != State::Created), local.track(&container.name))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
