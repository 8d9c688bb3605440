//! Cases of evictions (upstream: `pkg/registry/core/pod/storage/eviction_test.go`).

use super::*;

fn budget(status: Value) -> Value {
    json!({"metadata": {"name": "b", "generation": 1}, "spec": {"selector": {"matchLabels": {"a": "b"}}}, "status": status})
}

fn refused(status: Value) -> (u16, String, String) {
    let e = decrement(&mut budget(status), "p", "now").expect_err("refused");
    let cause = e.details.clone().unwrap_or_default().causes.remove(0);
    assert_eq!(cause.reason, "DisruptionBudget");
    (e.code, e.message, cause.message)
}

#[test]
fn budgets_without_room_refuse() {
    let violated = WOULD_VIOLATE.to_owned();
    assert_eq!(
        refused(json!({"observedGeneration": 0, "disruptionsAllowed": 1})),
        (429, violated.clone(), "The disruption budget b is still being processed by the server.".into())
    );
    assert_eq!(
        refused(
            json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 3})
        ),
        (429, violated.clone(), "The disruption budget b needs 3 healthy pods and has 2 currently".into())
    );
    let failed = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no scale"}]);
    assert_eq!(
        refused(json!({"observedGeneration": 1, "disruptionsAllowed": 0, "conditions": failed})),
        (
            429,
            violated.clone(),
            "The disruption budget b does not allow evicting pods currently because it failed sync: no scale"
                .into()
        )
    );
    let told = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "X", "message": "why"}]);
    assert_eq!(
        refused(
            json!({"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 1, "conditions": told})
        ),
        (
            429,
            violated.clone(),
            "The disruption budget b does not allow evicting pods currently (X): why".into()
        )
    );
    assert_eq!(
        refused(json!({"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 1})),
        (429, violated, "The disruption budget b does not allow evicting pods currently".into())
    );
    let (code, message, _) = refused(json!({"observedGeneration": 1, "disruptionsAllowed": -1}));
    assert_eq!(code, 403);
    assert_eq!(message, "poddisruptionbudget.policy \"b\" is forbidden: pdb disruptions allowed is negative");
}

#[test]
fn a_granted_eviction_is_counted() {
    let mut b = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1}));
    decrement(&mut b, "p", "now").expect("granted");
    let status = &b["status"];
    assert_eq!((&status["disruptionsAllowed"], &status["disruptedPods"]["p"]), (&json!(0), &json!("now")));
    assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    decrement(&mut b, "q", "now").expect_err("none left");
}

#[test]
fn which_pods_need_no_budget() {
    for (phase, ignore, fixed) in [
        ("Pending", true, true),
        ("Running", false, true),
        ("Succeeded", true, false),
        ("Failed", true, false),
    ] {
        let pod = json!({"metadata": {}, "status": {"phase": phase}});
        assert_eq!((can_ignore_budget(&pod), must_not_change(&pod)), (ignore, fixed), "{phase}");
    }
    let going = json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}});
    assert_eq!((can_ignore_budget(&going), must_not_change(&going)), (true, false));
}

#[test]
fn unhealthy_pods_go_where_the_budget_is_met() {
    let with = |current: i64, desired: i64, policy: Value| {
        let mut b = budget(json!({"currentHealthy": current, "desiredHealthy": desired}));
        b["spec"]["unhealthyPodEvictionPolicy"] = policy;
        may_lose_unhealthy(&b)
    };
    assert!(with(2, 2, Value::Null) && with(2, 1, json!("IfHealthyBudget")));
    assert!(!with(1, 2, Value::Null) && !with(0, 0, Value::Null));
    assert!(with(0, 2, json!("AlwaysAllow")));
}

#[test]
fn selectors_that_are_absent_cover_nothing_and_empty_ones_all() {
    let pod = json!({"metadata": {"labels": {"a": "b"}}});
    let b = |selector: Value| json!({"spec": {"selector": selector}});
    assert!(covers(&b(json!({"matchLabels": {"a": "b"}})), &pod) && covers(&b(json!({})), &pod));
    assert!(!covers(&b(Value::Null), &pod) && !covers(&b(json!({"matchLabels": {"a": "c"}})), &pod));
}

#[test]
fn bodies_that_are_refused() {
    let e = check(&json!({"metadata": {"name": "q"}}), "p").expect_err("another name");
    assert_eq!(e.message, "name in URL does not match name in Eviction object");
    let body = json!({"metadata": {"name": "p"}, "deleteOptions": {"ignoreStoreReadErrorWithClusterBreakingPotential": true}});
    let e = check(&body, "p").expect_err("unsafe");
    assert_eq!(
        e.message,
        "Eviction.policy \"p\" is invalid: deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: can not be set for pod eviction, try after removing the option"
    );
}

#[test]
fn the_pod_tells_why_it_goes_and_keeps_when() {
    let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}, "status": {}});
    let first = announced(&pod, "t1");
    let again = announced(&first, "t2");
    assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "t1");
    let wanted = |uid: Option<&str>, rv: Option<&str>| registry::Preconditions {
        uid: uid.map(str::to_owned),
        resource_version: rv.map(str::to_owned),
    };
    precondition(&pod, &wanted(Some("u"), Some("7"))).expect("as it is");
    assert!(precondition(&pod, &wanted(Some("v"), None)).expect_err("another").is_conflict());
    assert!(precondition(&pod, &wanted(None, Some("6"))).expect_err("changed").is_conflict());
}
