//! Cases: a job and its pods in, the step, the status and the pods to release out.

use super::plan::{Note, Outcome, Step, Sync, World, count};
use super::*;
use jiff::Timestamp;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({"parallelism": 2, "completions": 4, "backoffLimit": 6,
        "template": {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [], "restartPolicy": "Never"}}});
    for (k, v) in spec.as_object().into_iter().flatten() {
        all[k] = v.clone();
    }
    let meta = json!({"name": "j", "namespace": "n", "uid": "u"});
    serde_json::from_value(json!({"metadata": meta, "spec": all, "status": status})).unwrap()
}

/// A pod with the finalizer. `state` is a phase, `Ready`, or `Deleting` (pending, being deleted).
fn pod(name: &str, state: &str, index: Option<usize>) -> Arc<Pod> {
    let phase = match state {
        "Ready" => "Running",
        "Deleting" => "Pending",
        other => other,
    };
    let mut meta = json!({"name": name, "namespace": "n", "uid": name, "finalizers": [facts::FINALIZER],
        "creationTimestamp": "2026-01-01T00:00:00Z"});
    if let Some(i) = index {
        meta["annotations"] = json!({facts::INDEX: i.to_string()});
    }
    let mut status = json!({"phase": phase});
    match state {
        "Ready" => status["conditions"] = json!([{"type": "Ready", "status": "True"}]),
        "Deleting" => meta["deletionTimestamp"] = json!("2026-01-01T00:59:00Z"),
        _ => {}
    }
    Arc::new(
        serde_json::from_value(json!({"metadata": meta, "spec": {"containers": []}, "status": status}))
            .unwrap(),
    )
}

fn world(job: Job, pods: Vec<Arc<Pod>>) -> World {
    World { job, pods, released: HashSet::new(), record: Record::default(), settled: true, now: now() }
}

/// One pass in which everything works.
struct Pass {
    step: Step,
    sync: Sync,
    released: Vec<String>,
    notes: Vec<Note>,
    /// The first status that was written.
    flushed: Option<Value>,
}

fn pass(world: World) -> Pass {
    let mut sync = Sync::begin(world);
    let step = sync.step();
    let ready = |p: &[Arc<Pod>]| count(p.iter().filter(|p| crate::common::pods::is_ready(p)).count());
    let outcome = match &step {
        Step::Finish(p) | Step::Delete(p) => {
            Outcome { deleted: count(p.len()), deleted_ready: ready(p), ..Outcome::default() }
        }
        Step::Create(i) => Outcome { created: count(i.len()), ..Outcome::default() },
        _ => Outcome::default(),
    };
    let (changed, mut notes) = sync.conclude(&step, outcome);
    let mut counting = sync.track(changed);
    let flushed = counting.flush.then(|| serde_json::to_value(&sync.job.status).unwrap());
    let mut released: Vec<_> = counting.release.iter().map(|p| p.uid().to_owned()).collect();
    sync.count_released(&mut counting, &released.iter().cloned().collect());
    notes.extend(sync.finish(&counting).unwrap_or_default());
    released.sort();
    Pass { step, sync, released, notes, flushed }
}

impl Pass {
    fn status(&self) -> Value {
        serde_json::to_value(&self.sync.job.status).unwrap()
    }

    /// `TYPE=STATUS/REASON` of the conditions.
    fn conditions(&self) -> Vec<String> {
        let status = self.sync.job.status.clone().unwrap();
        let all = status.conditions.unwrap_or_default();
        all.iter()
            .map(|c| format!("{}={}/{}", c.type_, c.status, c.reason.clone().unwrap_or_default()))
            .collect()
    }

    fn reasons(&self) -> Vec<&str> {
        self.notes.iter().map(|n| n.1.as_str()).collect()
    }
}

fn indexes(step: &Step) -> Vec<usize> {
    match step {
        Step::Create(all) => all.iter().map(|i| i.unwrap()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn how_many_pods() {
    let running = |n: usize| (0..n).map(|i| pod(&format!("p{i}"), "Running", None)).collect::<Vec<_>>();
    for (spec, succeeded, active, want) in [
        (json!({}), 0, 0, Some(2)),
        (json!({}), 3, 0, Some(1)),
        (json!({}), 2, 1, Some(1)),
        (json!({"completions": null}), 0, 1, Some(1)),
        (json!({"completions": null}), 1, 1, None),
        (json!({"parallelism": 0}), 0, 0, None),
        (json!({"parallelism": 900, "completions": 900}), 0, 0, Some(500)),
    ] {
        let p = pass(world(job(spec.clone(), json!({"succeeded": succeeded})), running(active)));
        let created = match &p.step {
            Step::Create(all) => Some(all.len()),
            Step::Nothing => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(created, want, "{spec}");
        assert_eq!(p.status()["active"].as_u64().unwrap_or(0) as usize, active + want.unwrap_or(0));
    }
    let p = pass(world(job(json!({"parallelism": 1}), json!({})), running(3)));
    assert!(matches!(&p.step, Step::Delete(all) if all.len() == 2));
    assert_eq!((p.status()["active"].clone(), p.status()["terminating"].clone()), (json!(1), json!(2)));
    let unsettled = World { settled: false, ..world(job(json!({}), json!({})), vec![]) };
    assert_eq!(Sync::begin(unsettled).step(), Step::Hold);
}

#[test]
fn ended_pods_are_counted_once() {
    let pods = vec![pod("s", "Succeeded", None), pod("f", "Failed", None), pod("r", "Ready", None)];
    let p = pass(world(
        job(json!({}), json!({"succeeded": 1, "startTime": "2026-01-01T00:00:00Z"})),
        pods.clone(),
    ));
    let flushed = p.flushed.clone().unwrap();
    assert_eq!(flushed["uncountedTerminatedPods"], json!({"succeeded": ["s"], "failed": ["f"]}));
    assert_eq!((&flushed["succeeded"], &flushed["failed"]), (&json!(1), &Value::Null));
    assert_eq!(p.released, ["f", "s"]);
    let status = p.status();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(1)));
    assert_eq!((&status["ready"], &status["uncountedTerminatedPods"]), (&json!(1), &json!({})));
    // our copy of the pods still shows the finalizers
    let again =
        World { released: HashSet::from(["s".into(), "f".into()]), ..world(p.sync.job.clone(), pods) };
    let p = pass(again);
    assert!(p.released.is_empty());
    assert_eq!(p.status()["succeeded"], 2);
}

#[test]
fn complete() {
    let all = || vec![pod("s", "Succeeded", None)];
    let p = pass(world(job(json!({}), json!({"succeeded": 3})), all()));
    assert_eq!(
        p.conditions(),
        ["SuccessCriteriaMet=True/CompletionsReached", "Complete=True/CompletionsReached"]
    );
    assert_eq!(p.reasons(), ["Completed"]);
    assert_eq!(p.status()["completionTime"], "2026-01-01T01:00:00Z");
    assert_eq!(p.flushed.unwrap()["conditions"].as_array().map(Vec::len), Some(1), "the interim one first");
    // a pod is still going: the final condition waits
    let terminating = vec![pod("s", "Succeeded", None), pod("d", "Deleting", None)];
    let spec = json!({"podReplacementPolicy": "Failed"});
    let p = pass(world(job(spec, json!({"succeeded": 3})), terminating));
    assert_eq!(p.conditions(), ["SuccessCriteriaMet=True/CompletionsReached"]);
    let p = pass(world(p.sync.job.clone(), vec![]));
    assert_eq!(p.conditions()[1], "Complete=True/CompletionsReached");
    // no completions: one success, and the others ended
    let p = pass(world(job(json!({"completions": null}), json!({})), vec![pod("s", "Succeeded", None)]));
    assert_eq!(p.conditions().len(), 2);
}

#[test]
fn failures() {
    let failed = |n: usize| (0..n).map(|i| pod(&format!("f{i}"), "Failed", None)).collect::<Vec<_>>();
    let mut pods = failed(2);
    pods.push(pod("r", "Ready", None));
    let p = pass(world(job(json!({"backoffLimit": 1}), json!({})), pods));
    assert!(matches!(&p.step, Step::Finish(all) if all.len() == 1));
    assert_eq!(
        p.conditions(),
        ["FailureTarget=True/BackoffLimitExceeded"],
        "the deleted pod has to go first"
    );
    assert_eq!(p.status()["failed"], 3, "a pod that runs when the job fails has failed");
    let p = pass(world(p.sync.job.clone(), vec![]));
    assert_eq!(p.conditions()[1], "Failed=True/BackoffLimitExceeded");
    let text = "Job has reached the specified backoff limit";
    assert_eq!(
        p.notes,
        [Note(client::events::EventType::Warning, "BackoffLimitExceeded".into(), text.into())]
    );

    let start = json!({"startTime": "2026-01-01T00:59:00Z"});
    let p = pass(world(job(json!({"activeDeadlineSeconds": 60}), start.clone()), vec![]));
    assert_eq!(p.conditions()[1], "Failed=True/DeadlineExceeded");
    let p = pass(world(job(json!({"activeDeadlineSeconds": 90}), start), vec![]));
    assert_eq!(p.sync.again, Some(Duration::from_secs(30)));

    let policy = json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
    let mut ignored = (*failed(1).remove(0)).clone();
    let condition = json!([{"type": "DisruptionTarget", "status": "True"}]);
    ignored.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
    let p = pass(world(job(policy, json!({})), vec![Arc::new(ignored)]));
    assert!(p.conditions().is_empty() && p.status()["failed"].is_null());
    assert_eq!(p.released, ["f0"]);
}

#[test]
fn restarts_count_when_pods_are_not_replaced() {
    let mut r = (*pod("r", "Running", None)).clone();
    let status = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]);
    r.status.as_mut().unwrap().container_statuses = serde_json::from_value(status).unwrap();
    let template = json!({"spec": {"containers": [], "restartPolicy": "OnFailure"}});
    for (limit, fails) in [(4, false), (3, true), (0, true)] {
        let spec = json!({"backoffLimit": limit, "template": template});
        let p = pass(world(job(spec, json!({})), vec![Arc::new(r.clone())]));
        assert_eq!(!p.conditions().is_empty(), fails, "{limit}");
    }
}

#[test]
fn failed_pods_are_replaced_after_a_wait() {
    let mut f = (*pod("f", "Failed", None)).clone();
    f.metadata.creation_timestamp = Some(crate::common::time(now()));
    let p = pass(world(job(json!({}), json!({})), vec![Arc::new(f)]));
    assert_eq!(p.step, Step::Wait(Duration::from_secs(10)));
    assert_eq!((p.sync.record.failures, p.released.as_slice()), (1, ["f".to_owned()].as_slice()));
}

#[test]
fn suspension_deletes_and_resumption_restarts_the_clock() {
    let start = json!({"startTime": "2026-01-01T00:00:00Z"});
    let p = pass(world(job(json!({"suspend": true}), start), vec![pod("r", "Ready", None)]));
    assert!(matches!(&p.step, Step::Delete(all) if all.len() == 1));
    assert_eq!(
        (p.conditions(), p.reasons()),
        (vec!["Suspended=True/JobSuspended".to_owned()], vec!["Suspended"])
    );
    assert!(p.status()["startTime"].is_null());
    assert!(p.released.is_empty() && p.status()["failed"].is_null(), "it is not counted");
    let mut resumed = p.sync.job.clone();
    resumed.spec.as_mut().unwrap().suspend = Some(false);
    let p = pass(world(resumed, vec![]));
    assert_eq!(
        (p.conditions(), p.reasons()),
        (vec!["Suspended=False/JobResumed".to_owned()], vec!["Resumed"])
    );
    assert_eq!(p.status()["startTime"], "2026-01-01T01:00:00Z");
}

#[test]
fn indexed_jobs() {
    let spec = json!({"completionMode": "Indexed", "completions": 6, "parallelism": 4});
    let pods =
        vec![pod("s1", "Succeeded", Some(1)), pod("r2", "Running", Some(2)), pod("s9", "Succeeded", Some(9))];
    let p = pass(world(job(spec.clone(), json!({"completedIndexes": "0", "succeeded": 1})), pods));
    assert_eq!(indexes(&p.step), [3, 4, 5]);
    let status = p.status();
    assert_eq!((&status["completedIndexes"], &status["succeeded"]), (&json!("0,1"), &json!(2)));
    assert_eq!(p.released, ["s1", "s9"]);
    // twins and pods without a place go
    let pods = vec![
        pod("ready", "Ready", Some(2)),
        pod("pending", "Pending", Some(2)),
        pod("none", "Running", None),
        pod("beyond", "Running", Some(6)),
    ];
    let p = pass(world(job(spec, json!({})), pods));
    let Step::Delete(all) = &p.step else { panic!("{:?}", p.step) };
    let mut names: Vec<_> = all.iter().map(|p| p.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["beyond", "none", "pending"]);
}

#[test]
fn success_policy() {
    let spec = json!({"completionMode": "Indexed", "completions": 6, "parallelism": 4,
        "successPolicy": {"rules": [{"succeededIndexes": "0,3"}]}});
    let pods =
        vec![pod("s0", "Succeeded", Some(0)), pod("s3", "Succeeded", Some(3)), pod("r", "Ready", Some(4))];
    let p = pass(world(job(spec, json!({})), pods));
    assert_eq!(p.conditions(), ["SuccessCriteriaMet=True/SuccessPolicy"]);
    assert!(p.status()["failed"].is_null(), "pods that are not needed any more have not failed");
    assert_eq!(p.released, ["r", "s0", "s3"]);
    let p = pass(world(p.sync.job.clone(), vec![]));
    assert_eq!(p.conditions()[1], "Complete=True/SuccessPolicy");
}

#[test]
fn limits_per_index() {
    let spec = |more: Value| {
        let mut s = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
            "backoffLimit": i32::MAX});
        more.as_object().into_iter().flatten().for_each(|(k, v)| s[k] = v.clone());
        s
    };
    let failed = |name: &str, index: usize, before: &str| {
        let mut p = (*pod(name, "Failed", Some(index))).clone();
        p.metadata.annotations.get_or_insert_default().insert(facts::INDEX_FAILURES.into(), before.into());
        Arc::new(p)
    };
    let pods = vec![failed("f0", 0, "1"), failed("f1", 1, "0"), pod("r2", "Running", Some(2))];
    let p = pass(world(job(spec(json!({})), json!({})), pods));
    assert_eq!(p.status()["failedIndexes"], "0");
    assert_eq!(indexes(&p.step), [1]);
    assert_eq!(p.sync.replaced(1).map(|p| p.name()), Some("f1"));
    assert_eq!(p.released, ["f0"], "the other waits for its successor");
    let p = pass(world(job(spec(json!({"maxFailedIndexes": 0})), json!({})), vec![failed("f0", 0, "1")]));
    assert_eq!(p.conditions()[1], "Failed=True/MaxFailedIndexesExceeded");
    let ended = json!({"completedIndexes": "1,2"});
    let p = pass(world(job(spec(json!({})), ended), vec![failed("f0", 0, "1")]));
    assert_eq!(p.conditions()[1], "Failed=True/FailedIndexes");
}

#[test]
fn replacement_policy() {
    let pods = || vec![pod("d", "Deleting", None), pod("r", "Running", None)];
    let p = pass(world(job(json!({"parallelism": 2}), json!({"startTime": "2026-01-01T00:00:00Z"})), pods()));
    assert_eq!((p.step.clone(), p.status()["failed"].clone()), (Step::Create(vec![None]), json!(1)));
    let spec = json!({"parallelism": 2, "podReplacementPolicy": "Failed"});
    let p = pass(world(job(spec, json!({})), pods()));
    assert_eq!((p.step.clone(), p.status()["failed"].clone()), (Step::Nothing, Value::Null));
}
