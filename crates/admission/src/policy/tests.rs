//! Both plugins over a registry.

use super::hooks::Hooks;
use super::{MutatingPolicies, ValidatingPolicies, mutating, validating};
use crate::chain::{Call, Notes};
use crate::testing::permit;
use crate::{Attributes, Chain};
use auth::Authorizer;
use auth::identity::Identity;
use base::clock::SystemClock;
use meta::object;
use meta::status::{Reason, Result};
use registry::{Kinds, Operation, Registry};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use store::{Embedded, Expect, Op, Options, Stamped, Txn};

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

/// A registry in a directory of its own, with the namespace `n`.
struct World {
    registry: Arc<Registry>,
    said: Said,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::new(dir.path()) };
        let clock = SystemClock::shared();
        let store = Embedded::open(options, Arc::new(store::disk::RealDisk), clock.clone()).unwrap();
        let rng = Arc::new(base::rng::Rng::from_os());
        let registry = Arc::new(Registry::new(store, clock, rng, Kinds::new(kinds::table())));
        let world = Self { registry, said: Said::default(), _dir: dir };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"env": "test"}}});
        world.put("namespaces", &namespace).await;
        world
    }

    async fn put(&self, plural: &str, obj: &Value) {
        let row = self.registry.kinds().resource("", "v1", plural).unwrap();
        let key = row.key(object::namespace(obj), object::name(obj));
        let value = Stamped { bytes: obj.to_string().into_bytes(), stamp: None };
        let ops = vec![Op::Put { key, value, expect: Expect::Any }];
        self.registry.store().commit(Txn { ops, record: None }).await.unwrap();
    }

    fn validating(&self, policy: &Value, binding: &Value) -> Chain {
        let hooks = Hooks::fixed(&[named("p", policy)], &[named("b", binding)], validating::compile);
        Chain::new(vec![Arc::new(ValidatingPolicies::with(hooks, &self.registry, &authorizer()))])
    }

    fn mutating(&self, policies: &[(&str, Value)]) -> Chain {
        let bindings: Vec<Value> =
            policies.iter().map(|(n, _)| named(n, &json!({"spec": {"policyName": n}}))).collect();
        let policies: Vec<Value> = policies.iter().map(|(n, p)| named(n, p)).collect();
        let hooks = Hooks::fixed(&policies, &bindings, mutating::compile);
        Chain::new(vec![Arc::new(MutatingPolicies::with(hooks, &self.registry, &authorizer()))])
    }

    /// A deployment goes through the chain.
    async fn send(&self, chain: &Chain, new: &mut Value) -> Result<()> {
        let row = self.registry.kinds().resource("apps", "v1", "deployments").unwrap();
        let user = Identity::new("somebody", &[]);
        let a = Attributes {
            user: &user,
            kind: &row,
            namespace: "n",
            name: "d",
            subresource: "",
            operation: Operation::Create,
            dry_run: false,
            options: &Value::Null,
            call: &Call::default(),
            notes: &self.said,
            permit: permit(),
        };
        chain.admit(&a, new, None).await?;
        chain.validate(&a, Some(new), None).await
    }
}

fn authorizer() -> Arc<Authorizer> {
    Arc::new(Authorizer::new(Arc::default(), Arc::default()))
}

fn named(name: &str, obj: &Value) -> Value {
    let mut obj = obj.clone();
    obj["metadata"] = json!({"name": name, "uid": name, "generation": 1});
    obj
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn for_deployments(mut spec: Value) -> Value {
    spec["matchConstraints"] = json!({"matchPolicy": "Equivalent", "resourceRules": [{
        "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]});
    json!({"spec": spec})
}

fn bound(spec: Value) -> Value {
    let mut spec = spec;
    spec["policyName"] = "p".into();
    if spec["validationActions"].is_null() {
        spec["validationActions"] = json!(["Deny"]);
    }
    json!({"spec": spec})
}

#[tokio::test]
async fn deployments_are_refused_by_a_policy() {
    let world = World::new().await;
    let policy = for_deployments(json!({"validations": [
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": "namespaceObject.metadata.name == 'n'"}]}));
    let chain = world.validating(&policy, &bound(json!({})));
    world.send(&chain, &mut deployment(2)).await.expect("allowed");
    let refused = world.send(&chain, &mut deployment(1)).await.expect_err("refused");
    assert_eq!((refused.code, refused.reason), (422, Reason::Invalid));
    let why = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: wants replicas > 1, got 1";
    assert_eq!(refused.message, format!("deployments.apps \"d\" is forbidden: {why}"));
    assert_eq!(refused.details.map(|d| d.causes[0].message.clone()), Some(why.to_owned()));
}

#[tokio::test]
async fn bindings_choose_namespaces() {
    let world = World::new().await;
    let policy = for_deployments(json!({"validations": [{"expression": "false"}]}));
    let of =
        |env: &str| bound(json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": env}}}}));
    world.send(&world.validating(&policy, &of("prod")), &mut deployment(1)).await.expect("not bound");
    world.send(&world.validating(&policy, &of("test")), &mut deployment(1)).await.expect_err("bound");
}

#[tokio::test]
async fn parameters_are_found_or_missed() {
    let world = World::new().await;
    let policy = for_deployments(json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)"}]}));
    let of = |action: &str| bound(json!({"paramRef": {"name": "limits", "parameterNotFoundAction": action}}));
    world.send(&world.validating(&policy, &of("Allow")), &mut deployment(9)).await.expect("nothing to check");
    let refused =
        world.send(&world.validating(&policy, &of("Deny")), &mut deployment(1)).await.expect_err("refused");
    assert!(refused.message.ends_with(
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), "{refused:?}");
    let limits = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "limits", "namespace": "n", "labels": {"l": "1"}},
        "data": {"max": "3"}});
    world.put("configmaps", &limits).await;
    world.send(&world.validating(&policy, &of("Deny")), &mut deployment(3)).await.expect("allowed");
    world.send(&world.validating(&policy, &of("Deny")), &mut deployment(4)).await.expect_err("too many");
    let by_label = bound(
        json!({"paramRef": {"selector": {"matchLabels": {"l": "1"}}, "parameterNotFoundAction": "Deny"}}),
    );
    world.send(&world.validating(&policy, &by_label), &mut deployment(4)).await.expect_err("too many");
    let nothing =
        for_deployments(json!({"paramKind": {"apiVersion": "x.io/v1", "kind": "Nope"}, "validations": []}));
    let refused =
        world.send(&world.validating(&nothing, &of("Deny")), &mut deployment(1)).await.expect_err("refused");
    assert!(refused.message.ends_with(
        "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'x.io/v1, Kind=Nope'"), "{refused:?}");
}

#[tokio::test]
async fn configurations_are_laid_over_objects() {
    let world = World::new().await;
    let mutation = |expression: &str| {
        for_deployments(json!({"reinvocationPolicy": "Never", "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]}))
    };
    let chain = world.mutating(&[
        ("a", mutation("Object{spec: Object.spec{replicas: 1337}}")),
        (
            "b",
            mutation(
                "Object{metadata: Object.metadata{annotations: {'replicas': string(object.spec.replicas)}}}",
            ),
        ),
    ]);
    let mut new = deployment(1);
    world.send(&chain, &mut new).await.expect("mutated");
    assert_eq!(
        (&new["spec"]["replicas"], &new["metadata"]["annotations"]["replicas"]),
        (&json!(1337), &json!("1337"))
    );
    let chain =
        world.mutating(&[("a", mutation("Object{spec: Object.spec{selector: Object.spec.wrong{}}}"))]);
    let refused = world.send(&chain, &mut deployment(1)).await.expect_err("refused");
    assert!(
        refused.message.starts_with("policy 'a' with binding 'a' denied request: type mismatch: "),
        "{refused:?}"
    );
}

#[tokio::test]
async fn patches_are_applied_and_policies_asked_again() {
    let world = World::new().await;
    let mutation = |again: &str, expression: &str| {
        for_deployments(json!({"reinvocationPolicy": again, "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}))
    };
    let count = "[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas + 1}]";
    let label =
        "[JSONPatch{op: 'test', path: '/spec/replicas', value: 99}, JSONPatch{op: 'remove', path: '/spec'}]";
    let chain = world.mutating(&[
        ("a", mutation("IfNeeded", count)),
        (
            "b",
            mutation(
                "Never",
                "[JSONPatch{op: 'add', path: '/metadata/labels', value: Object.metadata.labels{x: 'y'}}]",
            ),
        ),
        ("c", mutation("Never", label)),
    ]);
    let mut new = deployment(1);
    world.send(&chain, &mut new).await.expect("mutated");
    assert_eq!(new["metadata"]["labels"]["x"], "y");
    assert_eq!(new["spec"]["replicas"], 3, "the first was asked again after the second");
}
