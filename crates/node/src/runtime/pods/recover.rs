//! Following shims, and what is left when one is lost: processes are killed by cgroup, containers marked 137.
//!
//! Invariant: nothing is buried while its shim lives.

use super::{
    PodDir, RuntimeError, RuntimeEvent, SandboxSpec, ShimRuntime, blocking, error, link, shim_group,
};
use crate::runtime::wire::{Answer, Request};
use std::io;
use std::time::Duration;
use sys::{cgroup, process};

const SIGKILL: i32 = 9;
/// How long a shim that does not answer may take to end, and how often it is looked at.
const ENDING_MAX: Duration = Duration::from_secs(2);
const ENDING_PAUSE: Duration = Duration::from_millis(5);

impl ShimRuntime {
    /// Passes a shim's events on until it is gone; once per pod.
    pub(super) fn watch(&self, pod_uid: &str) {
        let Ok(pod) = self.pod(pod_uid) else { return };
        if !self.watched.lock().insert(pod_uid.to_owned()) {
            return;
        }
        let (events, uid) = (self.events.clone(), pod_uid.to_owned());
        let watched = self.watched.clone();
        tokio::spawn(async move {
            let send =
                |id: String| drop(events.send(RuntimeEvent { pod_uid: uid.clone(), container_id: id }));
            if let Ok(mut link) = link::Link::open(&pod, Request::Watch).await {
                while let Ok(answer) = link.next().await {
                    if let Answer::Event(id) = answer {
                        send(id);
                    }
                }
            }
            watched.lock().remove(&uid);
            // The shim is gone (or this listener was too slow): whoever cares asks for the state of each container.
            for state in pod.states().unwrap_or_default() {
                send(state.id);
            }
        });
    }

    /// Ends what a lost shim has left. Errors if the shim lives.
    pub(super) async fn bury(&self, pod: &PodDir, pod_uid: &str) -> Result<(), RuntimeError> {
        let what = format!("recover pod {pod_uid}");
        let Some(spec) = self.spec(pod_uid)? else { return Ok(()) };
        let now = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        let pod = pod.clone();
        blocking(&what, move || {
            wait_for_end(&pod)?;
            remove_groups(&spec.cgroup)?;
            pod.bury(now).map(drop)
        })
        .await
        .map_err(|e| error(what.clone(), e.why))
    }
}

/// Waits for a shim that does not answer to end.
fn wait_for_end(pod: &PodDir) -> io::Result<()> {
    let Some(shim) = pod.shim()? else { return Ok(()) };
    let rounds = ENDING_MAX.as_millis() / ENDING_PAUSE.as_millis();
    for _ in 0..rounds {
        if !shim.alive() {
            return Ok(());
        }
        std::thread::sleep(ENDING_PAUSE);
    }
    Err(io::Error::other(format!("its shim (process {}) lives but does not answer", shim.pid)))
}

/// Kills all in a pod's cgroups (the shim's among them) and removes them.
pub fn remove_groups(pod_group: &str) -> io::Result<()> {
    let groups = cgroup::machine()?;
    for group in [pod_group.to_owned(), shim_group(pod_group)] {
        if groups.exists(&group) {
            groups.kill(&group)?;
            groups.remove(&group)?;
        }
    }
    Ok(())
}

/// Ends and removes all of a pod.
pub fn remove(pod: &PodDir, spec: Option<&SandboxSpec>) -> io::Result<()> {
    if let Some(shim) = pod.shim()?
        && shim.alive()
        && let Ok(pidfd) = process::open_pidfd(shim.pid)
        && shim.alive()
    {
        // It ends by itself after its answer; one that hangs is helped.
        let ended =
            sys::fd::poll(&[(std::os::fd::AsFd::as_fd(&pidfd), sys::fd::Interest::Read)], Some(ENDING_MAX))?;
        if !ended[0].read {
            process::signal(&pidfd, SIGKILL)?;
        }
    }
    if let Some(spec) = spec {
        remove_groups(&spec.cgroup)?;
    }
    pod.remove()
}
