//! Waits before failed pods are replaced: 10 s, doubled with each failure up to 10 minutes.
//!
//! upstream: `pkg/controller/job/backoff_utils.go`

use super::facts;
use crate::common::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use std::sync::Arc;
use std::time::Duration;

/// Wait after the first failure, and the longest (upstream: `DefaultJobPodFailureBackOff`, `MaxJobPodFailureBackOff`).
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// Failures of a job's pods since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub failures: i32,
    pub last_failure: Option<Timestamp>,
}

impl Record {
    /// The record after some more pods have ended.
    #[must_use]
    pub fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let latest = |pods: &[Arc<Pod>]| pods.iter().map(|p| finished_at(p)).max();
        match latest(succeeded) {
            None => match latest(failed) {
                None => self,
                Some(last) => Self {
                    failures: self.failures.saturating_add(count(failed.len())),
                    last_failure: Some(last),
                },
            },
            Some(success) => {
                let later: Vec<_> = failed.iter().map(|p| finished_at(p)).filter(|t| *t > success).collect();
                Self { failures: count(later.len()), last_failure: later.into_iter().max() }
            }
        }
    }

    /// Time until the next pod may be created.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.last_failure.map_or(Duration::ZERO, |last| wait(self.failures, last, now))
    }
}

/// As [`Record::remaining`], of one index, whose last failed pod this is.
pub fn remaining_of_index(last_failed: Option<&Pod>, now: Timestamp) -> Duration {
    let Some(pod) = last_failed else { return Duration::ZERO };
    wait(facts::index_all_failures(pod).saturating_add(1), finished_at(pod), now)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn wait(failures: i32, last: Timestamp, now: Timestamp) -> Duration {
    if failures <= 0 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let whole = SignedDuration::try_from(whole).unwrap_or(SignedDuration::MAX);
    // a failure in the future makes the wait longer, as upstream has it
    let left = whole.saturating_sub(now.duration_since(last));
    Duration::try_from(left).unwrap_or_default()
}

/// When a pod ended, as well as it is known: the end of its containers, else since when it is not ready, else its
/// deletion, else its creation.
pub fn finished_at(pod: &Pod) -> Timestamp {
    by_containers(pod)
        .or_else(|| {
            let ready = pods::condition(pod, "Ready").filter(|c| c.status == "False")?;
            ready.last_transition_time.as_ref().map(|t| t.0)
        })
        .or_else(|| {
            let at = pod.metadata.deletion_timestamp.as_ref()?.0;
            let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
            at.checked_sub(grace).ok()
        })
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The latest end of the containers. Sidecars end after the others; when they still run, or some end is unknown, they
/// give no time, and neither do the others.
fn by_containers(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let regular = latest(None, status.container_statuses.iter().flatten());
    let sidecars = pods::sidecars(pod);
    let of_sidecars =
        status.init_container_statuses.iter().flatten().filter(|c| sidecars.contains(&c.name.as_str()));
    latest(regular, of_sidecars)
}

fn latest<'a>(
    so_far: Option<Timestamp>,
    all: impl Iterator<Item = &'a ContainerStatus>,
) -> Option<Timestamp> {
    let mut latest = so_far;
    for c in all {
        let ended = c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0;
        latest = latest.max(Some(ended));
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    fn pod(status: Value) -> Arc<Pod> {
        let meta =
            json!({"creationTimestamp": at(0).to_string(), "annotations": {facts::INDEX_FAILURES: "1"}});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap())
    }

    fn ended(s: i64) -> Arc<Pod> {
        pod(json!({"containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1, "finishedAt": at(s).to_string()}}},
        ]}))
    }

    #[test]
    fn failures_count_since_the_last_success() {
        let old = Record { failures: 2, last_failure: Some(at(1)) };
        assert_eq!(old.after(&[], &[]), old);
        let more = old.after(&[], &[ended(9), ended(5)]);
        assert_eq!(more, Record { failures: 4, last_failure: Some(at(9)) });
        assert_eq!(old.after(&[ended(7)], &[]), Record::default());
        let mixed = old.after(&[ended(7)], &[ended(9), ended(5), ended(8)]);
        assert_eq!(mixed, Record { failures: 2, last_failure: Some(at(9)) });
    }

    #[test]
    fn waits_double_up_to_ten_minutes() {
        for (failures, passed, want) in
            [(0, 0, 0), (1, 0, 10), (1, 4, 6), (1, 11, 0), (2, 0, 20), (4, 0, 80), (7, 0, 600), (99, 0, 600)]
        {
            let r = Record { failures, last_failure: Some(at(0)) };
            assert_eq!(r.remaining(at(passed)), Duration::from_secs(want), "{failures} {passed}");
        }
        assert_eq!(remaining_of_index(Some(&ended(0)), at(5)), Duration::from_secs(15));
        assert_eq!(remaining_of_index(None, at(5)), Duration::ZERO);
    }

    #[test]
    fn when_pods_ended() {
        let ready =
            |s: i64| json!([{"type": "Ready", "status": "False", "lastTransitionTime": at(s).to_string()}]);
        assert_eq!(finished_at(&ended(4)), at(4));
        assert_eq!(finished_at(&pod(json!({"conditions": ready(3)}))), at(3));
        let mut deleted = (*pod(json!({}))).clone();
        assert_eq!(finished_at(&deleted), at(0));
        deleted.metadata.deletion_timestamp = Some(crate::common::time(at(30)));
        deleted.metadata.deletion_grace_period_seconds = Some(10);
        assert_eq!(finished_at(&deleted), at(20));
    }
}
