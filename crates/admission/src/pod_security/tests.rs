//! The plugin over a registry with namespaces and pods in it.

use super::*;
use crate::testing::permit;
use auth::identity::Identity;
use base::clock::SystemClock;
use meta::status::Reason;
use registry::Kinds;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use store::{Embedded, Expect, Op, Options, Stamped, Txn};

/// A registry in a directory of its own.
struct World {
    plugin: PodSecurity,
    user: Identity,
    _dir: tempfile::TempDir,
}

/// What a request left behind.
#[derive(Default)]
struct Said(Mutex<(BTreeMap<String, String>, Vec<String>)>);

impl Notes for Said {
    fn annotate(&self, key: &str, value: &str) {
        self.0.lock().unwrap().0.insert(key.to_owned(), value.to_owned());
    }

    fn warn(&self, text: &str) {
        self.0.lock().unwrap().1.push(text.to_owned());
    }
}

struct Outcome {
    result: Result<()>,
    annotations: BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl Outcome {
    fn annotation(&self, key: &str) -> &str {
        self.annotations.get(&format!("pod-security.kubernetes.io/{key}")).map_or("", String::as_str)
    }

    fn message(&self) -> &str {
        self.result.as_ref().err().map_or("", |s| &s.message)
    }

    /// Nothing was refused, recorded or warned of.
    fn is_silent(&self) -> bool {
        self.result.is_ok() && self.annotations.is_empty() && self.warnings.is_empty()
    }
}

impl World {
    /// With a namespace `ns` that has these labels, given as in `enforce=baseline warn=restricted`.
    async fn new(labels: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::new(dir.path()) };
        let clock = SystemClock::shared();
        let store = Embedded::open(options, Arc::new(store::disk::RealDisk), clock.clone()).unwrap();
        let rng = Arc::new(base::rng::Rng::from_os());
        let registry = Arc::new(Registry::new(store, clock, rng, Kinds::new(kinds::table())));
        let user = Identity::new("someone", &[]);
        let world = Self { plugin: PodSecurity::new(registry), user, _dir: dir };
        world.put("namespaces", &namespace(labels)).await;
        world
    }

    async fn put(&self, plural: &str, obj: &Value) {
        let row = self.plugin.registry.kinds().resource("", "v1", plural).unwrap();
        let key = row.key(object::namespace(obj), object::name(obj));
        let value = Stamped { bytes: obj.to_string().into_bytes(), stamp: None };
        let ops = vec![Op::Put { key, value, expect: Expect::Any }];
        self.plugin.registry.store().commit(Txn { ops, record: None }).await.unwrap();
    }

    async fn ask(&self, resource: &str, new: &Value, old: Option<&Value>) -> Outcome {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let kinds = self.plugin.registry.kinds();
        let row = ["", "apps"].iter().find_map(|group| kinds.resource(group, "v1", resource)).unwrap();
        let said = Said::default();
        let a = Attributes {
            user: &self.user,
            kind: &row,
            namespace: if resource == "namespaces" { "" } else { "ns" },
            name: object::name(new),
            subresource,
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            dry_run: false,
            options: &Value::Null,
            call: &crate::Call::default(),
            notes: &said,
            permit: permit(),
        };
        let result = self.plugin.validate(&a, Some(new), old).await;
        let (annotations, warnings) = said.0.into_inner().unwrap();
        Outcome { result, annotations, warnings }
    }
}

fn namespace(labels: &str) -> Value {
    let labels: serde_json::Map<String, Value> = labels
        .split_whitespace()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (format!("{}{k}", policy::PREFIX), v.into()))
        .collect();
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": labels}})
}

fn pod(name: &str, privileged: bool) -> Value {
    let context = if privileged { json!({"privileged": true}) } else { Value::Null };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"securityContext": {}, "containers": [
            {"name": "c", "image": "registry.example/app:1", "securityContext": context},
        ]},
    })
}

fn deployment(privileged: bool) -> Value {
    let template = json!({"metadata": {}, "spec": pod("", privileged)["spec"]});
    json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"template": template}})
}

const NOT_HARDENED: &str = "allowPrivilegeEscalation != false (container \"c\" must set \
    securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
    securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
    securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
    securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
const PRIVILEGED: &str = "privileged (container \"c\" must not set securityContext.privileged=true)";

/// As a real API server recorded them.
#[tokio::test]
async fn pods_and_workloads_are_recorded_as_upstream_does() {
    let world = World::new("enforce=baseline audit=restricted warn=restricted").await;
    let would = format!("would violate PodSecurity \"restricted:latest\": {NOT_HARDENED}");

    let plain = world.ask("pods", &pod("p", false), None).await;
    assert_eq!(plain.result, Ok(()));
    assert_eq!(plain.annotation("enforce-policy"), "baseline:latest");
    assert_eq!(plain.annotation("audit-violations"), would);
    assert_eq!(plain.annotations.len(), 2);
    assert_eq!(plain.warnings, std::slice::from_ref(&would));

    let bad = world.ask("pods", &pod("bad", true), None).await;
    let forbidden =
        format!("pods \"bad\" is forbidden: violates PodSecurity \"baseline:latest\": {PRIVILEGED}");
    assert_eq!(bad.message(), forbidden);
    assert_eq!(bad.result.map_err(|s| (s.code, s.reason)), Err((403, Reason::Forbidden)));
    let both = format!("would violate PodSecurity \"restricted:latest\": {PRIVILEGED}, {NOT_HARDENED}");
    assert_eq!(
        bad.annotations.get("pod-security.kubernetes.io/audit-violations").map(String::as_str),
        Some(both.as_str())
    );
    assert_eq!(bad.annotations.len(), 2);
    assert!(bad.warnings.is_empty());

    let deployed = world.ask("deployments", &deployment(false), None).await;
    assert_eq!(deployed.result, Ok(()));
    assert_eq!(deployed.annotation("audit-violations"), would);
    assert_eq!(deployed.annotations.len(), 1);
    assert_eq!(deployed.warnings, [would]);
}

#[tokio::test]
async fn a_namespace_without_labels_only_says_so_on_pods() {
    let world = World::new("").await;
    let pod = pod("p", true);
    for old in [None, Some(&pod)] {
        let free = world.ask("pods", &pod, old).await;
        assert_eq!(free.result, Ok(()));
        assert_eq!(free.annotation("enforce-policy"), "privileged:latest");
        assert_eq!((free.annotations.len(), free.warnings.len()), (1, 0));
    }
    assert!(world.ask("deployments", &deployment(true), None).await.is_silent());
    assert!(world.ask("pods/status", &pod, Some(&pod)).await.is_silent());
}

#[tokio::test]
async fn a_workload_is_warned_of_but_never_refused() {
    let world = World::new("enforce=baseline enforce-version=v1.30").await;
    for resource in ["deployments", "replicasets"] {
        let said = world.ask(resource, &deployment(true), None).await;
        assert_eq!(said.result, Ok(()), "{resource}");
        assert_eq!(said.warnings, [format!("would violate PodSecurity \"baseline:v1.30\": {PRIVILEGED}")]);
        assert!(said.annotations.is_empty());
        let scaled =
            world.ask(&format!("{resource}/status"), &deployment(true), Some(&deployment(true))).await;
        assert!(scaled.is_silent());
    }
}

#[tokio::test]
async fn only_updates_of_images_and_containers_are_judged() {
    let world = World::new("enforce=baseline").await;
    let old = pod("p", true);
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    assert!(world.ask("pods", &new, Some(&old)).await.is_silent());

    new["spec"]["containers"][0]["image"] = json!("registry.example/app:2");
    assert!(world.ask("pods", &new, Some(&old)).await.message().contains("violates PodSecurity"));
    for ignored in ["pods/status", "pods/binding", "pods/eviction", "pods/proxy"] {
        assert!(world.ask(ignored, &new, Some(&old)).await.is_silent(), "{ignored}");
    }

    let old = pod("p", false);
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "securityContext": {"privileged": true}}]);
    let debug = world.ask("pods/ephemeralcontainers", &new, Some(&old)).await;
    assert!(debug.message().contains("container \"debug\" must not set"), "{}", debug.message());
    assert!(world.ask("pods/ephemeralcontainers", &new, Some(&new)).await.is_silent());
    // One that goes has nothing left to judge; an init container is judged with all others.
    assert!(world.ask("pods", &old, Some(&new)).await.is_silent());
    new["spec"]["initContainers"] = json!([{"name": "i"}]);
    assert!(!world.ask("pods", &new, Some(&old)).await.is_silent());
}

#[tokio::test]
async fn unreadable_labels_are_recorded_with_every_pod() {
    let world = World::new("enforce=strict").await;
    let said = world.ask("pods", &pod("p", false), None).await;
    let error = "Failed to parse policy: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
        \"strict\": must be one of privileged, baseline, restricted";
    assert_eq!(said.annotation("error"), error);
    assert_eq!(said.annotation("enforce-policy"), "restricted:latest");
    assert!(said.message().ends_with(NOT_HARDENED));
    // A workload has nothing to fear, but the error is told of there, too.
    let said = world.ask("deployments", &deployment(true), None).await;
    assert_eq!((said.annotation("error"), said.annotations.len()), (error, 1));
    assert_eq!(said.result, Ok(()));
}

#[tokio::test]
async fn a_missing_namespace_refuses_pods_only() {
    let mut world = World::new("").await;
    let kinds = kinds::table().into_iter().filter(|row| row.plural != "namespaces");
    let (store, clock) = (world.plugin.registry.store().clone(), world.plugin.registry.clock().clone());
    let rng = Arc::new(base::rng::Rng::from_os());
    world.plugin.registry = Arc::new(Registry::new(store, clock, rng, Kinds::new(kinds)));
    let told = "failed to lookup namespace \"ns\"";
    let said = world.ask("pods", &pod("p", false), None).await;
    assert_eq!(said.message(), format!("Internal error occurred: {told}"));
    assert!(said.annotation("error").starts_with(&format!("Internal error occurred: {told}: ")));
    let said = world.ask("deployments", &deployment(false), None).await;
    assert_eq!(said.result, Ok(()));
    assert!(said.annotation("error").starts_with(&format!("{told}: ")));
}

#[tokio::test]
async fn namespaces_need_labels_that_can_be_read() {
    let world = World::new("").await;
    let (bad, good) = (namespace("warn-version=1.30"), namespace("warn=restricted"));
    let why = "Namespace \"ns\" is invalid: metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid \
        value: \"1.30\": must be \"latest\" or \"v1.x\"";
    for old in [None, Some(&good), Some(&namespace("warn=x"))] {
        let said = world.ask("namespaces", &bad, old).await;
        assert_eq!(said.message(), why);
        assert_eq!(said.result.map_err(|s| s.code), Err(422));
    }
    // Those that were wrong before may stay.
    assert!(world.ask("namespaces", &bad, Some(&bad)).await.is_silent());
    assert!(world.ask("namespaces", &good, Some(&bad)).await.is_silent());
    assert!(world.ask("namespaces/status", &bad, Some(&good)).await.is_silent());
}

#[tokio::test]
async fn a_tightened_namespace_is_told_of_the_pods_that_it_has() {
    let world = World::new("").await;
    world.put("pods", &pod("a", true)).await;
    world.put("pods", &pod("b", true)).await;
    let mut elsewhere = pod("z", true);
    elsewhere["metadata"]["namespace"] = json!("ns-2");
    world.put("pods", &elsewhere).await;
    let head = |level| {
        format!("existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"{level}\"")
    };
    let cases = [
        ("", "enforce=baseline", "baseline:latest"),
        ("enforce=baseline", "enforce=baseline enforce-version=v1.20", "baseline:v1.20"),
        ("enforce=restricted", "enforce=baseline enforce-version=v1.20", "baseline:v1.20"),
        // No pods are looked at where the rules are relaxed, the same, or not enforced.
        ("enforce=restricted", "enforce=baseline", ""),
        ("enforce=baseline", "enforce=baseline warn=restricted audit=restricted", ""),
        ("enforce=baseline", "enforce=privileged enforce-version=v1.20", ""),
    ];
    for (old, new, level) in cases {
        let said = world.ask("namespaces", &namespace(new), Some(&namespace(old))).await;
        assert_eq!(said.result, Ok(()));
        assert!(said.annotations.is_empty());
        let all = [head(level), "a (and 1 other pod): privileged".to_owned()];
        assert_eq!(said.warnings, if level.is_empty() { &all[..0] } else { &all[..] }, "{old} to {new}");
    }
    assert!(world.ask("namespaces", &namespace("enforce=restricted"), None).await.is_silent());
}
