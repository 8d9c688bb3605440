//! The roles and bindings that every cluster starts with
//! (upstream: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).
//!
//! Invariant: with the feature gates' defaults, the objects made here equal upstream's, including those for controllers
//! that are not in this program, since people bind and aggregate them by name.

mod reconcile;

pub use reconcile::{AUTOUPDATE, Action, reconcile};

use crate::rbac::{GROUP, Rule};
use serde_json::{Value, json};

/// The rules as facts, in short keys: `g` groups, `r` resources, `n` names, `u` URLs, `v` verbs.
const DATA: &str = include_str!("../data/bootstrap.json");

/// All bootstrap objects: cluster roles, cluster role bindings, roles, role bindings, in the order in which they are to
/// be made. The aggregating roles have no rules yet: [`crate::rbac::aggregate_all`] gives them theirs.
pub fn objects() -> Vec<Value> {
    let data: Value = serde_json::from_str(DATA).unwrap_or_default();
    let list = |k: &str| data[k].as_array().cloned().unwrap_or_default();
    let mut out = Vec::new();
    out.extend(list("clusterRoles").iter().map(|e| role("ClusterRole", e)));
    out.extend(list("clusterRoleBindings").iter().map(|e| binding("ClusterRoleBinding", e)));
    out.extend(list("roles").iter().map(|e| role("Role", e)));
    out.extend(list("roleBindings").iter().map(|e| binding("RoleBinding", e)));
    out
}

/// The rules of every node, whichever it is (upstream: `NodeRules`).
pub fn node_rules() -> Vec<Rule> {
    let role =
        objects().into_iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "system:node");
    role.map(|r| Rule::of_role(&r)).unwrap_or_default()
}

fn metadata(e: &Value) -> Value {
    let mut labels = e["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("kubernetes.io/bootstrapping".into(), "rbac-defaults".into());
    let mut m = json!({"name": e["name"], "labels": labels, "annotations": {AUTOUPDATE: "true"}});
    if let Some(ns) = e.get("ns") {
        m["namespace"] = ns.clone();
    }
    m
}

fn role(kind: &str, e: &Value) -> Value {
    const FIELDS: [(&str, &str); 5] = [
        ("g", "apiGroups"),
        ("r", "resources"),
        ("n", "resourceNames"),
        ("u", "nonResourceURLs"),
        ("v", "verbs"),
    ];
    let long = |r: &Value| -> Value {
        FIELDS
            .iter()
            .filter_map(|(s, l)| Some(((*l).to_owned(), r.get(s)?.clone())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let rules: Vec<Value> = e["rules"].as_array().into_iter().flatten().map(long).collect();
    let mut out =
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(e), "rules": rules});
    if let Some(selectors) = e.get("aggregate") {
        out["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    out
}

fn binding(kind: &str, e: &Value) -> Value {
    let subject = |s: &Value| {
        if s[0] == "ServiceAccount" {
            json!({"kind": s[0], "name": s[2], "namespace": s[1]})
        } else {
            json!({"kind": s[0], "name": s[2], "apiGroup": GROUP})
        }
    };
    let subjects: Vec<Value> = e["subjects"].as_array().into_iter().flatten().map(subject).collect();
    let mut out = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(e),
        "roleRef": {"apiGroup": GROUP, "kind": e["role"][0], "name": e["role"][1]},
    });
    if !subjects.is_empty() {
        out["subjects"] = subjects.into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::Attributes;
    use crate::identity::Identity;
    use crate::rbac::{Rbac, aggregate_all};
    use meta::GroupResource;
    use std::path::PathBuf;

    fn rbac() -> Rbac {
        let rbac = Rbac::default();
        let all = objects();
        rbac.apply_all(all.iter().map(|o| (o["kind"].as_str().expect("a kind"), o)));
        let roles = all.into_iter().filter(|o| o["kind"] == "ClusterRole").collect();
        aggregate_all(roles).iter().for_each(|r| rbac.apply("ClusterRole", r));
        rbac
    }

    #[test]
    fn the_clusters_own_users_can_do_their_work() {
        let rbac = rbac();
        let can = |user: &Identity, verb: &str, group: &str, resource: &str, sub: &str| {
            let a = Attributes::for_resource(user, verb, GroupResource::new(group, resource), "v1")
                .in_namespace("ns")
                .sub(sub);
            rbac.authorize(&a).is_allowed()
        };
        let scheduler = Identity::scheduler();
        assert!(can(&scheduler, "create", "", "pods", "binding"));
        assert!(!can(&scheduler, "get", "", "secrets", ""));
        let deployments = Identity::controller("deployment-controller");
        assert!(can(&deployments, "create", "apps", "replicasets", ""));
        assert!(!can(&deployments, "create", "", "pods", ""));
        assert!(can(&Identity::controller("generic-garbage-collector"), "delete", "x", "y", ""));
        let alice = Identity::new("alice", &[]).authenticated();
        assert!(!can(&alice, "list", "", "pods", ""));
        assert!(can(&alice, "create", "authorization.k8s.io", "selfsubjectaccessreviews", ""));
        let path = |user: &Identity, path: &str| {
            rbac.authorize(&Attributes::for_path(user, "get", path)).is_allowed()
        };
        assert!(path(&Identity::anonymous(), "/version") && path(&Identity::anonymous(), "/healthz"));
        assert!(!path(&Identity::anonymous(), "/metrics") && !path(&Identity::anonymous(), "/api"));
        assert!(path(&alice, "/api") && !path(&alice, "/metrics"));
        assert!(path(&Identity::new("m", &["system:monitoring"]), "/metrics"));
    }

    #[test]
    fn the_user_facing_roles_are_gathered_from_their_parts() {
        let rbac = rbac();
        let rules = |role: &str| rbac.role("ClusterRole", "", role).map_or(0, |r| r.len());
        assert!(rules("view") > 5 && rules("edit") > rules("view") && rules("admin") > rules("edit"));
        assert!(node_rules().len() > 15);
    }

    /// Where a Go toolchain has put Kubernetes' sources, if it has.
    #[allow(clippy::disallowed_methods)] // only a test looks there
    fn upstream_data() -> Option<PathBuf> {
        let modules = match std::env::var("GOMODCACHE") {
            Ok(dir) => PathBuf::from(dir),
            Err(_) => PathBuf::from(std::env::var("HOME").ok()?).join("go/pkg/mod"),
        };
        let data = modules
            .join("k8s.io/kubernetes@v1.37.2/plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata");
        data.is_dir().then_some(data)
    }

    #[test]
    fn the_data_equal_upstreams() {
        let Some(dir) = upstream_data() else {
            println!("skipped: the sources of Kubernetes 1.37.2 are not in the Go module cache");
            return;
        };
        let mut theirs = Vec::new();
        for file in [
            "cluster-roles",
            "controller-roles",
            "cluster-role-bindings",
            "controller-role-bindings",
            "namespace-roles",
            "namespace-role-bindings",
        ] {
            let text = std::fs::read(dir.join(format!("{file}.yaml"))).expect("the file");
            let list = meta::yaml::parse_yaml(&text, 1 << 20).expect("YAML").0;
            theirs.extend(list["items"].as_array().expect("items").iter().cloned());
        }
        let mut ours = objects();
        let key =
            |o: &Value| format!("{} {}/{}", o["kind"], meta::object::namespace(o), meta::object::name(o));
        ours.sort_by_key(key);
        theirs.sort_by_key(key);
        assert_eq!(ours.len(), theirs.len());
        for (ours, mut theirs) in ours.into_iter().zip(theirs) {
            if theirs["kind"].as_str().is_some_and(|k| k.ends_with("Role")) && theirs["rules"].is_null() {
                theirs["rules"] = json!([]);
            }
            assert_eq!(ours, theirs, "{}", key(&ours));
        }
    }
}
