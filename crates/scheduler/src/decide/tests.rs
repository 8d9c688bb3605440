//! Cases of [`super`].

use super::*;
use crate::pod::Surroundings;
use meta::selector::LabelSelector;
use serde_json::{Value, json};
use std::sync::Arc;

struct World {
    snapshot: Snapshot,
    rng: Rng,
    placed: usize,
}

impl World {
    fn new() -> Self {
        Self { snapshot: Snapshot::default(), rng: Rng::seeded(7), placed: 0 }
    }

    /// A node with 4 cores, 8 GiB, 10 pods and a host name, with changes.
    fn node(mut self, name: &str, change: Value) -> Self {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}},
        });
        merge(&mut node, change);
        self.snapshot.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        self
    }

    fn runs(mut self, node: &str, spec: Value) -> Self {
        self.place(node, pod(spec));
        self
    }

    fn place(&mut self, node: &str, mut info: PodInfo) {
        self.placed += 1;
        let mut p = (*info.pod).clone();
        p.metadata.uid = Some(format!("uid-{}", self.placed));
        info.pod = Arc::new(p);
        self.snapshot.get_mut(node).unwrap().add(Arc::new(info));
    }

    fn decide(&self, info: &PodInfo) -> Decision {
        decide(&self.snapshot, info, &self.rng)
    }

    fn why(&self, spec: Value) -> String {
        self.decide(&pod(spec)).message().unwrap_or_else(|| "it fits".to_owned())
    }

    /// The node that it goes to however often it is asked, so that no tie is taken for a choice.
    fn prefers(&self, spec: Value) -> String {
        let all: std::collections::BTreeSet<_> = (0..16).map(|_| self.goes_to(spec.clone())).collect();
        all.into_iter().collect::<Vec<_>>().join(" or ")
    }

    fn goes_to(&self, spec: Value) -> String {
        match self.decide(&pod(spec)) {
            Decision::Node(n) => n,
            other => panic!("no node: {:?}", other.message()),
        }
    }
}

fn merge(into: &mut Value, change: Value) {
    match change {
        Value::Object(m) => m.into_iter().for_each(|(k, v)| merge(&mut into[k.as_str()], v)),
        other => *into = other,
    }
}

fn pod(mut spec: Value) -> PodInfo {
    if spec["containers"].is_null() {
        spec["containers"] = json!([]);
    }
    let labels = spec.as_object_mut().unwrap().remove("labels").unwrap_or(json!({"app": "a"}));
    let meta = json!({"name": "p", "namespace": "n", "uid": "new", "labels": labels});
    PodInfo::new(Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()))
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn anti(app: &str, key: &str) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key});
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
}

fn near(app: &str, key: &str) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key});
    json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
}

const HOST: &str = "kubernetes.io/hostname";
const HOPELESS: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NOBODY: &str = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

#[test]
fn reasons_and_texts_of_one_node() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let plain = json!({});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
    let gpu = json!({"containers": [{"name": "c", "resources": {"requests": {"a.io/gpu": "1"}}}]});
    let disk =
        json!({"containers": [{"name": "c", "resources": {"requests": {"ephemeral-storage": "1Ti"}}}]});
    let zone = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let cases = [
        (&plain, json!({"nodeName": "other"}), "node(s) didn't match the requested node name", HOPELESS),
        (&cordoned, json!({}), "node(s) were unschedulable", HOPELESS),
        (&tainted, json!({}), "node(s) had untolerated taint(s)", HOPELESS),
        (
            &plain,
            json!({"nodeSelector": {"a": "b"}}),
            "node(s) didn't match Pod's node affinity/selector",
            HOPELESS,
        ),
        (&plain, port, "node(s) didn't have free ports for the requested pod ports", NOBODY),
        (&plain, asks("3", "1"), "Insufficient cpu", NOBODY),
        (&plain, asks("5", "1"), "Insufficient cpu", HOPELESS),
        (&plain, asks("1", "16Gi"), "Insufficient memory", HOPELESS),
        (&plain, asks("3", "7Gi"), "Insufficient cpu, 1 Insufficient memory", NOBODY),
        (&plain, gpu, "Insufficient a.io/gpu", HOPELESS),
        (&plain, disk, "Insufficient ephemeral-storage", HOPELESS),
        (
            &plain,
            json!({"topologySpreadConstraints": zone}),
            "node(s) didn't match pod topology spread constraints (missing required label)",
            HOPELESS,
        ),
        (&plain, json!({"affinity": near("b", HOST)}), "node(s) didn't match pod affinity rules", HOPELESS),
        (
            &plain,
            json!({"affinity": anti("a", HOST)}),
            "node(s) didn't match pod anti-affinity rules",
            NOBODY,
        ),
    ];
    for (node, spec, reason, end) in cases {
        let mut running = asks("2", "2Gi");
        running["containers"][0]["ports"] =
            json!([{"containerPort": 2, "hostPort": 80, "hostIP": "127.0.0.1"}]);
        let world = World::new().node("one", node.clone()).runs("one", running);
        let expected = format!("0/1 nodes are available: 1 {reason}. {end}");
        assert_eq!(world.why(spec), expected);
    }
}

#[test]
fn reasons_are_counted_and_sorted_as_text() {
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    let world =
        World::new().node("a", taint.clone()).node("b", taint).node("c", json!({})).node("d", json!({}));
    assert_eq!(
        world.why(asks("5", "9Gi")),
        "0/4 nodes are available: 2 Insufficient cpu, 2 Insufficient memory, 2 node(s) had untolerated taint(s). \
         preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    );
    assert_eq!(World::new().why(json!({})), "no nodes available to schedule pods");
}

#[test]
fn what_is_said_about_preemption() {
    let full = || World::new().node("one", json!({})).runs("one", asks("4", "1"));
    let mut spec = asks("1", "1");
    spec["priority"] = 5.into();
    assert_eq!(full().why(spec.clone()), "0/1 nodes are available: 1 Insufficient cpu.");
    spec["preemptionPolicy"] = "Never".into();
    assert_eq!(
        full().why(spec),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn too_many_pods() {
    let mut world = World::new().node("one", json!({"status": {"allocatable": {"pods": "2"}}}));
    for _ in 0..2 {
        assert_eq!(world.goes_to(json!({})), "one");
        world.place("one", pod(json!({})));
    }
    assert_eq!(world.why(json!({})), format!("0/1 nodes are available: 1 Too many pods. {NOBODY}"));
}

#[test]
fn affinity_to_named_nodes_looks_at_no_others() {
    let named = |name: &str| {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
        let terms = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    };
    let world = World::new().node("a", json!({})).node("b", json!({"spec": {"unschedulable": true}}));
    assert_eq!(world.prefers(named("a")), "a");
    let why = world.why(named("b"));
    let start = "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], 1 node(s) were unschedulable.";
    assert!(why.starts_with(start), "{why}");
}

#[test]
fn tolerations_open_nodes() {
    let taints = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let world = World::new().node("one", json!({"spec": {"taints": taints}}));
    assert_eq!(world.goes_to(json!({"tolerations": [{"key": "k", "value": "v"}]})), "one");
    let world = World::new().node("one", json!({"spec": {"unschedulable": true}}));
    assert_eq!(world.goes_to(json!({"tolerations": [{"operator": "Exists"}]})), "one");
}

#[test]
fn pods_keep_others_away_and_first_of_a_group_is_let_in() {
    let mut guard = json!({"affinity": anti("a", HOST), "labels": {"app": "guard"}});
    let world = World::new().node("one", json!({})).node("two", json!({})).runs("one", guard.take());
    assert_eq!(world.prefers(json!({})), "two");
    let world = World::new().node("one", json!({})).node("two", json!({}));
    let first = json!({"affinity": near("a", HOST)});
    world.goes_to(first.clone());
    let world = world.runs("two", json!({}));
    assert_eq!(world.prefers(first), "two");
}

#[test]
fn namespaces_bound_terms() {
    let term = json!({"labelSelector": {}, "topologyKey": HOST, "namespaceSelector": {"matchLabels": {"team": "x"}}});
    let spec =
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let world = World::new().node("one", json!({})).node("two", json!({})).runs("two", json!({}));
    let within = |labels: Value| {
        let namespaces = vec![("n".to_owned(), serde_json::from_value(labels).unwrap())];
        world.decide(&pod(spec.clone()).within(Surroundings { namespaces, siblings: None }))
    };
    assert_eq!(within(json!({"team": "x"})), Decision::Node("two".into()));
    assert!(within(json!({})).message().is_some());
}

#[test]
fn hard_spread_keeps_the_skew() {
    let constraint = json!([{"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let spec = json!({"topologySpreadConstraints": constraint});
    let world = World::new().node("a", json!({})).node("b", json!({"spec": {"unschedulable": true}}));
    let world = world.runs("a", json!({}));
    // b has none and would have to be next, but it takes nobody
    let why = world.why(spec);
    assert!(why.contains("1 node(s) didn't match pod topology spread constraints, 1 node(s) were"), "{why}");
}

#[test]
fn replicas_spread_over_nodes() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world = world.node(name, json!({}));
    }
    let siblings = LabelSelector::parse("app=a").unwrap();
    let mut used = BTreeMap::new();
    for _ in 0..6 {
        let info =
            pod(json!({})).within(Surroundings { namespaces: Vec::new(), siblings: Some(siblings.clone()) });
        let Decision::Node(name) = world.decide(&info) else { panic!("a node") };
        world.place(&name, info);
        *used.entry(name).or_insert(0) += 1;
    }
    assert_eq!(used.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn scores_prefer() {
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    assert_eq!(World::new().node("a", soft).node("b", json!({})).prefers(json!({})), "b");

    let busy = World::new().node("a", json!({})).node("b", json!({})).runs("a", asks("2", "4Gi"));
    assert_eq!(busy.prefers(asks("1", "2Gi")), "b");

    let match_ssd = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
    let preferred = json!([{"weight": 10, "preference": match_ssd}]);
    let preferred = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    let world = World::new().node("a", json!({"metadata": {"labels": {"disk": "ssd"}}})).node("b", json!({}));
    assert_eq!(world.prefers(json!({"affinity": preferred})), "a");

    let images = json!({"status": {"images": [{"names": ["big:latest"], "sizeBytes": 4_000_000_000i64}]}});
    let world = World::new().node("a", json!({})).node("b", images);
    assert_eq!(world.prefers(json!({"containers": [{"name": "c", "image": "big"}]})), "b");
}

#[test]
fn equal_nodes_are_chosen_by_chance() {
    let world = World::new().node("a", json!({})).node("b", json!({}));
    let seen: std::collections::BTreeSet<_> = (0..64).map(|_| world.goes_to(json!({}))).collect();
    assert_eq!(seen.len(), 2);
}

#[test]
fn large_clusters_are_searched_in_part() {
    assert_eq!([1, 99, 100, 1000, 5000, 10_000].map(feasible_wanted), [1, 99, 100, 420, 500, 500]);
}
