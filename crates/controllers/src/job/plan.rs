//! What a job needs: has it ended, which pods to create or delete, and what its status says then.
//!
//! A [`Sync`] is one pass: [`Sync::begin`] looks at the world, [`Sync::step`] decides, [`Sync::conclude`] takes the
//! outcome in; `track` counts pods. Nothing here talks to anybody.
//! upstream: `pkg/controller/job/job_controller.go#syncJob`, `#manageJob`

use super::backoff::{self, Record};
use super::facts::{self, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED, new_condition};
use super::indexes::Indexes;
use super::policy::{self, Verdict};
use crate::common::{pods, time};
use client::Kind;
use client::events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Most pods created or deleted in one pass (upstream: `MaxPodCreateDeletePerSync`).
const MAX_PODS_PER_PASS: usize = 500;

/// What a pass depends on.
pub struct World {
    pub job: Job,
    /// The pods that the job owns.
    pub pods: Vec<Arc<Pod>>,
    /// Uids of pods that lost their finalizer, which our copy does not show yet.
    pub released: HashSet<String>,
    pub record: Record,
    /// Whether all earlier creations and deletions have been seen.
    pub settled: bool,
    pub now: Timestamp,
}

/// What is to be done about pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The job ends: these are deleted, but stay until they are counted.
    Finish(Vec<Arc<Pod>>),
    /// These are too many; they are not counted.
    Delete(Vec<Arc<Pod>>),
    /// One pod each, with its index in an indexed job.
    Create(Vec<Option<usize>>),
    /// Pods are to be created, but not before this time has passed.
    Wait(Duration),
    Nothing,
    /// Nothing may be done now.
    Hold,
}

/// What came of a [`Step`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub created: i32,
    pub deleted: i32,
    /// Of the deleted ones, those that were ready.
    pub deleted_ready: i32,
}

/// Something to tell about the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(pub EventType, pub String, pub String);

/// One pass over a job.
pub struct Sync {
    /// The job with its new status.
    pub job: Job,
    pub(super) spec: JobSpec,
    pub(super) pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    pub(super) released: HashSet<String>,
    /// Uncounted pods of the status at the beginning.
    pub(super) uncounted_succeeded: HashSet<String>,
    pub(super) uncounted_failed: HashSet<String>,
    succeeded: i32,
    failed: i32,
    pub(super) old_indexes: Indexes,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    /// By index: the failed pod that stays until its successor knows how often the index failed.
    pub(super) delayed: HashMap<usize, Arc<Pod>>,
    /// Failures, to be kept once the status is written.
    pub record: Record,
    /// The condition that the job ends with; not yet in its status.
    pub(super) ending: Option<JobCondition>,
    pub(super) terminating: i32,
    settled: bool,
    /// When to look again for the deadline.
    pub again: Option<Duration>,
    pub(super) now: Timestamp,
}

impl Sync {
    /// Looks at everything and finds out whether the job is to end.
    pub fn begin(world: World) -> Self {
        let World { mut job, mut pods, released, record, settled, now } = world;
        let spec = facts::spec(&job);
        if facts::is_indexed(&spec) {
            pods.sort_by_key(|p| facts::index(p));
        }
        let status = job.status.get_or_insert_default();
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        let set = |l: &Option<Vec<String>>| l.iter().flatten().cloned().collect::<HashSet<_>>();
        let (uncounted_succeeded, uncounted_failed) = (set(&uncounted.succeeded), set(&uncounted.failed));
        if status.start_time.is_none() && !facts::is_suspended(&spec) {
            status.start_time = Some(time(now));
        }
        let active = pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
        let terminating = count(pods.iter().filter(|p| pods::is_terminating(p)).count());
        let mut this = Self {
            job,
            spec,
            pods,
            active,
            released,
            uncounted_succeeded,
            uncounted_failed,
            succeeded: 0,
            failed: 0,
            old_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            delayed: HashMap::new(),
            record,
            ending: None,
            terminating,
            settled,
            again: None,
            now,
        };
        this.count_ended();
        this.ending = this.ended_before();
        if this.ending.is_none() {
            this.ending = this.past_limits();
        }
        if facts::is_indexed(&this.spec) {
            this.look_at_indexes();
        }
        this
    }

    pub(super) fn status(&mut self) -> &mut JobStatus {
        self.job.status.get_or_insert_default()
    }

    /// Pods that still have their finalizer and (in an indexed job) an index that exists: those not counted yet.
    fn valid(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let indexed = facts::is_indexed(&self.spec);
        self.pods.iter().filter(move |p| {
            facts::has_finalizer(p)
                && !self.released.contains(p.uid())
                && (!indexed || self.index_of(p).is_some())
        })
    }

    pub(super) fn index_of(&self, pod: &Pod) -> Option<usize> {
        facts::valid_index(pod, facts::completions(&self.spec))
    }

    pub(super) fn judge(&self, pod: &Pod) -> Verdict {
        policy::judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    fn count_ended(&mut self) {
        let succeeded: Vec<_> = self
            .valid()
            .filter(|p| !self.uncounted_succeeded.contains(p.uid()) && pods::phase(p) == "Succeeded")
            .cloned()
            .collect();
        let failed: Vec<_> = self
            .valid()
            .filter(|p| !self.uncounted_failed.contains(p.uid()) && facts::is_failed(p, &self.spec))
            .cloned()
            .collect();
        let counted = failed.iter().filter(|p| self.judge(p) != Verdict::Ignore).count();
        let status = self.job.status.clone().unwrap_or_default();
        self.succeeded =
            status.succeeded.unwrap_or(0) + count(succeeded.len() + self.uncounted_succeeded.len());
        self.failed = status.failed.unwrap_or(0) + count(counted + self.uncounted_failed.len());
        self.record = self.record.after(&succeeded, &failed);
    }

    /// The end that was decided in an earlier pass, or that a pod's failure brings.
    fn ended_before(&self) -> Option<JobCondition> {
        let is_true = |kind| facts::condition(&self.job, kind).filter(|c| c.status == "True");
        if let Some(met) = is_true(SUCCESS_CRITERIA_MET) {
            return Some(met.clone());
        }
        if let Some(target) = is_true(FAILURE_TARGET) {
            return Some(failed_from(target, self.now));
        }
        let failed = self.pods.iter().filter(|p| facts::is_failed(p, &self.spec));
        let message = failed.into_iter().find_map(|p| match self.judge(p) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        })?;
        Some(new_condition(FAILURE_TARGET, "True", "PodFailurePolicy", &message, self.now))
    }

    fn failure(&self, reason: &str, message: &str) -> Option<JobCondition> {
        Some(new_condition(FAILURE_TARGET, "True", reason, message, self.now))
    }

    fn past_limits(&mut self) -> Option<JobCondition> {
        let default = if self.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        let limit = self.spec.backoff_limit.unwrap_or(default);
        if self.failed > limit || restarts_exceed(&self.spec, limit, &self.pods) {
            return self.failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if facts::is_suspended(&self.spec) {
            return None;
        }
        let allowed = SignedDuration::from_secs(self.spec.active_deadline_seconds?);
        let start = self.job.status.as_ref()?.start_time.as_ref()?.0;
        let left = allowed.saturating_sub(self.now.duration_since(start));
        if left <= SignedDuration::ZERO {
            return self.failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        self.again = Duration::try_from(left).ok();
        None
    }

    fn look_at_indexes(&mut self) {
        let completions = facts::completions(&self.spec);
        let status = self.job.status.clone().unwrap_or_default();
        self.old_indexes = Indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
        let new = self.pods.iter().filter(|p| pods::phase(p) == "Succeeded" && facts::has_finalizer(p));
        self.succeeded_indexes = self.old_indexes.with(new.filter_map(|p| self.index_of(p)));
        self.succeeded = count(self.succeeded_indexes.total());
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let old = Indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), completions);
            let new = self.pods.iter().filter(|p| facts::has_finalizer(p) && self.index_failed(p, limit));
            let failed = old.with(new.filter_map(|p| self.index_of(p)));
            if self.ending.is_none() {
                self.ending = self.failed_by_indexes(failed.total());
            }
            self.delayed = self.delayed_pods(&failed);
            self.failed_indexes = Some(failed);
        }
        if self.ending.is_none() {
            let policy = self.spec.success_policy.as_ref();
            self.ending = policy::suffices(policy, completions, &self.succeeded_indexes)
                .map(|m| new_condition(SUCCESS_CRITERIA_MET, "True", "SuccessPolicy", &m, self.now));
        }
    }

    fn index_failed(&self, pod: &Pod, limit: i32) -> bool {
        facts::is_failed(pod, &self.spec)
            && match self.judge(pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => facts::index_failures(pod) >= limit,
            }
    }

    fn failed_by_indexes(&self, failed: usize) -> Option<JobCondition> {
        let most = self.spec.max_failed_indexes.and_then(|m| usize::try_from(m).ok());
        if most.is_some_and(|m| failed > m) {
            return self.failure(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        let all = failed + self.succeeded_indexes.total() >= facts::completions(&self.spec);
        if failed > 0 && all { self.failure("FailedIndexes", "Job has failed indexes") } else { None }
    }

    /// Upstream: `getPodsWithDelayedDeletionPerIndex`.
    fn delayed_pods(&self, failed: &Indexes) -> HashMap<usize, Arc<Pod>> {
        let active: HashSet<usize> = self.active.iter().filter_map(|p| facts::index(p)).collect();
        let mut out: HashMap<usize, Arc<Pod>> = HashMap::new();
        for pod in self.valid().filter(|p| facts::is_failed(p, &self.spec)) {
            let Some(index) = self.index_of(pod) else { continue };
            if self.succeeded_indexes.has(index) || failed.has(index) || active.contains(&index) {
                continue;
            }
            let later = out.get(&index).is_none_or(|known| {
                facts::index_all_failures(known) <= facts::index_all_failures(pod)
                    && backoff::finished_at(pod) >= backoff::finished_at(known)
            });
            if later {
                out.insert(index, pod.clone());
            }
        }
        out
    }

    /// Decides what is done about pods.
    pub fn step(&self) -> Step {
        if self.ending.is_some() {
            return Step::Finish(self.active.clone());
        }
        if !self.settled || self.job.is_deleting() {
            return Step::Hold;
        }
        let active = self.active.len();
        if facts::is_suspended(&self.spec) {
            return some_deleted(self.surplus(active));
        }
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let want = match self.spec.completions {
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(c) => usize::try_from(c.saturating_sub(self.succeeded)).unwrap_or(0).min(parallelism),
        };
        let mut surplus = self.surplus(active.saturating_sub(want));
        if !surplus.is_empty() {
            surplus.truncate(MAX_PODS_PER_PASS);
            return Step::Delete(surplus);
        }
        let mut occupied = active;
        if facts::only_replace_failed(&self.spec) {
            occupied += usize::try_from(self.terminating).unwrap_or(0);
        }
        match want.saturating_sub(occupied).min(MAX_PODS_PER_PASS) {
            0 => Step::Nothing,
            missing => self.creation(missing),
        }
    }

    fn creation(&self, missing: usize) -> Step {
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let wait = if per_index { Duration::ZERO } else { self.record.remaining(self.now) };
        if !wait.is_zero() {
            return Step::Wait(wait);
        }
        if !facts::is_indexed(&self.spec) {
            return Step::Create(vec![None; missing]);
        }
        let mut taken = self.succeeded_indexes.with(self.active.iter().filter_map(|p| facts::index(p)));
        if facts::only_replace_failed(&self.spec) {
            let terminating = self.pods.iter().filter(|p| pods::is_terminating(p));
            taken = taken.with(terminating.filter_map(|p| facts::index(p)));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        let pending = taken.first_missing(missing, facts::completions(&self.spec));
        let wait = |i: &usize| backoff::remaining_of_index(self.delayed.get(i).map(|p| &**p), self.now);
        let now: Vec<_> =
            pending.iter().filter(|i| !per_index || wait(i).is_zero()).map(|i| Some(*i)).collect();
        match pending.iter().map(wait).min() {
            Some(shortest) if now.is_empty() => Step::Wait(shortest),
            Some(_) => Step::Create(now),
            None => Step::Nothing,
        }
    }

    /// At least so many active pods to delete: those without a place first, then those that are missed least.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let (mut gone, mut left) = (Vec::new(), self.active.clone());
        if facts::is_indexed(&self.spec) {
            let mut groups: HashMap<usize, Vec<Arc<Pod>>> = HashMap::new();
            for pod in left.drain(..) {
                match self.index_of(&pod) {
                    Some(i) => groups.entry(i).or_default().push(pod),
                    None => gone.push(pod),
                }
            }
            for mut group in groups.into_values() {
                group.sort_by(|a, b| pods::active_order(a, b));
                left.extend(group.pop());
                gone.extend(group);
            }
            left.sort_by_key(|p| facts::index(p));
        }
        let more = at_least.saturating_sub(gone.len());
        left.sort_by(|a, b| pods::active_order(a, b));
        gone.extend(left.into_iter().take(more));
        gone
    }

    /// Takes in what came of the step. Whether the status must be written, and what to tell.
    pub fn conclude(&mut self, step: &Step, outcome: Outcome) -> (bool, Vec<Note>) {
        let mut active = count(self.active.len()) + outcome.created - outcome.deleted;
        let mut ready = count(self.active.iter().filter(|p| pods::is_ready(p)).count());
        ready -= outcome.deleted_ready;
        self.terminating += outcome.deleted;
        let (mut changed, mut notes) = (false, Vec::new());
        if let Step::Finish(all) = step {
            if outcome.deleted != count(all.len()) || !self.settled {
                // some pods may still run, or are not known yet
                self.ending = None;
            }
        } else {
            let done = match self.spec.completions {
                None => self.succeeded > 0,
                Some(c) => self.succeeded >= c,
            };
            if done && active == 0 {
                let message = "Reached expected number of succeeded pods";
                let (kind, reason) = (SUCCESS_CRITERIA_MET, "CompletionsReached");
                self.ending = Some(new_condition(kind, "True", reason, message, self.now));
            } else if *step != Step::Hold {
                changed = self.suspension(&mut notes);
            }
        }
        active = active.max(0);
        ready = ready.clamp(0, active);
        let terminating = self.terminating;
        let status = self.status();
        changed |= status.active.unwrap_or(0) != active
            || status.ready != Some(ready)
            || status.terminating != Some(terminating);
        status.active = some(active);
        status.ready = Some(ready);
        status.terminating = Some(terminating);
        (changed, notes)
    }

    fn suspension(&mut self, notes: &mut Vec<Note>) -> bool {
        let (suspended, now) = (facts::is_suspended(&self.spec), self.now);
        let (value, reason, event, message) = if suspended {
            ("True", "JobSuspended", "Suspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Resumed", "Job resumed")
        };
        let status = self.status();
        let conditions = status.conditions.get_or_insert_default();
        let new = new_condition(SUSPENDED, value, reason, message, now);
        if !facts::ensure_condition(conditions, new) {
            return false;
        }
        // the deadline counts from the last resumption
        status.start_time = if suspended { None } else { Some(time(now)) };
        notes.push(Note(EventType::Normal, event.to_owned(), message.to_owned()));
        true
    }

    /// The failed pod of an index that a new pod of it replaces.
    pub fn replaced(&self, index: usize) -> Option<&Arc<Pod>> {
        self.delayed.get(&index)
    }
}

/// The final condition of a job whose failure was decided.
pub(super) fn failed_from(target: &JobCondition, now: Timestamp) -> JobCondition {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    new_condition(FAILED, "True", &text(&target.reason), &text(&target.message), now)
}

/// A count as a status has it: absent when 0.
pub(super) fn some(n: i32) -> Option<i32> {
    Some(n).filter(|n| *n != 0)
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn some_deleted(pods: Vec<Arc<Pod>>) -> Step {
    if pods.is_empty() { Step::Nothing } else { Step::Delete(pods) }
}

/// Restarts of containers count as failures when pods are not replaced (upstream: `pastBackoffLimitOnFailure`).
fn restarts_exceed(spec: &JobSpec, limit: i32, all: &[Arc<Pod>]) -> bool {
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let living = all.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
    let restarts: i32 = living
        .filter_map(|p| p.status.as_ref())
        .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten())
        .map(|c| c.restart_count)
        .fold(0, i32::saturating_add);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}
