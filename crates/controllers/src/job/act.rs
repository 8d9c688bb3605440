//! Carrying a pass over a job out.

use super::facts::{self, FINALIZER};
use super::plan::{Note, Outcome, Step, Sync, World};
use super::{BATCH, CATCH_UP, JobController, pod, selector};
use crate::common::{claim, pods};
use crate::deployment::is_terminating_namespace;
use client::controller::{After, Error, ObjectKey};
use client::events::{EventType, reference};
use client::{DeleteOptions, Kind, Patch};
use futures::future::join_all;
use k8s_openapi::Resource;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use meta::Status;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

/// First batch of creations; each that succeeds doubles it (upstream: `SlowStartInitialBatchSize`).
const FIRST_BATCH: usize = 1;

impl JobController {
    pub(super) async fn sync(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(job) = self.jobs.store().get(&key.namespace, &key.name) else {
            self.forget(key);
            return Ok(After::Done);
        };
        if facts::managed_by_other(&job).is_some() {
            return Ok(After::Done);
        }
        if self.is_behind(key, &job) {
            return Ok(After::Again(CATCH_UP));
        }
        if facts::finished(&job).is_some() {
            self.records.lock().remove(key);
            self.written.lock().remove(key);
            return Ok(After::Done);
        }
        let mode = job.spec.as_ref().and_then(|s| s.completion_mode.as_deref());
        if !matches!(mode, None | Some("NonIndexed" | "Indexed")) {
            let text = "Skipped Job sync because completion mode is unknown";
            self.recorder.event(&reference(&*job), EventType::Warning, "UnknownCompletionMode", text);
            return Ok(After::Done);
        }
        // asked before looking at pods, so that what is seen after cannot be acted on twice
        let settled = self.expectations.satisfied(key);
        let pods = self.claimed(&job).await?;
        let world = World {
            job: (*job).clone(),
            pods,
            released: self.released.lock().get(key).cloned().unwrap_or_default(),
            record: self.records.lock().get(key).copied().unwrap_or_default(),
            settled,
            now: self.clock.now(),
        };
        let mut sync = Sync::begin(world);
        let step = sync.step();
        let (outcome, failure) = self.execute(key, &sync, &step).await;
        let (changed, notes) = sync.conclude(&step, outcome);
        self.tell(&sync.job, notes);
        self.count(key, &mut sync, changed).await?;
        if let Some(e) = failure {
            return Err(e.into());
        }
        let wait = match step {
            Step::Wait(wait) => Some(wait.max(BATCH)),
            _ => None,
        };
        let again = [wait, sync.again].into_iter().flatten().min();
        Ok(again.map_or(After::Done, After::Again))
    }

    /// The pods that the job owns now. An adopted pod gets the finalizer, so that it is counted.
    async fn claimed(&self, job: &Job) -> Result<Vec<Arc<Pod>>, Status> {
        let store = self.pods.store();
        let orphans = store.by_owner("").into_iter().filter(|p| p.namespace() == job.namespace());
        let all: Vec<_> = store.by_owner(job.uid()).into_iter().chain(orphans).collect();
        let claims = claim::plan(&job.metadata, &selector(job), all);
        claim::apply_with(&self.client, job, claims, Some(FINALIZER)).await
    }

    fn tell(&self, job: &Job, notes: Vec<Note>) {
        for Note(kind, reason, message) in notes {
            self.recorder.event(&reference(job), kind, &reason, message);
        }
    }

    async fn execute(&self, key: &ObjectKey, sync: &Sync, step: &Step) -> (Outcome, Option<Status>) {
        match step {
            Step::Finish(all) => self.delete(&sync.job, all, None).await,
            Step::Delete(all) => {
                self.expectations.expect(key, 0, all.iter().map(|p| p.uid().to_owned()));
                self.delete(&sync.job, all, Some(key)).await
            }
            Step::Create(indexes) => self.create(key, sync, indexes).await,
            Step::Wait(_) | Step::Nothing | Step::Hold => (Outcome::default(), None),
        }
    }

    /// Deletes pods. With a key they are not to be counted: they lose the finalizer first, and are expected to go.
    async fn delete(
        &self,
        job: &Job,
        all: &[Arc<Pod>],
        expected: Option<&ObjectKey>,
    ) -> (Outcome, Option<Status>) {
        let results = join_all(all.iter().map(|pod| async move {
            let result = match expected {
                Some(_) => match self.take_finalizer(pod).await {
                    Ok(()) => self.delete_one(job, pod).await,
                    Err(e) => Err(e),
                },
                None => self.delete_one(job, pod).await,
            };
            if let (Some(key), Err(_)) = (expected, &result) {
                self.expectations.deleted(key, pod.uid());
            }
            (pod, result)
        }));
        let (mut outcome, mut failure) = (Outcome::default(), None);
        for (pod, result) in results.await {
            match result {
                Err(e) if !e.is_not_found() => failure = failure.or(Some(e)),
                _ => {
                    outcome.deleted += 1;
                    outcome.deleted_ready += i32::from(pods::is_ready(pod));
                }
            }
        }
        (outcome, failure)
    }

    async fn delete_one(&self, job: &Job, pod: &Pod) -> Result<(), Status> {
        let about = reference(job);
        match self.client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteOptions::default()).await {
            Ok(()) => {
                let text = format!("Deleted pod: {}", pod.name());
                self.recorder.event(&about, EventType::Normal, "SuccessfulDelete", text);
                Ok(())
            }
            Err(e) if e.is_not_found() => Err(e),
            Err(e) => {
                self.recorder.event(
                    &about,
                    EventType::Warning,
                    "FailedDelete",
                    format!("Error deleting: {e}"),
                );
                Err(e)
            }
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        sync: &Sync,
        indexes: &[Option<usize>],
    ) -> (Outcome, Option<Status>) {
        self.expectations.expect(key, indexes.len() as i64, []);
        let (mut left, mut batch, mut outcome) = (indexes, FIRST_BATCH, Outcome::default());
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let results = join_all(now.iter().map(|i| self.create_one(sync, *i))).await;
            left = later;
            let mut first = None;
            for result in results {
                match result {
                    Ok(()) => outcome.created += 1,
                    Err(e) => {
                        self.expectations.created(key);
                        first = first.or(Some(e));
                    }
                }
            }
            if let Some(e) = first {
                left.iter().for_each(|_| self.expectations.created(key));
                // there is no use in trying again in a namespace that goes away
                return (outcome, Some(e).filter(|e| !is_terminating_namespace(e)));
            }
            batch *= 2;
        }
        (outcome, None)
    }

    async fn create_one(&self, sync: &Sync, index: Option<usize>) -> Result<(), Status> {
        let spec = facts::spec(&sync.job);
        let replaced = index.and_then(|i| sync.replaced(i));
        let pod = pod::pod(&sync.job, &spec, index, replaced.map(|p| &**p));
        let about = reference(&sync.job);
        match self.client.create(&pod).await {
            Ok(made) => {
                let text = format!("Created pod: {}", made.name());
                self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(e) => {
                if !is_terminating_namespace(&e) {
                    let text = format!("Error creating: {e}");
                    self.recorder.event(&about, EventType::Warning, "FailedCreate", text);
                }
                Err(e)
            }
        }
    }

    /// Counts what ended: writes the status, releases the pods, writes again.
    async fn count(&self, key: &ObjectKey, sync: &mut Sync, changed: bool) -> Result<(), Status> {
        let mut counting = sync.track(changed);
        if counting.flush {
            self.write(key, sync).await?;
            self.records.lock().insert(key.clone(), sync.record);
        }
        let (released, failure) = self.release(key, &counting.release).await;
        let more = sync.count_released(&mut counting, &released);
        if let Some(e) = failure {
            if more {
                self.write(key, sync).await?;
            }
            return Err(e);
        }
        let ended = sync.finish(&counting);
        if more || ended.is_some() {
            self.write(key, sync).await?;
        }
        if let Some(notes) = ended {
            self.tell(&sync.job, notes);
        }
        Ok(())
    }

    async fn write(&self, key: &ObjectKey, sync: &mut Sync) -> Result<(), Status> {
        sync.job = self.client.update_status(&sync.job).await?;
        if let Ok(version) = sync.job.resource_version().parse() {
            self.written.lock().insert(key.clone(), (sync.job.uid().to_owned(), version));
        }
        Ok(())
    }

    /// Takes the finalizer from pods; the uids of those that have none now, and the first failure.
    async fn release(&self, key: &ObjectKey, all: &[Arc<Pod>]) -> (HashSet<String>, Option<Status>) {
        if all.is_empty() {
            return (HashSet::new(), None);
        }
        let uids = all.iter().map(|p| p.uid().to_owned());
        self.released.lock().entry(key.clone()).or_default().extend(uids);
        let results = join_all(all.iter().map(|pod| async move { (pod, self.take_finalizer(pod).await) }));
        let (mut released, mut failure) = (HashSet::new(), None);
        for (pod, result) in results.await {
            if result.is_err() {
                // no change of the pod will be seen
                self.forget_release(key, pod.uid());
            }
            match result {
                Err(e) if !e.is_not_found() => failure = failure.or(Some(e)),
                _ => drop(released.insert(pod.uid().to_owned())),
            }
        }
        (released, failure)
    }

    async fn take_finalizer(&self, pod: &Pod) -> Result<(), Status> {
        if !facts::has_finalizer(pod) {
            return Ok(());
        }
        let patch =
            Patch::Strategic(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}));
        self.client.patch::<Pod>(pod.namespace(), pod.name(), None, patch).await.map(drop)
    }

    /// Takes the finalizer from a pod that no job will count.
    pub(super) async fn release_orphan(&self, pod: &Pod) -> Result<(), Status> {
        if let Some(owner) = pod.controller() {
            if owner.kind != Job::KIND || owner.api_version != Job::API_VERSION {
                return Ok(());
            }
            if let Some(job) = self.owner_of(pod)
                && (facts::managed_by_other(&job).is_some() || facts::finished(&job).is_none())
            {
                return Ok(());
            }
        }
        match self.take_finalizer(pod).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }
}
