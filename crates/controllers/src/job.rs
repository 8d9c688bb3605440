//! Jobs: pods that run to their end, counted exactly once.
//!
//! Invariant: a pod is created or deleted only while all earlier creations and deletions have been seen, and nothing is
//! decided on a copy of the job that is older than what this controller wrote last.
//! upstream: `pkg/controller/job`

mod act;
mod backoff;
pub mod facts;
pub mod indexes;
pub mod plan;
mod pod;
pub mod policy;
#[cfg(test)]
mod tests;
mod track;
#[cfg(test)]
mod wiring;

use crate::common::select;
use crate::start::Setup;
use async_trait::async_trait;
use backoff::Record;
use base::clock::SharedClock;
use client::controller::{
    After, Controller, Error, Expectations, Handle, ObjectKey, Queue, RateLimiter, Reconcile,
};
use client::events::Recorder;
use client::informer::{Change, Informer};
use client::{Client, Kind};
use jiff::SignedDuration;
use k8s_openapi::Resource;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use meta::selector::LabelSelector;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// Changes of pods and of the status are gathered for so long (upstream: `SyncJobBatchPeriod`).
const BATCH: Duration = Duration::from_secs(1);
/// Waits of keys that failed (upstream: `DefaultJobApiBackOff`, `MaxJobApiBackOff`), and no limit over all keys.
const RETRY: RateLimiter =
    RateLimiter { base: Duration::from_secs(1), max: Duration::from_secs(60), per_second: 1e6, burst: 1e6 };
/// Wait for our copy of a job to catch up with what was written.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What there is to work on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Job(ObjectKey),
    /// A pod that may have lost its job, and keeps the finalizer.
    Orphan(ObjectKey),
    /// All pods that a job which is gone or ended selected.
    Orphans {
        namespace: String,
        selector: String,
    },
}

struct JobController {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    expectations: Expectations<ObjectKey>,
    /// By job: uids of pods that lost their finalizer, until that is seen.
    released: Mutex<HashMap<ObjectKey, HashSet<String>>>,
    records: Mutex<HashMap<ObjectKey, Record>>,
    /// By job: uid and resource version of what was written last.
    written: Mutex<HashMap<ObjectKey, (String, u64)>>,
    recorder: Recorder,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let (jobs, pods) = (setup.informers.of::<Job>(), setup.informers.of::<Pod>());
    let client = setup.client("job-controller");
    let this = Arc::new(JobController {
        recorder: setup.recorder(&client, "job-controller"),
        client,
        jobs: jobs.clone(),
        pods: pods.clone(),
        expectations: Expectations::new(setup.clock.clone()),
        released: Mutex::default(),
        records: Mutex::default(),
        written: Mutex::default(),
        clock: setup.clock.clone(),
    });
    let (for_jobs, for_pods) = (this.clone(), this.clone());
    Controller::new("job", this, setup.clock.clone())
        .with_queue(Arc::new(Queue::new(setup.clock.clone(), RETRY)))
        .workers(WORKERS)
        .watches(&jobs, move |c, q| for_jobs.job_changed(c, q))
        .watches(&pods, move |c, q| for_pods.pod_changed(c, q))
        .start(setup.cancel.clone())
}

impl JobController {
    fn job_changed(&self, change: &Change<Job>, queue: &Queue<Key>) {
        let Some(job) = change.latest() else { return };
        let key = ObjectKey::of(&**job);
        let before = change.old.as_ref().filter(|o| o.uid() == job.uid());
        if change.new.is_none() || (change.old.is_some() && before.is_none()) {
            // a successor of the same name starts anew
            self.forget(&key);
            queue.add(Key::Job(key));
            change.old.iter().for_each(|old| add_orphans(old, queue));
            return;
        }
        let Some(before) = before else { return queue.add(Key::Job(key)) };
        if facts::finished(job).is_some() {
            return add_orphans(job, queue);
        }
        if before.metadata.generation != job.metadata.generation {
            queue.add(Key::Job(key.clone()));
        } else {
            queue.add_after(Key::Job(key.clone()), BATCH);
        }
        let deadline = |j: &Job| j.spec.as_ref().and_then(|s| s.active_deadline_seconds);
        let start = job.status.as_ref().and_then(|s| s.start_time.as_ref());
        if let (Some(start), Some(allowed)) = (start, deadline(job))
            && deadline(before) != Some(allowed)
        {
            let passed = self.clock.now().duration_since(start.0);
            let left = SignedDuration::from_secs(allowed).saturating_sub(passed);
            queue.add_after(Key::Job(key), Duration::try_from(left).unwrap_or_default());
        }
    }

    /// The job that a pod says it belongs to.
    fn owner_of(&self, pod: &Pod) -> Option<Arc<Job>> {
        let owner = pod.controller().filter(|c| c.kind == Job::KIND)?;
        self.jobs.store().get(pod.namespace(), &owner.name).filter(|j| j.uid() == owner.uid)
    }

    fn pod_changed(&self, change: &Change<Pod>, queue: &Queue<Key>) {
        let Some(pod) = change.latest() else { return };
        if change.new.is_none() || pod.is_deleting() {
            return self.pod_deleted(pod, change.new.is_none(), queue);
        }
        let moved = change.old.as_ref().is_some_and(|old| old.controller() != pod.controller());
        if let Some(old) = change.old.as_ref().filter(|_| moved)
            && let Some(job) = self.owner_of(old)
        {
            self.saw_release(&job, pod);
            queue.add_after(Key::Job(ObjectKey::of(&*job)), BATCH);
        }
        if pod.controller().is_some() {
            let Some(job) = self.owner_of(pod) else { return };
            let key = ObjectKey::of(&*job);
            if change.old.is_none() {
                self.expectations.created(&key);
            }
            self.saw_release(&job, pod);
            return queue.add_after(Key::Job(key), BATCH);
        }
        if facts::has_finalizer(pod) {
            queue.add(Key::Orphan(ObjectKey::of(&**pod)));
        }
        let relabelled =
            change.old.as_ref().is_none_or(|old| moved || old.metadata.labels != pod.metadata.labels);
        if relabelled {
            for job in self.jobs.store().by_namespace(pod.namespace()) {
                if select::matches(&selector(&job), pod.metadata.labels.as_ref()) {
                    queue.add_after(Key::Job(ObjectKey::of(&*job)), BATCH);
                }
            }
        }
    }

    /// A pod is being deleted, or is gone (`last`).
    fn pod_deleted(&self, pod: &Pod, last: bool, queue: &Queue<Key>) {
        let job = self.owner_of(pod).filter(|j| facts::finished(j).is_none());
        let Some(job) = job else {
            // nobody else takes the finalizer away
            if facts::has_finalizer(pod) {
                queue.add(Key::Orphan(ObjectKey::of(pod)));
            }
            return;
        };
        let key = ObjectKey::of(&*job);
        self.expectations.deleted(&key, pod.uid());
        if last {
            self.forget_release(&key, pod.uid());
        } else {
            self.saw_release(&job, pod);
        }
        queue.add_after(Key::Job(key), BATCH);
    }

    fn saw_release(&self, job: &Job, pod: &Pod) {
        if !facts::has_finalizer(pod) {
            self.forget_release(&ObjectKey::of(job), pod.uid());
        }
    }

    fn forget_release(&self, key: &ObjectKey, uid: &str) {
        let mut all = self.released.lock();
        if let Some(uids) = all.get_mut(key) {
            uids.remove(uid);
            if uids.is_empty() {
                all.remove(key);
            }
        }
    }

    /// Forgets everything about a job that is gone.
    fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
        self.released.lock().remove(key);
        self.records.lock().remove(key);
        self.written.lock().remove(key);
    }

    /// Whether our copy of a job is older than what was written.
    fn is_behind(&self, key: &ObjectKey, job: &Job) -> bool {
        let written = self.written.lock();
        let Some((uid, version)) = written.get(key) else { return false };
        uid == job.uid() && job.resource_version().parse::<u64>().is_ok_and(|v| v < *version)
    }
}

fn add_orphans(job: &Job, queue: &Queue<Key>) {
    let selector = selector(job);
    if !selector.is_empty() && !selector.is_nothing() {
        queue.add(Key::Orphans { namespace: job.namespace().to_owned(), selector: selector.to_string() });
    }
}

fn selector(job: &Job) -> LabelSelector {
    let typed = job.spec.as_ref().and_then(|s| s.selector.as_ref());
    typed.map_or_else(LabelSelector::nothing, select::selector)
}

#[async_trait]
impl Reconcile for JobController {
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<After, Error> {
        match key {
            Key::Job(key) => self.sync(key).await,
            Key::Orphan(key) => {
                if let Some(pod) = self.pods.store().get(&key.namespace, &key.name) {
                    self.release_orphan(&pod).await?;
                }
                Ok(After::Done)
            }
            Key::Orphans { namespace, selector } => {
                let selector = LabelSelector::parse(selector)?;
                let mut failure = None;
                for pod in self.pods.store().by_namespace(namespace) {
                    if select::matches(&selector, pod.metadata.labels.as_ref())
                        && let Err(e) = self.release_orphan(&pod).await
                    {
                        failure = Some(e);
                    }
                }
                failure.map_or(Ok(After::Done), |e| Err(e.into()))
            }
        }
    }
}
