//! FlowSchema: which requests belong to which priority level.

use super::{prepare_update, row, status_errors};
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::helpers;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

const PRECEDENCE_DEFAULT: i64 = 1_000;
const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub fn kind() -> KindDef {
    KindDef {
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("PriorityLevel", "string", |o, _| {
                    text(&o["spec"]["priorityLevelConfiguration"], "name").into()
                }),
                column("MatchingPrecedence", "string", |o, _| {
                    o["spec"]["matchingPrecedence"].as_i64().unwrap_or(0).into()
                }),
                column("DistinguisherMethod", "string", |o, _| {
                    o["spec"]["distinguisherMethod"]["type"].as_str().unwrap_or("<none>").into()
                }),
                AGE,
                column("MissingPL", "string", |o, _| {
                    let dangling = |c: &&Value| c["type"] == "Dangling";
                    items(&o["status"], "conditions")
                        .iter()
                        .find(dangling)
                        .map_or("?", |c| text(c, "status"))
                        .into()
                }),
            ]
        },
        strategy: StrategyRef::Static(&FlowSchema),
        sample: "apiVersion: flowcontrol.apiserver.k8s.io/v1\nkind: FlowSchema\nmetadata: {name: fs}\nspec: {matchingPrecedence: 9000, priorityLevelConfiguration: {name: workload-low}, rules: [{subjects: [{kind: User, user: {name: alice}}], nonResourceRules: [{nonResourceURLs: [/healthz], verbs: [\"*\"]}]}]}\n",
        ..row("FlowSchema", "flowschemas", "flowschema", "io.k8s.api.flowcontrol.v1.FlowSchema")
    }
}

/// The specs that the mandatory schemas must have (upstream: apiserver `flowcontrol/bootstrap#MandatoryFlowSchemas`).
pub fn mandatory(name: &str) -> Option<Value> {
    let (level, precedence, method, groups): (_, _, _, &[&str]) = match name {
        "exempt" => ("exempt", 1, None, &["system:masters"]),
        "catch-all" => {
            ("catch-all", 10_000, Some("ByUser"), &["system:unauthenticated", "system:authenticated"])
        }
        _ => return None,
    };
    let subjects: Vec<Value> =
        groups.iter().map(|g| json!({"kind": "Group", "group": {"name": g}})).collect();
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [{
            "subjects": subjects,
            "resourceRules": [{
                "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
            }],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    });
    if let Some(method) = method {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    Some(spec)
}

struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, obj: &mut Value) {
        if obj["spec"]["matchingPrecedence"].as_i64().unwrap_or(0) == 0 {
            object::default_at(obj, &["spec"], "matchingPrecedence", PRECEDENCE_DEFAULT);
            obj["spec"]["matchingPrecedence"] = PRECEDENCE_DEFAULT.into();
        }
        object::default_at(obj, &[], "status", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        prepare_update(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        crate::status::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (name, path) = (object::name(obj), Path::new("spec"));
        spec_errors(name, &obj["spec"], &path, &mut errors);
        if mandatory(name).is_some_and(|spec| spec != obj["spec"]) {
            let detail = format!("spec of '{name}' must equal the fixed value");
            errors.push(Error::invalid(&path, obj["spec"].clone(), detail));
        }
        status_errors(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource != "status" {
            return self.validate(new);
        }
        let mut errors = Vec::new();
        status_errors(new, &mut errors);
        errors
    }
}

/// Upstream: `ValidateFlowSchemaSpec`.
fn spec_errors(name: &str, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(Error::invalid(&at, precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        let detail = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(Error::invalid(&at, precedence, detail));
    }
    if precedence == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(Error::invalid(&at, precedence, detail));
    }
    let method = &spec["distinguisherMethod"];
    if !method.is_null() && !matches!(text(method, "type"), "ByNamespace" | "ByUser") {
        let at = path.child("distinguisherMethod").child("type");
        errors.push(Error::not_supported(&at, method.clone(), &["ByNamespace", "ByUser"]));
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    match text(&spec["priorityLevelConfiguration"], "name") {
        "" => errors.push(Error::required(&at, "must reference a priority level")),
        level => {
            let messages = helpers::dns_subdomain_errors(level, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, level, m)));
        }
    }
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        rule_errors(rule, &path.child("rules").index(i), errors);
    }
}

fn rule_errors(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let subjects = items(rule, "subjects");
    if subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(Error::required(&path.child("subjects"), detail));
    }
    for (i, s) in subjects.iter().enumerate() {
        subject(s, &path.child("subjects").index(i), errors);
    }
    let (resource, other) = (items(rule, "resourceRules"), items(rule, "nonResourceRules"));
    if resource.is_empty() && other.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(Error::required(path, detail));
    }
    for (i, r) in resource.iter().enumerate() {
        resource_rule(r, &path.child("resourceRules").index(i), errors);
    }
    for (i, r) in other.iter().enumerate() {
        non_resource_rule(r, &path.child("nonResourceRules").index(i), errors);
    }
}

/// Upstream: `ValidateFlowSchemaSubject`.
fn subject(s: &Value, path: &Path, errors: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] =
        [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(s, "kind");
    let Some((_, own)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        errors.push(Error::not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    let at = path.child(own);
    if s[own].is_null() {
        errors.push(Error::required(&at, format!("{own} is required when subject kind is '{kind}'")));
    } else {
        subject_name(&s[own], kind, &at, errors);
    }
    for (k, field) in KINDS.iter().filter(|(k, _)| *k != kind) {
        if !s[field].is_null() {
            let detail = format!("{field} is forbidden when subject kind is not '{k}'");
            errors.push(Error::forbidden(&path.child(field), detail));
        }
    }
}

fn subject_name(s: &Value, kind: &str, path: &Path, errors: &mut ErrorList) {
    let name = text(s, "name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else if kind == "ServiceAccount" && name != "*" {
        let messages = helpers::dns_subdomain_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("name"), name, m)));
    }
    if kind != "ServiceAccount" {
        return;
    }
    let at = path.child("namespace");
    match text(s, "namespace") {
        "" => errors.push(Error::required(&at, "must specify namespace for service account")),
        namespace => {
            let messages = helpers::dns_label_errors(namespace, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, namespace, m)));
        }
    }
}

fn has_wildcard(list: &[Value]) -> bool {
    list.iter().any(|v| v == "*")
}

fn verbs(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let (at, list) = (path.child("verbs"), items(rule, "verbs"));
    if list.is_empty() {
        errors.push(Error::required(&at, "verbs must contain at least one value"));
    } else if has_wildcard(list) {
        if list.len() > 1 {
            let detail = "if '*' is present, must not specify other verbs";
            errors.push(Error::invalid(&at, rule["verbs"].clone(), detail));
        }
    } else if list.iter().any(|v| v.as_str().is_none_or(|v| !VERBS.contains(&v))) {
        errors.push(Error::not_supported(&at, rule["verbs"].clone(), VERBS));
    }
}

/// Upstream: `ValidateFlowSchemaNonResourcePolicyRule`.
fn non_resource_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    verbs(rule, path, errors);
    let (at, urls) = (path.child("nonResourceURLs"), items(rule, "nonResourceURLs"));
    if urls.is_empty() {
        errors.push(Error::required(&at, "nonResourceURLs must contain at least one value"));
    } else if has_wildcard(urls) {
        if urls.len() > 1 {
            let detail = "if '*' is present, must not specify other non-resource URLs";
            errors.push(Error::invalid(&at, rule["nonResourceURLs"].clone(), detail));
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            let url = url.as_str().unwrap_or("");
            if let Some(detail) = bad_url_path(url) {
                errors.push(Error::invalid(&at.index(i), url, detail));
            }
        }
    }
}

/// Upstream: `ValidateNonResourceURLPath`.
fn bad_url_path(path: &str) -> Option<&'static str> {
    let wildcards = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        p if !p.starts_with('/') => Some("must start with slash"),
        p if p.contains(' ') => Some("must not contain white-space"),
        p if p.contains("//") => Some("must not contain double slash"),
        p if wildcards > 1 || (wildcards == 1 && !p.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

/// Upstream: `ValidateFlowSchemaResourcePolicyRule`.
fn resource_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    verbs(rule, path, errors);
    for (field, none, others) in [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ] {
        let list = items(rule, field);
        if list.is_empty() {
            errors.push(Error::required(&path.child(field), none));
        } else if list.len() > 1 && has_wildcard(list) {
            let detail = format!("if '*' is present, must not specify other {others}");
            errors.push(Error::invalid(&path.child(field), rule[field].clone(), detail));
        }
    }
    let (at, namespaces) = (path.child("namespaces"), items(rule, "namespaces"));
    if namespaces.is_empty() && rule["clusterScope"] != true {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(Error::required(&at, detail));
    } else if has_wildcard(namespaces) {
        if namespaces.len() > 1 {
            let detail = "if '*' is present, must not specify other namespaces";
            errors.push(Error::invalid(&at, rule["namespaces"].clone(), detail));
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or("");
            for message in helpers::dns_label_errors(namespace, false) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                errors.push(Error::invalid(&at.index(i), namespace, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;

    #[test]
    fn mandatory_schemas_are_fixed_and_valid() {
        for name in ["exempt", "catch-all"] {
            let mut obj = json!({"metadata": {"name": name}, "spec": mandatory(name)});
            assert!(FlowSchema.validate(&obj).is_empty(), "{name}");
            // The fixed value is as a decoded one.
            let ty = "io.k8s.api.flowcontrol.v1.FlowSchemaSpec";
            let strict = meta::schema::Strictness::Strict;
            let (spec, unknown) = crate::schema::schema().decode(obj["spec"].clone(), ty, strict).unwrap();
            assert_eq!((spec, unknown.len()), (obj["spec"].clone(), 0));
            obj["spec"]["matchingPrecedence"] = 9_999.into();
            let text = aggregate(&FlowSchema.validate(&obj));
            assert!(text.ends_with(&format!("spec of '{name}' must equal the fixed value")), "{text}");
        }
    }

    #[test]
    fn subjects_and_rules_are_checked() {
        let obj = json!({"metadata": {"name": "x"}, "spec": {
            "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "p"},
            "rules": [{
                "subjects": [{"kind": "User", "group": {"name": "g"}}],
                "nonResourceRules": [{"verbs": ["feed"], "nonResourceURLs": ["/a*b"]}],
            }],
        }});
        assert_eq!(
            aggregate(&FlowSchema.validate(&obj)),
            "[spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User', spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group', spec.rules[0].nonResourceRules[0].verbs: Unsupported value: [\"feed\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\", spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": wildcard can only do suffix matching]"
        );
    }
}
