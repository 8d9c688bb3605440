//! Starting jobs for what the plan says.

use super::{Done, Message, Worker};
use crate::pod::admission::Refusal;
use crate::pod::model::{Busy, Instance, Step, from_ns};
use crate::pod::plan::{Action, Kill};
use crate::pod::settings::Attempt;
use crate::pod::{kill, sandbox, spec, start};
use crate::{paths, volumes};
use jiff::Timestamp;
use std::future::Future;
use std::time::Duration;

/// Pause after a stop that the runtime could not do.
const KILL_RETRY: Duration = Duration::from_secs(2);

impl Worker {
    /// Whether the world changed at once.
    pub(super) fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Prepare => {
                self.local.volumes = Step::Busy;
                self.prepare(false);
            }
            Action::StartSandbox => self.start_sandbox(),
            Action::Start { name } => self.start_container(&name),
            Action::Kill(kill) => self.kill_container(kill),
            Action::Expire => {
                let message = "Pod was active on the node longer than the specified deadline";
                self.event(false, "DeadlineExceeded", message);
                self.local.record.failed =
                    Some(Refusal { reason: "DeadlineExceeded".into(), message: message.into() });
                self.local.stopping = true;
                self.dirty = true;
                return true;
            }
            Action::Teardown => self.tear_down(),
            Action::CleanUp => self.clean_up(),
            Action::Farewell { delete } => self.farewell(delete),
        }
        false
    }

    fn spawn(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        let outbox = self.outbox.clone();
        self.jobs.spawn(async move {
            let done = job.await;
            // The worker has ended: nobody needs to know.
            let _ = outbox.send(Message::Done(done)).await;
        });
    }

    fn prepare(&mut self, refresh: bool) {
        let ips = if spec::host_network(&self.pod) {
            self.ctx.config.node_ips.clone()
        } else {
            self.local.record.ips.clone()
        };
        let context = volumes::Context {
            api: self.ctx.api.clone(),
            tokens: self.ctx.tokens.clone(),
            clock: self.ctx.clock.clone(),
            pod_dir: self.ctx.config.pod_dir(spec::uid(&self.pod)),
            addresses: crate::pod::field_path::Addresses { pod: ips, host: self.ctx.config.node_ips.clone() },
            allocatable: self.ctx.allocatable.read().clone(),
        };
        let pod = self.pod.clone();
        self.spawn(async move {
            if refresh {
                Done::Refreshed(volumes::refresh(&context, &pod).await)
            } else {
                Done::Prepared(volumes::set_up(&context, &pod).await)
            }
        });
    }

    /// Starts a refresh of the volumes that is due; when the next is.
    pub(super) fn refresh_volumes(&mut self) -> Option<Timestamp> {
        let due = self.refresh_at?;
        if self.local.volumes != Step::Done || self.local.cleanup != Step::Todo || self.refreshing {
            return None;
        }
        if due > self.ctx.clock.now() {
            return Some(due);
        }
        self.refresh_at = None;
        self.refreshing = true;
        self.prepare(true);
        None
    }

    fn start_sandbox(&mut self) {
        self.local.sandbox = Step::Busy;
        if !self.local.sandbox_lost && self.local.record.sandbox == 0 {
            self.local.record.sandbox = 1;
        }
        self.dirty = true;
        // Written before: a sandbox without a record would be taken for a stranger's after a crash.
        self.save();
        let (ctx, pod, existing) = (self.ctx.clone(), self.pod.clone(), self.local.record.ips.clone());
        self.spawn(async move { Done::Sandbox(sandbox::start(&ctx, &pod, existing).await) });
    }

    fn start_container(&mut self, name: &str) {
        let Some((_, container)) = spec::find(&self.pod, name) else { return };
        let now = self.ctx.clock.now();
        let restart_count = self.next_restart_count(name);
        let ended = self.local.record.latest(name).and_then(Instance::exit).map(|e| from_ns(e.finished_ns));
        let target_id = spec::ephemeral_target(&self.pod, name)
            .and_then(|t| self.local.record.latest(t))
            .filter(|i| i.running())
            .map(|i| i.id.clone());
        let id = self.ctx.container_id();
        let track = self.local.track_mut(name);
        track.busy = Some(Busy::Starting);
        track.retry_at = None;
        if let Some(ended) = ended
            && track.pull_failure.is_none()
        {
            track.crash.next(ended, now);
        }
        self.starting.insert(name.to_owned(), id.clone());
        let job = start::Job {
            ctx: self.ctx.clone(),
            pod: self.pod.clone(),
            container,
            attempt: Attempt { id, restart_count, ips: self.pod_ips(), target_id },
            sandbox: self.local.record.sandbox,
            cancel: self.cancel.clone(),
        };
        let (outbox, name) = (self.outbox.clone(), name.to_owned());
        self.spawn(async move {
            let launched = |instance: Instance| async move {
                let _ = outbox.send(Message::Done(Done::Launched(Box::new(instance)))).await;
            };
            Done::Started(name, job.run(launched).await)
        });
    }

    fn pod_ips(&self) -> Vec<std::net::IpAddr> {
        if spec::host_network(&self.pod) {
            self.ctx.config.node_ips.clone()
        } else {
            self.local.record.ips.clone()
        }
    }

    /// One more than the last start that is known of: here, in the API, or by its log.
    fn next_restart_count(&self, name: &str) -> i32 {
        if let Some(latest) = self.local.record.latest(name) {
            return latest.restart_count + 1;
        }
        let p = &self.pod;
        let log = paths::container_log(
            &self.ctx.config.pod_logs_dir,
            spec::namespace(p),
            spec::name(p),
            spec::uid(p),
            name,
            0,
        );
        log.parent().map_or(0, paths::restarts_by_logs)
    }

    fn kill_container(&mut self, kill: Kill) {
        let container = spec::find(&self.pod, &kill.name).map(|(_, c)| c);
        let ip = self.pod_ips().first().copied();
        let track = self.local.track_mut(&kill.name);
        let again = matches!(track.busy, Some(Busy::Stopping { .. }));
        track.busy = Some(Busy::Stopping { grace: kill.grace });
        track.force |= kill.message.contains("definition changed");
        let name = kill.name.clone();
        let job = kill::Job {
            ctx: self.ctx.clone(),
            pod: self.pod.clone(),
            container,
            kill,
            ip,
            running: self.running.subscribe(),
            again,
        };
        self.spawn(async move {
            let result = job.run().await;
            if result.is_err() {
                // It is tried again as soon as this is known.
                tokio::time::sleep(KILL_RETRY).await;
            }
            Done::Killed(name, result)
        });
    }

    fn tear_down(&mut self) {
        self.local.teardown = Step::Busy;
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.spawn(async move { Done::TornDown(sandbox::stop(&ctx, &pod).await) });
    }

    fn clean_up(&mut self) {
        self.local.cleanup = Step::Busy;
        let uid = spec::uid(&self.pod).to_owned();
        self.ctx.tokens.forget(&uid);
        self.ctx.api.track(&uid, Default::default());
        let dir = self.ctx.config.pod_dir(&uid);
        self.spawn(async move { Done::CleanedUp(volumes::tear_down(&dir).await) });
    }

    fn farewell(&mut self, delete: bool) {
        self.local.farewell = Step::Busy;
        // The last word goes out before the pod does.
        self.show();
        let flushed = self.writer.flushed();
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.spawn(async move {
            let mut result = Ok(());
            if delete {
                flushed.wait().await;
                let (ns, name, uid) = (spec::namespace(&pod), spec::name(&pod), spec::uid(&pod));
                result = match ctx.api.delete_pod(ns, name, uid).await {
                    Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e.to_string()),
                    _ => Ok(()),
                };
            }
            Done::Farewell { deleted: delete, result }
        });
    }
}
