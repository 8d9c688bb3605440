//! Validation of pods and templates (upstream: `pkg/apis/core/validation/validation.go`).

mod containers;
mod ephemeral;
mod resize_policy;
mod spec;
mod volumes;

use crate::validate::{items, labels, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Errors of a Pod about to be created.
pub fn pod(obj: &Value) -> ErrorList {
    let mut errors = existing(obj);
    if !items(&obj["spec"], "ephemeralContainers").is_empty() {
        let at = Path::new("spec").child("ephemeralContainers");
        errors.push(Error::forbidden(&at, "cannot be set on create"));
    }
    errors
}

/// Errors of a Pod as a whole, whenever it was made (upstream: `validatePodMetadataAndSpec`).
pub fn existing(obj: &Value) -> ErrorList {
    let mut errors = spec::errors(&obj["spec"], &Path::new("spec"), true);
    annotations(obj, &mut errors);
    errors
}

fn annotations(obj: &Value, errors: &mut ErrorList) {
    let at = Path::new("metadata").child("annotations");
    if let Some(source) = object::annotation(obj, "kubernetes.io/config.mirror")
        && source.is_empty()
    {
        errors.push(Error::invalid(&at.key("kubernetes.io/config.mirror"), source, "must not be empty"));
    }
}

/// Errors of a pod template.
pub fn template(template: &Value, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    labels(&template["metadata"]["labels"], &path.child("labels"), &mut errors);
    errors.extend(spec::errors(&template["spec"], &path.child("spec"), false));
    if !items(&template["spec"], "ephemeralContainers").is_empty() {
        let at = path.child("spec").child("ephemeralContainers");
        errors.push(Error::forbidden(&at, "ephemeral containers not allowed in pod template"));
    }
    errors
}

/// Fields of a pod's spec that an update may change; everything else is fixed at creation.
const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Errors of an update of the pod itself (upstream: `ValidatePodUpdate`).
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = spec::errors(&new["spec"], &path, true);
    let mut munged = new["spec"].clone();
    for list in ["containers", "initContainers"] {
        let (n, o) = (items(&new["spec"], list), items(&old["spec"], list));
        if n.len() != o.len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(Error::forbidden(&path.child(list), detail));
            return errors;
        }
        for (i, was) in o.iter().enumerate() {
            if text(&n[i], "image").is_empty() {
                errors.push(Error::required(&path.child(list).index(i).child("image"), ""));
            }
            munged[list][i]["image"] = was["image"].clone();
        }
    }
    deadline(new, old, &mut munged, &mut errors);
    tolerations(new, old, &mut munged, &mut errors);
    gates(new, old, &mut munged, &mut errors);
    let was_negative = old["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0);
    if was_negative && new["spec"]["terminationGracePeriodSeconds"] == 1 {
        munged["terminationGracePeriodSeconds"] = old["spec"]["terminationGracePeriodSeconds"].clone();
    }
    let gated = !items(&old["spec"], "schedulingGates").is_empty();
    if gated {
        // A gated pod may still narrow where it can go.
        restore(&mut munged, &old["spec"], "nodeSelector");
        restore(&mut munged, &old["spec"], "affinity");
    }
    if munged != old["spec"] {
        errors.push(Error::forbidden(&path, CHANGEABLE));
    }
    errors
}

fn restore(munged: &mut Value, old: &Value, field: &str) {
    if let Some(map) = munged.as_object_mut() {
        match old.get(field) {
            Some(v) => drop(map.insert(field.to_owned(), v.clone())),
            None => drop(map.remove(field)),
        }
    }
}

/// A deadline may be set and brought nearer.
fn deadline(new: &Value, old: &Value, munged: &mut Value, errors: &mut ErrorList) {
    let at = Path::new("spec").child("activeDeadlineSeconds");
    let (n, o) =
        (new["spec"]["activeDeadlineSeconds"].as_i64(), old["spec"]["activeDeadlineSeconds"].as_i64());
    match (n, o) {
        (Some(n), Some(o)) if n > o => {
            errors.push(Error::invalid(&at, n, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => errors.push(Error::invalid(
            &at,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
    restore(munged, &old["spec"], "activeDeadlineSeconds");
}

/// Tolerations may only be added.
fn tolerations(new: &Value, old: &Value, munged: &mut Value, errors: &mut ErrorList) {
    let (n, o) = (items(&new["spec"], "tolerations"), items(&old["spec"], "tolerations"));
    let same_but_seconds = |a: &Value, b: &Value| {
        let strip = |v: &Value| {
            let mut v = v.clone();
            v.as_object_mut().map(|m| m.remove("tolerationSeconds"));
            v
        };
        strip(a) == strip(b)
    };
    if o.iter().any(|was| !n.iter().any(|is| same_but_seconds(is, was))) {
        let at = Path::new("spec").child("tolerations");
        errors.push(Error::forbidden(
            &at,
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    restore(munged, &old["spec"], "tolerations");
}

/// Scheduling gates may only be removed.
fn gates(new: &Value, old: &Value, munged: &mut Value, errors: &mut ErrorList) {
    let (n, o) = (items(&new["spec"], "schedulingGates"), items(&old["spec"], "schedulingGates"));
    let at = Path::new("spec").child("schedulingGates");
    for (i, gate) in n.iter().enumerate() {
        if !o.contains(gate) {
            let detail = "only deletion is allowed, but found new scheduling gate";
            errors.push(Error::forbidden(
                &at.index(i).child("name"),
                format!("{detail} '{}'", text(gate, "name")),
            ));
        }
    }
    restore(munged, &old["spec"], "schedulingGates");
}

/// Errors of a status update (upstream: `ValidatePodStatusUpdate`).
pub fn status_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let (n, o) = (&new["status"], &old["status"]);
    if text(&new["spec"], "nodeName") != text(&old["spec"], "nodeName")
        && !text(&old["spec"], "nodeName").is_empty()
    {
        errors.push(Error::forbidden(&path.child("nodeName"), "may not be changed directly"));
    }
    let nominated = text(n, "nominatedNodeName");
    if !nominated.is_empty() {
        let messages = crate::helpers::dns_subdomain_errors(nominated, false);
        let at = path.child("nominatedNodeName");
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, nominated, m)));
    }
    let class = text(o, "qosClass");
    if !class.is_empty() && text(n, "qosClass") != class {
        errors.push(Error::invalid(&path.child("qosClass"), text(n, "qosClass"), "field is immutable"));
    }
    for (i, ip) in items(n, "podIPs").iter().enumerate() {
        let ip = text(ip, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let at = path.child("podIPs").index(i);
            errors.push(Error::invalid(
                &at,
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    }
    errors
}
