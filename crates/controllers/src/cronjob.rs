//! Cron jobs: jobs that are started at the times of a schedule.
//!
//! Invariant: a job's name is made of the minute it is started for, so that no minute gets two.
//! upstream: `pkg/controller/cronjob`

mod plan;
#[cfg(test)]
mod tests;

use crate::deployment::is_terminating_namespace;
use crate::job::facts;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Queue, Reconcile};
use client::events::{Recorder, reference};
use client::informer::{Change, Informer};
use client::{Client, DeleteOptions, Kind};
use jiff::Timestamp;
use k8s_openapi::Resource;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use meta::Status;
use plan::Note;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;

struct CronJobController {
    client: Client,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: Recorder,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let (cron_jobs, jobs) = (setup.informers.of::<CronJob>(), setup.informers.of::<Job>());
    let client = setup.client("cronjob-controller");
    let this = Arc::new(CronJobController {
        recorder: setup.recorder(&client, "cronjob-controller"),
        client,
        cron_jobs: cron_jobs.clone(),
        jobs: jobs.clone(),
        clock: setup.clock.clone(),
    });
    let (for_crons, for_jobs) = (this.clone(), this.clone());
    Controller::new("cronjob", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&cron_jobs, move |c, q| for_crons.changed(c, q))
        .watches(&jobs, move |c, q| {
            for job in c.old.iter().chain(&c.new) {
                for_jobs.owner_of(job).into_iter().for_each(|k| q.add(k));
            }
        })
        .start(setup.cancel.clone())
}

/// A pass over a cron job: its new status, and whether that is to be written.
struct Pass {
    cron: CronJob,
    changed: bool,
}

impl Pass {
    fn status(&mut self) -> &mut CronJobStatus {
        self.cron.status.get_or_insert_default()
    }
}

impl CronJobController {
    fn changed(&self, change: &Change<CronJob>, queue: &Queue<ObjectKey>) {
        let Some(cron) = change.latest() else { return };
        let key = ObjectKey::of(&**cron);
        let timing = |c: &CronJob| (c.spec.schedule.clone(), c.spec.time_zone.clone());
        let retimed = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.uid() == new.uid() && timing(old) != timing(new),
            _ => false,
        };
        if !retimed {
            return queue.add(key);
        }
        match plan::parse(cron) {
            Ok(schedule) => {
                let wait = plan::until_next(cron, self.clock.now(), &schedule);
                queue.add_after(key, wait.unwrap_or_default());
            }
            Err(_) => {
                let text = format!("unparseable schedule for cronjob: {}", cron.spec.schedule);
                self.tell(cron, vec![Note::warning("UnParseableCronJobSchedule", text)]);
            }
        }
    }

    fn owner_of(&self, job: &Job) -> Option<ObjectKey> {
        let owner = job.controller().filter(|c| c.kind == CronJob::KIND)?;
        let cron = self.cron_jobs.store().get(job.namespace(), &owner.name)?;
        (cron.uid() == owner.uid).then(|| ObjectKey::of(&*cron))
    }

    fn tell(&self, cron: &CronJob, notes: Vec<Note>) {
        for Note(kind, reason, message) in notes {
            self.recorder.event(&reference(cron), kind, reason, message);
        }
    }

    /// Deletes a job with its pods. Whether it is gone.
    async fn delete(&self, pass: &mut Pass, job: &Job) -> bool {
        let options =
            DeleteOptions { propagation_policy: Some("Background".into()), ..DeleteOptions::default() };
        match self.client.delete::<Job>(job.namespace(), job.name(), &options).await {
            Ok(()) => {
                plan::deactivate(pass.status(), job.uid());
                let text = format!("Deleted job {}", job.name());
                self.tell(&pass.cron, vec![Note::normal("SuccessfulDelete", text)]);
                pass.changed = true;
                true
            }
            Err(e) => {
                self.tell(&pass.cron, vec![Note::warning("FailedDelete", format!("Deleted job: {e}"))]);
                false
            }
        }
    }

    /// Brings the status up to what the jobs are now.
    async fn review(&self, pass: &mut Pass, jobs: &[Arc<Job>]) -> Result<(), Status> {
        for job in jobs {
            let unknown = !plan::is_active(pass.status(), job.uid());
            if unknown && facts::finished(job).is_none() {
                // our copy of the status may be older than the job
                let fresh: CronJob = self.client.get(pass.cron.namespace(), pass.cron.name()).await?;
                if fresh.status.as_ref().is_some_and(|s| plan::is_active(s, job.uid())) {
                    pass.cron = fresh;
                    continue;
                }
                let text = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                self.tell(&pass.cron, vec![Note::warning("UnexpectedJob", text)]);
            }
            let mut notes = Vec::new();
            pass.changed |= plan::review_ended(pass.status(), job, &mut notes);
            self.tell(&pass.cron, notes);
        }
        let known: HashSet<&str> = jobs.iter().map(|j| j.uid()).collect();
        for active in pass.status().active.clone().unwrap_or_default() {
            let (uid, name) = (active.uid.unwrap_or_default(), active.name.unwrap_or_default());
            if known.contains(uid.as_str()) {
                continue;
            }
            match self.client.get::<Job>(active.namespace.as_deref().unwrap_or(""), &name).await {
                Err(e) if e.is_not_found() => {
                    let note = Note::normal("MissingJob", format!("Active job went missing: {name}"));
                    self.tell(&pass.cron, vec![note]);
                    plan::deactivate(pass.status(), &uid);
                    pass.changed = true;
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Makes room for a new job where the policy is Replace.
    async fn replace(&self, pass: &mut Pass) -> Result<(), Status> {
        for active in pass.status().active.clone().unwrap_or_default() {
            let (ns, name) = (active.namespace.unwrap_or_default(), active.name.unwrap_or_default());
            let job = match self.client.get::<Job>(&ns, &name).await {
                Ok(job) => job,
                Err(e) => {
                    self.tell(&pass.cron, vec![Note::warning("FailedGet", format!("Get job: {e}"))]);
                    return Err(e);
                }
            };
            if !self.delete(pass, &job).await {
                return Err(Status::internal(format!("could not replace job {ns}/{name}")));
            }
        }
        Ok(())
    }

    async fn start_job(&self, pass: &mut Pass, at: Timestamp) -> Result<(), Status> {
        if pass.cron.spec.concurrency_policy.as_deref() == Some("Replace") {
            self.replace(pass).await?;
        }
        let wanted = plan::job(&pass.cron, at).map_err(Status::internal)?;
        let job = match self.client.create(&wanted).await {
            Ok(job) => {
                let note = Note::normal("SuccessfulCreate", format!("Created job {}", job.name()));
                self.tell(&pass.cron, vec![note]);
                job
            }
            Err(e) if e.is_already_exists() => {
                let there: Job = self.client.get(wanted.namespace(), wanted.name()).await?;
                let ours = there.controller().is_some_and(|c| c.uid == pass.cron.uid());
                if !ours || plan::is_active(pass.status(), there.uid()) {
                    return Ok(());
                }
                // made before, but the status was not written
                there
            }
            Err(e) => {
                if !is_terminating_namespace(&e) {
                    let note = Note::warning("FailedCreate", format!("Error creating job: {e}"));
                    self.tell(&pass.cron, vec![note]);
                }
                return Err(e);
            }
        };
        plan::started(pass.status(), reference(&job), at);
        pass.changed = true;
        Ok(())
    }

    async fn sync(&self, pass: &mut Pass, jobs: &[Arc<Job>]) -> Result<Option<Duration>, Status> {
        self.review(pass, jobs).await?;
        if pass.cron.is_deleting() {
            return Ok(None);
        }
        let due = plan::due(&pass.cron, self.clock.now());
        self.tell(&pass.cron, due.notes);
        if let Some(at) = due.start {
            self.start_job(pass, at).await?;
        }
        Ok(due.again)
    }
}

#[async_trait]
impl Reconcile for CronJobController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(cron) = self.cron_jobs.store().get(&key.namespace, &key.name) else {
            return Ok(After::Done);
        };
        let jobs = self.jobs.store().by_owner(cron.uid());
        let mut pass = Pass { cron: (*cron).clone(), changed: false };
        for job in plan::surplus(&cron, &jobs) {
            self.delete(&mut pass, &job).await;
        }
        let outcome = self.sync(&mut pass, &jobs).await;
        if pass.changed {
            self.client.update_status(&pass.cron).await?;
        }
        Ok(outcome?.map_or(After::Done, After::Again))
    }
}
