//! What counts, by kind; cases after upstream's own tables.

use super::*;
use serde_json::json;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn used(group: &str, plural: &str, object: Value) -> String {
    Evaluator::of(group, plural).unwrap().usage(&object, now()).to_string()
}

#[test]
fn kinds_count_by_name() {
    let names = |group, plural| match Evaluator::of(group, plural) {
        Some(Evaluator::Count(names)) => names,
        other => panic!("{other:?}"),
    };
    assert_eq!(names("", "secrets"), ["count/secrets", "secrets"]);
    assert_eq!(names("apps", "replicasets"), ["count/replicasets.apps"]);
    assert_eq!(Evaluator::of("", "events"), None);
}

#[test]
fn services_count_their_ports() {
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
    let of = |ty: &str, own: bool| {
        let spec = json!({"type": ty, "ports": ports, "allocateLoadBalancerNodePorts": own});
        used("", "services", json!({"spec": spec}))
    };
    let [none, two, one] = [(0, 0), (1, 2), (1, 1)].map(|(l, n)| {
        format!("count/services=1,services=1,services.loadbalancers={l},services.nodeports={n}")
    });
    assert_eq!(of("ClusterIP", true), none);
    assert_eq!(of("LoadBalancer", true), two);
    assert_eq!(of("LoadBalancer", false), one);
}

#[test]
fn pods_count_what_they_take_until_they_end() {
    let resources = json!({"requests": {"cpu": "1", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"},
        "limits": {"cpu": "2", "memory": "1Gi"}});
    let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    assert_eq!(
        used("", "pods", pod.clone()),
        "count/pods=1,cpu=1,hugepages-2Mi=4Mi,limits.cpu=2,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi"
    );
    pod["status"] = json!({"phase": "Succeeded"});
    assert_eq!(used("", "pods", pod.clone()), "count/pods=1");
    pod["status"] = json!({"phase": "Running"});
    pod["metadata"] = json!({"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 59});
    assert_eq!(used("", "pods", pod), "count/pods=1");
    for (name, counts) in
        [("requests.example.com/gpu", true), ("requests.storage", false), ("configmaps", false)]
    {
        assert_eq!(Evaluator::Pods.counts(name), counts, "{name}");
    }
}

#[test]
fn containers_must_say_what_is_limited() {
    let pod = json!({"spec": {"containers": [{"name": "b", "resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"name": "a"}]}});
    let why = Evaluator::Pods.constraints(&["pods", "cpu", "limits.memory"], &pod).unwrap_err();
    assert_eq!(why, "must specify cpu for: a; limits.memory for: a,b");
    assert_eq!(Evaluator::Pods.constraints(&["pods", "ephemeral-storage"], &pod), Ok(()));
}

#[test]
fn scopes_choose_pods() {
    let pod = json!({"spec": {"containers": [{"name": "c"}], "priorityClassName": "high",
        "activeDeadlineSeconds": 5, "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"podAffinityTerm": {"namespaces": ["x"]}}]}}}});
    let quota = |spec: Value| json!({"spec": spec, "status": {"hard": {"pods": "1"}}});
    let is = |spec: Value| Evaluator::Pods.matches(&quota(spec), &pod);
    assert!(is(json!({"scopes": ["Terminating", "BestEffort", "CrossNamespacePodAffinity"]})));
    assert!(!is(json!({"scopes": ["Terminating", "NotBestEffort"]})));
    let class = |operator: &str, values: Value| {
        is(json!({"scopeSelector": {"matchExpressions":
            [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}}))
    };
    assert!(class("In", json!(["high"])) && class("Exists", json!([])) && class("NotIn", json!(["low"])));
    assert!(!class("In", json!(["low"])) && !class("DoesNotExist", json!([])));
    assert!(!Evaluator::Services.matches(&quota(json!({"scopes": ["BestEffort"]})), &json!({})));
}

#[test]
fn volume_claims_count_by_class_in_whole_bytes() {
    let claim =
        json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
    assert_eq!(
        used("", "persistentvolumeclaims", claim),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2"
    );
    assert!(Evaluator::VolumeClaims.counts("gold.storageclass.storage.k8s.io/requests.storage"));
}

#[test]
fn device_claims_count_the_dearest_alternative() {
    let requests = json!([
        {"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
        {"firstAvailable": [{"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1},
            {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 3}]}]);
    let claim = json!({"spec": {"devices": {"requests": requests}}});
    assert_eq!(
        used("resource.k8s.io", "resourceclaims", claim),
        "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=5"
    );
}

#[test]
fn totals_count_what_is_in_scope() {
    let quota =
        json!({"spec": {"hard": {"pods": "5", "cpu": "4", "services": "1"}, "scopes": ["NotTerminating"]}});
    let pod = |deadline: Value| {
        json!({"spec": {"activeDeadlineSeconds": deadline,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}})
    };
    let all = [pod(Value::Null), pod(json!(3)), pod(Value::Null)];
    let total = Evaluator::Pods.total(&quota, all.iter(), now());
    assert_eq!(total.only(|n| quota["spec"]["hard"][n].is_string()).to_string(), "cpu=2,pods=2");
}
