//! A deployment's status and conditions (upstream: `sync.go#calculateStatus`, `progress.go`).

use super::plan::Draft;
use super::util;
use crate::common::time;
use client::Kind;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use std::time::Duration;

pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

pub(super) fn get<'a>(status: Option<&'a DeploymentStatus>, kind: &str) -> Option<&'a DeploymentCondition> {
    status?.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(kind))
}

/// Sets a condition, unless one of the same status and reason is there.
pub(super) fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let kind = new.type_.clone().unwrap_or_default();
    if let Some(old) = get(Some(status), &kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    remove(status, &kind);
    status.conditions.get_or_insert_default().push(new);
}

pub(super) fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(all) = &mut status.conditions {
        all.retain(|c| c.type_.as_deref() != Some(kind));
        if all.is_empty() {
            status.conditions = None;
        }
    }
}

/// A condition that says whether the deployment is paused keeps the progress deadline from running.
pub(super) fn check_paused(draft: &mut Draft) {
    if !util::has_progress_deadline(&draft.d) {
        return;
    }
    let reason = get(draft.d.status.as_ref(), "Progressing").and_then(|c| c.reason.clone());
    if reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return;
    }
    let said = reason.as_deref() == Some("DeploymentPaused");
    let new = match (draft.d.spec.paused == Some(true), said) {
        (true, false) => {
            condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", draft.now)
        }
        (false, true) => {
            condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", draft.now)
        }
        _ => return,
    };
    set(draft.d.status.get_or_insert_default(), new);
}

/// Every pod is of the new template, and available.
pub(super) fn is_complete(d: &Deployment, s: &DeploymentStatus) -> bool {
    let is = |n: Option<i32>| n.unwrap_or(0) == util::desired(d);
    is(s.updated_replicas)
        && is(s.replicas)
        && is(s.available_replicas)
        && s.observed_generation.unwrap_or(0) >= d.metadata.generation.unwrap_or(0)
}

fn calculate(draft: &Draft) -> DeploymentStatus {
    let d = &draft.d;
    let sum = |of: fn(&ReplicaSet) -> i32| draft.all().map(of).sum::<i32>();
    let available = sum(util::available);
    // 0 is left out on the wire
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let mut status = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: some(sum(util::actual)),
        updated_replicas: some(draft.new_set().map_or(0, util::actual)),
        ready_replicas: some(sum(util::ready)),
        available_replicas: some(available),
        unavailable_replicas: some((sum(util::spec_replicas) - available).max(0)),
        terminating_replicas: terminating(draft),
        collision_count: d.status.as_ref().and_then(|s| s.collision_count),
        conditions: d.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    let enough = available >= util::desired(d) - util::max_unavailable(d);
    let c = if enough {
        condition(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            draft.now,
        )
    } else {
        let text = "Deployment does not have minimum availability.";
        condition("Available", "False", "MinimumReplicasUnavailable", text, draft.now)
    };
    set(&mut status, c);
    status
}

/// Unknown when a replica set has been seen by a controller that does not count them.
fn terminating(draft: &Draft) -> Option<i32> {
    let mut total = 0;
    for rs in draft.all() {
        let status = rs.status.clone().unwrap_or_default();
        match status.terminating_replicas {
            Some(n) => total += n,
            None if status.observed_generation.unwrap_or(0) == 0 => {}
            None => return None,
        }
    }
    Some(total)
}

/// Status without progress (upstream: `syncDeploymentStatus`).
pub(super) fn sync(draft: &mut Draft) {
    draft.d.status = Some(calculate(draft));
}

/// Status with progress (upstream: `syncRolloutStatus`).
pub(super) fn sync_rollout(draft: &mut Draft) {
    let mut new = calculate(draft);
    if util::has_progress_deadline(&draft.d) {
        progress(draft, &mut new);
    } else {
        remove(&mut new, "Progressing");
    }
    remove_or_set_failure(draft, &mut new);
    let unchanged = draft.before.status.as_ref() == Some(&new);
    draft.d.status = Some(new);
    if unchanged && let Some(wait) = until_deadline(draft) {
        draft.again(wait);
    }
}

fn progress(draft: &Draft, new: &mut DeploymentStatus) {
    let (d, now) = (&draft.d, draft.now);
    let current = get(d.status.as_ref(), "Progressing").cloned();
    let done_before = current.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if done_before && new.replicas == new.updated_replicas {
        return;
    }
    let what = match draft.new_set() {
        Some(rs) => format!("ReplicaSet {:?}", rs.name()),
        None => format!("Deployment {:?}", d.name()),
    };
    if is_complete(d, new) {
        let text = format!("{what} has successfully progressed.");
        set(new, condition("Progressing", "True", "NewReplicaSetAvailable", &text, now));
    } else if is_progressing(&draft.before, new) {
        let mut c =
            condition("Progressing", "True", "ReplicaSetUpdated", &format!("{what} is progressing."), now);
        if let Some(old) = current {
            if old.status.as_deref() == Some("True") {
                c.last_transition_time = old.last_transition_time;
            }
            // each step renews the deadline
            remove(new, "Progressing");
        }
        set(new, c);
    } else if timed_out(d, new, now) {
        let text = format!("{what} has timed out progressing.");
        set(new, condition("Progressing", "False", "ProgressDeadlineExceeded", &text, now));
    }
}

fn is_progressing(before: &Deployment, new: &DeploymentStatus) -> bool {
    let old = before.status.clone().unwrap_or_default();
    let n = |v: Option<i32>| v.unwrap_or(0);
    let of_old = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || of_old(new) < of_old(&old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(d: &Deployment, new: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(c) = get(Some(new), "Progressing") else { return false };
    match c.reason.as_deref() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => deadline(d, c).is_some_and(|at| at < now),
    }
}

fn deadline(d: &Deployment, c: &DeploymentCondition) -> Option<Timestamp> {
    let seconds = d.spec.progress_deadline_seconds?;
    c.last_update_time.as_ref()?.0.saturating_add(SignedDuration::from_secs(seconds.into())).ok()
}

/// When a rollout that stands still is to be looked at again.
fn until_deadline(draft: &Draft) -> Option<Duration> {
    let status = draft.d.status.as_ref()?;
    let c = get(Some(status), "Progressing")?;
    if is_complete(&draft.d, status) || c.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    if !util::has_progress_deadline(&draft.d) {
        return None;
    }
    let left = deadline(&draft.d, c)?.duration_since(draft.now);
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
}

/// A failure of a replica set to make pods shows on the deployment, the new one's first.
fn remove_or_set_failure(draft: &Draft, new: &mut DeploymentStatus) {
    let of = |rs: &ReplicaSet| {
        let all = rs.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure")).cloned()
    };
    match draft.new_set().and_then(of).or_else(|| draft.all().find_map(of)) {
        None => remove(new, "ReplicaFailure"),
        Some(c) => set(
            new,
            DeploymentCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_update_time: c.last_transition_time.clone(),
                last_transition_time: c.last_transition_time,
            },
        ),
    }
}
