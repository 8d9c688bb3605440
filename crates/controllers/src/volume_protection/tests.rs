//! Cases of protected volumes (upstream: `pvc_protection_controller_test.go`, `pv_protection_controller_test.go`).

use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::{Value, json};
use std::time::Duration;

fn of<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).unwrap()
}

fn pod(node: &str, phase: &str, volume: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"},
        "spec": {"nodeName": node, "containers": [], "volumes": [volume]}, "status": {"phase": phase}})
}

fn claim(deleting: bool, finalizers: Value) -> Value {
    let mut c = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c", "finalizers": finalizers}, "status": {"phase": "Bound"}});
    if deleting {
        c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    c
}

#[test]
fn which_pods_use_a_claim() {
    let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    let c: PersistentVolumeClaim = of(claim(false, json!([])));
    for (node, phase, holds, names) in [
        ("node", "Running", true, true),
        ("", "Pending", false, true),
        ("node", "Succeeded", true, false),
        ("node", "Failed", true, false),
    ] {
        let p: Pod = of(pod(node, phase, named.clone()));
        assert_eq!((usage::holds(&p, &c), usage::names(&p, &c)), (holds, names), "{node:?} {phase}");
    }
    let own = json!({"name": "v", "ephemeral": {}});
    let mut p = pod("node", "Running", own);
    let mut c = claim(false, json!([]));
    c["metadata"]["name"] = json!("p-v");
    assert_eq!(usage::claims_of(&of(p.clone())).collect::<Vec<_>>(), ["p-v"]);
    assert!(!usage::holds(&of(p.clone()), &of(c.clone())), "made by somebody else");
    c["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    assert!(usage::holds(&of(p.clone()), &of(c.clone())));
    p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    p["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    assert!(!usage::holds(&of(p), &of(c)));
}

#[test]
fn claims_tell_since_when_nobody_uses_them() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let c: PersistentVolumeClaim = of(claim(false, json!([])));
    let unused = told(&c, false, now).unwrap();
    let condition = &unused.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
    assert_eq!((&*condition.status, condition.reason.as_deref()), ("True", Some("NoPodsUsingPVC")));
    assert!(told(&unused, false, now).is_none());
    let used = told(&unused, true, now).unwrap();
    assert_eq!(used.status.unwrap().conditions.unwrap()[0].status, "False");
}

#[test]
fn what_finalizers_ask_for() {
    let meta =
        |deleting: bool, finalizers: Value| of::<PersistentVolumeClaim>(claim(deleting, finalizers)).metadata;
    assert_eq!(hold(&meta(false, json!([])), CLAIM), Hold::Add);
    assert_eq!(hold(&meta(false, json!([CLAIM])), CLAIM), Hold::Nothing);
    assert_eq!(hold(&meta(true, json!([CLAIM])), CLAIM), Hold::Judge);
    assert_eq!(hold(&meta(true, json!(["x"])), CLAIM), Hold::Nothing);
}

/// The finalizers of what there is after a while.
async fn settled(objects: &[(&str, Value)], watched: &str, want: &Value) -> Value {
    let api = Arc::new(FakeApi::new());
    for (path, object) in objects {
        api.seed(path, object);
    }
    let setup = Setup::of_fake(&api, Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())));
    let handles = start(&setup);
    let mut got = Value::Null;
    for _ in 0..250 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let object = api.object(watched).unwrap_or_default();
        got = object["metadata"].get("finalizers").cloned().unwrap_or(json!([]));
        if got == *want {
            break;
        }
    }
    setup.cancel.cancel();
    for handle in handles {
        handle.stopped().await;
    }
    got
}

#[tokio::test]
async fn finalizers_go_when_nobody_uses_the_object() {
    let (claims, one) =
        ("/api/v1/namespaces/n/persistentvolumeclaims", "/api/v1/namespaces/n/persistentvolumeclaims/c");
    let user = pod("node", "Running", json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
    let held = [(claims, claim(true, json!([CLAIM]))), ("/api/v1/namespaces/n/pods", user)];
    assert_eq!(settled(&held[..1], one, &json!([])).await, json!([]));
    assert_eq!(settled(&held, one, &json!([])).await, json!([CLAIM]));
    assert_eq!(settled(&[(claims, claim(false, json!([])))], one, &json!([CLAIM])).await, json!([CLAIM]));
    let volume = |phase: &str| {
        json!({"metadata": {"name": "pv", "finalizers": [VOLUME], "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": phase}})
    };
    let (volumes, at) = ("/api/v1/persistentvolumes", "/api/v1/persistentvolumes/pv");
    assert_eq!(settled(&[(volumes, volume("Released"))], at, &json!([])).await, json!([]));
    assert_eq!(settled(&[(volumes, volume("Bound"))], at, &json!([])).await, json!([VOLUME]));
}
