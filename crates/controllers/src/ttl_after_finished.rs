//! Ended jobs are deleted once their time to live has passed.
//!
//! upstream: `pkg/controller/ttlafterfinished`

use crate::job::facts;
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Preconditions};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use std::sync::Arc;
use std::time::Duration;

/// Upstream: `ConcurrentTTLSyncs`.
const WORKERS: usize = 5;

struct TtlController {
    client: Client,
    jobs: Informer<Job>,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let jobs = setup.informers.of::<Job>();
    let client = setup.client("ttl-after-finished-controller");
    let this = Arc::new(TtlController { client, jobs: jobs.clone(), clock: setup.clock.clone() });
    Controller::new("ttl-after-finished", this, setup.clock.clone())
        .workers(WORKERS)
        .watches(&jobs, |c, q| {
            if let Some(job) = c.new.as_ref().filter(|j| expiry(j).is_ok_and(|e| e.is_some())) {
                q.add(ObjectKey::of(&**job));
            }
        })
        .start(setup.cancel.clone())
}

/// When a job is to be deleted; `None` for one that is not: it has not ended, has no time to live or is being deleted.
///
/// # Errors
/// It has ended, but nobody wrote when.
fn expiry(job: &Job) -> Result<Option<Timestamp>, String> {
    let ttl = job.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished);
    let (Some(ttl), Some(end)) = (ttl, facts::finished(job)) else { return Ok(None) };
    if job.is_deleting() {
        return Ok(None);
    }
    let Some(at) = &end.last_transition_time else {
        let (ns, name) = (job.namespace(), job.name());
        return Err(format!("unable to find the time when the Job {ns}/{name} finished"));
    };
    Ok(at.0.checked_add(SignedDuration::from_secs(ttl.into())).ok())
}

/// Time until then; zero when it has passed.
fn left(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[async_trait]
impl Reconcile for TtlController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(job) = self.jobs.store().get(&key.namespace, &key.name) else { return Ok(After::Done) };
        let Some(at) = expiry(&job)? else { return Ok(After::Done) };
        let wait = left(at, self.clock.now());
        if !wait.is_zero() {
            return Ok(After::Again(wait));
        }
        // our copy may be old: the time to live may have been changed
        let fresh: Job = match self.client.get(&key.namespace, &key.name).await {
            Err(e) if e.is_not_found() => return Ok(After::Done),
            other => other?,
        };
        let Some(at) = expiry(&fresh)? else { return Ok(After::Done) };
        let wait = left(at, self.clock.now());
        if !wait.is_zero() {
            return Ok(After::Again(wait));
        }
        let options = DeleteOptions {
            propagation_policy: Some("Foreground".into()),
            preconditions: Some(Preconditions {
                uid: fresh.metadata.uid.clone(),
                ..Preconditions::default()
            }),
            ..DeleteOptions::default()
        };
        self.client.delete::<Job>(&key.namespace, &key.name, &options).await?;
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;
    use client::fake::FakeApi;
    use client::informer::Store;
    use k8s_openapi::Metadata;
    use serde_json::{Value, json};

    fn job(ttl: Value, condition: &str, at: Value) -> Value {
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {"ttlSecondsAfterFinished": ttl,
            "template": {}}, "status": {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": at}]}})
    }

    #[test]
    fn when_jobs_expire() {
        let end = json!("2026-01-01T00:00:00Z");
        for (job, want) in [
            (job(json!(10), "Complete", end.clone()), Ok(Some("2026-01-01T00:00:10Z"))),
            (job(json!(0), "Failed", end.clone()), Ok(Some("2026-01-01T00:00:00Z"))),
            (job(Value::Null, "Complete", end.clone()), Ok(None)),
            (job(json!(10), "Suspended", end), Ok(None)),
            (
                job(json!(10), "Complete", Value::Null),
                Err("unable to find the time when the Job n/j finished"),
            ),
        ] {
            let want = want.map(|t| t.map(|t| t.parse().unwrap())).map_err(str::to_owned);
            assert_eq!(expiry(&serde_json::from_value(job.clone()).unwrap()), want, "{job}");
        }
    }

    #[tokio::test]
    async fn an_expired_job_is_deleted_when_it_still_is_one() {
        let api = Arc::new(FakeApi::new());
        let old = job(json!(10), "Complete", json!("2026-01-01T00:00:00Z"));
        let store = Arc::new(Store::new(Job::metadata));
        store.apply(serde_json::from_value(old.clone()).unwrap());
        let clock = Arc::new(ManualClock::new("2026-01-01T00:00:04Z".parse().unwrap()));
        let this = TtlController {
            client: Client::new(api.clone()),
            jobs: Informer::of_store(store),
            clock: clock.clone(),
        };
        let key = ObjectKey::new("n", "j");
        assert_eq!(this.reconcile(&key).await.unwrap(), After::Again(Duration::from_secs(6)));
        clock.advance(Duration::from_secs(6));
        let longer = job(json!(60), "Complete", json!("2026-01-01T00:00:00Z"));
        api.seed("/apis/batch/v1/namespaces/n/jobs", &longer);
        assert_eq!(this.reconcile(&key).await.unwrap(), After::Again(Duration::from_secs(50)));
        clock.advance(Duration::from_secs(50));
        assert_eq!(this.reconcile(&key).await.unwrap(), After::Done);
        assert!(api.objects("/apis/batch/v1/namespaces/n/jobs").is_empty());
        let body = api.writes().pop().unwrap().body;
        assert_eq!(
            (&body["propagationPolicy"], &body["preconditions"]["uid"]),
            (&json!("Foreground"), &json!("u"))
        );
    }
}
