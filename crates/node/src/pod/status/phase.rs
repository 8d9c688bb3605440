//! The phase of a pod from its containers' statuses (upstream: `kubelet_pods.go#getPhase`).

use crate::pod::spec;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};

#[derive(Default)]
struct Counts {
    pending_init: usize,
    pending_sidecars: usize,
    failed_init: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// The phase. `terminal` says that no container runs or will run; `initialized` that a main container was started.
pub fn phase(pod: &Pod, statuses: &[ContainerStatus], terminal: bool, initialized: bool) -> &'static str {
    let c = count(pod, statuses);
    if c.failed_init > 0 {
        return "Failed";
    }
    if c.pending_init > 0 || (c.pending_sidecars > 0 && !initialized) || c.waiting > 0 {
        return "Pending";
    }
    if c.running > 0 && c.unknown == 0 {
        return "Running";
    }
    if c.running == 0 && c.stopped > 0 && c.unknown == 0 {
        if !terminal && c.stopped != c.stopped_for_good {
            return "Running";
        }
        return if c.stopped == c.succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

fn find<'a>(
    statuses: &'a [ContainerStatus],
    c: &Container,
) -> Option<(&'a ContainerState, Option<i32>, bool)> {
    let status = statuses.iter().find(|s| s.name == c.name)?;
    let last = status.last_state.as_ref().and_then(|l| l.terminated.as_ref()).map(|t| t.exit_code);
    Some((status.state.as_ref()?, last, status.started == Some(true)))
}

fn count(pod: &Pod, statuses: &[ContainerStatus]) -> Counts {
    let mut n = Counts::default();
    for c in spec::init_containers(pod) {
        let found = find(statuses, c);
        if spec::is_sidecar(c) {
            sidecar(&mut n, found);
        } else {
            init(&mut n, pod, c, found);
        }
    }
    for c in &spec::spec(pod).containers {
        main(&mut n, pod, c, find(statuses, c));
    }
    n
}

fn init(n: &mut Counts, pod: &Pod, c: &Container, found: Option<(&ContainerState, Option<i32>, bool)>) {
    let Some((state, last, _)) = found else {
        n.pending_init += 1;
        return;
    };
    let ended = state.terminated.as_ref().map(|t| t.exit_code);
    let code = match (ended, &state.waiting) {
        (Some(code), _) => Some(code),
        (None, Some(_)) => last,
        (None, None) => None,
    };
    match code {
        None => n.pending_init += 1,
        Some(0) => {}
        Some(code) if !spec::should_restart(c, pod, code) => n.failed_init += 1,
        // It failed and will be tried again: what the main containers wait for decides.
        Some(_) => {}
    }
}

fn sidecar(n: &mut Counts, found: Option<(&ContainerState, Option<i32>, bool)>) {
    match found {
        None => n.unknown += 1,
        Some((s, _, started)) if s.running.is_some() => {
            if !started {
                n.pending_sidecars += 1;
            }
            n.running += 1;
        }
        Some((s, _, _)) if s.terminated.is_some() => {}
        Some((s, last, _)) if s.waiting.is_some() => {
            if last.is_none() {
                n.pending_sidecars += 1;
                n.waiting += 1;
            }
        }
        Some(_) => {
            n.pending_sidecars += 1;
            n.unknown += 1;
        }
    }
}

fn main(n: &mut Counts, pod: &Pod, c: &Container, found: Option<(&ContainerState, Option<i32>, bool)>) {
    let mut stop = |code: i32, shown: bool| {
        n.stopped += 1;
        if !spec::should_restart(c, pod, code) {
            n.stopped_for_good += 1;
        }
        if shown && code == 0 {
            n.succeeded += 1;
        }
    };
    match found {
        None => n.unknown += 1,
        Some((s, _, _)) if s.running.is_some() => n.running += 1,
        Some((s, last, _)) => match (&s.terminated, &s.waiting, last) {
            (Some(t), _, _) => stop(t.exit_code, true),
            (None, Some(_), Some(code)) => stop(code, false),
            (None, Some(_), None) => n.waiting += 1,
            (None, None, _) => n.unknown += 1,
        },
    }
}
