//! Cases of Jobs, from upstream's tables (`pkg/apis/batch/validation/validation_test.go`, `job/strategy_test.go`).

use super::*;

const CTX: Ctx = Ctx { now: Timestamp::UNIX_EPOCH, subresource: "" };
const STATUS: Ctx = Ctx { now: Timestamp::UNIX_EPOCH, subresource: "status" };

fn made(spec: Value) -> Value {
    let mut obj =
        json!({"metadata": {"name": "myjob", "namespace": "default", "uid": "1a2b3c"}, "spec": spec});
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "abc", "image": "image"}]}});
    object::default_at(&mut obj, &["spec"], "template", template);
    Job.default(&mut obj);
    Job.prepare_create(&mut obj, &CTX);
    obj
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn refused(spec: Value) -> Vec<String> {
    texts(&Job.validate(&made(spec)))
}

#[test]
fn a_job_ties_its_pods_to_itself() {
    let obj = made(json!({}));
    assert_eq!(
        obj["spec"]["template"]["metadata"]["labels"],
        json!({"batch.kubernetes.io/controller-uid": "1a2b3c", "batch.kubernetes.io/job-name": "myjob",
            "controller-uid": "1a2b3c", "job-name": "myjob"})
    );
    assert_eq!(
        obj["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "1a2b3c"}})
    );
    let spec = &obj["spec"];
    assert_eq!(
        (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]),
        (&1.into(), &1.into(), &6.into())
    );
    assert_eq!((&spec["manualSelector"], &spec["suspend"]), (&false.into(), &false.into()));
    assert!(Job.validate(&obj).is_empty());
    let mut wrong = obj.clone();
    wrong["spec"]["template"]["metadata"]["labels"]["job-name"] = "other".into();
    assert_eq!(Job.validate(&wrong).len(), 1);
}

#[test]
fn specs() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 5});
        for (k, v) in more.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        spec
    };
    let failure = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
    let success = |rule: Value| indexed(json!({"successPolicy": {"rules": [rule]}}));
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"managedBy": "example.com/foo"}), &[]),
        (
            json!({"managedBy": "invalid custom controller name"}),
            &[
                "spec.managedBy: Invalid value: \"invalid custom controller name\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ],
        ),
        (
            json!({"managedBy": format!("a.com/{}", "x".repeat(58))}),
            &["spec.managedBy: Too long: may not be more than 63 bytes"],
        ),
        (
            json!({"backoffLimitPerIndex": 1}),
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        ),
        (
            indexed(json!({"maxFailedIndexes": 3})),
            &["spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"],
        ),
        (
            indexed(json!({"maxFailedIndexes": 8, "backoffLimitPerIndex": 1})),
            &["spec.maxFailedIndexes: Invalid value: 8: must be less than or equal to completions"],
        ),
        (
            indexed(json!({"completions": 100_001, "backoffLimitPerIndex": 1, "parallelism": 10_001})),
            &[
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
            ],
        ),
        (failure(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]})), &[]),
        (
            failure(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}})),
            &[
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            ],
        ),
        (
            failure(json!({"onExitCodes": {"operator": "In", "values": [0, 3, 3, 2], "containerName": "x"}})),
            &[
                "spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,3,3,2]: must be ordered",
            ],
        ),
        (
            failure(json!({"action": "Count"})),
            &[
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ],
        ),
        (
            json!({"successPolicy": {"rules": []}}),
            &["spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode"],
        ),
        (success(json!({"succeededIndexes": "0-2", "succeededCount": 2})), &[]),
        (
            success(json!({})),
            &[
                "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ],
        ),
        (
            success(json!({"succeededIndexes": "invalid-format"})),
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"invalid-format\": error parsing succeededIndexes: cannot convert string to integer for index: \"invalid\"",
            ],
        ),
        (
            success(json!({"succeededIndexes": "0-1", "succeededCount": 3})),
            &[
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ],
        ),
        (
            json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed"}),
            &[
                "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
            ],
        ),
    ];
    for (spec, wanted) in cases {
        assert_eq!(refused(spec.clone()), wanted, "{spec}");
    }
    let mut long = made(indexed(json!({})));
    object::set_meta(&mut long, "name", "a".repeat(62));
    let messages = texts(&Job.validate(&long));
    assert!(
        messages.iter().any(|m| m.contains("will not able to create pod with invalid DNS label")),
        "{messages:?}"
    );
}

#[test]
fn what_an_update_may_change() {
    let update = |old: &Value, change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        texts(&Job.validate_update(&new, old, &CTX))
    };
    let old = made(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3}));
    assert!(update(&old, &|o| o["spec"]["parallelism"] = 2.into()).is_empty());
    assert!(
        update(&old, &|o| {
            o["spec"]["parallelism"] = 4.into();
            o["spec"]["completions"] = 4.into();
        })
        .is_empty()
    );
    assert_eq!(
        update(&old, &|o| o["spec"]["completions"] = 4.into()),
        ["spec.completions: Invalid value: 4: can only be modified in tandem with spec.parallelism"]
    );
    assert_eq!(
        update(&old, &|o| o["spec"]["managedBy"] = "a.com/b".into()),
        ["spec.managedBy: Invalid value: \"a.com/b\": field is immutable"]
    );
    let image = |o: &mut Value| o["spec"]["template"]["spec"]["containers"][0]["image"] = "other".into();
    let resources = |o: &mut Value| {
        o["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    };
    let place = |o: &mut Value| {
        o["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        o["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "k", "operator": "Exists"}]}]}}});
        o["spec"]["template"]["metadata"]["annotations"] = json!({"x": "y"});
    };
    assert_eq!(update(&old, &image).len(), 1);
    assert_eq!(update(&old, &resources).len(), 1);
    assert_eq!(update(&old, &place).len(), 1);
    let suspended = made(json!({"suspend": true}));
    assert_eq!(update(&suspended, &image).len(), 1);
    assert!(update(&suspended, &resources).is_empty());
    assert!(update(&suspended, &place).is_empty());
    let mut running = suspended.clone();
    running["status"] = json!({"startTime": "2026-01-02T03:04:05Z", "active": 1});
    assert_eq!(update(&running, &resources).len(), 1);
    running["status"] = json!({"startTime": "2026-01-02T03:04:05Z",
        "conditions": [{"type": "Suspended", "status": "True"}]});
    assert!(update(&running, &resources).is_empty());
}

#[test]
fn what_a_status_may_become() {
    let status = |new: Value, old: Value, spec: Value| {
        let obj = |status: Value| {
            let mut obj = made(spec.clone());
            obj["status"] = status;
            obj
        };
        texts(&Job.validate_update(&obj(new), &obj(old), &STATUS))
    };
    let done = |conditions: &[&str]| {
        conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect::<Value>()
    };
    let t = "2026-01-02T03:04:05Z";
    let complete =
        json!({"startTime": t, "completionTime": t, "conditions": done(&["SuccessCriteriaMet", "Complete"])});
    assert!(status(complete.clone(), json!({"startTime": t}), json!({})).is_empty());
    assert_eq!(
        status(json!({"startTime": t, "conditions": done(&["Failed"])}), json!({"startTime": t}), json!({})),
        [
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
        ]
    );
    assert_eq!(
        status(json!({"startTime": t, "completionTime": t}), complete.clone(), json!({})),
        [
            "status.completionTime: Invalid value: \"2026-01-02T03:04:05Z\": cannot set completionTime when there is no Complete=True condition",
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        ]
    );
    assert_eq!(
        status(json!({"active": 1, "ready": 2}), json!({}), json!({})),
        ["status.ready: Invalid value: 2: cannot set more ready pods than active"]
    );
    assert_eq!(
        status(json!({"failed": 1}), json!({"failed": 2}), json!({})),
        ["status.failed: Invalid value: 1: cannot decrease the failed counter"]
    );
    assert_eq!(
        status(json!({"startTime": "2027-01-02T03:04:05Z"}), json!({"startTime": t}), json!({})),
        [
            "status.startTime: Invalid value: \"2027-01-02T03:04:05Z\": field is immutable for unsuspended job once set"
        ]
    );
    let indexed = json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1});
    assert_eq!(
        status(json!({"completedIndexes": "0-2", "failedIndexes": "2,4"}), json!({}), indexed.clone()),
        [
            "status.failedIndexes: Invalid value: \"2,4\": failedIndexes and completedIndexes overlap at index: 2"
        ]
    );
    // What was wrong before is left alone while other fields change.
    let wrong = json!({"completedIndexes": "9", "active": 1});
    assert!(status(wrong, json!({"completedIndexes": "9"}), indexed).is_empty());
}
