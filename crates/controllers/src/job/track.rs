//! Counting ended pods, each exactly once.
//!
//! Invariant: a pod loses its finalizer only after the status that lists it as uncounted was written; it moves from
//! that list into a counter only after the finalizer is gone.
//! upstream: `pkg/controller/job/job_controller.go#trackJobStatusAndRemoveFinalizers`

use super::facts::{self, COMPLETE, FAILURE_TARGET, SUCCESS_CRITERIA_MET, new_condition};
use super::plan::{Note, Sync, count, failed_from, some};
use super::policy::Verdict;
use crate::common::pods;
use client::Kind;
use client::events::EventType;
use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashSet;
use std::sync::Arc;

/// Most pods in the lists of uncounted ones: keeps a status below some 20 KB (upstream: `MaxUncountedPods`).
const MAX_UNCOUNTED: usize = 500;

/// What is to be done to count pods.
#[derive(Debug)]
pub struct Counting {
    /// Whether the status must be written first.
    pub flush: bool,
    /// The pods to take the finalizer from, then.
    pub release: Vec<Arc<Pod>>,
    /// Uids of pods that keep their finalizer if nothing is released.
    with_finalizer: HashSet<String>,
    /// More pods are to be counted than one pass may.
    full: bool,
}

impl Sync {
    /// Lists what ended since the last pass, and writes the interim condition of a job that ends.
    pub fn track(&mut self, changed: bool) -> Counting {
        let here = |p: &&Arc<Pod>| facts::has_finalizer(p) && !self.released.contains(p.uid());
        let with_finalizer: HashSet<String> =
            self.pods.iter().filter(here).map(|p| p.uid().to_owned()).collect();
        let flush = count_released(self.status(), &with_finalizer) || changed;
        let mut counting = Counting { flush, release: Vec::new(), with_finalizer, full: false };
        let new_indexes = self.list_ended(&mut counting);
        if facts::is_indexed(&self.spec) {
            self.write_indexes(&mut counting, new_indexes);
        }
        self.write_interim(&mut counting);
        counting
    }

    fn list_ended(&mut self, counting: &mut Counting) -> Vec<usize> {
        let mut uncounted = self.status().uncounted_terminated_pods.take().unwrap_or_default();
        let mut new_indexes = Vec::new();
        for pod in &self.pods {
            if !counting.with_finalizer.contains(pod.uid()) || !self.may_release(pod) {
                continue;
            }
            counting.release.push(pod.clone());
            let uid = pod.uid().to_owned();
            if pods::phase(pod) == "Succeeded" && !self.uncounted_failed.contains(&uid) {
                if facts::is_indexed(&self.spec) {
                    // the index is enough to count it once
                    if let Some(i) = self.index_of(pod).filter(|i| !self.old_indexes.has(*i)) {
                        new_indexes.push(i);
                        counting.flush = true;
                    }
                } else if !self.uncounted_succeeded.contains(&uid) {
                    uncounted.succeeded.get_or_insert_default().push(uid);
                    counting.flush = true;
                }
            } else if self.counts_as_failed(pod) {
                uncounted.failed.get_or_insert_default().push(uid);
                counting.flush = true;
            }
            if new_indexes.len() + listed(&uncounted) >= MAX_UNCOUNTED {
                counting.full = true;
                break;
            }
        }
        self.status().uncounted_terminated_pods = Some(uncounted);
        new_indexes
    }

    /// Upstream: `canRemoveFinalizer`.
    fn may_release(&self, pod: &Pod) -> bool {
        if self.job.is_deleting() || self.ending.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let delayed = facts::index(pod).and_then(|i| self.delayed.get(&i));
        facts::is_failed(pod, &self.spec) && delayed.is_none_or(|p| p.uid() != pod.uid())
    }

    /// When a job fails, every pod that has not succeeded has failed.
    fn counts_as_failed(&self, pod: &Pod) -> bool {
        let job_fails = self.ending.as_ref().is_some_and(|c| c.type_ != SUCCESS_CRITERIA_MET);
        (job_fails || facts::is_failed(pod, &self.spec))
            && !self.uncounted_failed.contains(pod.uid())
            && (!facts::is_indexed(&self.spec) || self.index_of(pod).is_some())
            && self.judge(pod) != Verdict::Ignore
    }

    fn write_indexes(&mut self, counting: &mut Counting, new: Vec<usize>) {
        self.succeeded_indexes = self.succeeded_indexes.with(new);
        let (done, total) = (self.succeeded_indexes.to_string(), count(self.succeeded_indexes.total()));
        let failed = self.failed_indexes.as_ref().map(ToString::to_string);
        let status = self.status();
        counting.flush |= status.completed_indexes.as_deref().unwrap_or("") != done;
        counting.flush |= status.failed_indexes != failed;
        status.succeeded = some(total);
        status.completed_indexes = Some(done).filter(|t| !t.is_empty());
        status.failed_indexes = failed;
    }

    /// The decision is written down before pods are released, so that it stands when they are gone.
    fn write_interim(&mut self, counting: &mut Counting) {
        let Some(ending) = self.ending.clone() else { return };
        let now = self.now;
        let conditions = self.status().conditions.get_or_insert_default();
        if ending.type_ == FAILURE_TARGET {
            let last = failed_from(&ending, now);
            conditions.push(ending);
            self.ending = Some(last);
            counting.flush = true;
        } else if ending.type_ == SUCCESS_CRITERIA_MET && ending.status == "True" {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            let (reason, message) = (text(&ending.reason), text(&ending.message));
            if !conditions.iter().any(|c| c.type_ == ending.type_ && c.status == "True") {
                conditions.push(ending);
                counting.flush = true;
            }
            self.ending = Some(new_condition(COMPLETE, "True", &reason, &message, now));
        }
    }

    /// Counts the pods that lost their finalizer. Whether the status changed.
    pub fn count_released(&mut self, counting: &mut Counting, released: &HashSet<String>) -> bool {
        counting.with_finalizer.retain(|uid| !released.contains(uid));
        count_released(self.status(), &counting.with_finalizer)
    }

    /// Writes the final condition, once all pods are counted and gone. What to tell when the status is written; `None`
    /// when the job has not ended.
    pub fn finish(&mut self, counting: &Counting) -> Option<Vec<Note>> {
        let ending = self.ending.clone()?;
        let terminating = self.terminating;
        let completions = self.spec.completions;
        let status = self.status();
        let waits = status.uncounted_terminated_pods.as_ref().is_some_and(|u| listed(u) > 0);
        if counting.full || waits || terminating > 0 {
            return None;
        }
        let complete = ending.type_ == COMPLETE;
        if complete {
            status.completion_time = ending.last_transition_time.clone();
        }
        let too_many = completions.is_some_and(|c| status.succeeded.unwrap_or(0) > c);
        let (reason, message) =
            (ending.reason.clone().unwrap_or_default(), ending.message.clone().unwrap_or_default());
        facts::ensure_condition(status.conditions.get_or_insert_default(), ending);
        if !complete {
            return Some(vec![Note(EventType::Warning, reason, message)]);
        }
        let mut notes = Vec::new();
        if too_many {
            let text = "Too many succeeded pods running after completion count reached";
            notes.push(Note(EventType::Warning, "TooManySucceededPods".into(), text.into()));
        }
        notes.push(Note(EventType::Normal, "Completed".into(), "Job completed".into()));
        Some(notes)
    }
}

fn listed(uncounted: &UncountedTerminatedPods) -> usize {
    uncounted.succeeded.as_ref().map_or(0, Vec::len) + uncounted.failed.as_ref().map_or(0, Vec::len)
}

/// Moves listed pods without finalizer into the counters. Whether there were any.
fn count_released(status: &mut JobStatus, with_finalizer: &HashSet<String>) -> bool {
    let take = |list: &mut Option<Vec<String>>| {
        let all = list.take().unwrap_or_default();
        let before = all.len();
        let left: Vec<_> = all.into_iter().filter(|uid| with_finalizer.contains(uid)).collect();
        let gone = count(before - left.len());
        *list = Some(left).filter(|l| !l.is_empty());
        gone
    };
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let (succeeded, failed) = (take(&mut uncounted.succeeded), take(&mut uncounted.failed));
    status.succeeded = some(status.succeeded.unwrap_or(0) + succeeded);
    status.failed = some(status.failed.unwrap_or(0) + failed);
    succeeded + failed > 0
}
