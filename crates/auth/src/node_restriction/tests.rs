//! What nodes may write, request by request.

use super::*;
use crate::node::NodeAuthorizer;
use crate::rbac::Rbac;
use serde_json::json;

struct World;

impl Lookup for World {
    fn pod(&self, _: &str, name: &str) -> Option<Arc<Value>> {
        let (uid, node) = match name {
            "mine" => ("mine-uid", "n1"),
            "theirs" => ("theirs-uid", "n2"),
            _ => return None,
        };
        Some(Arc::new(json!({"metadata": {"name": name, "uid": uid}, "spec": {"nodeName": node, "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"serviceAccountToken": {"audience": "vault"}}]}}]}})))
    }

    fn node(&self, name: &str) -> Option<Arc<Value>> {
        (name == "n1").then(|| Arc::new(json!({"metadata": {"name": "n1", "uid": "n1-uid"}})))
    }
}

/// The refusal's reason, or `ok`.
fn ask(operation: Operation, what: &str, name: &str, new: Value, old: Value) -> String {
    let user = Identity::node("n1");
    let mut parts = what.split('/');
    let mut next = || parts.next().unwrap_or("");
    let (group, resource, subresource) = (next(), next(), next());
    let namespace = match resource {
        "leases" => LEASE_NAMESPACE,
        "nodes" => "",
        _ => "ns",
    };
    let rbac = Rbac::default();
    rbac.apply("ClusterRole", &json!({"metadata": {"name": "aud"}, "rules": [
        {"verbs": ["request-serviceaccounts-token-audience"], "apiGroups": [""], "resources": ["allowed"], "resourceNames": ["sa"]}]}));
    rbac.apply(
        "ClusterRoleBinding",
        &json!({"metadata": {"name": "aud"}, "subjects": [{"kind": "Group", "name": "system:nodes"}],
        "roleRef": {"kind": "ClusterRole", "name": "aud"}}),
    );
    let authorizer = Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(rbac));
    let r = Request {
        user: &user,
        operation,
        group,
        version: "v1",
        resource,
        subresource,
        namespace,
        name,
        new: Some(&new).filter(|v| !v.is_null()),
        old: Some(&old).filter(|v| !v.is_null()),
    };
    match check(&r, &World, &authorizer) {
        Ok(()) => "ok".to_owned(),
        Err(s) => {
            s.message.split_once(" is forbidden: ").map_or(s.message.clone(), |(_, why)| why.to_owned())
        }
    }
}

fn mirror(edit: impl Fn(&mut Value)) -> Value {
    let mut pod = json!({"metadata": {"name": "m", "annotations": {MIRROR: "x"}, "ownerReferences": [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1-uid", "controller": true}]},
        "spec": {"nodeName": "n1", "volumes": [{"name": "h", "hostPath": {"path": "/x"}}]}});
    edit(&mut pod);
    pod
}

#[test]
fn only_mirror_pods_of_its_own() {
    let create = |edit: fn(&mut Value)| ask(Operation::Create, "/pods", "", mirror(edit), Value::Null);
    assert_eq!(create(|_| ()), "ok");
    let owner = |p: &mut Value, field: &str, v: Value| p["metadata"]["ownerReferences"][0][field] = v;
    assert_eq!(
        create(|p| p["metadata"]["annotations"] = json!({})),
        "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods"
    );
    assert_eq!(
        create(|p| p["spec"]["nodeName"] = json!("n2")),
        "node \"n1\" can only create pods with spec.nodeName set to itself"
    );
    assert_eq!(
        create(|p| p["metadata"]["ownerReferences"] = json!([])),
        "node \"n1\" can only create pods with an owner reference set to itself"
    );
    assert_eq!(
        create(|p| p["metadata"]["ownerReferences"] = json!([{}, {}])),
        "node \"n1\" can only create pods with a single owner reference set to itself"
    );
    let mut cases = vec![
        ("kind", json!("Pod"), "node \"n1\" can only create pods with an owner reference set to itself"),
        (
            "controller",
            json!(false),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        (
            "blockOwnerDeletion",
            json!(true),
            "node \"n1\" must not set blockOwnerDeletion on an owner reference",
        ),
        ("uid", json!("x"), "node n1 UID mismatch: expected x got n1-uid"),
    ];
    for (field, value, want) in cases.drain(..) {
        let pod = mirror(|p| owner(p, field, value.clone()));
        assert_eq!(ask(Operation::Create, "/pods", "", pod, Value::Null), want, "{field}");
    }
    assert_eq!(
        create(|p| p["spec"]["serviceAccountName"] = json!("sa")),
        "node \"n1\" can not create pods that reference serviceaccounts"
    );
    assert_eq!(
        create(|p| p["spec"]["volumes"][0] =
            json!({"name": "p", "projected": {"sources": [{"serviceAccountToken": {}}]}})),
        "node \"n1\" can not create pods that reference serviceaccounts (via projected volumes)"
    );
    assert!(
        create(|p| p["spec"]["volumes"][0] = json!({"name": "p"})).starts_with("error checking mirror pod")
    );
    assert_eq!(
        ask(Operation::Update, "/pods", "mine", mirror(|_| ()), mirror(|_| ())),
        "unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods"
    );
}

#[test]
fn only_pods_on_itself() {
    let none = || Value::Null;
    assert_eq!(ask(Operation::Delete, "/pods", "mine", none(), none()), "ok");
    assert_eq!(
        ask(Operation::Delete, "/pods", "theirs", none(), none()),
        "node \"n1\" can only delete pods with spec.nodeName set to itself"
    );
    assert_eq!(ask(Operation::Delete, "/pods", "lost", none(), none()), "pods \"lost\" not found");
    assert_eq!(ask(Operation::Create, "/pods/eviction", "mine", json!({}), none()), "ok");
    assert_eq!(
        ask(Operation::Create, "/pods/eviction", "theirs", json!({}), none()),
        "node n1 can only evict pods with spec.nodeName set to itself"
    );
    assert_eq!(
        ask(Operation::Create, "/pods/eviction", "", json!({}), none()),
        "could not determine pod from request data"
    );
    assert!(
        ask(Operation::Create, "/pods/exec", "mine", json!({}), none())
            .starts_with("unexpected pod subresource \"exec\"")
    );
    let pod = |node: &str, label: &str| json!({"metadata": {"labels": {"a": label}}, "spec": {"nodeName": node}, "status": {"phase": label}});
    let status = |new: Value, old: Value| ask(Operation::Update, "/pods/status", "p", new, old);
    let mut running = pod("n1", "x");
    running["status"]["phase"] = json!("Running");
    assert_eq!(status(running, pod("n1", "x")), "ok");
    assert_eq!(status(pod("n1", "y"), pod("n1", "x")), "node \"n1\" cannot update labels through pod status");
    assert!(
        status(pod("n1", "x"), pod("n2", "x"))
            .contains("can only update pod status for pods with spec.nodeName")
    );
    let mut claims = pod("n1", "x");
    claims["status"]["resourceClaimStatuses"] = json!([{"name": "c"}]);
    assert_eq!(status(claims, pod("n1", "x")), "node \"n1\" cannot update resource claim statues");
}

#[test]
fn its_own_node_without_steering() {
    let node = |edit: fn(&mut Value)| {
        let mut n =
            json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}, "spec": {}});
        edit(&mut n);
        n
    };
    let update = |edit: fn(&mut Value)| ask(Operation::Update, "/nodes", "n1", node(edit), node(|_| ()));
    assert_eq!(ask(Operation::Create, "/nodes", "", node(|_| ()), Value::Null), "ok");
    assert_eq!(
        ask(Operation::Create, "/nodes", "", node(|n| n["metadata"]["name"] = json!("n2")), Value::Null),
        "node \"n1\" is not allowed to modify node \"n2\""
    );
    assert_eq!(update(|n| n["status"] = json!({"x": 1})), "ok");
    assert_eq!(update(|n| n["spec"]["taints"] = json!([])), "ok");
    assert_eq!(
        update(|n| n["spec"]["taints"] = json!([{"key": "k"}])),
        "node \"n1\" is not allowed to modify taints"
    );
    assert_eq!(
        update(|n| n["metadata"]["ownerReferences"] = json!([{"name": "x"}])),
        "node \"n1\" is not allowed to modify ownerReferences"
    );
    assert_eq!(
        ask(Operation::Update, "/nodes/status", "n2", node(|_| ()), node(|_| ())),
        "node \"n1\" is not allowed to modify node \"n2\""
    );
    for (label, ok) in [
        ("anything", true),
        ("example.com/a", true),
        ("kubernetes.io/os", true),
        ("topology.kubernetes.io/zone", true),
        ("x.node.kubernetes.io/a", true),
        ("kubelet.kubernetes.io/a", true),
        ("notkubernetes.io/a", true),
        ("node-role.kubernetes.io/control-plane", false),
        ("kubernetes.io/other", false),
        ("k8s.io/a", false),
        ("x.k8s.io/a", false),
        ("node-restriction.kubernetes.io/a", false),
        ("x.node-restriction.kubernetes.io/a", false),
    ] {
        assert_eq!(!is_forbidden(label), ok, "{label}");
    }
    assert_eq!(
        update(|n| n["metadata"]["labels"] = json!({"z": "1", "k8s.io/b": "1", "k8s.io/a": "1"})),
        "is not allowed to modify labels: k8s.io/a, k8s.io/b"
    );
    assert_eq!(
        ask(
            Operation::Create,
            "/nodes",
            "n1",
            node(|n| n["metadata"]["labels"] = json!({"k8s.io/a": "1"})),
            Value::Null
        ),
        "node \"n1\" is not allowed to set the following labels: k8s.io/a"
    );
}

#[test]
fn tokens_for_its_own_pods_and_their_audiences() {
    let ask = |name: &str, uid: &str, audiences: Value| {
        let body = json!({"spec": {"audiences": audiences, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
        ask(Operation::Create, "/serviceaccounts/token", "sa", body, Value::Null)
    };
    assert_eq!(ask("mine", "mine-uid", json!([])), "ok");
    assert_eq!(ask("mine", "mine-uid", json!(["vault"])), "ok");
    assert_eq!(ask("mine", "mine-uid", json!(["allowed"])), "ok");
    assert_eq!(
        ask("mine", "mine-uid", json!(["x"])),
        "system:node:n1 is not authorized to request tokens for audience \"x\""
    );
    assert_eq!(ask("mine", "mine-uid", json!(["vault", ""])), "node may only request 0 or 1 audiences");
    assert_eq!(ask("mine", "", json!([])), "node requested token with a pod binding without a uid");
    assert!(
        ask("mine", "old", json!([]))
            .starts_with("the UID in the bound object reference (old) does not match")
    );
    assert_eq!(
        ask("theirs", "theirs-uid", json!([])),
        "node requested token bound to a pod scheduled on a different node"
    );
    assert_eq!(ask("lost", "x", json!([])), "pods \"lost\" not found");
    assert_eq!(ask("", "x", json!([])), "node requested token not bound to a pod");
}

#[test]
fn its_own_lease_and_what_is_nobodys() {
    let lease = |name: &str| json!({"metadata": {"name": name}});
    assert_eq!(ask(Operation::Create, "coordination.k8s.io/leases", "", lease("n1"), Value::Null), "ok");
    assert_eq!(
        ask(Operation::Create, "coordination.k8s.io/leases", "", lease("n2"), Value::Null),
        "can only access node lease with the same name as the requesting node"
    );
    assert_eq!(ask(Operation::Update, "coordination.k8s.io/leases", "n1", lease("n1"), lease("n1")), "ok");
    assert_eq!(ask(Operation::Create, "/events", "", json!({}), Value::Null), "ok");
    assert_eq!(
        ask(Operation::Create, "/persistentvolumeclaims", "", json!({}), Value::Null),
        "may only update PVC status"
    );
    let slice = |node: &str| json!({"spec": {"nodeName": node}});
    assert_eq!(ask(Operation::Create, "resource.k8s.io/resourceslices", "", slice("n1"), Value::Null), "ok");
    assert!(
        ask(Operation::Delete, "resource.k8s.io/resourceslices", "s", Value::Null, slice("n2"))
            .starts_with("can only delete")
    );
}

#[test]
fn refusals_name_the_object_and_others_are_let_through() {
    let authorizer = Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(Rbac::default()));
    let pod = json!({"metadata": {"generateName": "p-"}});
    let mut r = Request {
        user: &Identity::node("n1"),
        operation: Operation::Create,
        group: "",
        version: "v1",
        resource: "pods",
        subresource: "",
        namespace: "ns",
        name: "",
        new: Some(&pod),
        old: None,
    };
    let refused = check(&r, &World, &authorizer).expect_err("refused");
    assert!(
        refused.message.starts_with("pods \"p-\" is forbidden: pod does not have"),
        "{}",
        refused.message
    );
    let alice = Identity::new("alice", &[]);
    r.user = &alice;
    assert_eq!(check(&r, &World, &authorizer), Ok(()));
    let nameless = Identity::new("system:node:", &["system:nodes"]);
    r.user = &nameless;
    assert!(check(&r, &World, &authorizer).is_err());
}
