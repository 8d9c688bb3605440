//! Facts about a job and its pods.
//!
//! upstream: `pkg/controller/job/indexed_job_utils.go`, `job_controller.go`, `pkg/controller/job/util`

use crate::common::{pods, time};
use client::Kind;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;

/// The finalizer that keeps a pod until it was counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label: the completion index of a pod.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotations: failures of an index before this pod, counted and ignored ones.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The name in `managedBy` that means this controller.
pub const CONTROLLER_NAME: &str = "kubernetes.io/job-controller";

pub const COMPLETE: &str = "Complete";
pub const FAILED: &str = "Failed";
pub const SUSPENDED: &str = "Suspended";
pub const FAILURE_TARGET: &str = "FailureTarget";
pub const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";

/// The spec; what a defaulted job always has is given by the functions below.
pub fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Completions of an indexed job, which always has them.
pub fn completions(spec: &JobSpec) -> usize {
    usize::try_from(spec.completions.unwrap_or(0)).unwrap_or(0)
}

pub fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// Whether pods are replaced only once they have failed, not when they are being deleted.
pub fn only_replace_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// The name of another controller that this job is left to.
pub fn managed_by_other(job: &Job) -> Option<&str> {
    job.spec.as_ref()?.managed_by.as_deref().filter(|n| *n != CONTROLLER_NAME)
}

pub fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    job.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// `Complete` or `Failed` when the job has ended (upstream: `FinishedCondition`).
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let all = job.status.as_ref()?.conditions.as_ref()?;
    all.iter().find(|c| (c.type_ == COMPLETE || c.type_ == FAILED) && c.status == "True")
}

pub fn new_condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

/// Sets a condition; one that is not there is not added as `False`. Whether anything changed.
pub fn ensure_condition(list: &mut Vec<JobCondition>, new: JobCondition) -> bool {
    match list.iter_mut().find(|c| c.type_ == new.type_) {
        Some(c) if c.status == new.status && c.reason == new.reason && c.message == new.message => false,
        Some(c) => {
            *c = new;
            true
        }
        None if new.status == "False" => false,
        None => {
            list.push(new);
            true
        }
    }
}

pub fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

pub fn index(pod: &Pod) -> Option<usize> {
    // as Go's Atoi: a plus sign is allowed
    let text = pod.annotation(INDEX)?;
    text.parse().ok()
}

/// The index, when it is one the job (still) has.
pub fn valid_index(pod: &Pod, completions: usize) -> Option<usize> {
    index(pod).filter(|i| *i < completions)
}

/// Failures before this pod that count towards backoffLimitPerIndex.
pub fn index_failures(pod: &Pod) -> i32 {
    number(pod, INDEX_FAILURES)
}

pub fn index_ignored(pod: &Pod) -> i32 {
    number(pod, INDEX_IGNORED)
}

/// All failures of the index before this pod.
pub fn index_all_failures(pod: &Pod) -> i32 {
    index_failures(pod).saturating_add(index_ignored(pod))
}

fn number(pod: &Pod, key: &str) -> i32 {
    pod.annotation(key).and_then(|v| v.parse().ok()).filter(|n| *n >= 0).unwrap_or(0)
}

/// Whether a pod counts as failed: pods being deleted do, unless only failed ones are replaced.
pub fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        _ if only_replace_failed(spec) => false,
        phase => pod.is_deleting() && phase != "Succeeded",
    }
}
