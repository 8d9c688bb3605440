//! Which requests a webhook or policy is asked about: rules, selectors and match conditions, with their defaults.

use crate::declared::admission::{Compiler, Has, Returns};
use crate::helpers;
use crate::validate::{items, label_selector, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Most match conditions of one webhook or policy.
const MATCH_CONDITIONS_MAX: usize = 64;
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// A mutating policy sees no deletes.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

/// For expressions that use no variables of a policy.
pub(super) static STATELESS: LazyLock<Compiler> = LazyLock::new(|| Compiler::new(false));

/// Errors of an expression (upstream: `validateCELCondition`).
pub(super) fn compiled(
    compiler: &Compiler,
    expression: &str,
    returns: Returns,
    has: Has,
    path: &Path,
    errors: &mut ErrorList,
) {
    if let Err(why) = compiler.compile(expression, returns, has) {
        errors.push(Error::invalid(path, expression, why));
    }
}

/// Rules apply to all scopes unless they say otherwise.
pub(super) fn default_rules(owner: &mut Value, field: &str) {
    for rule in owner.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
        if rule["scope"].is_null() {
            rule["scope"] = "*".into();
        }
    }
}

/// Upstream: `SetDefaults_MatchResources`. Nothing is made where there is none.
pub(super) fn default_match_resources(v: &mut Value) {
    if !v.is_object() {
        return;
    }
    if v["matchPolicy"].is_null() {
        v["matchPolicy"] = "Equivalent".into();
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        if v[selector].is_null() {
            v[selector] = json!({});
        }
    }
    default_rules(v, "resourceRules");
    default_rules(v, "excludeResourceRules");
}

/// An optional enumeration; absent is well.
pub(super) fn optional_one_of(v: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if let Some(s) = v.as_str().filter(|s| !allowed.contains(s)) {
        errors.push(Error::not_supported(path, s, allowed));
    }
}

/// An enumeration that must be there.
pub(super) fn one_of_required(v: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    match v.as_str() {
        None => errors.push(Error::required(path, "")),
        Some(s) if !allowed.contains(&s) => errors.push(Error::not_supported(path, s, allowed)),
        _ => {}
    }
}

/// Upstream: `validateRuleWithOperations`.
pub(super) fn rule_with_operations(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let operations = items(rule, "operations");
    let at = path.child("operations");
    if operations.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    if operations.len() > 1 && operations.iter().any(|o| o == "*") {
        let detail = "if '*' is present, must not specify other operations";
        errors.push(Error::invalid(&at, rule["operations"].clone(), detail));
    }
    for (i, operation) in operations.iter().enumerate() {
        optional_one_of(operation, &at.index(i), OPERATIONS, errors);
    }
    exclusive_wildcard(
        rule,
        "apiGroups",
        "if '*' is present, must not specify other API groups",
        path,
        errors,
    );
    exclusive_wildcard(
        rule,
        "apiVersions",
        "if '*' is present, must not specify other API versions",
        path,
        errors,
    );
    for (i, version) in items(rule, "apiVersions").iter().enumerate() {
        if version == "" {
            errors.push(Error::required(&path.child("apiVersions").index(i), ""));
        }
    }
    resources(rule, &path.child("resources"), errors);
    optional_one_of(&rule["scope"], &path.child("scope"), &["*", "Cluster", "Namespaced"], errors);
}

fn exclusive_wildcard(rule: &Value, field: &str, detail: &str, path: &Path, errors: &mut ErrorList) {
    let list = items(rule, field);
    if list.is_empty() {
        errors.push(Error::required(&path.child(field), ""));
    }
    if list.len() > 1 && list.iter().any(|v| v == "*") {
        errors.push(Error::invalid(&path.child(field), rule[field].clone(), detail));
    }
}

/// Upstream: `validateResources`.
fn resources(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let list = items(rule, "resources");
    if list.is_empty() {
        errors.push(Error::required(path, ""));
    }
    let (mut any_sub_of, mut sub_of_any): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut double, mut single, mut without_sub) = (false, false, false);
    for (i, resource) in list.iter().enumerate() {
        let resource = resource.as_str().unwrap_or("");
        if resource.is_empty() {
            errors.push(Error::required(&path.index(i), ""));
            continue;
        }
        double |= resource == "*/*";
        single |= resource == "*";
        let Some((res, sub)) = resource.split_once('/') else {
            without_sub = resource != "*";
            continue;
        };
        if any_sub_of.contains(&res) {
            let detail = format!("if '{res}/*' is present, must not specify {resource}");
            errors.push(Error::invalid(&path.index(i), resource, detail));
        }
        if sub_of_any.contains(&sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.push(Error::invalid(&path.index(i), resource, detail));
        }
        if sub == "*" {
            any_sub_of.push(res);
        }
        if res == "*" {
            sub_of_any.push(sub);
        }
    }
    if list.len() > 1 && double {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(Error::invalid(path, rule["resources"].clone(), detail));
    }
    if single && without_sub {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(path, rule["resources"].clone(), detail));
    }
}

/// Upstream: `validateNamedRuleWithOperations`.
fn named_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, name) in items(rule, "resourceNames").iter().enumerate() {
        let (name, at) = (name.as_str().unwrap_or(""), path.child("resourceNames").index(i));
        let messages = helpers::path_segment_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, name, m)));
        if seen.contains(&name) {
            errors.push(Error::duplicate(&at, name));
        } else {
            seen.push(name);
        }
    }
    rule_with_operations(rule, path, errors);
}

/// Upstream: `validateMatchResources`; absent is well.
pub(super) fn match_resources(v: &Value, path: &Path, errors: &mut ErrorList) {
    if v.is_null() {
        return;
    }
    one_of_required(&v["matchPolicy"], &path.child("matchPolicy"), MATCH_POLICIES, errors);
    for field in ["namespaceSelector", "objectSelector"] {
        if v[field].is_null() {
            errors.push(Error::required(&path.child(field), ""));
        } else {
            label_selector(&v[field], &path.child(field), errors);
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(v, field).iter().enumerate() {
            named_rule(rule, &path.child(field).index(i), errors);
        }
    }
}

/// Operations that a mutating policy cannot see; upstream names the field without its index.
pub(super) fn mutating_operations(v: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("resourceRules").child("operations");
    for operation in items(v, "resourceRules").iter().flat_map(|r| items(r, "operations")) {
        optional_one_of(operation, &at, MUTATING_OPERATIONS, errors);
    }
}

/// Upstream: `validateMatchConditions`. Expressions must not be empty; what they mean is checked where they are compiled.
pub(super) fn match_conditions(list: &[Value], params: bool, path: &Path, errors: &mut ErrorList) {
    if list.len() > MATCH_CONDITIONS_MAX {
        errors.push(Error::too_many(path, list.len(), MATCH_CONDITIONS_MAX));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(condition, "name"));
        match text(condition, "expression").trim() {
            "" => errors.push(Error::required(&at.child("expression"), "")),
            expression => {
                let has = Has { params, ..Has::AUTHORIZER };
                compiled(&STATELESS, expression, Returns::Bool, has, &at.child("expression"), errors);
            }
        }
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
            continue;
        }
        let messages = helpers::qualified_name_errors(name);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
        if seen.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else {
            seen.push(name);
        }
    }
}
