//! Whom a request may act as: modes, permissions, refusals.

use super::*;
use crate::rbac::Rbac;
use serde_json::{Value, json};

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut h = HeaderMap::new();
    for (k, v) in list {
        h.append(*k, v.parse().expect("a value"));
    }
    h
}

fn asked(list: &[(&'static str, &str)]) -> Identity {
    wanted(&headers(list)).expect("readable").expect("asked")
}

/// Tries with these rules held by the requester.
fn attempt(requester: &Identity, wanted: &Identity, rules: Value) -> Result<Impersonated> {
    let rbac = Rbac::default();
    rbac.apply("ClusterRole", &json!({"metadata": {"name": "r"}, "rules": rules}));
    rbac.apply(
        "ClusterRoleBinding",
        &json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": requester.name}],
        "roleRef": {"kind": "ClusterRole", "name": "r"}}),
    );
    let request =
        Attributes::for_resource(requester, "list", GroupResource::new("", "pods"), "v1").in_namespace("ns");
    resolve(wanted, &request, &|a| rbac.authorize(a))
}

fn legacy(resources: &[&str]) -> Value {
    json!([{"verbs": ["impersonate"], "apiGroups": ["", "authentication.k8s.io"], "resources": resources}])
}

#[test]
fn headers_say_whom() {
    assert_eq!(wanted(&headers(&[])), Ok(None));
    let id = asked(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "dev"),
        ("impersonate-group", "ops"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.com%2fproject", "x"),
        ("impersonate-extra-scopes", "a"),
        ("impersonate-extra-scopes", "b"),
        ("impersonate-extra-odd%zz", "c"),
    ]);
    assert_eq!((id.name.as_str(), id.uid.as_str()), ("bob", "7"));
    assert_eq!(id.groups, ["dev", "ops"]);
    assert_eq!(id.extra["acme.com/project"], ["x"]);
    assert_eq!(id.extra["scopes"], ["a", "b"]);
    assert_eq!(id.extra["odd%zz"], ["c"]);
    let refused = wanted(&headers(&[("impersonate-group", "dev")])).expect_err("refused");
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            400,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name"
        )
    );
    let mut h = headers(&[("impersonate-user", "bob"), ("impersonate-extra-a", "x"), ("accept", "y")]);
    clear(&mut h);
    assert_eq!(h.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
}

#[test]
fn the_plain_verb_needs_each_part() {
    let alice = Identity::new("alice", &[]);
    let bob = asked(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "dev"),
        ("impersonate-extra-scopes", "a"),
    ]);
    let got = attempt(&alice, &bob, legacy(&["users", "groups", "userextras/scopes"])).expect("allowed");
    assert_eq!(got.identity.groups, ["dev", AUTHENTICATED]);
    assert_eq!(
        (got.identity.extra["scopes"].as_slice(), got.constraint.as_str()),
        (&["a".to_owned()][..], "")
    );
    // The first mode's refusal is what is told.
    let refused = attempt(&alice, &bob, legacy(&["users", "groups"])).expect_err("refused");
    assert_eq!(
        refused.message,
        "pods is forbidden: User \"alice\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"ns\""
    );
    // Even administrators' group, as ever.
    let root = asked(&[("impersonate-user", "bob"), ("impersonate-group", SYSTEM_MASTERS)]);
    assert!(
        attempt(&alice, &root, legacy(&["users", "groups"]))
            .expect("allowed")
            .identity
            .in_group(SYSTEM_MASTERS)
    );
}

#[test]
fn groups_follow_from_who_it_is() {
    let alice = Identity::new("alice", &[]);
    let all = || legacy(&["users", "groups", "serviceaccounts"]);
    let groups = |list: &[(&'static str, &str)]| {
        attempt(&alice, &asked(list), all()).expect("allowed").identity.groups
    };
    assert_eq!(
        groups(&[("impersonate-user", "system:serviceaccount:ns:sa")]),
        ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]
    );
    assert_eq!(
        groups(&[("impersonate-user", "system:serviceaccount:ns:sa"), ("impersonate-group", "g")]),
        ["g", AUTHENTICATED]
    );
    assert_eq!(groups(&[("impersonate-user", "system:anonymous")]), [UNAUTHENTICATED]);
    assert_eq!(
        groups(&[("impersonate-user", "bob"), ("impersonate-group", UNAUTHENTICATED)]),
        [UNAUTHENTICATED]
    );
    assert_eq!(groups(&[("impersonate-user", "bob"), ("impersonate-group", AUTHENTICATED)]), [AUTHENTICATED]);
    assert_eq!(
        groups(&[("impersonate-user", "system:node:n1")]),
        [AUTHENTICATED],
        "the plain verb knows no nodes"
    );
    // A service account is checked as one, in its namespace.
    let refused =
        attempt(&alice, &asked(&[("impersonate-user", "system:serviceaccount:ns:sa")]), legacy(&["users"]));
    assert!(refused.is_err());
}

#[test]
fn constrained_modes_need_the_person_and_the_verb() {
    let alice = Identity::new("alice", &[]);
    let auth = "authentication.k8s.io";
    let on = |mode: &str, verb: &str| json!({"verbs": [format!("impersonate-on:{mode}:{verb}")], "apiGroups": [""], "resources": ["pods"]});
    let as_ = |mode: &str, resource: &str, name: &str| json!({"verbs": [format!("impersonate:{mode}")], "apiGroups": [auth], "resources": [resource], "resourceNames": [name]});
    let bob = asked(&[("impersonate-user", "bob")]);
    let got = attempt(&alice, &bob, json!([on("user-info", "list"), as_("user-info", "users", "bob")]))
        .expect("allowed");
    assert_eq!(got.constraint, "impersonate:user-info");
    assert!(
        attempt(&alice, &bob, json!([on("user-info", "get"), as_("user-info", "users", "bob")])).is_err()
    );
    let root = asked(&[("impersonate-user", "bob"), ("impersonate-group", SYSTEM_MASTERS)]);
    let rules = json!([on("user-info", "list"), {"verbs": ["impersonate:user-info"], "apiGroups": [auth], "resources": ["*"]}]);
    let refused = attempt(&alice, &root, rules).expect_err("refused");
    assert!(
        refused.message.ends_with("impersonating the system:masters group is not allowed"),
        "{}",
        refused.message
    );

    let node = asked(&[("impersonate-user", "system:node:n1")]);
    let got =
        attempt(&alice, &node, json!([on("arbitrary-node", "list"), as_("arbitrary-node", "nodes", "n1")]))
            .expect("allowed");
    assert_eq!(got.identity.groups, [identity::NODES, AUTHENTICATED]);

    let mut agent = Identity::service_account("ns", "agent");
    agent.extra.insert(identity::NODE_NAME.into(), vec!["n1".into()]);
    let rules = json!([on("associated-node", "list"), as_("associated-node", "nodes", "*")]);
    assert_eq!(
        attempt(&agent, &node, rules.clone()).expect("allowed").constraint,
        "impersonate:associated-node"
    );
    assert!(
        attempt(&agent, &asked(&[("impersonate-user", "system:node:n2")]), rules).is_err(),
        "another node"
    );

    let account = asked(&[("impersonate-user", "system:serviceaccount:ns:sa")]);
    let got = attempt(
        &alice,
        &account,
        json!([on("serviceaccount", "list"), as_("serviceaccount", "serviceaccounts", "sa")]),
    );
    assert!(got.expect("allowed").identity.in_group("system:serviceaccounts:ns"));
}

#[test]
fn extra_keys_of_constrained_modes_are_checked() {
    let check = |key: &str, values: &[&str]| {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        check_extra(&BTreeMap::from([(key.to_owned(), values)]))
    };
    assert_eq!(check("example.com/a", &["x"]), Ok(()));
    for (key, values) in [
        ("", &["x"][..]),
        ("scopes", &["x"]),
        ("example.com/", &["x"]),
        ("example.com/A", &["x"]),
        ("exa_mple/a", &["x"]),
        ("example.com/a", &[]),
        ("example.com/a", &[""]),
    ] {
        assert!(check(key, values).is_err(), "{key} {values:?}");
    }
}
