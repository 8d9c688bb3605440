//! Asking the runtime what became of the pod's containers.

use super::Worker;
use crate::pod::model::{Exit, Instance, State, Step, to_ns};
use crate::pod::{sandbox, spec, termination};
use crate::runtime::{ContainerState, Phase};
use jiff::Timestamp;

/// Exit code of a container whose end nobody saw (upstream: 137 with ContainerStatusUnknown).
const LOST: i32 = 137;

impl Worker {
    /// Finds the containers of a former agent.
    pub(super) async fn adopt(&mut self) {
        match self.ctx.runtime.state(spec::uid(&self.pod)).await {
            Ok(Some(_)) => self.rejoin().await,
            Ok(None) => {
                self.sandbox_gone();
                return;
            }
            Err(e) => {
                tracing::warn!(pod = spec::display(&self.pod), "asking for the pod's state failed: {e}")
            }
        }
        let old = self.status.clone();
        let lists = [&old.container_statuses, &old.init_container_statuses];
        for status in lists.into_iter().flat_map(|l| l.iter().flatten()) {
            let track = self.local.track_mut(&status.name);
            // What was ready stays so until a probe says otherwise.
            track.readiness = status.ready;
            track.startup = status.started.filter(|s| *s);
        }
        self.observe().await;
    }

    /// Claims the network again; what stands is shown as standing from the start.
    async fn rejoin(&mut self) {
        let existing = self.local.record.ips.clone();
        match sandbox::start(&self.ctx, &self.pod, existing).await {
            Ok(ips) => {
                self.local.record.ips = ips;
                (self.local.sandbox, self.local.volumes) = (Step::Done, Step::Done);
                self.refresh_at = Some(self.ctx.clock.now());
            }
            Err(e) => tracing::warn!(pod = spec::display(&self.pod), "taking over the sandbox failed: {e}"),
        }
    }

    /// Brings the record in line with the runtime.
    pub(super) async fn observe(&mut self) {
        if self.local.sandbox == Step::Busy
            || self.local.teardown != Step::Todo
            || self.local.record.sandbox == 0
        {
            return;
        }
        let states = match self.ctx.runtime.state(spec::uid(&self.pod)).await {
            Ok(Some(states)) => states,
            Ok(None) => {
                if self.local.sandbox == Step::Done {
                    self.sandbox_gone();
                }
                return;
            }
            Err(e) => {
                tracing::warn!(pod = spec::display(&self.pod), "asking for the pod's state failed: {e}");
                return;
            }
        };
        let now = self.ctx.clock.now();
        let mut ended = Vec::new();
        for i in 0..self.local.record.instances.len() {
            let instance = &self.local.record.instances[i];
            if !instance.alive() || self.starting.get(&instance.name) == Some(&instance.id) {
                continue;
            }
            let state = states.iter().find(|s| s.id == instance.id);
            let next = match state {
                Some(s) if s.phase == Phase::Exited => {
                    ended.push(instance.id.clone());
                    State::Exited(self.exit(instance, s))
                }
                Some(s) if s.phase == Phase::Running => State::Running { started_ns: s.started_ns },
                Some(_) => State::Created,
                None => State::Exited(lost(&instance.state, now)),
            };
            if next != instance.state {
                self.dirty = true;
                self.local.record.instances[i].state = next;
            }
        }
        let strangers = states.iter().filter(|s| {
            !self.starting.values().any(|id| *id == s.id)
                && !self.local.record.instances.iter().any(|i| i.id == s.id)
        });
        let strangers: Vec<String> = strangers.map(|s| s.id.clone()).collect();
        if !ended.is_empty() {
            // Their ends are on record before the runtime forgets them.
            self.save();
        }
        self.remove_containers(ended, strangers);
    }

    fn exit(&self, instance: &Instance, state: &ContainerState) -> Exit {
        let container = spec::find(&self.pod, &instance.name).map(|(_, c)| c);
        let policy = container.as_ref().and_then(|c| c.termination_message_policy.as_deref());
        let fall_back = policy == Some("FallbackToLogsOnError");
        let file = instance.termination_log.as_deref();
        Exit {
            started_ns: state.started_ns,
            finished_ns: state.finished_ns,
            exit_code: state.exit_code,
            reason: termination::reason(state).into(),
            message: termination::message(file, &instance.log_path, fall_back, state.exit_code),
        }
    }

    /// Frees what ended containers hold in the runtime, and ends those that nobody knows.
    fn remove_containers(&mut self, ended: Vec<String>, strangers: Vec<String>) {
        let (runtime, uid) = (self.ctx.runtime.clone(), spec::uid(&self.pod).to_owned());
        if ended.is_empty() && strangers.is_empty() {
            return;
        }
        self.jobs.spawn(async move {
            for id in strangers {
                tracing::warn!(container = id, pod_uid = uid, "ending a container that is not on record");
                if let Err(e) = runtime.stop_container(&uid, &id, 0).await {
                    tracing::warn!(container = id, "{e}");
                }
                if let Err(e) = runtime.remove_container(&uid, &id).await {
                    tracing::warn!(container = id, "{e}");
                }
            }
            for id in ended {
                if let Err(e) = runtime.remove_container(&uid, &id).await {
                    tracing::warn!(container = id, "{e}");
                }
            }
        });
    }

    fn sandbox_gone(&mut self) {
        let now = self.ctx.clock.now();
        for instance in &mut self.local.record.instances {
            Self::mark_lost(instance, now);
        }
        self.local.sandbox = Step::Todo;
        self.local.sandbox_lost = true;
        self.dirty = true;
        if !self.local.stopping {
            self.event(false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            self.local.record.sandbox += 1;
        }
    }

    /// A container that ended without being seen.
    pub(super) fn mark_lost(instance: &mut Instance, now: Timestamp) {
        if instance.alive() {
            instance.state = State::Exited(lost(&instance.state, now));
        }
    }
}

fn lost(state: &State, now: Timestamp) -> Exit {
    Exit {
        started_ns: match state {
            State::Running { started_ns } => *started_ns,
            _ => 0,
        },
        finished_ns: to_ns(now),
        exit_code: LOST,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
    }
}
