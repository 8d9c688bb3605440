//! The group `rbac.authorization.k8s.io` (upstream: `pkg/apis/rbac`).

use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::{immutable, items, label_selector, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

fn row(kind: &'static str, plural: &'static str, singular: &'static str, schema: &'static str) -> KindDef {
    KindDef {
        group: GROUP.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: singular.into(),
        schema: schema.into(),
        storage: plural.into(),
        ..KindDef::BASE
    }
}

pub fn role() -> KindDef {
    KindDef {
        columns: const { &[NAME, column("Created At", "date", |o, _| created(o))] },
        strategy: StrategyRef::Static(&Role { cluster: false }),
        sample: "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\nrules: [{apiGroups: [\"\"], resources: [pods], verbs: [get, list]}]\n",
        ..row("Role", "roles", "role", "io.k8s.api.rbac.v1.Role")
    }
}

pub fn cluster_role() -> KindDef {
    KindDef {
        scope: Scope::Cluster,
        columns: const { &[NAME, column("Created At", "date", |o, _| created(o))] },
        strategy: StrategyRef::Static(&Role { cluster: true }),
        sample: "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: reader}\nrules: [{nonResourceURLs: [/metrics], verbs: [get]}]\n",
        ..row("ClusterRole", "clusterroles", "clusterrole", "io.k8s.api.rbac.v1.ClusterRole")
    }
}

pub fn role_binding() -> KindDef {
    KindDef {
        columns: BINDING_COLUMNS,
        strategy: StrategyRef::Static(&Binding { cluster: false }),
        sample: "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: alice, namespace: default}\nsubjects: [{kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}]\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\n",
        ..row("RoleBinding", "rolebindings", "rolebinding", "io.k8s.api.rbac.v1.RoleBinding")
    }
}

pub fn cluster_role_binding() -> KindDef {
    KindDef {
        scope: Scope::Cluster,
        columns: BINDING_COLUMNS,
        strategy: StrategyRef::Static(&Binding { cluster: true }),
        sample: "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: alice}\nsubjects: [{kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}]\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}\n",
        ..row(
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
            "io.k8s.api.rbac.v1.ClusterRoleBinding",
        )
    }
}

const BINDING_COLUMNS: &[crate::def::Column] = &[
    NAME,
    column("Role", "string", |o, _| {
        format!("{}/{}", text(&o["roleRef"], "kind"), text(&o["roleRef"], "name")).into()
    }),
    AGE,
    wide("Users", "string", |o, _| subjects(o, "User").into()),
    wide("Groups", "string", |o, _| subjects(o, "Group").into()),
    wide("ServiceAccounts", "string", |o, _| subjects(o, "ServiceAccount").into()),
];

fn created(o: &Value) -> Value {
    object::meta_str(o, "creationTimestamp").into()
}

fn subjects(o: &Value, kind: &str) -> String {
    let of_kind = items(o, "subjects").iter().filter(|s| s["kind"] == kind);
    let names: Vec<String> = of_kind
        .map(|s| match text(s, "namespace") {
            "" => text(s, "name").to_owned(),
            ns => format!("{ns}/{}", text(s, "name")),
        })
        .collect();
    names.join(", ")
}

struct Role {
    cluster: bool,
}

impl Strategy for Role {
    fn create_on_update(&self) -> bool {
        true
    }

    fn deletes_unread(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        for (i, rule) in items(obj, "rules").iter().enumerate() {
            rule_errors(rule, !self.cluster, &Path::new("rules").index(i), &mut errors);
        }
        if self.cluster && !obj["aggregationRule"].is_null() {
            let at = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = items(&obj["aggregationRule"], "clusterRoleSelectors");
            if selectors.is_empty() {
                let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(Error::required(&at, detail));
            }
            for (i, s) in selectors.iter().enumerate() {
                label_selector(s, &at.index(i), &mut errors);
                if LabelSelector::from_value(s).is_err() {
                    errors.push(Error::invalid(&at.index(i), Value::Null, "invalid label selector."));
                }
            }
        }
        errors
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::path_segment_errors(name, prefix)
    }
}

/// Upstream: `ValidatePolicyRule`.
fn rule_errors(rule: &Value, namespaced: bool, at: &Path, errors: &mut ErrorList) {
    let has = |f: &str| !items(rule, f).is_empty();
    if !has("verbs") {
        errors.push(Error::required(&at.child("verbs"), ""));
    }
    if has("nonResourceURLs") {
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(Error::invalid(
                &at.child("nonResourceURLs"),
                rule["nonResourceURLs"].clone(),
                detail,
            ));
        }
        if has("apiGroups") || has("resources") || has("resourceNames") {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(
                &at.child("nonResourceURLs"),
                rule["nonResourceURLs"].clone(),
                detail,
            ));
        }
        return;
    }
    if !has("apiGroups") {
        errors.push(Error::required(
            &at.child("apiGroups"),
            "resource rules must supply at least one api group",
        ));
    }
    if !has("resources") {
        errors.push(Error::required(
            &at.child("resources"),
            "resource rules must supply at least one resource",
        ));
    }
}

struct Binding {
    cluster: bool,
}

impl Strategy for Binding {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &["roleRef"], "apiGroup", GROUP);
        if obj["roleRef"]["apiGroup"] == "" {
            obj["roleRef"]["apiGroup"] = GROUP.into();
        }
        for s in obj.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            if text(s, "apiGroup").is_empty() && matches!(text(s, "kind"), "User" | "Group") {
                s["apiGroup"] = GROUP.into();
            }
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn deletes_unread(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (at, reference) = (Path::new("roleRef"), &obj["roleRef"]);
        if text(reference, "apiGroup") != GROUP {
            errors.push(Error::text_not_supported(
                &at.child("apiGroup"),
                text(reference, "apiGroup"),
                &[GROUP],
            ));
        }
        let allowed: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !allowed.contains(&text(reference, "kind")) {
            errors.push(Error::text_not_supported(&at.child("kind"), text(reference, "kind"), allowed));
        }
        let name = text(reference, "name");
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else {
            let messages = helpers::path_segment_errors(name, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
        }
        for (i, s) in items(obj, "subjects").iter().enumerate() {
            subject_errors(s, !self.cluster, &Path::new("subjects").index(i), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        immutable(&new["roleRef"], &old["roleRef"], &Path::new("roleRef"), &mut errors);
        errors
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::path_segment_errors(name, prefix)
    }
}

/// Upstream: `ValidateRoleBindingSubject`.
fn subject_errors(s: &Value, namespaced: bool, at: &Path, errors: &mut ErrorList) {
    let (name, group) = (text(s, "name"), text(s, "apiGroup"));
    if name.is_empty() {
        errors.push(Error::required(&at.child("name"), ""));
    }
    match text(s, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                let messages = helpers::dns_subdomain_errors(name, false);
                errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
            }
            if !group.is_empty() {
                errors.push(Error::text_not_supported(&at.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(s, "namespace").is_empty() {
                errors.push(Error::required(&at.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::text_not_supported(&at.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            errors.push(Error::text_not_supported(
                &at.child("kind"),
                other,
                &["ServiceAccount", "User", "Group"],
            ));
        }
    }
}
