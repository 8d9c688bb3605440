//! What an update of a Job may change (upstream: `ValidateJobSpecUpdate`, `validatePodTemplateUpdate`).

use super::condition;
use crate::rest::keep as copy;
use crate::validate::{immutable, items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Errors of a change of the spec.
pub fn errors(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (spec, was, at) = (&new["spec"], &old["spec"], Path::new("spec"));
    completions(spec, was, &at, errors);
    immutable(&spec["selector"], &was["selector"], &at.child("selector"), errors);
    template(new, old, &at, errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(&spec[field], &was[field], &at.child(field), errors);
    }
}

/// Indexed Jobs may grow and shrink when parallelism goes along (upstream: `validateCompletions`).
fn completions(new: &Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let path = at.child("completions");
    if new["completionMode"] != "Indexed" {
        immutable(&new["completions"], &old["completions"], &path, errors);
        return;
    }
    let n = &new["completions"];
    if *n != old["completions"] && !n.is_null() && *n != new["parallelism"] {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(Error::invalid(&path, n.clone(), detail));
    }
}

/// A Job that is suspended and has no pods may be scheduled otherwise and given other resources.
fn template(new: &Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let suspended = old["spec"]["suspend"] == true;
    let idle = old["status"]["active"].as_i64().unwrap_or(0) == 0;
    let stopped = old["status"]["startTime"].is_null() || condition(old, "Suspended");
    let (template, mut was) = (&new["spec"]["template"], old["spec"]["template"].clone());
    let path = at.child("template");
    if !(suspended && stopped && idle) {
        immutable(template, &was, &path, errors);
        return;
    }
    for field in ["annotations", "labels"] {
        copy(&mut was["metadata"], &template["metadata"], field);
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(&mut was["spec"], &template["spec"], field);
    }
    node_affinity(&mut was["spec"], &template["spec"]);
    for list in ["containers", "initContainers"] {
        resources(&mut was["spec"], &template["spec"], list);
    }
    immutable(&template["spec"], &was["spec"], &path.child("spec"), errors);
}

/// The node affinity may be another one; the affinity goes away with it when it was nothing else.
fn node_affinity(was: &mut Value, new: &Value) {
    let wanted = &new["affinity"];
    if wanted.is_null() {
        if let Some(affinity) = was.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.remove("nodeAffinity");
            if affinity.is_empty() {
                copy(was, new, "affinity");
            }
        }
        return;
    }
    if was["affinity"].is_null() {
        was["affinity"] = serde_json::json!({});
    }
    copy(&mut was["affinity"], wanted, "nodeAffinity");
}

fn resources(was: &mut Value, new: &Value, list: &str) {
    let wanted = items(new, list);
    let Some(all) = was.get_mut(list).and_then(Value::as_array_mut).filter(|l| l.len() == wanted.len())
    else {
        return;
    };
    for (container, wanted) in all.iter_mut().zip(wanted) {
        if text(container, "name") == text(wanted, "name") {
            copy(container, wanted, "resources");
        }
    }
}
