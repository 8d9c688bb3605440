//! Where a container finds its volumes (upstream: `ValidateVolumeMounts`, `ValidateVolumeDevices`).

use super::volumes::Volumes;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIONS: &[&str] = &["Disabled", "Enabled", "IfPossible"];

pub fn errors(c: &Value, volumes: &Volumes<'_>, at: &Path, errors: &mut ErrorList) {
    mounts(c, volumes, &at.child("volumeMounts"), errors);
    devices(c, volumes, &at.child("volumeDevices"), errors);
}

/// Whether one of a list has the text in a field, of those that are not hidden by a later one of the same name.
fn has(list: &[Value], field: &str, value: &str) -> bool {
    list.iter().enumerate().any(|(i, v)| {
        text(v, field) == value && !list[i + 1..].iter().any(|later| later["name"] == v["name"])
    })
}

fn mounts(c: &Value, volumes: &Volumes<'_>, all: &Path, errors: &mut ErrorList) {
    let devices = items(c, "volumeDevices");
    let mut targets: Vec<&str> = Vec::new();
    for (i, m) in items(c, "volumeMounts").iter().enumerate() {
        // upstream tells some fields without the mount's number
        let at = all.index(i);
        let (name, target) = (text(m, "name"), text(m, "mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if !volumes.has(name) {
            errors.push(Error::not_found(&at.child("name"), name));
        }
        if target.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if targets.contains(&target) {
            errors.push(Error::invalid(&at.child("mountPath"), target, "must be unique"));
        }
        targets.push(target);
        if has(devices, "name", name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(Error::invalid(&at.child("name"), name, detail));
        }
        if has(devices, "devicePath", target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(&at.child("mountPath"), target, detail));
        }
        let (sub, expression) = (text(m, "subPath"), text(m, "subPathExpr"));
        descending(sub, &all.child("subPath"), errors);
        if !expression.is_empty() && !sub.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(Error::invalid(&at.child("subPathExpr"), expression, detail));
        }
        descending(expression, &all.child("subPathExpr"), errors);
        propagation(m, c, &all.child("mountPropagation"), errors);
        recursion(m, &all.child("recursiveReadOnly"), errors);
    }
}

fn propagation(m: &Value, c: &Value, at: &Path, errors: &mut ErrorList) {
    let Some(mode) = m["mountPropagation"].as_str() else { return };
    if !PROPAGATIONS.contains(&mode) {
        errors.push(Error::not_supported(at, mode, PROPAGATIONS));
    }
    if mode == "Bidirectional" && c["securityContext"]["privileged"] != true {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(Error::forbidden(at, detail));
    }
}

/// Upstream: `validateMountRecursiveReadOnly`.
fn recursion(m: &Value, at: &Path, errors: &mut ErrorList) {
    match m["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if m["readOnly"] != true {
                errors.push(Error::forbidden(at, "may only be specified when readOnly is true"));
            }
            if m["mountPropagation"].as_str().is_some_and(|p| p != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(Error::forbidden(at, detail));
            }
        }
        Some(other) => errors.push(Error::not_supported(at, other, RECURSIONS)),
    }
}

fn devices(c: &Value, volumes: &Volumes<'_>, all: &Path, errors: &mut ErrorList) {
    let mounts = items(c, "volumeMounts");
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, d) in items(c, "volumeDevices").iter().enumerate() {
        let at = all.index(i);
        let (name, path) = (text(d, "name"), text(d, "devicePath"));
        let mut invalid = |field: &str, value: &str, detail: &str| {
            errors.push(Error::invalid(&at.child(field), value, detail));
        };
        let unique = "must be unique";
        if !name.is_empty() && names.contains(&name) {
            invalid("name", name, unique);
        }
        if paths.contains(&path) {
            invalid("devicePath", path, unique);
        }
        if path.split('/').any(|p| p == "..") {
            invalid("devicePath", path, "can not contain backsteps ('..')");
        } else {
            paths.push(path);
        }
        if has(mounts, "name", name) {
            invalid("name", name, "must not already exist in volumeMounts");
        }
        if has(mounts, "mountPath", path) {
            invalid("devicePath", path, "must not already exist as a path in volumeMounts");
        }
        match volumes.get(name) {
            None => errors.push(Error::not_found(&at.child("name"), name)),
            Some(v) if v["persistentVolumeClaim"].is_null() && v["ephemeral"].is_null() => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(Error::invalid(&at.child("name"), name, detail));
            }
            Some(_) => {}
        }
        for (field, value) in [("name", name), ("devicePath", path)] {
            if value.is_empty() {
                errors.push(Error::required(&at.child(field), ""));
            }
        }
        names.push(name);
    }
}

/// A relative path that stays below where it starts, in whatever way it begins (upstream: `validateLocalDescendingPath`).
pub fn descending(path: &str, at: &Path, errors: &mut ErrorList) {
    if path.starts_with('/') {
        errors.push(Error::invalid(at, path, "must be a relative path"));
    }
    no_backsteps(path, at, errors);
}

/// A relative path that stays below where it starts (upstream: `ValidateLocalNonReservedPath`).
pub fn local_path(path: &str, at: &Path, errors: &mut ErrorList) {
    descending(path, at, errors);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.push(Error::invalid(at, path, "must not start with '..'"));
    }
}

pub fn no_backsteps(path: &str, at: &Path, errors: &mut ErrorList) {
    if path.split('/').any(|p| p == "..") {
        errors.push(Error::invalid(at, path, "must not contain '..'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(c: Value) -> Vec<String> {
        let list = json!([{"name": "a", "emptyDir": {}}, {"name": "p", "persistentVolumeClaim": {"claimName": "c"}}]);
        let mut all = Vec::new();
        let volumes = Volumes::of(list.as_array().map(Vec::as_slice).unwrap_or_default());
        errors(&c, &volumes, &Path::root(), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateVolumeMounts`, `TestAlphaValidateVolumeDevices`.
    #[test]
    fn mounts_and_devices() {
        let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        assert!(found(json!({"volumeMounts": [mount("a", "/x")], "volumeDevices": [{"name": "p", "devicePath": "/d"}]})).is_empty());
        assert_eq!(
            found(json!({"volumeMounts": [mount("a", "/x"), mount("b", "/x")]})),
            [
                "volumeMounts[1].name: Not found: \"b\"",
                "volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique"
            ]
        );
        assert_eq!(
            found(
                json!({"volumeMounts": [{"name": "a", "mountPath": "/x", "subPath": "../y", "recursiveReadOnly": "Enabled"}]})
            ),
            [
                "volumeMounts.subPath: Invalid value: \"../y\": must not contain '..'",
                "volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"
            ]
        );
        assert_eq!(
            found(json!({"volumeDevices": [{"name": "a", "devicePath": "/d/.."}]})),
            [
                "volumeDevices[0].devicePath: Invalid value: \"/d/..\": can not contain backsteps ('..')",
                "volumeDevices[0].name: Invalid value: \"a\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            ]
        );
    }
}
