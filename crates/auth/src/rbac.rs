//! Role-based access control over a snapshot of roles and bindings
//! (upstream: `plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation/rule.go`).

use crate::authorize::Attributes;
use crate::identity::{Identity, split_service_account};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Clone, Debug)]
struct Binding {
    name: String,
    /// Empty for cluster role bindings.
    namespace: String,
    subjects: Vec<Subject>,
    role_kind: String,
    role_name: String,
}

/// Roles and bindings by `namespace/name` (cluster-scoped ones have an empty namespace).
#[derive(Clone, Default)]
struct Snapshot {
    roles: BTreeMap<(String, String), Arc<Vec<Rule>>>,
    cluster_bindings: BTreeMap<String, Arc<Binding>>,
    bindings: BTreeMap<String, BTreeMap<String, Arc<Binding>>>,
}

/// The authoriser. Reads never wait for writers.
#[derive(Default)]
pub struct Rbac {
    current: ArcSwap<Snapshot>,
    writer: Mutex<()>,
}

impl Snapshot {
    fn change(&mut self, obj: &Value, gone: bool) {
        let name = meta::object::name(obj).to_owned();
        let namespace = meta::object::namespace(obj).to_owned();
        match obj["kind"].as_str().unwrap_or("") {
            "Role" | "ClusterRole" => {
                let key = (namespace, name);
                if gone {
                    self.roles.remove(&key);
                } else {
                    self.roles.insert(key, Arc::new(rules(obj)));
                }
            }
            "ClusterRoleBinding" if gone => drop(self.cluster_bindings.remove(&name)),
            "ClusterRoleBinding" => drop(self.cluster_bindings.insert(name, Arc::new(binding(obj)))),
            "RoleBinding" => {
                let of = self.bindings.entry(namespace).or_default();
                if gone {
                    of.remove(&name);
                } else {
                    of.insert(name, Arc::new(binding(obj)));
                }
            }
            _ => {}
        }
    }
}

impl Rbac {
    /// Takes over an object of one of the four kinds; others are ignored.
    pub fn apply(&self, obj: &Value) {
        self.apply_all([obj]);
    }

    /// Takes over many objects with one new snapshot.
    pub fn apply_all<'a>(&self, objects: impl IntoIterator<Item = &'a Value>) {
        self.edit(|next| objects.into_iter().for_each(|o| next.change(o, false)));
    }

    pub fn remove(&self, obj: &Value) {
        self.edit(|next| next.change(obj, true));
    }

    fn edit(&self, change: impl FnOnce(&mut Snapshot)) {
        let _one = self.writer.lock();
        let mut next = Snapshot::clone(&self.current.load());
        change(&mut next);
        self.current.store(Arc::new(next));
    }

    /// The reason why a request is allowed, in upstream's words; `None` when no rule allows it.
    pub fn authorize(&self, user: &Identity, a: &Attributes<'_>) -> Option<String> {
        let snapshot = self.current.load();
        let mut found = None;
        visit(&snapshot, user, a.namespace, |rule, binding, subject| {
            if !allows(rule, a) {
                return true;
            }
            found = Some(reason(binding, subject));
            false
        });
        found
    }

    /// The rules that a user has in a namespace (and cluster-wide): for rules reviews and the escalation check.
    pub fn rules_for(&self, user: &Identity, namespace: &str) -> Vec<Rule> {
        let snapshot = self.current.load();
        let mut out = Vec::new();
        visit(&snapshot, user, namespace, |rule, _, _| {
            out.push(rule.clone());
            true
        });
        out
    }

    /// The rules of a role that a binding refers to.
    pub fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Vec<Rule>>> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.current.load().roles.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

/// Rules of a role object.
pub fn rules(obj: &Value) -> Vec<Rule> {
    serde_json::from_value(obj["rules"].clone()).unwrap_or_default()
}

fn binding(obj: &Value) -> Binding {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    Binding {
        name: meta::object::name(obj).to_owned(),
        namespace: meta::object::namespace(obj).to_owned(),
        subjects: serde_json::from_value(obj["subjects"].clone()).unwrap_or_default(),
        role_kind: text(&obj["roleRef"]["kind"]),
        role_name: text(&obj["roleRef"]["name"]),
    }
}

/// Calls back with every rule that applies to the user, until told to stop (`false`).
fn visit(
    snapshot: &Snapshot,
    user: &Identity,
    namespace: &str,
    mut each: impl FnMut(&Rule, &Binding, &Subject) -> bool,
) {
    let local = snapshot.bindings.get(namespace).filter(|_| !namespace.is_empty());
    let all = snapshot.cluster_bindings.values().chain(local.into_iter().flat_map(BTreeMap::values));
    for binding in all {
        let Some(subject) = binding.subjects.iter().find(|s| is_subject(user, s, &binding.namespace)) else {
            continue;
        };
        let of = if binding.role_kind == "ClusterRole" { "" } else { &binding.namespace };
        let key = (of.to_owned(), binding.role_name.clone());
        let Some(rules) = snapshot.roles.get(&key) else { continue };
        for rule in rules.iter() {
            if !each(rule, binding, subject) {
                return;
            }
        }
    }
}

fn is_subject(user: &Identity, s: &Subject, binding_namespace: &str) -> bool {
    match s.kind.as_str() {
        "User" => user.name == s.name,
        "Group" => user.in_group(&s.name),
        "ServiceAccount" => {
            let namespace = if s.namespace.is_empty() { binding_namespace } else { &s.namespace };
            split_service_account(&user.name) == Some((namespace, s.name.as_str()))
        }
        _ => false,
    }
}

/// Upstream: `clusterRoleBindingDescriber`, `roleBindingDescriber`.
fn reason(b: &Binding, s: &Subject) -> String {
    let subject = match s.kind.as_str() {
        "ServiceAccount" => {
            let namespace = if s.namespace.is_empty() { &b.namespace } else { &s.namespace };
            format!("ServiceAccount \"{}/{namespace}\"", s.name)
        }
        kind => format!("{kind} {:?}", s.name),
    };
    if b.namespace.is_empty() {
        return format!(
            "RBAC: allowed by ClusterRoleBinding {:?} of {} {:?} to {subject}",
            b.name, b.role_kind, b.role_name
        );
    }
    format!(
        "RBAC: allowed by RoleBinding \"{}/{}\" of {} {:?} to {subject}",
        b.name, b.namespace, b.role_kind, b.role_name
    )
}

/// Whether a rule allows a request (upstream: `RuleAllows`).
pub fn allows(rule: &Rule, a: &Attributes<'_>) -> bool {
    let has = |list: &[String], v: &str| list.iter().any(|x| x == "*" || x == v);
    if !has(&rule.verbs, a.verb) {
        return false;
    }
    if !a.is_resource {
        return rule.non_resource_urls.iter().any(|u| path_matches(u, a.path));
    }
    has(&rule.api_groups, a.group)
        && rule.resources.iter().any(|r| resource_matches(r, a.resource, a.subresource))
        && (rule.resource_names.is_empty() || rule.resource_names.iter().any(|n| n == a.name))
}

fn path_matches(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// `pods`, `pods/log`, `*`, `*/scale`.
fn resource_matches(rule: &str, resource: &str, sub: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => sub.is_empty() && rule == resource,
        Some(("*", s)) => s == sub,
        Some((r, s)) => r == resource && s == sub,
    }
}

/// Whether rules held cover every rule wanted (upstream: `validation.Covers`). The rules not covered are returned.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(breakdown).filter(|w| !held.iter().any(|h| covers(h, w))).collect()
}

/// A rule as single permissions.
fn breakdown(rule: &Rule) -> Vec<Rule> {
    let mut out = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            out.push(Rule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let one = Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    out.push(one.clone());
                }
                for name in &rule.resource_names {
                    out.push(Rule { resource_names: vec![name.clone()], ..one.clone() });
                }
            }
        }
    }
    out
}

fn covers(held: &Rule, one: &Rule) -> bool {
    let has = |list: &[String], v: &[String]| v.iter().all(|v| list.iter().any(|x| x == "*" || x == v));
    if !has(&held.verbs, &one.verbs) {
        return false;
    }
    if let Some(url) = one.non_resource_urls.first() {
        return held.non_resource_urls.iter().any(|h| path_matches(h, url));
    }
    let resource = one.resources.first().map(String::as_str).unwrap_or("");
    let (base, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let resources = held.resources.iter().any(|h| h == resource || resource_matches(h, base, sub));
    let names = held.resource_names.is_empty()
        || (!one.resource_names.is_empty()
            && one.resource_names.iter().all(|n| held.resource_names.contains(n)));
    has(&held.api_groups, &one.api_groups) && resources && names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rbac() -> Rbac {
        let r = Rbac::default();
        r.apply(&json!({"kind": "Role", "metadata": {"name": "reader", "namespace": "ns"},
            "rules": [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get"]}]}));
        r.apply(&json!({"kind": "RoleBinding", "metadata": {"name": "alice", "namespace": "ns"},
            "subjects": [{"kind": "User", "name": "alice"}, {"kind": "ServiceAccount", "name": "robot"}],
            "roleRef": {"kind": "Role", "name": "reader"}}));
        r
    }

    #[test]
    fn what_a_role_grants_and_nothing_else() {
        let r = rbac();
        let alice = Identity::new("alice", &[]);
        let ask = |user: &Identity, ns: &str, verb: &str, resource: &str, sub: &str| {
            let a = Attributes {
                namespace: ns,
                subresource: sub,
                ..Attributes::resource(user, verb, "", resource)
            };
            r.authorize(user, &a)
        };
        let why = ask(&alice, "ns", "get", "pods", "").expect("allowed");
        assert_eq!(why, "RBAC: allowed by RoleBinding \"alice/ns\" of Role \"reader\" to User \"alice\"");
        assert!(ask(&alice, "ns", "get", "pods", "log").is_some());
        for (ns, verb, resource, sub) in [
            ("other", "get", "pods", ""),
            ("", "get", "pods", ""),
            ("ns", "list", "pods", ""),
            ("ns", "get", "pods", "exec"),
            ("ns", "get", "secrets", ""),
        ] {
            assert_eq!(ask(&alice, ns, verb, resource, sub), None, "{ns} {verb} {resource} {sub}");
        }
        let robot = Identity::service_account("ns", "robot");
        assert!(ask(&robot, "ns", "get", "pods", "").is_some());
        assert!(ask(&Identity::service_account("other", "robot"), "ns", "get", "pods", "").is_none());
    }

    #[test]
    fn escalation_is_seen() {
        let rule = |verbs: &[&str], resources: &[&str]| Rule {
            verbs: verbs.iter().map(|s| (*s).to_owned()).collect(),
            api_groups: vec![String::new()],
            resources: resources.iter().map(|s| (*s).to_owned()).collect(),
            ..Rule::default()
        };
        let held = [rule(&["get", "list"], &["pods"])];
        assert!(uncovered(&held, &[rule(&["get"], &["pods"])]).is_empty());
        assert_eq!(uncovered(&held, &[rule(&["get", "delete"], &["pods"])]).len(), 1);
        assert_eq!(uncovered(&held, &[rule(&["*"], &["pods"])]).len(), 1);
        assert!(uncovered(&[rule(&["*"], &["*"])], &[rule(&["get"], &["pods/log"])]).is_empty());
    }
}
