//! Validation of PersistentVolumeClaims (upstream: `ValidatePersistentVolumeClaimSpec`,
//! `ValidatePersistentVolumeClaimUpdate`, `ValidatePersistentVolumeClaimStatusUpdate`).

use crate::core::persistent_volume::CLASS_ANNOTATION;
use crate::core::persistent_volume::validation::{access_modes, class_name};
use crate::helpers;
use crate::internal;
use crate::resources;
use crate::rest::keep;
use crate::status::reason_errors;
use crate::validate::{immutable, items, label_selector, text};
use meta::field::{Error, ErrorList, Path};
use meta::object::{self, map_at};
use serde_json::{Value, json};

const CHANGEABLE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
const RESIZE_STATUSES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// Errors of a claim's spec; `old` is null on create and in templates.
pub fn spec(spec: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if items(spec, "accessModes").is_empty() {
        errors.push(Error::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    if spec["selector"].is_object() {
        label_selector(&spec["selector"], &path.child("selector"), errors);
    }
    access_modes(spec, path, errors);
    let at = path.child("resources").key("storage");
    match resources::amount(&spec["resources"]["requests"]["storage"]) {
        None => errors.push(Error::required(&at, "")),
        Some(q) if q.sign() <= 0 => {
            errors.push(Error::invalid(&at, q.to_string(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    class_name(spec, "storageClassName", path, errors);
    if let Some(mode) = spec["volumeMode"].as_str().filter(|m| !matches!(*m, "Block" | "Filesystem")) {
        let at = path.child("volumeMode");
        errors.push(Error::not_supported(&at, mode, &["Block", "Filesystem"]));
    }
    let lax = ["dataSource", "dataSourceRef"].iter().any(|s| !old[*s]["apiGroup"].is_null());
    for field in ["dataSource", "dataSourceRef"] {
        if spec[field].is_object() {
            data_source(&spec[field], lax, &path.child(field), errors);
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if source.is_object() && reference.is_object() {
        let differs = ["apiGroup", "kind", "name"].iter().any(|f| source[*f] != reference[*f]);
        let detail = match text(reference, "namespace").is_empty() {
            false => Some("may not be specified when dataSourceRef.namespace is specified"),
            true if differs => Some("must match dataSourceRef"),
            true => None,
        };
        // The path stands where the value should upstream, and shows nothing of itself.
        errors.extend(detail.map(|d| Error::invalid(path, json!({}), d)));
    }
    class_name(spec, "volumeAttributesClassName", path, errors);
}

fn data_source(s: &Value, lax: bool, path: &Path, errors: &mut ErrorList) {
    let (kind, group) = (text(s, "kind"), text(s, "apiGroup"));
    for field in ["name", "kind"] {
        crate::validate::required(s, field, path, errors);
    }
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(Error::invalid(path, kind, detail));
    }
    if !group.is_empty() && !lax {
        let messages = helpers::dns_subdomain_errors(group, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("apiGroup"), group, m)));
    }
    let ns = text(s, "namespace");
    if !ns.is_empty() {
        let messages = helpers::dns_label_errors(ns, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("namespace"), ns, m)));
    }
}

/// Errors of a change of a claim.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let (n, o) = (&new["spec"], &old["spec"]);
    spec(n, o, &path, &mut errors);
    let (mut now, mut was) = (n.clone(), o.clone());
    if text(o, "volumeName").is_empty() {
        keep(&mut was, n, "volumeName");
    }
    class_change(new, old, &mut now, &mut errors);
    if new["status"]["phase"] == "Bound" {
        let storage = &o["resources"]["requests"]["storage"];
        if now["resources"]["requests"].is_object()
            && let Some(requests) = map_at(&mut now, &["resources", "requests"])
        {
            requests.insert("storage".into(), storage.clone());
        }
        keep(&mut now, &was, "volumeAttributesClassName");
    }
    if now != was {
        let shown = internal::difference("PersistentVolumeClaimSpec", &was, &now);
        errors.push(Error::forbidden(&path, format!("{CHANGEABLE}\n{shown}")));
    }
    let size = |v: &Value| resources::quantity(&v["storage"]);
    let wanted = size(&n["resources"]["requests"]);
    if wanted < size(&o["resources"]["requests"]) && wanted <= size(&old["status"]["capacity"]) {
        let at = path.child("resources").child("requests").child("storage");
        errors.push(Error::forbidden(&at, "field can not be less than status.capacity"));
    }
    immutable(&n["volumeMode"], &o["volumeMode"], &Path::new("volumeMode"), &mut errors);
    let class = "volumeAttributesClassName";
    if n[class] != o[class] && !old["status"]["currentVolumeAttributesClassName"].is_null() {
        let to = match n[class].as_str() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return errors,
        };
        let detail =
            format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.push(Error::forbidden(&path.child(class), detail));
    }
    errors
}

/// The class may be named once where it was not, and move from the annotation to the field
/// (upstream: `validateStorageClassUpgradeFromAnnotation`, `validateStorageClassUpgradeFromNil`).
fn class_change(new: &Value, old: &Value, now: &mut Value, errors: &mut ErrorList) {
    let (n, o) = (&new["spec"]["storageClassName"], &old["spec"]["storageClassName"]);
    let annotation = |v| object::annotation(v, CLASS_ANNOTATION);
    let (had, has) = (annotation(old), annotation(new));
    let named_now = o.is_null() && n.is_string();
    if named_now && had.is_some() && n.as_str() == had && (has.is_none() || has == had) {
        now.as_object_mut().map(|m| m.remove("storageClassName"));
        return;
    }
    if had.unwrap_or("") != has.unwrap_or("") {
        let at = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        errors.push(Error::invalid(&at, has.unwrap_or(""), "field is immutable"));
    }
    if named_now && had.is_none_or(|had| n.as_str() == Some(had)) {
        now.as_object_mut().map(|m| m.remove("storageClassName"));
    }
}

/// Errors of a claim's new status.
pub fn status_update(new: &Value) -> ErrorList {
    let mut errors = Vec::new();
    if items(&new["spec"], "accessModes").is_empty() {
        errors.push(Error::required(&Path::new("Spec").child("accessModes"), ""));
    }
    let (path, status) = (Path::new("status"), &new["status"]);
    for (name, q) in resources::entries(&status["capacity"]) {
        resources::basic(&q, &path.child("capacity").key(name), &mut errors);
    }
    let at = path.child("healthStatus").child("healthConditions");
    for (i, c) in items(&status["healthStatus"], "healthConditions").iter().enumerate() {
        let (at, reason) = (at.index(i).child("reason"), text(c, "reason"));
        if !reason.is_empty() {
            errors.extend(reason_errors(reason).map(|m| Error::invalid(&at, reason, m)));
        }
    }
    let at = path.child("allocatedResourceStatuses");
    for (name, value) in status["allocatedResourceStatuses"].as_object().into_iter().flatten() {
        resource_key(name, &at, &mut errors);
        if !value.as_str().is_some_and(|v| RESIZE_STATUSES.contains(&v)) {
            errors.push(Error::not_supported(&at, name.as_str(), &RESIZE_STATUSES));
        }
    }
    let at = path.child("allocatedResources");
    for (name, q) in resources::entries(&status["allocatedResources"]) {
        if !resource_key(name, &at, &mut errors) {
            continue;
        }
        let at = at.key(name);
        if q.value() < 0 {
            resources::basic(&q, &at, &mut errors);
        } else {
            resources::value("storage", &q, &at, &mut errors);
        }
    }
    errors
}

/// Upstream: `validatePersistentVolumeClaimResourceKey`; `true` when all is well.
fn resource_key(name: &str, at: &Path, errors: &mut ErrorList) -> bool {
    let messages = helpers::qualified_name_errors(name);
    let before = errors.len();
    if !messages.is_empty() {
        errors.extend(messages.into_iter().map(|m| Error::invalid(at, name, m)));
    } else if resources::is_native(name) && name != "storage" {
        errors.push(Error::not_supported(at, name, &["storage"]));
    }
    errors.len() == before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(phase: &str) -> Value {
        json!({"metadata": {"name": "foo"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "v", "storageClassName": "s",
            "resources": {"requests": {"storage": "10G"}}}, "status": {"phase": phase, "capacity": {"storage": "5G"}}})
    }

    fn changed(phase: &str, change: impl Fn(&mut Value)) -> Vec<String> {
        let old = claim(phase);
        let mut new = old.clone();
        change(&mut new);
        update(&new, &old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn specs() {
        let mut errors = Vec::new();
        spec(&claim("Pending")["spec"], &Value::Null, &Path::new("spec"), &mut errors);
        assert_eq!(errors, []);
        let bad = json!({"dataSource": {"kind": "Foo", "name": "x"}, "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "x"}});
        spec(&bad, &Value::Null, &Path::new("spec"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
                "spec.dataSource: Invalid value: \"Foo\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                "spec: Invalid value: {}: must match dataSourceRef",
            ]
        );
    }

    #[test]
    fn bound_claims_grow_and_recover() {
        let resize =
            |to: &'static str| move |o: &mut Value| o["spec"]["resources"]["requests"]["storage"] = json!(to);
        assert!(changed("Bound", resize("20G")).is_empty());
        assert!(changed("Bound", resize("7G")).is_empty());
        assert_eq!(
            changed("Bound", resize("5G")),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        let shown = "@@ -6,7 +6,7 @@\n  \"Resources\": {\n   \"Limits\": null,\n   \"Requests\": {\n-   \"storage\": \"10G\"\n+   \"storage\": \"20G\"\n   }\n  },\n  \"VolumeName\": \"v\",\n";
        assert_eq!(changed("Pending", resize("20G")), [format!("spec: Forbidden: {CHANGEABLE}\n{shown}")]);
        assert_eq!(changed("Bound", |o| o["spec"]["accessModes"] = json!(["ReadOnlyMany"])).len(), 1);
        assert!(changed("Bound", |o| o["spec"]["volumeAttributesClassName"] = json!("gold")).is_empty());
        assert_eq!(changed("Pending", |o| o["spec"]["volumeAttributesClassName"] = json!("gold")).len(), 1);
    }

    #[test]
    fn a_class_is_named_once() {
        let mut old = claim("Pending");
        old["spec"].as_object_mut().unwrap().remove("storageClassName");
        assert_eq!(update(&claim("Pending"), &old), []);
        old["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "s"});
        assert_eq!(update(&claim("Pending"), &old), []);
        old["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "other"});
        assert_eq!(update(&claim("Pending"), &old).len(), 2);
    }

    #[test]
    fn statuses() {
        let mut o = claim("Bound");
        o["status"]["allocatedResourceStatuses"] = json!({"storage": "NodeResizePending", "cpu": "x"});
        o["status"]["allocatedResources"] = json!({"storage": "1G"});
        let texts: Vec<String> = status_update(&o).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts[0],
            "status.allocatedResourceStatuses: Unsupported value: \"cpu\": supported values: \"storage\""
        );
        assert_eq!(texts.len(), 2);
    }
}
