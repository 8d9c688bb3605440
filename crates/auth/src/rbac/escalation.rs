//! Nobody grants what they do not have: the check of writes to roles and bindings
//! (upstream: `pkg/registry/rbac/escalation_check.go`, `pkg/registry/rbac/*/policybased`).

use super::{GROUP, Rbac, Rule, compact, uncovered};
use crate::authorize::{Attributes, Authorizer};
use crate::identity::{Identity, SYSTEM_MASTERS};
use crate::text::quoted;
use meta::status::{Reason, Result, Status};
use meta::{GroupResource, object};
use serde_json::Value;
use std::collections::BTreeSet;

/// A write to a role or binding, after admission changed it and before it is validated.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub user: &'a Identity,
    /// `Role`, `ClusterRole`, `RoleBinding` or `ClusterRoleBinding`; others pass.
    pub kind: &'a str,
    /// Of the request; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The name in the request's path; empty on create.
    pub name: &'a str,
    pub new: &'a Value,
    /// The stored object, on update.
    pub old: Option<&'a Value>,
}

/// The rules of a role by kind, namespace and name, as stored: the authoriser's copy may be a moment behind, and a role
/// is often bound right after it was made.
pub type FindRole<'a> = dyn Fn(&str, &str, &str) -> Option<Vec<Rule>> + 'a;

/// Refuses a write that would give away more than its user has.
///
/// # Errors
/// 403 with the missing rules, or 404 when the role of a binding does not exist.
pub fn check(authorizer: &Authorizer, w: &Write<'_>, role: &FindRole<'_>) -> Result<()> {
    let plural = match w.kind {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        "RoleBinding" => "rolebindings",
        "ClusterRoleBinding" => "clusterrolebindings",
        _ => return Ok(()),
    };
    if w.user.in_group(SYSTEM_MASTERS) {
        return Ok(());
    }
    let resource = GroupResource::new(GROUP, plural);
    let refused = |why: &str| Status::forbidden(&resource, object::name(w.new), why);
    if matches!(w.kind, "Role" | "ClusterRole") {
        let escalate = Attributes::for_resource(w.user, "escalate", resource.clone(), "*")
            .in_namespace(w.namespace)
            .named(w.name);
        if authorizer.authorize(&escalate).is_allowed() || only_for_collection(w) {
            return Ok(());
        }
        let rules = Rule::of_role(w.new);
        no_escalation(&authorizer.rbac, w.user, w.namespace, &rules).map_err(|why| refused(&why))?;
        let aggregates = w.kind == "ClusterRole" && (aggregates(w.new) || w.old.is_some_and(aggregates));
        if aggregates && no_escalation(&authorizer.rbac, w.user, w.namespace, &everything()).is_err() {
            return Err(refused("must have cluster-admin privileges to use the aggregationRule"));
        }
        return Ok(());
    }
    let (kind, name) = (text(w.new, "kind"), text(w.new, "name"));
    if only_for_collection(w) || may_bind(authorizer, w, kind, name) {
        return Ok(());
    }
    let rules = match kind {
        "Role" | "ClusterRole" => role(kind, w.namespace, name)
            .ok_or_else(|| Status::not_found(&GroupResource::new(GROUP, &kind.to_lowercase()), name))?,
        other => {
            let message = format!("unsupported role reference kind: {other:?}");
            return Err(Status::new(500, Reason::Unknown, message));
        }
    };
    no_escalation(&authorizer.rbac, w.user, w.namespace, &rules).map_err(|why| refused(&why))
}

/// Whether a user has, in a namespace, all that some rules allow.
///
/// # Errors
/// The rules not held, one a line, in upstream's words.
pub fn no_escalation(
    rbac: &Rbac,
    user: &Identity,
    namespace: &str,
    rules: &[Rule],
) -> std::result::Result<(), String> {
    let held = rbac.rules_for(user, namespace);
    let missing = uncovered(&held.rules, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = compact(&missing).iter().map(Rule::to_string).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    if let Some(error) = held.error() {
        message.push_str(&format!("; resolution errors: [{error}]"));
    }
    Err(message)
}

fn text<'a>(binding: &'a Value, field: &str) -> &'a str {
    binding["roleRef"][field].as_str().unwrap_or("")
}

/// Whether the user may bind this role whatever it allows.
fn may_bind(authorizer: &Authorizer, w: &Write<'_>, kind: &str, name: &str) -> bool {
    let plural = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        _ => return false,
    };
    let a =
        Attributes::for_resource(w.user, "bind", GroupResource::new(text(w.new, "apiGroup"), plural), "*")
            .in_namespace(w.namespace)
            .named(name);
    authorizer.authorize(&a).is_allowed()
}

/// Whether only fields change that garbage collection needs (upstream: `IsOnlyMutatingGCFields`).
fn only_for_collection(w: &Write<'_>) -> bool {
    let rest = |v: &Value| {
        let mut v = v.clone();
        for field in ["ownerReferences", "finalizers", "selfLink", "managedFields"] {
            object::remove_meta(&mut v, field);
        }
        prune(&mut v);
        v
    };
    w.old.is_some_and(|old| rest(old) == rest(w.new))
}

/// Drops what is null or empty, which Go does not tell apart from absent.
fn prune(v: &mut Value) {
    match v {
        Value::Object(m) => {
            m.values_mut().for_each(prune);
            m.retain(|_, v| !is_empty(v));
        }
        Value::Array(a) => a.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

fn aggregates(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|s| !s.is_empty())
}

/// What only a cluster administrator has.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeAuthorizer;
    use serde_json::json;
    use std::sync::Arc;

    fn authorizer() -> Authorizer {
        let rbac = Rbac::default();
        let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
        let bind = |user: &str, role: &str| {
            json!({"metadata": {"name": format!("{user}-{role}")}, "subjects": [{"kind": "User", "name": user}],
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}})
        };
        rbac.apply(
            "ClusterRole",
            &role("reader", json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}])),
        );
        rbac.apply("ClusterRole", &role("escalator", json!([{"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["clusterroles", "roles"]}])));
        rbac.apply("ClusterRole", &role("binder", json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["admin"]}])));
        rbac.apply("ClusterRole", &role("admin", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}])));
        for (user, role) in
            [("reader", "reader"), ("esc", "escalator"), ("binder", "binder"), ("root", "admin")]
        {
            rbac.apply("ClusterRoleBinding", &bind(user, role));
        }
        Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(rbac))
    }

    fn write(user: &str, kind: &str, new: &Value, old: Option<&Value>) -> Result<()> {
        let user = Identity::new(user, &["dev"]);
        let namespace = if kind.starts_with("Cluster") { "" } else { "ns" };
        let authorizer = authorizer();
        let role = |kind: &str, ns: &str, name: &str| Some(authorizer.rbac.role(kind, ns, name)?.to_vec());
        check(&authorizer, &Write { user: &user, kind, namespace, name: "", new, old }, &role)
    }

    #[test]
    fn roles_may_hold_only_what_their_writer_has() {
        let role = |verbs: &[&str]| json!({"metadata": {"name": "r"}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(write("reader", "Role", &role(&["get"]), None), Ok(()));
        let refused =
            write("reader", "Role", &role(&["get", "delete", "create"]), None).expect_err("too much");
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.message,
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"reader\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}"
        );
        assert_eq!(write("esc", "Role", &role(&["*"]), None), Ok(()));
        assert_eq!(write("root", "ClusterRole", &role(&["*"]), None), Ok(()));
        // Finalizers and owners may change on a role that is out of reach.
        let old = role(&["*"]);
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["x"]);
        assert_eq!(write("reader", "Role", &new, Some(&old)), Ok(()));
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(write("reader", "Role", &new, Some(&old)).is_err());
    }

    #[test]
    fn aggregation_takes_an_administrator() {
        let role = json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
        let refused = write("reader", "ClusterRole", &role, None).expect_err("refused");
        assert!(
            refused.message.ends_with("must have cluster-admin privileges to use the aggregationRule"),
            "{}",
            refused.message
        );
        assert!(
            write("reader", "ClusterRole", &json!({"metadata": {"name": "r"}, "rules": []}), Some(&role))
                .is_err()
        );
        assert_eq!(write("root", "ClusterRole", &role, None), Ok(()));
    }

    #[test]
    fn bindings_need_the_roles_rules_or_the_bind_verb() {
        let binding = |kind: &str, name: &str| json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}});
        assert_eq!(write("reader", "RoleBinding", &binding("ClusterRole", "reader"), None), Ok(()));
        assert_eq!(
            write("reader", "RoleBinding", &binding("ClusterRole", "admin"), None).expect_err("refused").code,
            403
        );
        assert_eq!(write("binder", "ClusterRoleBinding", &binding("ClusterRole", "admin"), None), Ok(()));
        assert!(write("binder", "ClusterRoleBinding", &binding("ClusterRole", "reader"), None).is_err());
        let lost = write("reader", "RoleBinding", &binding("Role", "nope"), None).expect_err("refused");
        assert_eq!(
            (lost.code, lost.message.as_str()),
            (404, "role.rbac.authorization.k8s.io \"nope\" not found")
        );
        assert_eq!(
            write("reader", "RoleBinding", &binding("Odd", "x"), None).expect_err("refused").code,
            500
        );
    }
}
