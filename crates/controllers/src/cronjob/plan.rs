//! What a cron job needs: which jobs have ended, which are too old to keep, and whether one is due.
//!
//! upstream: `pkg/controller/cronjob/cronjob_controllerv2.go`, `utils.go`

use crate::common::time;
use crate::job::facts;
use client::Kind;
use client::events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinds::batch::schedule::{self, Schedule};
use std::sync::Arc;
use std::time::Duration;

/// The annotation that says when a job was due.
pub const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Added to the wait for the next time, against clocks that differ (upstream: `nextScheduleDelta`).
const SKEW: SignedDuration = SignedDuration::from_millis(100);
/// More missed times than this are told of.
const MANY_MISSED: i64 = 100;

/// Something to tell about the cron job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(pub EventType, pub &'static str, pub String);

impl Note {
    pub fn normal(reason: &'static str, text: impl Into<String>) -> Self {
        Self(EventType::Normal, reason, text.into())
    }

    pub fn warning(reason: &'static str, text: impl Into<String>) -> Self {
        Self(EventType::Warning, reason, text.into())
    }
}

/// What is due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Due {
    /// The time that a job is to be started for.
    pub start: Option<Timestamp>,
    /// When to look again. None: nothing will be due until the spec changes.
    pub again: Option<Duration>,
    pub notes: Vec<Note>,
}

pub fn is_active(status: &CronJobStatus, uid: &str) -> bool {
    status.active.iter().flatten().any(|r| r.uid.as_deref() == Some(uid))
}

/// Takes a job from the active ones.
pub fn deactivate(status: &mut CronJobStatus, uid: &str) {
    if let Some(active) = &mut status.active {
        active.retain(|r| r.uid.as_deref() != Some(uid));
    }
    status.active.take_if(|a| a.is_empty());
}

/// Jobs beyond the history limits, oldest first of each kind.
pub fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut out = Vec::new();
    for (kind, limit) in [
        (facts::COMPLETE, cron.spec.successful_jobs_history_limit),
        (facts::FAILED, cron.spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
        let ended = |j: &&Arc<Job>| facts::finished(j).is_some_and(|c| c.type_ == kind);
        let mut ended: Vec<_> = jobs.iter().filter(ended).cloned().collect();
        // those that never started last
        let started = |j: &Job| j.status.as_ref()?.start_time.as_ref().map(|t| t.0);
        ended.sort_by_key(|j| (started(j).is_none(), started(j), j.name().to_owned()));
        let count = ended.len().saturating_sub(limit);
        out.extend(ended.into_iter().take(count));
    }
    out
}

/// Takes a job that has ended into the status. Whether the status changed.
pub fn review_ended(status: &mut CronJobStatus, job: &Job, notes: &mut Vec<Note>) -> bool {
    let Some(end) = facts::finished(job) else { return false };
    let mut changed = false;
    if is_active(status, job.uid()) {
        deactivate(status, job.uid());
        let text = format!("Saw completed job: {}, condition: {}", job.name(), end.type_);
        notes.push(Note::normal("SawCompletedJob", text));
        changed = true;
    }
    if end.type_ == facts::COMPLETE {
        let at = job.status.as_ref().and_then(|s| s.completion_time.clone());
        let known = status.last_successful_time.as_ref().map(|t| t.0);
        if at.as_ref().map(|t| t.0) > known {
            status.last_successful_time = at;
            changed = true;
        }
    }
    changed
}

/// Finds out whether a job is due.
pub fn due(cron: &CronJob, now: Timestamp) -> Due {
    let mut out = Due::default();
    let spec = &cron.spec;
    if let Some(Err(e)) = spec.time_zone.as_deref().map(schedule::zone) {
        let zone = spec.time_zone.as_deref().unwrap_or("");
        out.notes.push(Note::warning("UnknownTimeZone", format!("invalid timeZone: {zone:?}: {e}")));
        return out;
    }
    if spec.suspend == Some(true) {
        return out;
    }
    let text = &spec.schedule;
    if text.contains("TZ") {
        let text = format!(
            "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
        );
        out.notes.push(Note::warning("UnsupportedSchedule", text));
    }
    let schedule = match parse(cron) {
        Ok(s) => s,
        Err(e) => {
            let text = format!("unparseable schedule: {text:?} : {e}");
            out.notes.push(Note::warning("UnparseableSchedule", text));
            return out;
        }
    };
    let missed = match most_recent(cron, now, &schedule, true) {
        Ok(m) => m,
        Err(e) => {
            out.notes.push(Note::warning("InvalidSchedule", format!("invalid schedule: {text} : {e}")));
            return out;
        }
    };
    let Some(at) = missed.last.filter(|t| *t <= now) else {
        out.again = until_next(cron, now, &schedule);
        return out;
    };
    if missed.count > MANY_MISSED {
        let text =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        out.notes.push(Note::warning("TooManyMissedTimes", text));
    }
    out.start = admit(cron, at, now, &mut out.notes);
    out.again = until_next(cron, now, &schedule);
    out
}

/// The time, unless something is against starting a job for it.
fn admit(cron: &CronJob, at: Timestamp, now: Timestamp, notes: &mut Vec<Note>) -> Option<Timestamp> {
    let deadline = cron.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if deadline.is_some_and(|d| now.duration_since(at) > d) {
        let text = format!("Missed scheduled time to start a job: {}", rfc1123(at));
        notes.push(Note::warning("MissSchedule", text));
        return None;
    }
    let status = cron.status.clone().unwrap_or_default();
    let name = job_name(cron, at);
    let mut active = status.active.iter().flatten();
    let started = active.any(|r| r.name.as_ref() == Some(&name));
    if started || status.last_schedule_time.as_ref().map(|t| t.0) == Some(at) {
        return None;
    }
    let forbidden = cron.spec.concurrency_policy.as_deref() == Some("Forbid");
    if forbidden && status.active.is_some_and(|a| !a.is_empty()) {
        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
        notes.push(Note::normal("JobAlreadyActive", text));
        return None;
    }
    Some(at)
}

/// The schedule in its zone.
///
/// # Errors
/// Upstream's text.
pub fn parse(cron: &CronJob) -> Result<Schedule, String> {
    let zone = cron.spec.time_zone.as_deref().unwrap_or("");
    // a zone that is not known is told of elsewhere
    let zone = schedule::zone(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    Schedule::parse(&cron.spec.schedule, &zone)
}

#[derive(Debug, PartialEq)]
struct Missed {
    /// From when on was looked.
    earliest: Timestamp,
    /// The last time that a job should have been started.
    last: Option<Timestamp>,
    /// About how many there were; 0 also for one.
    count: i64,
}

/// Upstream: `mostRecentScheduleTime`.
fn most_recent(
    cron: &CronJob,
    now: Timestamp,
    schedule: &Schedule,
    within_deadline: bool,
) -> Result<Missed, String> {
    let last = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref());
    let mut earliest =
        last.or(cron.metadata.creation_timestamp.as_ref()).map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    if let Some(seconds) = cron.spec.starting_deadline_seconds.filter(|_| within_deadline) {
        let deadline = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        earliest = earliest.max(deadline);
    }
    let too_close = || "time difference between two schedules is less than 1 second".to_owned();
    let first = schedule.next(earliest).ok_or_else(too_close)?;
    if now < first {
        return Ok(Missed { earliest, last: None, count: 0 });
    }
    let second = schedule.next(first).ok_or_else(too_close)?;
    if now < second {
        return Ok(Missed { earliest, last: Some(first), count: 0 });
    }
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err(too_close());
    }
    // a rough count, as if all times were as far apart as the first two
    let count = now.duration_since(first).as_secs() / between + 1;
    // from one interval before the last of those on, the exact times are asked for
    let from = SignedDuration::from_secs((count - 2).saturating_mul(between));
    let mut at = first.checked_add(from).ok().and_then(|t| schedule.next(t));
    let mut last = None;
    while let Some(t) = at.filter(|t| *t <= now) {
        last = Some(t);
        at = schedule.next(t);
    }
    Ok(Missed { earliest, last, count })
}

/// Time until a job is due again (upstream: `nextScheduleTimeDuration`).
pub fn until_next(cron: &CronJob, now: Timestamp, schedule: &Schedule) -> Option<Duration> {
    let from = match most_recent(cron, now, schedule, false) {
        Ok(Missed { last: Some(last), .. }) => last,
        Ok(Missed { earliest, count: 0, .. }) => earliest,
        Ok(_) | Err(_) => now,
    };
    let wait = schedule.next(from)?.duration_since(now).saturating_add(SKEW);
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// The same name for the same minute, so that no job is made twice.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second().div_euclid(60))
}

/// The job for a time.
///
/// # Errors
/// The time zone is not known.
pub fn job(cron: &CronJob, at: Timestamp) -> Result<Job, String> {
    let zone = schedule::zone(cron.spec.time_zone.as_deref().unwrap_or(""))?;
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), rfc3339(at, &zone));
    let metadata = ObjectMeta {
        name: Some(job_name(cron, at)),
        namespace: cron.metadata.namespace.clone(),
        labels: meta.labels,
        annotations: Some(annotations),
        creation_timestamp: Some(time(at)),
        owner_references: Some(vec![cron.controller_ref()]),
        ..ObjectMeta::default()
    };
    Ok(Job { metadata, spec: template.spec, status: None })
}

/// Enters a started job into the status.
pub fn started(status: &mut CronJobStatus, reference: ObjectReference, at: Timestamp) {
    status.active.get_or_insert_default().push(reference);
    status.last_schedule_time = Some(time(at));
}

fn rfc3339(at: Timestamp, zone: &jiff::tz::TimeZone) -> String {
    let offset = zone.to_offset(at);
    if offset.seconds() == 0 {
        return meta::time::rfc3339(at);
    }
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S%:z", &at.to_zoned(zone.clone())).unwrap_or_default()
}

/// Go's `time.RFC1123Z` in UTC.
fn rfc1123(at: Timestamp) -> String {
    let zoned = at.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format("%a, %d %b %Y %H:%M:%S +0000", &zoned).unwrap_or_default()
}
