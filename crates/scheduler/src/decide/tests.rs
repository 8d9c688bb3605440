//! Cases: a cluster and a pod in, a node or a message out.

use super::*;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

fn node(name: &str, spec: Value, labels: Value) -> Arc<Node> {
    let mut labels = labels;
    labels["kubernetes.io/hostname"] = name.into();
    let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "3", "example.com/gpu": "1"});
    let v = json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable}});
    Arc::new(serde_json::from_value(v).unwrap())
}

fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    let mut v = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}});
    for (k, x) in spec.as_object().into_iter().flatten() {
        v["spec"][k] = x.clone();
    }
    let pod: Pod = serde_json::from_value(v).unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn asking(name: &str, requests: Value) -> Arc<PodInfo> {
    pod(name, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
}

fn cluster(nodes: &[Arc<Node>], pods: &[(Arc<PodInfo>, &str)]) -> Snapshot {
    let mut s = Snapshot::default();
    nodes.iter().for_each(|n| s.set_node(n.clone()));
    pods.iter().for_each(|(p, n)| s.set_pod(p.clone(), n));
    s
}

fn run(s: &Snapshot, p: &PodInfo) -> Decision {
    decide(s, p, &mut |_| 0)
}

fn chosen(s: &Snapshot, p: &PodInfo) -> String {
    match run(s, p) {
        Decision::Node(n) => n,
        Decision::Rejected(r) => r.message,
    }
}

fn plain(names: &[&str]) -> Vec<Arc<Node>> {
    names.iter().map(|n| node(n, json!({}), json!({}))).collect()
}

#[test]
fn every_reason_is_counted_as_upstream_counts() {
    let taint = |e: &str| json!({"taints": [{"key": "k", "effect": e}]});
    let nodes = [
        node("a", json!({"unschedulable": true}), json!({})),
        node("b", taint("NoSchedule"), json!({})),
        node("c", taint("NoExecute"), json!({})),
        node("d", json!({}), json!({"zone": "x"})),
        node("e", json!({}), json!({"zone": "y"})),
    ];
    let p = pod("p", json!({"nodeSelector": {"zone": "y"}, "containers": [
        {"name": "c", "resources": {"requests": {"cpu": "5", "example.com/gpu": "1"}}, "ports": [{"containerPort": 1}]}]}));
    let used = asking("u", json!({"example.com/gpu": "1"}));
    let got = run(&cluster(&nodes, &[(used, "e")]), &p);
    let Decision::Rejected(r) = got else { panic!("{got:?}") };
    assert_eq!(
        r.message,
        "0/5 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 node(s) didn't match Pod's node \
         affinity/selector, 1 node(s) were unschedulable, 2 node(s) had untolerated taint(s). preemption: 0/5 nodes are \
         available: 5 Preemption is not helpful for scheduling."
    );
    assert_eq!(r.plugins.len(), 4);
    assert_eq!(chosen(&Snapshot::default(), &p), "no nodes available to schedule pods");
}

#[test]
fn room_ports_and_pods() {
    let nodes = plain(&["a", "b"]);
    let full = cluster(&nodes, &[(asking("x", json!({"cpu": "3"})), "a")]);
    assert_eq!(chosen(&full, &asking("p", json!({"cpu": "2"}))), "b");
    let port = |name: &str, ip: &str| {
        pod(name, json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]}))
    };
    let ports = cluster(&nodes, &[(port("x", "127.0.0.1"), "a"), (port("y", ""), "b")]);
    assert_eq!(chosen(&ports, &port("p", "127.0.0.2")), "a");
    assert!(chosen(&ports, &port("p", "127.0.0.1")).contains("2 node(s) didn't have free ports for the requested pod ports"));
    let crowd: Vec<_> = (0..3).map(|i| (pod(&format!("x{i}"), json!({})), "a")).collect();
    assert_eq!(chosen(&cluster(&nodes, &crowd), &pod("p", json!({}))), "b");
}

#[test]
fn affinity_and_tolerations() {
    let nodes = [
        node("a", json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}), json!({"n": "5"})),
        node("b", json!({}), json!({"n": "1"})),
    ];
    let s = cluster(&nodes, &[]);
    let require = |op: &str, values: Value| {
        let terms = json!([{"matchExpressions": [{"key": "n", "operator": op, "values": values}]}]);
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
    };
    assert_eq!(chosen(&s, &pod("p", json!({}))), "b");
    assert_eq!(chosen(&s, &pod("p", json!({"affinity": require("Lt", json!(["3"]))}))), "b");
    let toleration = json!([{"key": "k", "operator": "Equal", "value": "v"}]);
    let p = pod("p", json!({"affinity": require("Gt", json!(["3"])), "tolerations": toleration}));
    assert_eq!(chosen(&s, &p), "a");
    let field = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}});
    assert_eq!(chosen(&s, &pod("p", json!({"affinity": field, "tolerations": toleration}))), "a");
}

#[test]
fn the_emptier_the_preferred_and_the_one_with_the_image() {
    let nodes = plain(&["a", "b"]);
    let s = cluster(&nodes, &[(asking("x", json!({"cpu": "1", "memory": "2Gi"})), "a")]);
    assert_eq!(chosen(&s, &asking("p", json!({"cpu": "1", "memory": "2Gi"}))), "b");
    let prefer = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}}]}});
    assert_eq!(chosen(&s, &pod("p", json!({"affinity": prefer}))), "a");
    let mut with_image = (*nodes[1]).clone();
    let images = json!([{"names": ["reg/app:latest"], "sizeBytes": 900 << 20}]);
    with_image.status.as_mut().unwrap().images = serde_json::from_value(images).unwrap();
    let s = cluster(&[nodes[0].clone(), Arc::new(with_image)], &[]);
    assert_eq!(chosen(&s, &pod("p", json!({"containers": [{"name": "c", "image": "reg/app"}]}))), "b");
    let mut soft = (*nodes[0]).clone();
    soft.spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]})).unwrap();
    assert_eq!(chosen(&cluster(&[Arc::new(soft), nodes[1].clone()], &[]), &pod("p", json!({}))), "b");
}

#[test]
fn ties_are_picked_among_all() {
    let s = cluster(&plain(&["a", "b", "c"]), &[]);
    let p = pod("p", json!({}));
    let with = |i: usize| decide(&s, &p, &mut |n| { assert_eq!(n, 3); i });
    assert_eq!((with(0), with(2)), (Decision::Node("a".into()), Decision::Node("c".into())));
}

#[test]
fn replicas_spread_over_hosts_and_zones() {
    let owned = |name: &str| {
        let mut p = (*pod(name, json!({})).pod).clone();
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        p.metadata.owner_references = serde_json::from_value(owner).unwrap();
        Arc::new(PodInfo::new(Arc::new(p)))
    };
    let mut s = cluster(&plain(&["a", "b", "c"]), &[]);
    let mut used = std::collections::BTreeSet::new();
    for i in 0..3 {
        let p = owned(&format!("p{i}"));
        let n = chosen(&s, &p);
        s.assume(p, &n);
        used.insert(n);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn hard_spreading() {
    let zone = |n: &str, z: &str| node(n, json!({}), json!({"zone": z}));
    let nodes = [zone("a", "1"), zone("b", "1"), zone("c", "2"), node("d", json!({}), json!({}))];
    let constraint = json!([{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let of = |name: &str| pod(name, json!({"topologySpreadConstraints": constraint}));
    assert_eq!(chosen(&cluster(&nodes, &[(of("x"), "a")]), &of("p")), "c");
    let message = chosen(&cluster(&nodes[3..], &[]), &of("p"));
    assert!(message.contains("1 node(s) didn't match pod topology spread constraints (missing required label)"), "{message}");
}

#[test]
fn pods_that_keep_together_or_apart() {
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let apart = |n: &str| pod(n, json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}));
    let near = |n: &str| pod(n, json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}));
    let nodes = plain(&["a", "b"]);
    assert_eq!(chosen(&cluster(&nodes, &[(apart("x"), "a")]), &apart("p")), "b");
    // the one that is there does not want company either
    assert_eq!(chosen(&cluster(&nodes, &[(apart("x"), "a")]), &pod("p", json!({}))), "b");
    let both = cluster(&nodes, &[(apart("x"), "a"), (apart("y"), "b")]);
    assert!(chosen(&both, &apart("p")).contains("2 node(s) didn't match pod anti-affinity rules"));
    assert_eq!(chosen(&cluster(&nodes, &[(pod("x", json!({})), "b")]), &near("p")), "b");
    assert_eq!(chosen(&cluster(&nodes, &[]), &near("p")), "a", "the first of a group");
}

#[test]
fn assumptions_count_until_taken_back() {
    let mut s = cluster(&plain(&["a"]), &[]);
    let p = asking("p", json!({"cpu": "3"}));
    s.assume(p.clone(), "a");
    assert!(chosen(&s, &asking("q", json!({"cpu": "2"}))).contains("1 Insufficient cpu"));
    s.forget("p");
    assert_eq!(chosen(&s, &asking("q", json!({"cpu": "2"}))), "a");
    s.assume(p.clone(), "a");
    s.set_pod(p, "a");
    s.forget("p");
    assert!(s.has_pod("p"), "the server has shown it");
}
