//! Taking in the ends of jobs.

use super::{Done, Worker};
use crate::pod::model::{Instance, PullFailure, Step, Track, Waiting};
use crate::pod::{paths_of, sandbox, spec, start};
use crate::volumes::{Mounted, VolumeError};
use jiff::SignedDuration;
use std::time::Duration;

/// Pause after a start that failed by its settings or the runtime (upstream: pod worker's back-off).
const START_RETRY: SignedDuration = SignedDuration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn job_done(&mut self, done: Done) {
        self.dirty = true;
        match done {
            Done::Prepared(result) => self.prepared(result),
            Done::Refreshed(result) => self.refreshed(result),
            Done::Sandbox(result) => self.sandbox_started(result),
            Done::Launched(instance) => self.add_instance(*instance),
            Done::Started(name, outcome) => self.started(&name, outcome),
            Done::Killed(name, result) => {
                if let Err(e) = &result {
                    tracing::warn!(pod = spec::display(&self.pod), container = name, "stopping failed: {e}");
                    self.event(true, "FailedKillPod", &format!("error killing pod: {e}"));
                }
                self.local.track_mut(&name).busy = None;
                self.look = true;
            }
            Done::TornDown(result) => {
                self.local.teardown = self.step_of(result, "teardown", "removing the sandbox");
                if self.local.teardown == Step::Done {
                    self.local.sandbox = Step::Todo;
                    for i in &mut self.local.record.instances {
                        Self::mark_lost(i, self.ctx.clock.now());
                    }
                }
            }
            Done::CleanedUp(result) => {
                self.local.cleanup = self.step_of(result, "cleanup", "removing volumes");
                self.local.record.finished = self.local.cleanup == Step::Done;
            }
            Done::Farewell { deleted, result } => {
                self.local.farewell = self.step_of(result, "farewell", "deleting the pod");
                if self.local.farewell == Step::Done {
                    self.remove_files(deleted);
                    self.finished = true;
                }
            }
        }
    }

    fn step_of(&mut self, result: Result<(), String>, what: &'static str, doing: &str) -> Step {
        match result {
            Ok(()) => {
                self.failures.remove(what);
                Step::Done
            }
            Err(e) => {
                tracing::warn!(pod = spec::display(&self.pod), "{doing} failed: {e}");
                Step::Retry(self.pause_after(what, SECOND / 2, SECOND * 60))
            }
        }
    }

    fn prepared(&mut self, result: Result<Mounted, Vec<VolumeError>>) {
        match result {
            Ok(mounted) => {
                self.failures.remove("volumes");
                self.local.volumes = Step::Done;
                self.refresh_at = mounted.refresh_at;
            }
            Err(errors) => {
                for e in &errors {
                    self.event(true, "FailedMount", &e.event());
                }
                // upstream: exponentialbackoff, 500 ms to 2 min 2 s
                let at = self.pause_after("volumes", SECOND / 2, SECOND * 122);
                self.local.volumes = Step::Retry(at);
            }
        }
    }

    fn refreshed(&mut self, result: Result<Mounted, Vec<VolumeError>>) {
        self.refreshing = false;
        let again = std::mem::take(&mut self.refresh_again);
        let next = match result {
            Ok(mounted) => {
                self.failures.remove("volumes");
                mounted.refresh_at
            }
            Err(errors) => {
                for e in &errors {
                    self.event(true, "FailedMount", &e.event());
                }
                Some(self.pause_after("volumes", SECOND, SECOND * 122))
            }
        };
        let now = again.then(|| self.ctx.clock.now());
        self.refresh_at = [next, now, self.refresh_at].into_iter().flatten().min();
    }

    fn sandbox_started(&mut self, result: Result<Vec<std::net::IpAddr>, sandbox::Failure>) {
        match result {
            Ok(ips) => {
                self.failures.remove("sandbox");
                let changed = self.local.record.ips != ips;
                self.local.record.ips = ips;
                self.local.sandbox = Step::Done;
                self.local.sandbox_lost = false;
                self.look = true;
                if changed && self.has_downward_api() {
                    self.refresh_at = Some(self.ctx.clock.now());
                }
            }
            Err(e @ sandbox::Failure::NetworkNotReady(_)) => {
                self.event(true, "NetworkNotReady", &e.to_string());
                let at = self.pause_after("sandbox", SECOND / 50, SECOND * 2);
                self.local.sandbox = Step::Retry(at);
            }
            Err(e) => {
                self.event(true, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {e}"));
                let at = self.pause_after("sandbox", SECOND, SECOND * 60);
                self.local.sandbox = Step::Retry(at);
            }
        }
    }

    /// Whether a volume shows fields of the pod.
    pub(super) fn has_downward_api(&self) -> bool {
        spec::spec(&self.pod).volumes.iter().flatten().any(|v| {
            v.downward_api.is_some()
                || v.projected
                    .iter()
                    .flat_map(|p| p.sources.iter().flatten())
                    .any(|s| s.downward_api.is_some())
        })
    }

    /// Remembers an instance and removes what is too old.
    pub(super) fn add_instance(&mut self, instance: Instance) {
        if let Some(known) = self.local.record.by_id_mut(&instance.id) {
            *known = instance;
            return;
        }
        for old in self.local.record.push(instance) {
            let log = old.log_path.clone();
            // The log goes with its instance; what is in the way stays for the pod's end.
            let _ = std::fs::remove_file(&log);
            crate::logs::remove_rotated(&log);
            if let Some(file) = &old.termination_log {
                let _ = std::fs::remove_file(file);
            }
        }
    }

    fn started(&mut self, name: &str, outcome: start::Outcome) {
        self.starting.remove(name);
        let now = self.ctx.clock.now();
        let track = self.local.track_mut(name);
        track.busy = None;
        match outcome {
            start::Outcome::Started(instance) => {
                *track = Track { crash: track.crash.clone(), ..Track::default() };
                self.add_instance(*instance);
            }
            start::Outcome::Cancelled => {}
            start::Outcome::Failed(failure) => {
                track.waiting =
                    Some(Waiting { reason: failure.reason.clone(), message: failure.message.clone() });
                if failure.pull {
                    let image = spec::find(&self.pod, name).and_then(|(_, c)| c.image).unwrap_or_default();
                    let error = format!("{}: {}", failure.reason, failure.message);
                    track.pull.next(now, now);
                    track.pull_failure = Some(PullFailure { at: now, image, error });
                } else {
                    track.pull_failure = None;
                    if failure.instance.is_none() {
                        track.retry_at = now.saturating_add(START_RETRY).ok();
                    }
                }
                if let Some(instance) = failure.instance {
                    track.force = false;
                    self.add_instance(instance);
                }
            }
        }
        // It may have ended already.
        self.look = true;
    }

    /// All that is left of a pod on disk.
    fn remove_files(&self, deleted: bool) {
        tracing::debug!(pod = spec::display(&self.pod), deleted, "pod is gone");
        for dir in paths_of(&self.ctx.config, &self.pod) {
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("remove {}: {e}", dir.display());
                }
                _ => {}
            }
        }
    }
}
