//! Cases: what is due when, and a cron job on a server in memory.

use super::plan::{due, job, surplus};
use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::{Value, json};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(spec: Value, status: Value) -> CronJob {
    let mut all = json!({"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {
        "metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}},
        "spec": {"template": {"spec": {"containers": []}}}}});
    for (k, v) in spec.as_object().into_iter().flatten() {
        all[k] = v.clone();
    }
    let meta =
        json!({"name": "c", "namespace": "n", "uid": "u", "creationTimestamp": "2016-05-19T09:00:00Z"});
    serde_json::from_value(json!({"metadata": meta, "spec": all, "status": status})).unwrap()
}

#[test]
fn what_is_due() {
    let last = json!({"lastScheduleTime": "2016-05-19T10:00:00Z"});
    let active = json!({"lastScheduleTime": "2016-05-19T10:00:00Z", "active": [{"name": "old", "uid": "o"}]});
    let none = json!({});
    // (spec, status, now, start, seconds to wait, events)
    let cases: &[(Value, &Value, &str, Option<&str>, Option<f64>, &[&str])] = &[
        (json!({}), &none, "2016-05-19T09:59:00Z", None, Some(60.1), &[]),
        (json!({}), &none, "2016-05-19T10:00:00Z", Some("2016-05-19T10:00:00Z"), Some(3600.1), &[]),
        (json!({}), &last, "2016-05-19T10:00:01Z", None, Some(3599.1), &[]),
        (json!({}), &last, "2016-05-19T11:00:05Z", Some("2016-05-19T11:00:00Z"), Some(3595.1), &[]),
        (json!({}), &last, "2016-05-19T14:10:00Z", Some("2016-05-19T14:00:00Z"), Some(3000.1), &[]),
        (
            json!({}),
            &last,
            "2016-05-26T10:10:00Z",
            Some("2016-05-26T10:00:00Z"),
            Some(3000.1),
            &["TooManyMissedTimes"],
        ),
        (
            json!({"startingDeadlineSeconds": 1000}),
            &last,
            "2016-05-26T10:10:00Z",
            Some("2016-05-26T10:00:00Z"),
            Some(3000.1),
            &[],
        ),
        (json!({"startingDeadlineSeconds": 10}), &last, "2016-05-19T11:10:00Z", None, Some(3000.1), &[]),
        (json!({"suspend": true}), &last, "2016-05-19T11:00:05Z", None, None, &[]),
        (
            json!({"concurrencyPolicy": "Forbid"}),
            &active,
            "2016-05-19T11:00:00Z",
            None,
            Some(3600.1),
            &["JobAlreadyActive"],
        ),
        (
            json!({"concurrencyPolicy": "Replace"}),
            &active,
            "2016-05-19T11:00:00Z",
            Some("2016-05-19T11:00:00Z"),
            Some(3600.1),
            &[],
        ),
        (
            json!({"schedule": "obvious error schedule"}),
            &last,
            "2016-05-19T11:00:00Z",
            None,
            None,
            &["UnparseableSchedule"],
        ),
        (
            json!({"schedule": "59 23 31 2 *"}),
            &last,
            "2016-05-19T11:00:00Z",
            None,
            None,
            &["InvalidSchedule"],
        ),
        (json!({"timeZone": "bad"}), &last, "2016-05-19T11:00:00Z", None, None, &["UnknownTimeZone"]),
        (
            json!({"schedule": "TZ=UTC 0 * * * *"}),
            &last,
            "2016-05-19T11:00:00Z",
            Some("2016-05-19T11:00:00Z"),
            Some(3600.1),
            &["UnsupportedSchedule"],
        ),
        (
            json!({"schedule": "30 6-16/4 * * 1-5"}),
            &last,
            "2016-05-23T11:00:00Z",
            Some("2016-05-23T10:30:00Z"),
            Some(12600.1),
            &[],
        ),
        (
            json!({"schedule": "@every 1h30m"}),
            &none,
            "2016-05-19T12:10:00Z",
            Some("2016-05-19T12:00:00Z"),
            Some(4800.1),
            &[],
        ),
        (
            json!({"schedule": "0 9 * * *", "timeZone": "America/New_York"}),
            &none,
            "2016-05-19T13:00:00Z",
            Some("2016-05-19T13:00:00Z"),
            Some(86400.1),
            &[],
        ),
    ];
    for (spec, status, now, start, wait, events) in cases {
        let got = due(&cron(spec.clone(), (*status).clone()), at(now));
        let reasons: Vec<_> = got.notes.iter().map(|n| n.1).collect();
        let wait_of = got.again.map(|d| d.as_secs_f64());
        assert_eq!((got.start, wait_of, reasons.as_slice()), (start.map(at), *wait, *events), "{spec} {now}");
    }
    let late = due(&cron(json!({"startingDeadlineSeconds": 300}), last), at("2016-05-19T11:04:59Z"));
    assert_eq!(late.start, Some(at("2016-05-19T11:00:00Z")), "to the second");
}

#[test]
fn jobs_are_named_after_their_minute() {
    let made =
        job(&cron(json!({"timeZone": "Europe/Paris"}), json!({})), at("2016-05-19T10:00:00Z")).unwrap();
    let made = serde_json::to_value(made).unwrap();
    let meta = &made["metadata"];
    assert_eq!(meta["name"], "c-24394200");
    assert_eq!(meta["labels"], json!({"a": "b"}));
    assert_eq!(meta["annotations"], json!({"x": "y", plan::SCHEDULED: "2016-05-19T12:00:00+02:00"}));
    assert_eq!(meta["ownerReferences"][0]["kind"], "CronJob");
    let made = job(&cron(json!({}), json!({})), at("2016-05-19T10:00:00Z")).unwrap();
    assert_eq!(made.annotation(plan::SCHEDULED), Some("2016-05-19T10:00:00Z"));
}

#[test]
fn history_is_limited() {
    let ended = |name: &str, kind: &str, start: Option<&str>| -> Arc<Job> {
        let status = json!({"conditions": [{"type": kind, "status": "True"}], "startTime": start});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
    };
    let jobs = [
        ended("s3", "Complete", Some("2016-05-19T03:00:00Z")),
        ended("s1", "Complete", Some("2016-05-19T01:00:00Z")),
        ended("s2", "Complete", Some("2016-05-19T02:00:00Z")),
        ended("f-never", "Failed", None),
        ended("f1", "Failed", Some("2016-05-19T02:00:00Z")),
        ended("runs", "Suspended", None),
    ];
    let names =
        |spec| surplus(&cron(spec, json!({})), &jobs).iter().map(|j| j.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        names(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1})),
        ["s1", "s2", "f1"]
    );
    assert_eq!(names(json!({"failedJobsHistoryLimit": 0})), ["f1", "f-never"]);
}

#[test]
fn ended_jobs_leave_the_status() {
    let made: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "o"}, "status": {
        "completionTime": "2016-05-19T11:00:00Z", "conditions": [{"type": "Complete", "status": "True"}]}}))
    .unwrap();
    let mut status: CronJobStatus = serde_json::from_value(json!({"active": [{"uid": "o"}]})).unwrap();
    let mut notes = Vec::new();
    assert!(plan::review_ended(&mut status, &made, &mut notes));
    assert_eq!(notes, [Note::normal("SawCompletedJob", "Saw completed job: j, condition: Complete")]);
    assert_eq!(serde_json::to_value(&status).unwrap(), json!({"lastSuccessfulTime": "2016-05-19T11:00:00Z"}));
    assert!(!plan::review_ended(&mut status, &made, &mut notes));
}

#[tokio::test]
async fn jobs_are_started_and_taken_note_of() {
    let api = Arc::new(FakeApi::new());
    let mut all = serde_json::to_value(cron(json!({"schedule": "* * * * *"}), json!({}))).unwrap();
    all["spec"]["successfulJobsHistoryLimit"] = json!(0);
    api.seed("/apis/batch/v1/namespaces/n/cronjobs", &all);
    let client = Client::new(api.clone());
    let clock = Arc::new(ManualClock::new(at("2016-05-19T09:01:00Z")));
    let setup = Setup::of_fake(&api, clock.clone());
    let handle = start(&setup);
    let until = async |what: &str, check: &dyn Fn() -> bool| {
        for _ in 0..500 {
            if check() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    };
    let status = || api.object("/apis/batch/v1/namespaces/n/cronjobs/c").unwrap()["status"].clone();
    until("started", &|| status()["active"][0]["name"] == "c-24394141").await;
    assert_eq!(status()["lastScheduleTime"], "2016-05-19T09:01:00Z");
    // events of the same time would have the same name
    clock.advance(Duration::from_millis(5));
    let patch = json!({"status": {"completionTime": "2016-05-19T09:01:00Z", "conditions": [{"type": "Complete", "status": "True"}]}});
    client.patch::<Job>("n", "c-24394141", None, client::Patch::Merge(patch)).await.unwrap();
    until("ended", &|| {
        status()["lastSuccessfulTime"] == "2016-05-19T09:01:00Z" && status()["active"].is_null()
    })
    .await;
    until("deleted", &|| api.objects("/apis/batch/v1/namespaces/n/jobs").is_empty()).await;
    let reasons = || -> Vec<Value> {
        api.objects("/api/v1/namespaces/n/events").iter().map(|e| e["reason"].clone()).collect()
    };
    until("events", &|| {
        ["SuccessfulCreate", "SuccessfulDelete"].iter().all(|r| reasons().contains(&json!(r)))
    })
    .await;
    setup.cancel.cancel();
    handle.stopped().await;
}
