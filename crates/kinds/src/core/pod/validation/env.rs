//! The environment of a container (upstream: `ValidateEnv`, `ValidateEnvFrom`).

use crate::helpers::qualified_name_errors;
use crate::helpers::{config_key_errors, dns_label_errors, dns_subdomain_errors, env_name_errors};
use crate::resources::quantity;
use crate::validate::{items, required, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Fields that the environment may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that pods have a name for, whether or not they are shown here.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn errors(c: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, e) in items(c, "env").iter().enumerate() {
        let at = at.child("env").index(i);
        let name = text(e, "name");
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else {
            told(name, env_name_errors(name), &at.child("name"), errors);
        }
        value_from(e, &at.child("valueFrom"), errors);
    }
    let all = at.child("envFrom");
    for (i, e) in items(c, "envFrom").iter().enumerate() {
        let at = all.index(i);
        let prefix = text(e, "prefix");
        if !prefix.is_empty() {
            told(prefix, env_name_errors(prefix), &at.child("prefix"), errors);
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"].into_iter().filter(|k| e[*k].is_object()) {
            sources += 1;
            let (at, name) = (at.child(kind).child("name"), text(&e[kind], "name"));
            if name.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                told(name, dns_subdomain_errors(name, true), &at, errors);
            }
        }
        // upstream tells these at the list
        if sources == 0 {
            errors.push(Error::invalid(&all, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if sources > 1 {
            errors.push(Error::invalid(&all, "", "may not have more than one field specified at a time"));
        }
    }
}

fn value_from(e: &Value, at: &Path, errors: &mut ErrorList) {
    let from = &e["valueFrom"];
    if from.is_null() {
        return;
    }
    let mut sources = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let (source, at) = (&from[kind], at.child(kind));
        if !source.is_object() {
            continue;
        }
        sources += 1;
        match kind {
            "fieldRef" => field_ref(source, ENV_FIELDS, &at, errors),
            "resourceFieldRef" => resource_ref(source, false, &at, errors),
            "fileKeyRef" => file_key(source, &at, errors),
            _ => key_ref(source, &at, errors),
        }
    }
    let detail = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !text(e, "value").is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    errors.push(Error::invalid(at, "", detail));
}

fn key_ref(r: &Value, at: &Path, errors: &mut ErrorList) {
    let (name, key) = (text(r, "name"), text(r, "key"));
    told(name, dns_subdomain_errors(name, false), &at.child("name"), errors);
    if key.is_empty() {
        errors.push(Error::required(&at.child("key"), ""));
    } else {
        told(key, config_key_errors(key), &at.child("key"), errors);
    }
}

fn file_key(r: &Value, at: &Path, errors: &mut ErrorList) {
    required(r, "key", at, errors);
    let key = text(r, "key");
    if !key.is_empty() {
        told(key, env_name_errors(key), &at.child("key"), errors);
    }
    required(r, "volumeName", at, errors);
    let volume = text(r, "volumeName");
    if !volume.is_empty() {
        told(volume, dns_label_errors(volume, false), &at.child("volumeName"), errors);
    }
    required(r, "path", at, errors);
    super::mounts::no_backsteps(text(r, "path"), &at.child("path"), errors);
}

/// The path before the subscript, and the subscript (upstream: `SplitMaybeSubscriptedPath`).
fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(head, _)| !head.is_empty())
}

/// A field of the pod that is shown to it; `shown` are those without a subscript
/// (upstream: `validateObjectFieldSelector`).
pub fn field_ref(r: &Value, shown: &[&str], at: &Path, errors: &mut ErrorList) {
    let (version, path) = (text(r, "apiVersion"), text(r, "fieldPath"));
    if version.is_empty() || path.is_empty() {
        let field = if version.is_empty() { "apiVersion" } else { "fieldPath" };
        errors.push(Error::required(&at.child(field), ""));
        return;
    }
    let split = subscripted(path);
    let refused = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else {
        match split {
            Some(("metadata.annotations" | "metadata.labels", _)) => None,
            Some(_) => Some(format!("field label does not support subscript: {path}")),
            None if path == "spec.host" || KNOWN_FIELDS.contains(&path) => None,
            None => Some(format!("field label not supported: {path}")),
        }
    };
    if let Some(why) = refused {
        let detail = format!("error converting fieldPath: {why}");
        errors.push(Error::invalid(&at.child("fieldPath"), path, detail));
        return;
    }
    match split {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            told(&key, qualified_name_errors(&key), at, errors);
        }
        Some((_, key)) => told(key, qualified_name_errors(key), at, errors),
        None => {
            let path = if path == "spec.host" { "spec.nodeName" } else { path };
            if !shown.contains(&path) {
                errors.push(Error::not_supported(&at.child("fieldPath"), path, shown));
            }
        }
    }
}

/// A resource of a container that is shown, in a volume or the environment
/// (upstream: `validateContainerResourceFieldSelector`).
pub fn resource_ref(r: &Value, in_volume: bool, at: &Path, errors: &mut ErrorList) {
    let resource = text(r, "resource");
    let huge = ["requests.hugepages-", "limits.hugepages-"].iter().any(|p| resource.starts_with(p));
    if in_volume && text(r, "containerName").is_empty() {
        errors.push(Error::required(&at.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(&at.child("resource"), ""));
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.push(Error::not_supported(&at.child("resource"), resource, RESOURCES));
    }
    let divisor = quantity(&r["divisor"]);
    if divisor.is_zero() {
        return;
    }
    let (allowed, what) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"][..], "cpu"),
        "limits.memory" | "requests.memory" => (SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if huge => (SIZES, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        let values = if what == "cpu" { "1m and 1".to_owned() } else { SIZES.join(", ") };
        let detail = format!("only divisor's values {values} are supported with the {what} resource");
        errors.push(Error::invalid(&at.child("divisor"), resource, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(env: Value) -> Vec<String> {
        let mut all = Vec::new();
        errors(&env, &Path::root(), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateEnv`, `TestValidateEnvFrom`.
    #[test]
    fn environments() {
        let good = json!({"env": [{"name": "a b", "value": "x"},
            {"name": "b", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['x/y']"}}},
            {"name": "c", "valueFrom": {"resourceFieldRef": {"resource": "limits.hugepages-2Mi", "divisor": "1Mi"}}}],
            "envFrom": [{"prefix": "p-", "secretRef": {"name": "s-"}}]});
        assert!(found(good).is_empty());
        let field = |path: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
        assert_eq!(
            found(json!({"env": [{"name": "a", "valueFrom": field("metadata.labels")}]})),
            [format!(
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: {}",
                ENV_FIELDS.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ")
            )]
        );
        assert_eq!(
            found(json!({"env": [{"name": "a", "valueFrom": field("metadata.name['x']")}]})),
            [
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name['x']\": error converting fieldPath: field label does not support subscript: metadata.name['x']"
            ]
        );
        assert_eq!(
            found(
                json!({"env": [{"name": "a", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})
            ),
            ["env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"]
        );
        assert_eq!(
            found(
                json!({"env": [{"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1k"}}}]})
            ),
            [
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
            ]
        );
        assert_eq!(
            found(json!({"envFrom": [{}]})),
            ["envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"]
        );
    }
}
