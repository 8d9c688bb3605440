//! What may be written to a Job's status (upstream: `ValidateJobStatusUpdate`, `getStatusValidationOptions`).
//!
//! Invariant: a rule about a field refuses only writes that change that field, so that a status that was wrong
//! before can still be mended bit by bit.

use super::{condition, indexes};
use crate::rest::omitted;
use crate::validate::{items, non_negative};
use jiff::Timestamp;
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// What differs between the old and the new Job.
struct Changed {
    finished: bool,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria: bool,
    completed_indexes: bool,
    failed_indexes: bool,
    active: bool,
    start: bool,
    completion: bool,
    uncounted: bool,
    ready: bool,
    terminating: bool,
}

fn finished(o: &Value) -> bool {
    condition(o, "Complete") || condition(o, "Failed")
}

fn number(o: &Value, field: &str) -> i64 {
    o["status"][field].as_i64().unwrap_or(0)
}

impl Changed {
    fn between(new: &Value, old: &Value) -> Self {
        let field = |f: &str| new["status"][f] != old["status"][f];
        let state = |c: &str| condition(new, c) != condition(old, c);
        let listed = |o: &Value| o["status"]["completedIndexes"].as_str().unwrap_or("").to_owned();
        Self {
            finished: finished(new) != finished(old),
            complete: state("Complete"),
            failed: state("Failed"),
            failure_target: state("FailureTarget"),
            success_criteria: state("SuccessCriteriaMet"),
            completed_indexes: listed(new) != listed(old),
            failed_indexes: field("failedIndexes"),
            active: number(new, "active") != number(old, "active"),
            start: field("startTime"),
            completion: field("completionTime"),
            uncounted: field("uncountedTerminatedPods"),
            ready: field("ready"),
            terminating: field("terminating"),
        }
    }
}

/// Errors of a write to the status.
pub fn errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("status");
    let changed = Changed::between(new, old);
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(&new["status"], field, &at, &mut errors);
    }
    uncounted(new, &at, &mut errors);
    times_and_conditions(new, &changed, &at, &mut errors);
    when_finished(new, &changed, &at, &mut errors);
    index_lists(new, &changed, &at, &mut errors);
    counts(new, &changed, &at, &mut errors);
    transitions(new, old, &changed, &at, &mut errors);
    errors
}

fn uncounted(new: &Value, at: &Path, errors: &mut ErrorList) {
    let at = at.child("uncountedTerminatedPods");
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in items(&new["status"]["uncountedTerminatedPods"], list).iter().enumerate() {
            let (path, uid) = (at.child(list).index(i), uid.as_str().unwrap_or(""));
            if uid.is_empty() {
                errors.push(Error::invalid(&path, uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(Error::duplicate(&path, uid));
            } else {
                seen.push(uid);
            }
        }
    }
}

fn times_and_conditions(new: &Value, changed: &Changed, at: &Path, errors: &mut ErrorList) {
    let (conditions, completion) = (at.child("conditions"), at.child("completionTime"));
    let (complete, failed) = (condition(new, "Complete"), condition(new, "Failed"));
    let mut refuse = |when: bool, detail: &str| {
        if when {
            errors.push(omitted(&conditions, detail));
        }
    };
    refuse(
        (changed.complete || changed.failed) && complete && failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        (changed.complete || changed.failure_target) && complete && condition(new, "FailureTarget"),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    let ended = &new["status"]["completionTime"];
    if changed.complete || changed.completion {
        if !ended.is_null() && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(Error::invalid(&completion, ended.clone(), detail));
        }
        if ended.is_null() && complete {
            errors.push(Error::required(&completion, "completionTime is required for Complete jobs"));
        }
    }
    let time = |v: &Value| v.as_str().and_then(|t| t.parse::<Timestamp>().ok());
    if (changed.start || changed.completion)
        && let (Some(start), Some(end)) = (time(&new["status"]["startTime"]), time(ended))
        && end < start
    {
        errors.push(Error::invalid(&completion, ended.clone(), "must be equal to or after `startTime`"));
    }
    if (changed.failed || changed.failed_indexes) && failed && !condition(new, "FailureTarget") {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(omitted(&conditions, detail));
    }
    if (changed.complete || changed.success_criteria) && complete && !condition(new, "SuccessCriteriaMet") {
        let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(omitted(&conditions, detail));
    }
}

fn when_finished(new: &Value, changed: &Changed, at: &Path, errors: &mut ErrorList) {
    if !finished(new) {
        return;
    }
    let active = number(new, "active");
    if (changed.finished || changed.active) && active > 0 {
        errors.push(Error::invalid(&at.child("active"), active, "active>0 is invalid for finished job"));
    }
    let empty_and_suspended = new["spec"]["suspend"] == true && new["spec"]["completions"] == 0;
    if (changed.finished || changed.start) && !empty_and_suspended && new["status"]["startTime"].is_null() {
        errors.push(Error::required(&at.child("startTime"), "startTime is required for finished job"));
    }
    let uncounted = &new["status"]["uncountedTerminatedPods"];
    if (changed.finished || changed.uncounted)
        && ["succeeded", "failed"].iter().any(|list| !items(uncounted, list).is_empty())
    {
        let path = at.child("uncountedTerminatedPods");
        errors.push(Error::invalid(&path, uncounted.clone(), "must be empty for finished job"));
    }
}

fn index_lists(new: &Value, changed: &Changed, at: &Path, errors: &mut ErrorList) {
    let (completed, failed) = (at.child("completedIndexes"), at.child("failedIndexes"));
    let done = new["status"]["completedIndexes"].as_str().unwrap_or("");
    let lost = new["status"]["failedIndexes"].as_str();
    let completions = new["spec"]["completions"].as_i64();
    let per_index = !new["spec"]["backoffLimitPerIndex"].is_null();
    if changed.completed_indexes
        && let Some(why) = completions.and_then(|n| indexes::count(done, n).err())
    {
        errors.push(Error::invalid(&completed, done, format!("error parsing completedIndexes: {why}")));
    }
    if changed.failed_indexes
        && per_index
        && let (Some(n), Some(lost)) = (completions, lost)
        && let Err(why) = indexes::count(lost, n)
    {
        errors.push(Error::invalid(&failed, lost, format!("error parsing failedIndexes: {why}")));
    }
    if changed.completed_indexes && !done.is_empty() && new["spec"]["completionMode"] != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(Error::invalid(&completed, done, detail));
    }
    let Some(lost) = lost else { return };
    if changed.failed_indexes && !per_index {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(Error::invalid(&failed, lost, detail));
    }
    if (changed.failed_indexes || changed.completed_indexes)
        && let Some(index) = completions.and_then(|n| indexes::overlap(done, lost, n))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(Error::invalid(&failed, lost, detail));
    }
}

fn counts(new: &Value, changed: &Changed, at: &Path, errors: &mut ErrorList) {
    let terminating = number(new, "terminating");
    if (changed.finished || changed.terminating) && terminating > 0 && finished(new) {
        let detail = "terminating>0 is invalid for finished job";
        errors.push(Error::invalid(&at.child("terminating"), terminating, detail));
    }
    let ready = number(new, "ready");
    if (changed.ready || changed.active) && ready > number(new, "active") {
        errors.push(Error::invalid(&at.child("ready"), ready, "cannot set more ready pods than active"));
    }
    let at = at.child("conditions");
    let met = condition(new, "SuccessCriteriaMet");
    for (when, detail) in [
        (met && condition(new, "Failed"), "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (
            met && condition(new, "FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            !new["spec"]["successPolicy"].is_null() && !met && condition(new, "Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if when {
            errors.push(omitted(&at, detail));
        }
    }
}

fn transitions(new: &Value, old: &Value, changed: &Changed, at: &Path, errors: &mut ErrorList) {
    let conditions = at.child("conditions");
    for ended in ["Failed", "Complete", "FailureTarget"] {
        if condition(old, ended) && !condition(new, ended) {
            let detail = format!("cannot disable the terminal {ended}=True condition");
            errors.push(omitted(&conditions, detail));
        }
    }
    // A Job whose completions go along with its parallelism may shrink.
    let (spec, indexed) = (&new["spec"], new["spec"]["completionMode"] == "Indexed");
    let shrinks = indexed && spec["completions"] == spec["parallelism"];
    for (field, fixed) in [("failed", true), ("succeeded", !shrinks)] {
        let n = number(new, field);
        if fixed && n < number(old, field) {
            let detail = format!("cannot decrease the {field} counter");
            errors.push(Error::invalid(&at.child(field), n, detail));
        }
    }
    let (ended, was) = (&new["status"]["completionTime"], &old["status"]["completionTime"]);
    if !ended.is_null() && !was.is_null() && ended != was {
        errors.push(Error::invalid(&at.child("completionTime"), ended.clone(), "field is immutable"));
    }
    let is_false = |o: &Value, ty: &str| {
        items(&o["status"], "conditions").iter().any(|c| c["type"] == ty && c["status"] == "False")
    };
    let resumes = condition(old, "Suspended") && is_false(new, "Suspended");
    if changed.start && !resumes && !old["status"]["startTime"].is_null() && spec["suspend"] != true {
        let detail = "field is immutable for unsuspended job once set";
        let path = at.child("startTime");
        errors.push(Error::invalid(&path, new["status"]["startTime"].clone(), detail));
    }
    let (met, was_met) = (condition(new, "SuccessCriteriaMet"), condition(old, "SuccessCriteriaMet"));
    if was_met && !met {
        errors.push(omitted(&conditions, "cannot disable the SuccessCriteriaMet=True condition"));
    }
    if condition(old, "Complete") && !was_met && met {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(omitted(&conditions, detail));
    }
}
