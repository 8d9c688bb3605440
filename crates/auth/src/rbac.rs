//! Role-based access control over a snapshot of roles and bindings
//! (upstream: `plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation/rule.go`).
//!
//! Invariant: a decision reads one snapshot, and readers never wait for writers. Bindings are indexed by the names of
//! users and groups, so that a decision costs what the user's own bindings cost, however many there are in all.

mod aggregate;
pub mod escalation;
mod rule;

pub use aggregate::{aggregate_all, aggregated};
pub use rule::{Rule, compact, uncovered};

use crate::authorize::{Attributes, Decision};
use crate::identity::{Identity, service_account_name};
use crate::text::aggregate as join_errors;
use arc_swap::ArcSwap;
use meta::object;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

type Rules = Arc<[Rule]>;

/// The authoriser.
#[derive(Default)]
pub struct Rbac {
    current: ArcSwap<Snapshot>,
    writer: Mutex<()>,
}

/// What a user may do, as far as it could be found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    pub rules: Vec<Rule>,
    /// Bindings whose role does not exist.
    pub errors: Vec<String>,
}

impl Held {
    /// All errors as one text.
    pub fn error(&self) -> Option<String> {
        (!self.errors.is_empty()).then(|| join_errors(&self.errors))
    }
}

impl Rbac {
    /// Takes over an object of one of the four kinds; others are ignored. Namespace and name come from its metadata.
    pub fn apply(&self, kind: &str, obj: &Value) {
        self.apply_all([(kind, obj)]);
    }

    /// Takes over many objects at the price of one publication: for a start with a full list.
    pub fn apply_all<'a>(&self, all: impl IntoIterator<Item = (&'a str, &'a Value)>) {
        self.change(|s| all.into_iter().for_each(|(kind, obj)| s.put(kind, obj)));
    }

    /// Makes a full list of one kind all that there is of it: for a start, and after changes were missed.
    pub fn replace(&self, kind: &str, all: &[Value]) {
        self.change(|s| {
            s.clear(kind);
            all.iter().for_each(|obj| s.put(kind, obj));
        });
    }

    /// Forgets an object; `namespace` is empty for cluster-scoped kinds.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) {
        self.change(|s| match kind {
            "ClusterRole" => drop(Arc::make_mut(&mut s.cluster_roles).remove(name)),
            "ClusterRoleBinding" => Arc::make_mut(&mut s.cluster).remove(name),
            "Role" => {
                s.namespace_mut(namespace).roles.remove(name);
                s.drop_empty(namespace);
            }
            "RoleBinding" => {
                s.namespace_mut(namespace).bindings.remove(name);
                s.drop_empty(namespace);
            }
            _ => {}
        });
    }

    fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        let _one_writer = self.writer.lock();
        let mut next = Snapshot::clone(&self.current.load());
        edit(&mut next);
        self.current.store(Arc::new(next));
    }

    /// Allows with upstream's reason, or has no opinion; never denies.
    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let snapshot = self.current.load();
        let mut allowed = None;
        let mut errors = Vec::new();
        snapshot.visit(a.user, &a.namespace, |binding, rules| match rules {
            Ok(rules) if rules.iter().any(|r| r.allows(a)) => {
                allowed = Some(binding.describe(a.user));
                false
            }
            Ok(_) => true,
            Err(e) => {
                errors.push(e);
                true
            }
        });
        match allowed {
            Some(source) => Decision::Allow { reason: format!("RBAC: allowed by {source}") },
            None if errors.is_empty() => Decision::no_opinion(""),
            None => Decision::no_opinion(format!("RBAC: {}", join_errors(&errors))),
        }
    }

    /// The rules that a user has in a namespace and cluster-wide; an empty namespace leaves out role bindings.
    pub fn rules_for(&self, user: &Identity, namespace: &str) -> Held {
        let mut held = Held::default();
        self.current.load().visit(user, namespace, |_, rules| {
            match rules {
                Ok(rules) => held.rules.extend(rules.iter().cloned()),
                Err(e) => held.errors.push(e),
            }
            true
        });
        held
    }

    /// The rules of a role; `namespace` counts for kind `Role` only.
    pub fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<Rules> {
        self.current.load().role(kind, namespace, name).cloned()
    }
}

/// All roles and bindings; parts are shared between snapshots.
#[derive(Clone, Default)]
struct Snapshot {
    cluster_roles: Arc<HashMap<String, Rules>>,
    cluster: Arc<Bindings>,
    namespaces: Arc<HashMap<String, Arc<Namespace>>>,
}

#[derive(Clone, Default)]
struct Namespace {
    roles: HashMap<String, Rules>,
    bindings: Bindings,
}

impl Snapshot {
    fn namespace_mut(&mut self, namespace: &str) -> &mut Namespace {
        Arc::make_mut(Arc::make_mut(&mut self.namespaces).entry(namespace.to_owned()).or_default())
    }

    fn put(&mut self, kind: &str, obj: &Value) {
        let (namespace, name) = (object::namespace(obj), object::name(obj).to_owned());
        match kind {
            "ClusterRole" => {
                Arc::make_mut(&mut self.cluster_roles).insert(name, Rule::of_role(obj).into());
            }
            "Role" => {
                self.namespace_mut(namespace).roles.insert(name, Rule::of_role(obj).into());
            }
            "ClusterRoleBinding" => Arc::make_mut(&mut self.cluster).insert(Binding::of(obj, "")),
            "RoleBinding" => self.namespace_mut(namespace).bindings.insert(Binding::of(obj, namespace)),
            _ => {}
        }
    }

    fn clear(&mut self, kind: &str) {
        match kind {
            "ClusterRole" => self.cluster_roles = Arc::default(),
            "ClusterRoleBinding" => self.cluster = Arc::default(),
            "Role" | "RoleBinding" => {
                let all: Vec<String> = self.namespaces.keys().cloned().collect();
                for namespace in all {
                    let of = self.namespace_mut(&namespace);
                    if kind == "Role" {
                        of.roles.clear();
                    } else {
                        of.bindings = Bindings::default();
                    }
                    self.drop_empty(&namespace);
                }
            }
            _ => {}
        }
    }

    fn drop_empty(&mut self, namespace: &str) {
        let empty = |n: &Arc<Namespace>| n.roles.is_empty() && n.bindings.by_name.is_empty();
        if self.namespaces.get(namespace).is_some_and(empty) {
            Arc::make_mut(&mut self.namespaces).remove(namespace);
        }
    }

    fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&Rules> {
        match kind {
            "ClusterRole" => self.cluster_roles.get(name),
            "Role" => self.namespaces.get(namespace)?.roles.get(name),
            _ => None,
        }
    }

    /// Calls back with every binding that applies to the user and its role's rules, cluster-wide ones first, each in
    /// the order of names, until told to stop (`false`).
    fn visit(
        &self,
        user: &Identity,
        namespace: &str,
        mut each: impl FnMut(&Binding, Result<&Rules, String>) -> bool,
    ) {
        let local = self.namespaces.get(namespace).filter(|_| !namespace.is_empty());
        for bindings in [Some(&*self.cluster), local.map(|n| &n.bindings)].into_iter().flatten() {
            for binding in bindings.of(user) {
                // A cluster role binding has no namespace in which to look for a Role.
                let rules = self.role(&binding.role_kind, &binding.namespace, &binding.role_name);
                if !each(binding, rules.ok_or_else(|| binding.lost())) {
                    return;
                }
            }
        }
    }
}

/// Bindings of one scope, indexed by subject.
#[derive(Clone, Default)]
struct Bindings {
    by_name: HashMap<String, Arc<Binding>>,
    users: HashMap<String, Vec<Arc<Binding>>>,
    groups: HashMap<String, Vec<Arc<Binding>>>,
}

impl Bindings {
    fn insert(&mut self, binding: Binding) {
        self.remove(&binding.name);
        let binding = Arc::new(binding);
        for s in &binding.subjects {
            let index = if s.group { &mut self.groups } else { &mut self.users };
            let list = index.entry(s.key.clone()).or_default();
            if !list.iter().any(|b| Arc::ptr_eq(b, &binding)) {
                list.push(binding.clone());
            }
        }
        self.by_name.insert(binding.name.clone(), binding);
    }

    fn remove(&mut self, name: &str) {
        let Some(old) = self.by_name.remove(name) else { return };
        for s in &old.subjects {
            let index = if s.group { &mut self.groups } else { &mut self.users };
            if let Some(list) = index.get_mut(&s.key) {
                list.retain(|b| !Arc::ptr_eq(b, &old));
                if list.is_empty() {
                    index.remove(&s.key);
                }
            }
        }
    }

    /// The bindings of a user, by name.
    fn of(&self, user: &Identity) -> Vec<&Binding> {
        let of_groups = user.groups.iter().filter_map(|g| self.groups.get(g));
        let lists = self.users.get(&user.name).into_iter().chain(of_groups);
        let mut all: Vec<&Binding> = lists.flatten().map(|b| &**b).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}

struct Binding {
    name: String,
    /// Empty for cluster role bindings.
    namespace: String,
    subjects: Vec<Subject>,
    role_kind: String,
    role_name: String,
}

struct Subject {
    /// The user's or group's name; service accounts are users.
    key: String,
    group: bool,
    /// As reasons show it.
    description: String,
}

impl Binding {
    fn of(obj: &Value, namespace: &str) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let subjects = obj["subjects"].as_array().into_iter().flatten();
        Self {
            name: object::name(obj).to_owned(),
            namespace: namespace.to_owned(),
            subjects: subjects.filter_map(|s| Subject::of(s, namespace)).collect(),
            role_kind: text(&obj["roleRef"]["kind"]),
            role_name: text(&obj["roleRef"]["name"]),
        }
    }

    /// Upstream: `clusterRoleBindingDescriber`, `roleBindingDescriber`.
    fn describe(&self, user: &Identity) -> String {
        let applies = |s: &&Subject| if s.group { user.in_group(&s.key) } else { s.key == user.name };
        let subject = self.subjects.iter().find(applies).map_or("", |s| &s.description);
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        format!("{kind} {name:?} of {} {:?} to {subject}", self.role_kind, self.role_name)
    }

    /// Why the role's rules could not be found.
    fn lost(&self) -> String {
        match self.role_kind.as_str() {
            "Role" => format!("role.{GROUP} {:?} not found", self.role_name),
            "ClusterRole" => format!("clusterrole.{GROUP} {:?} not found", self.role_name),
            other => format!("unsupported role reference kind: {other:?}"),
        }
    }
}

impl Subject {
    /// `None` for one that can apply to nobody (upstream: `appliesToUser`, `describeSubject`).
    fn of(s: &Value, binding_namespace: &str) -> Option<Self> {
        let name = s["name"].as_str().unwrap_or("");
        let kind = s["kind"].as_str().unwrap_or("");
        let described = |name: &str| format!("{kind} {name:?}");
        match kind {
            "User" => Some(Self { key: name.to_owned(), group: false, description: described(name) }),
            "Group" => Some(Self { key: name.to_owned(), group: true, description: described(name) }),
            "ServiceAccount" => {
                let own = s["namespace"].as_str().unwrap_or("");
                let namespace = if own.is_empty() { binding_namespace } else { own };
                if namespace.is_empty() {
                    return None;
                }
                let key = service_account_name(namespace, name);
                Some(Self { key, group: false, description: described(&format!("{name}/{namespace}")) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::GroupResource;
    use serde_json::json;

    #[test]
    fn a_full_list_replaces_what_was_there() {
        let rbac = Rbac::default();
        let user = Identity::new("alice", &[]);
        let reader = role("ns", "r", &["get"], &["pods"]);
        let bound = binding("ns", "b", ("Role", "r"), json!([{"kind": "User", "name": "alice"}]));
        rbac.replace("Role", std::slice::from_ref(&reader));
        rbac.replace("RoleBinding", std::slice::from_ref(&bound));
        assert_eq!(rbac.rules_for(&user, "ns").rules.len(), 1);
        // The binding was deleted while nobody looked.
        rbac.replace("RoleBinding", &[]);
        assert_eq!(rbac.rules_for(&user, "ns").rules.len(), 0);
        assert!(rbac.role("Role", "ns", "r").is_some());
    }

    fn role(namespace: &str, name: &str, verbs: &[&str], resources: &[&str]) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]})
    }

    fn binding(namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace}, "subjects": subjects,
            "roleRef": {"apiGroup": GROUP, "kind": role.0, "name": role.1}})
    }

    fn ask(rbac: &Rbac, user: &Identity, namespace: &str, verb: &str, resource: &str) -> Decision {
        let a = Attributes::for_resource(user, verb, GroupResource::new("", resource), "v1")
            .in_namespace(namespace);
        rbac.authorize(&a)
    }

    fn because(reason: &str) -> Decision {
        Decision::Allow { reason: reason.to_owned() }
    }

    #[test]
    fn a_role_counts_in_its_namespace_a_cluster_role_where_it_is_bound() {
        let r = Rbac::default();
        r.apply("Role", &role("ns", "reader", &["get"], &["pods"]));
        r.apply("ClusterRole", &role("", "reader", &["list"], &["pods"]));
        let subjects =
            json!([{"kind": "User", "name": "alice"}, {"kind": "ServiceAccount", "name": "robot"}]);
        r.apply("RoleBinding", &binding("ns", "own", ("Role", "reader"), subjects.clone()));
        r.apply("RoleBinding", &binding("ns", "shared", ("ClusterRole", "reader"), subjects));
        let alice = Identity::new("alice", &[]);
        assert_eq!(
            ask(&r, &alice, "ns", "get", "pods"),
            because("RBAC: allowed by RoleBinding \"own/ns\" of Role \"reader\" to User \"alice\"")
        );
        assert_eq!(
            ask(&r, &Identity::service_account("ns", "robot"), "ns", "list", "pods"),
            because(
                "RBAC: allowed by RoleBinding \"shared/ns\" of ClusterRole \"reader\" to ServiceAccount \"robot/ns\""
            )
        );
        for (user, namespace, verb, resource) in [
            (&alice, "other", "get", "pods"),
            (&alice, "", "get", "pods"),
            (&alice, "ns", "delete", "pods"),
            (&alice, "ns", "get", "secrets"),
            (&Identity::new("bob", &[]), "ns", "get", "pods"),
            (&Identity::service_account("other", "robot"), "ns", "get", "pods"),
        ] {
            assert_eq!(
                ask(&r, user, namespace, verb, resource),
                Decision::no_opinion(""),
                "{user:?} {namespace}"
            );
        }
    }

    #[test]
    fn cluster_bindings_count_everywhere_and_come_first() {
        let r = Rbac::default();
        r.apply("ClusterRole", &role("", "all", &["*"], &["*"]));
        let group = json!([{"kind": "Group", "name": "ops"}, {"kind": "User", "name": "alice"}]);
        r.apply("ClusterRoleBinding", &binding("", "zz", ("ClusterRole", "all"), group.clone()));
        r.apply("ClusterRoleBinding", &binding("", "aa", ("ClusterRole", "all"), group.clone()));
        r.apply("RoleBinding", &binding("ns", "a", ("ClusterRole", "all"), group));
        let alice = Identity::new("alice", &["ops"]);
        let want =
            because("RBAC: allowed by ClusterRoleBinding \"aa\" of ClusterRole \"all\" to Group \"ops\"");
        assert_eq!(ask(&r, &alice, "ns", "get", "pods"), want);
        assert_eq!(ask(&r, &alice, "", "get", "pods"), want);
        // A cluster role binding cannot refer to a Role, nor to an account without its namespace.
        r.apply("Role", &role("ns", "x", &["*"], &["*"]));
        r.apply(
            "ClusterRoleBinding",
            &binding("", "b", ("Role", "x"), json!([{"kind": "User", "name": "bob"}])),
        );
        r.apply(
            "ClusterRoleBinding",
            &binding("", "c", ("ClusterRole", "all"), json!([{"kind": "ServiceAccount", "name": "sa"}])),
        );
        assert_eq!(
            ask(&r, &Identity::new("bob", &[]), "ns", "get", "pods"),
            Decision::no_opinion("RBAC: role.rbac.authorization.k8s.io \"x\" not found")
        );
        assert_eq!(
            ask(&r, &Identity::service_account("", "sa"), "", "get", "pods"),
            Decision::no_opinion("")
        );
    }

    #[test]
    fn changes_and_removals_take_effect() {
        let r = Rbac::default();
        let alice = Identity::new("alice", &[]);
        let subject = |name: &str| json!([{"kind": "User", "name": name}]);
        r.apply("Role", &role("ns", "reader", &["get"], &["pods"]));
        r.apply("RoleBinding", &binding("ns", "b", ("Role", "reader"), subject("alice")));
        assert!(ask(&r, &alice, "ns", "get", "pods").is_allowed());
        r.apply("RoleBinding", &binding("ns", "b", ("Role", "reader"), subject("bob")));
        assert!(!ask(&r, &alice, "ns", "get", "pods").is_allowed());
        assert!(ask(&r, &Identity::new("bob", &[]), "ns", "get", "pods").is_allowed());
        r.remove("Role", "ns", "reader");
        let held = r.rules_for(&Identity::new("bob", &[]), "ns");
        assert_eq!(held.error().as_deref(), Some("role.rbac.authorization.k8s.io \"reader\" not found"));
        r.remove("RoleBinding", "ns", "b");
        assert!(r.current.load().namespaces.is_empty(), "nothing stays behind");
        assert_eq!(r.rules_for(&Identity::new("bob", &[]), "ns"), Held::default());
    }

    #[test]
    fn many_bindings_of_others_do_not_matter() {
        let r = Rbac::default();
        r.apply("ClusterRole", &role("", "reader", &["get"], &["pods"]));
        let all: Vec<Value> = (0..2000)
            .map(|i| {
                binding(
                    "",
                    &format!("b{i}"),
                    ("ClusterRole", "reader"),
                    json!([{"kind": "User", "name": format!("u{i}")}]),
                )
            })
            .collect();
        r.apply_all(all.iter().map(|b| ("ClusterRoleBinding", b)));
        let user = Identity::new("u1234", &[]);
        assert_eq!(r.current.load().cluster.of(&user).len(), 1);
        assert!(ask(&r, &user, "ns", "get", "pods").is_allowed());
    }
}
