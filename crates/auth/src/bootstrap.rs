//! The roles and bindings that every cluster starts with (upstream: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).

use serde_json::{Value, json};

/// The rules as facts, in short keys: `g` groups, `r` resources, `n` names, `u` URLs, `v` verbs.
const DATA: &str = include_str!("../data/bootstrap.json");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// All bootstrap objects: cluster roles, cluster role bindings, roles, role bindings, in that order.
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
    let rules: Vec<Value> = e["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| {
            let mut out = json!({});
            for (short, long) in [
                ("g", "apiGroups"),
                ("r", "resources"),
                ("n", "resourceNames"),
                ("u", "nonResourceURLs"),
                ("v", "verbs"),
            ] {
                if let Some(v) = r.get(short) {
                    out[long] = v.clone();
                }
            }
            out
        })
        .collect();
    let mut out =
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(e), "rules": rules});
    if let Some(selectors) = e.get("aggregate") {
        out["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    out
}

fn binding(kind: &str, e: &Value) -> Value {
    let subjects: Vec<Value> = e["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| {
            let mut out = json!({"kind": s[0], "name": s[2]});
            if s[0] == "ServiceAccount" {
                out["namespace"] = s[1].clone();
            } else {
                out["apiGroup"] = GROUP.into();
            }
            out
        })
        .collect();
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(e), "subjects": subjects,
        "roleRef": {"apiGroup": GROUP, "kind": e["role"][0], "name": e["role"][1]},
    })
}

/// What an existing object lacks of the wanted one, added; `None` when it lacks nothing or opted out of updates
/// (upstream: `pkg/registry/rbac/reconciliation`). Rules and subjects that people added stay.
pub fn reconcile(existing: &Value, wanted: &Value) -> Option<Value> {
    if existing["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut new = existing.clone();
    for field in ["rules", "subjects"] {
        let missing: Vec<Value> = wanted[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|w| !existing[field].as_array().is_some_and(|have| have.contains(w)))
            .cloned()
            .collect();
        // An aggregated role's rules are the aggregation's.
        if missing.is_empty() || (field == "rules" && !wanted["aggregationRule"].is_null()) {
            continue;
        }
        let mut all = existing[field].as_array().cloned().unwrap_or_default();
        all.extend(missing);
        new[field] = all.into();
    }
    for map in ["labels", "annotations"] {
        for (k, v) in wanted["metadata"][map].as_object().into_iter().flatten() {
            if new["metadata"][map].get(k).is_none() {
                new["metadata"][map][k] = v.clone();
            }
        }
    }
    (new != *existing).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::Attributes;
    use crate::identity::Identity;
    use crate::rbac::Rbac;

    #[test]
    fn the_clusters_own_users_can_do_their_work() {
        let rbac = Rbac::default();
        let all = objects();
        all.iter().for_each(|o| rbac.apply(o));
        let can = |user: &Identity, verb: &str, group: &str, resource: &str, sub: &str| {
            let a = Attributes {
                namespace: "ns",
                subresource: sub,
                ..Attributes::resource(user, verb, group, resource)
            };
            rbac.authorize(user, &a).is_some()
        };
        let scheduler = Identity::system("system:kube-scheduler", &[]);
        assert!(can(&scheduler, "create", "", "pods", "binding"));
        assert!(!can(&scheduler, "get", "", "secrets", ""));
        let deployments = Identity::service_account("kube-system", "deployment-controller");
        assert!(can(&deployments, "create", "apps", "replicasets", ""));
        assert!(!can(&Identity::new("alice", &[]).authenticated(), "list", "", "pods", ""));
        let anyone = Identity::anonymous();
        assert!(rbac.authorize(&anyone, &Attributes::non_resource(&anyone, "get", "/version")).is_some());
        assert!(rbac.authorize(&anyone, &Attributes::non_resource(&anyone, "get", "/metrics")).is_none());
    }

    #[test]
    fn reconciling_adds_what_is_missing_and_keeps_what_people_added() {
        let wanted =
            objects().into_iter().find(|o| o["metadata"]["name"] == "system:basic-user").expect("there");
        assert_eq!(reconcile(&wanted, &wanted), None);
        let mut mine = wanted.clone();
        mine["rules"] = json!([{"verbs": ["x"]}]);
        let fixed = reconcile(&mine, &wanted).expect("changed");
        let rules = fixed["rules"].as_array().expect("rules");
        assert!(rules.contains(&json!({"verbs": ["x"]})) && rules.len() > 1);
        mine["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(&mine, &wanted), None);
    }
}
