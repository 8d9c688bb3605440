//! Validation of HorizontalPodAutoscalers, in version 2 (upstream: `pkg/apis/autoscaling/validation/validation.go`).

use crate::helpers::{dns_label_errors, path_segment_errors};
use crate::resources;
use crate::validate::{items, non_negative, one_of, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const PERIOD_SECONDS_MAX: i64 = 1800;
const STABILIZATION_SECONDS_MAX: i64 = 3600;

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
/// Fields of the sources, in the order in which they are looked at.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// Which versions a reference may leave out (upstream: `CrossVersionObjectReferenceValidationOptions`).
#[derive(Clone, Copy)]
struct Reference {
    any_version: bool,
    core_group: bool,
}

/// Errors of the spec; `old` is null on create.
pub fn spec(spec: &Value, old: &Value) -> ErrorList {
    let at = Path::new("spec");
    let mut errors = Vec::new();
    let target = &spec["scaleTargetRef"];
    let was = &old["scaleTargetRef"];
    let same = |f: &str| text(target, f) == text(was, f);
    let scaled = Reference {
        any_version: !old.is_null() && same("apiVersion") && same("kind"),
        core_group: text(target, "kind") == "ReplicationController",
    };
    let mut described = Reference { any_version: false, core_group: true };
    let wrong =
        |m: &Value| version_error(text(&m["object"]["describedObject"], "apiVersion"), described).is_some();
    described.any_version =
        items(old, "metrics").iter().any(|m| m["type"] == "Object" && m["object"].is_object() && wrong(m));
    let (min, max) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(&at.child("maxReplicas"), max, detail));
    }
    reference(target, scaled, &at.child("scaleTargetRef"), &mut errors);
    metrics(spec, described, &at.child("metrics"), &mut errors);
    for direction in ["scaleUp", "scaleDown"] {
        rules(&spec["behavior"][direction], &at.child("behavior").child(direction), &mut errors);
    }
    // What upstream declares at the type is told after what it has code for.
    non_negative(spec, "minReplicas", &at, &mut errors);
    match max {
        0 => errors.push(Error::required(&at.child("maxReplicas"), "")),
        n if n < 0 => {
            let detail = "must be greater than or equal to 1";
            errors.push(Error::invalid(&at.child("maxReplicas"), n, detail));
        }
        _ => {}
    }
    errors
}

/// Errors of the status.
pub fn status(status: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("status");
    for (i, condition) in items(status, "conditions").iter().enumerate() {
        non_negative(condition, "observedGeneration", &at.child("conditions").index(i), &mut errors);
    }
    non_negative(status, "currentReplicas", &at, &mut errors);
    non_negative(status, "desiredReplicas", &at, &mut errors);
    errors
}

fn version_error(version: &str, allowed: Reference) -> Option<String> {
    if allowed.any_version {
        return None;
    }
    let group = match version.split('/').collect::<Vec<_>>()[..] {
        [_] => "",
        [group, _] => group,
        _ => return Some(format!("unexpected GroupVersion string: {version}")),
    };
    (group.is_empty() && !allowed.core_group).then(|| "apiVersion must specify API group".to_owned())
}

/// Upstream: `ValidateCrossVersionObjectReference`.
fn reference(v: &Value, allowed: Reference, at: &Path, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        path_segment(text(v, field), &at.child(field), "", errors);
    }
    let version = text(v, "apiVersion");
    if let Some(why) = version_error(version, allowed) {
        errors.push(Error::invalid(&at.child("apiVersion"), version, why));
    }
}

fn path_segment(name: &str, at: &Path, missing: &str, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(at, missing));
    } else {
        errors.extend(path_segment_errors(name, false).into_iter().map(|m| Error::invalid(at, name, m)));
    }
}

fn metrics(spec: &Value, described: Reference, at: &Path, errors: &mut ErrorList) {
    let list = items(spec, "metrics");
    for (i, metric) in list.iter().enumerate() {
        one_metric(metric, described, &at.index(i), errors);
    }
    let outside = list.iter().any(|m| m["type"] == "Object" || m["type"] == "External");
    if spec["minReplicas"] == 0 && !outside {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(Error::forbidden(at, detail));
    }
}

fn one_metric(m: &Value, described: Reference, at: &Path, errors: &mut ErrorList) {
    let ty = text(m, "type");
    if ty.is_empty() {
        errors.push(Error::required(&at.child("type"), "must specify a metric source type"));
    }
    if !TYPES.contains(&ty) {
        errors.push(Error::not_supported(&at.child("type"), ty, TYPES));
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, f)| *f).filter(|f| !m[*f].is_null()).collect();
    if let Some(first) = present.first() {
        source(first, &m[*first], described, &at.child(first), errors);
    }
    let expected = SOURCES.iter().find(|(t, _)| *t == ty).map(|(_, f)| *f);
    match expected {
        Some(field) if m[field].is_null() => {
            let detail = "must populate information for the given metric source";
            errors.push(Error::required(&at.child(field), detail));
        }
        Some(_) => {}
        None => errors.push(Error::not_supported(&at.child("type"), ty, TYPES)),
    }
    if present.len() != 1 {
        for other in present.iter().filter(|f| Some(**f) != expected) {
            errors.push(Error::forbidden(&at.child(other), "must populate the given metric source only"));
        }
    }
}

fn source(field: &str, v: &Value, described: Reference, at: &Path, errors: &mut ErrorList) {
    let (wanted, path) = (&v["target"], at.child("target"));
    let has = |f: &str| !wanted[f].is_null();
    match field {
        "resource" if text(v, "name").is_empty() => {
            errors.push(Error::required(&at.child("name"), "must specify a resource name"));
        }
        "resource" => {}
        "containerResource" => container_resource(v, at, errors),
        _ => {
            if field == "object" {
                reference(&v["describedObject"], described, &at.child("describedObject"), errors);
            }
            let name = at.child("metric").child("name");
            path_segment(text(&v["metric"], "name"), &name, "must specify a metric name", errors);
        }
    }
    target(wanted, &path, errors);
    let (value, average, percent) = (has("value"), has("averageValue"), has("averageUtilization"));
    match field {
        "object" if !value && !average => {
            let detail = "must set either a target value or averageValue";
            errors.push(Error::required(&path.child("averageValue"), detail));
        }
        "external" if !value && !average => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.push(Error::required(&path.child("averageValue"), detail));
        }
        "external" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(Error::forbidden(&path.child("value"), detail));
        }
        "pods" if !average => {
            let detail = "must specify a positive target averageValue";
            errors.push(Error::required(&path.child("averageValue"), detail));
        }
        "resource" | "containerResource" if !percent && !average => {
            let detail = "must set either a target raw value or a target utilization";
            errors.push(Error::required(&path.child("averageUtilization"), detail));
        }
        "resource" | "containerResource" if percent && average => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.push(Error::forbidden(&path.child("averageValue"), detail));
        }
        _ => {}
    }
}

fn container_resource(v: &Value, at: &Path, errors: &mut ErrorList) {
    match text(v, "name") {
        "" => errors.push(Error::required(&at.child("name"), "must specify a resource name")),
        name => resources::container_name(name, &at.child("name"), errors),
    }
    let path = at.child("container");
    match text(v, "container") {
        "" => errors.push(Error::required(&path, "must specify a container")),
        name => {
            let messages = dns_label_errors(name, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path, name, m)));
        }
    }
}

fn target(v: &Value, at: &Path, errors: &mut ErrorList) {
    let (ty, path) = (text(v, "type"), at.child("type"));
    if ty.is_empty() {
        errors.push(Error::required(&path, "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&ty) {
        errors.push(Error::invalid(&path, ty, "must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        if resources::amount(&v[field]).is_some_and(|q| q.sign() <= 0) {
            errors.push(Error::invalid(&at.child(field), v[field].clone(), "must be positive"));
        }
    }
    if let Some(n) = v["averageUtilization"].as_i64().filter(|n| *n < 1) {
        errors.push(Error::invalid(&at.child("averageUtilization"), n, "must be greater than 0"));
    }
}

/// Upstream: `validateScalingRules`.
fn rules(v: &Value, at: &Path, errors: &mut ErrorList) {
    if v.is_null() {
        return;
    }
    let path = at.child("stabilizationWindowSeconds");
    match v["stabilizationWindowSeconds"].as_i64() {
        Some(n) if n < 0 => errors.push(Error::invalid(&path, n, "must be greater than or equal to zero")),
        Some(n) if n > STABILIZATION_SECONDS_MAX => {
            let detail = format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}");
            errors.push(Error::invalid(&path, n, detail));
        }
        _ => {}
    }
    one_of(v, "selectPolicy", at, &["Disabled", "Max", "Min"], errors);
    let path = at.child("policies");
    if items(v, "policies").is_empty() {
        errors.push(Error::required(&path, "must specify at least one Policy"));
    }
    for (i, policy) in items(v, "policies").iter().enumerate() {
        let at = path.index(i);
        let ty = text(policy, "type");
        if !["Percent", "Pods"].contains(&ty) {
            errors.push(Error::not_supported(&at.child("type"), ty, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            let n = policy[field].as_i64().unwrap_or(0);
            if n <= 0 {
                errors.push(Error::invalid(&at.child(field), n, "must be greater than zero"));
            }
        }
        if let Some(n) = policy["periodSeconds"].as_i64().filter(|n| *n > PERIOD_SECONDS_MAX) {
            let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.push(Error::invalid(&at.child("periodSeconds"), n, detail));
        }
    }
    if let Some(q) = resources::amount(&v["tolerance"]) {
        resources::non_negative(&q, &at.child("tolerance"), errors);
    }
}
