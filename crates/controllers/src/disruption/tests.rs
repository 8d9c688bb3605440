//! Cases of budgets (upstream: `pkg/controller/disruption/disruption_test.go`).

use super::plan::{self, Expected};
use super::*;
use base::clock::ManualClock;
use client::fake::FakeApi;
use serde_json::{Value, json};
use std::time::Duration;

const NOW: &str = "2026-01-01T01:00:00Z";

fn pod(name: &str, ready: bool, owner: Option<(&str, &str, &str)>) -> Value {
    let mut meta = json!({"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}});
    if let Some((version, kind, owner)) = owner {
        meta["ownerReferences"] =
            json!([{"apiVersion": version, "kind": kind, "name": owner, "uid": owner, "controller": true}]);
    }
    let ready = if ready { "True" } else { "False" };
    json!({"metadata": meta, "spec": {"containers": []}, "status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": ready}]}})
}

fn budget(spec: Value, status: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    json!({"metadata": {"name": "b", "namespace": "n", "generation": 3}, "spec": spec, "status": status})
}

fn empty() -> Value {
    json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
}

fn of<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).unwrap()
}

#[test]
fn what_is_expected() {
    for (spec, pods, scale, want) in [
        (json!({"minAvailable": 2}), 3, 0, (3, 2)),
        (json!({"minAvailable": "30%"}), 2, 10, (10, 3)),
        (json!({"minAvailable": "28%"}), 1, 10, (10, 3)),
        (json!({"maxUnavailable": 2}), 1, 5, (5, 3)),
        (json!({"maxUnavailable": 7}), 1, 5, (5, 0)),
        (json!({"maxUnavailable": "30%"}), 1, 7, (7, 4)),
        (json!({"maxUnavailable": "0%"}), 1, 5, (5, 5)),
        (json!({}), 4, 4, (0, 0)),
    ] {
        let got = plan::expected(&of(spec.clone()), pods, scale);
        assert_eq!(got, Expected { pods: want.0, healthy: want.1 }, "{spec}");
    }
}

#[test]
fn granted_evictions_count_until_they_are_late() {
    let now: jiff::Timestamp = NOW.parse().unwrap();
    let mut status = empty();
    status["disruptedPods"] = json!({"p1": "2026-01-01T00:59:00Z", "p2": "2026-01-01T00:50:00Z",
        "p3": "2026-01-01T00:59:30Z", "gone": "2026-01-01T00:59:59Z"});
    let budget: PodDisruptionBudget = of(budget(json!({"minAvailable": 1}), status));
    let mut deleting = pod("p3", true, None);
    deleting["metadata"]["deletionTimestamp"] = json!(NOW);
    let all: Vec<Arc<Pod>> = [pod("p1", true, None), pod("p2", true, None), deleting, pod("p4", false, None)]
        .map(|p| Arc::new(of(p)))
        .to_vec();
    let got = plan::disrupted(&all, &budget, now);
    assert_eq!(got.pods.keys().collect::<Vec<_>>(), ["p1"]);
    assert_eq!(got.recheck, Some(Duration::from_secs(60)));
    assert_eq!(got.not_deleted.iter().map(|p| p.name()).collect::<Vec<_>>(), ["p2"]);
    assert_eq!(plan::healthy(&all, &got.pods, now), 1);
}

#[test]
fn a_status_is_written_when_it_says_something_new() {
    let now = NOW.parse().unwrap();
    let b: PodDisruptionBudget = of(budget(json!({"minAvailable": 1}), empty()));
    let expected = Expected { pods: 2, healthy: 1 };
    let status = plan::status(&b, 2, expected, Default::default(), now).unwrap();
    assert_eq!((status.disruptions_allowed, status.observed_generation), (Some(1), Some(3)));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((&*condition.status, &*condition.reason), ("True", "SufficientPods"));
    let written = PodDisruptionBudget { status: Some(status), ..b };
    assert!(plan::status(&written, 2, expected, Default::default(), now).is_none());
    let nobody = plan::status(&written, 0, Expected::default(), Default::default(), now).unwrap();
    assert_eq!(nobody.disruptions_allowed, Some(0));
    let failed = plan::failed(written.status.as_ref().unwrap(), "why", now);
    let condition = &failed.conditions.unwrap()[0];
    assert_eq!(
        (failed.disruptions_allowed, &*condition.reason, &*condition.message),
        (Some(0), "SyncFailed", "why")
    );
}

#[test]
fn how_long_announced_disruptions_are_believed() {
    let now = NOW.parse().unwrap();
    let with = |reason: &str, status: &str| {
        let mut p = pod("p", true, None);
        p["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": status, "reason": reason,
            "lastTransitionTime": "2026-01-01T00:59:00Z"}]);
        p
    };
    assert_eq!(plan::believed_for(&of(with("X", "True")), now), Some(Duration::from_secs(60)));
    assert_eq!(plan::believed_for(&of(with("X", "False")), now), None);
    assert_eq!(plan::believed_for(&of(with("TerminationByKubelet", "True")), now), None);
    let mut ended = with("X", "True");
    ended["status"]["phase"] = json!("Failed");
    assert_eq!(plan::believed_for(&of(ended), now), None);
}

#[test]
fn selectors_are_printed_as_upstream_prints_them() {
    let selector = of(
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}),
    );
    assert_eq!(
        plan::selector_text(Some(&selector)),
        "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{\
         LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
    );
}

/// Runs the controller on some objects until the budget's status is written.
async fn settled(objects: &[(&str, Value)], spec: Value) -> Value {
    let api = Arc::new(FakeApi::new());
    for (path, object) in objects {
        if object["rig"].is_object() {
            api.rig(http::Method::GET, path, object["rig"].clone());
        } else {
            api.seed(path, object);
        }
    }
    api.seed("/apis/policy/v1/namespaces/n/poddisruptionbudgets", &budget(spec, empty()));
    let setup = Setup::of_fake(&api, Arc::new(ManualClock::new(NOW.parse().unwrap())));
    let handle = start(&setup);
    let mut status = Value::Null;
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let stored = api.object("/apis/policy/v1/namespaces/n/poddisruptionbudgets/b").unwrap();
        status = stored["status"].clone();
        if !status["conditions"].is_null() {
            break;
        }
    }
    setup.cancel.cancel();
    handle.stopped().await;
    status
}

#[tokio::test]
async fn pods_are_counted_by_what_controls_them() {
    let pods = "/api/v1/namespaces/n/pods";
    let set = ("apps/v1", "ReplicaSet", "rs");
    let owned = json!({"metadata": {"name": "rs", "namespace": "n", "uid": "rs", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d", "controller": true}]},
        "spec": {"replicas": 2, "selector": {}}});
    let deployment = json!({"metadata": {"name": "d", "namespace": "n", "uid": "d"},
        "spec": {"replicas": 10, "selector": {}, "template": {}}});
    let status = settled(
        &[
            (pods, pod("a", true, Some(set))),
            (pods, pod("b", true, Some(set))),
            ("/apis/apps/v1/namespaces/n/replicasets", owned),
            ("/apis/apps/v1/namespaces/n/deployments", deployment),
        ],
        json!({"minAvailable": "10%"}),
    )
    .await;
    let number = |field: &str| status[field].as_i64().unwrap();
    assert_eq!(
        ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"].map(number),
        [2, 1, 10, 1]
    );
}

#[tokio::test]
async fn other_kinds_are_asked_for_their_scale() {
    let custom = ("x.io/v1", "Thing", "t");
    let served = json!({"rig": {"resources": [{"name": "things", "kind": "Thing"}, {"name": "things/scale", "kind": "Scale"}]}});
    let scale = json!({"rig": {"metadata": {"uid": "t"}, "spec": {"replicas": 4}}});
    let at = "/apis/x.io/v1/namespaces/n/things/t/scale";
    let pods = ("/api/v1/namespaces/n/pods", pod("a", true, Some(custom)));
    let all = [pods.clone(), ("/apis/x.io/v1", served.clone()), (at, scale)];
    let status = settled(&all, json!({"maxUnavailable": 3})).await;
    assert_eq!((&status["expectedPods"], &status["desiredHealthy"]), (&json!(4), &json!(1)));
    let missing = json!({"rig": {"kind": "Status", "code": 404, "reason": "NotFound", "message": "no"}});
    let status = settled(&[pods, ("/apis/x.io/v1", missing)], json!({"maxUnavailable": 3})).await;
    let condition = &status["conditions"][0];
    assert_eq!(
        (&condition["reason"], &condition["message"]),
        (&json!("SyncFailed"), &json!("no matches for kind \"Thing\" in version \"x.io/v1\""))
    );
}
