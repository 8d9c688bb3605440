//! Validation of PersistentVolumes (upstream: `ValidatePersistentVolumeSpec`, `ValidatePersistentVolumeUpdate`).

use super::{MOUNT_OPTIONS_ANNOTATION, sources};
use crate::helpers;
use crate::internal;
use crate::node_selector::{self, Values};
use crate::resources;
use crate::rest::keep;
use crate::validate::{immutable, items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

const INLINE: &str = "may not be specified in the context of inline volumes";
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Sources that take mount options from an annotation.
const MOUNTABLE: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

/// Labels of nodes by their names of beta times.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Errors of a volume.
pub fn volume(obj: &Value) -> ErrorList {
    let mut errors = Vec::new();
    spec(&obj["spec"], object::name(obj), false, &Path::new("spec"), &mut errors);
    let mountable = MOUNTABLE.iter().any(|s| obj["spec"][*s].is_object());
    if !mountable && object::annotation(obj, MOUNT_OPTIONS_ANNOTATION).is_some() {
        let at = Path::new("metadata").child("annotations").child(MOUNT_OPTIONS_ANNOTATION);
        errors.push(Error::forbidden(&at, "may not specify mount options for this volume type"));
    }
    errors
}

/// Errors of a change of a volume.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = volume(new);
    spec(&new["spec"], object::name(new), false, &Path::new("spec"), &mut errors);
    let (mut n, o) = (new["spec"].clone(), &old["spec"]);
    let secret = "controllerExpandSecretRef";
    if o["csi"].is_object() && o["csi"][secret].is_null() && n["csi"].is_object() {
        keep(&mut n["csi"], &o["csi"], secret);
    }
    if sources::NAMES.iter().any(|s| n[*s] != o[*s]) {
        let at = Path::new("spec").child("persistentvolumesource");
        let difference = internal::difference("PersistentVolumeSource", o, &n);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
        errors.push(Error::forbidden(&at, detail));
    }
    immutable(&n["volumeMode"], &o["volumeMode"], &Path::new("volumeMode"), &mut errors);
    let affinity = &n["nodeAffinity"];
    if !o["nodeAffinity"].is_null() && !same_affinity(affinity, &o["nodeAffinity"]) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.push(Error::invalid(&Path::new("nodeAffinity"), affinity.clone(), detail));
    }
    let class = "volumeAttributesClassName";
    if !o[class].is_null() && n[class].is_null() {
        let at = Path::new("spec").child(class);
        errors.push(Error::forbidden(&at, "update from non-nil value to nil is forbidden"));
    }
    errors
}

/// Whether two affinities ask for the same, when old labels are called as they are now (upstream:
/// `validatePvNodeAffinity`).
fn same_affinity(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(n), Value::Object(o)) => {
            let renamed = RENAMED.iter().any(|(was, is)| old["key"] == *was && new["key"] == *is);
            n.keys().chain(o.keys()).all(|k| renamed && k == "key" || same_affinity(&new[k], &old[k]))
        }
        (Value::Array(n), Value::Array(o)) => {
            n.len() == o.len() && n.iter().zip(o).all(|(n, o)| same_affinity(n, o))
        }
        _ => new == old,
    }
}

/// Access modes of a volume or claim.
pub fn access_modes(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("accessModes");
    let (mut once_per_pod, mut other) = (false, false);
    for mode in items(spec, "accessModes").iter().filter_map(Value::as_str) {
        let known = ACCESS_MODES.contains(&mode);
        if !known {
            errors.push(Error::not_supported(&at, mode, &ACCESS_MODES));
        }
        once_per_pod |= mode == "ReadWriteOncePod";
        other |= known && mode != "ReadWriteOncePod";
    }
    if once_per_pod && other {
        errors.push(Error::forbidden(&at, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// The name of a class in a field.
pub fn class_name(spec: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    let name = text(spec, field);
    if !name.is_empty() {
        let messages = helpers::dns_subdomain_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child(field), name, m)));
    }
}

/// Errors of a volume's spec; `inline` for one within a VolumeAttachment.
pub fn spec(spec: &Value, name: &str, inline: bool, path: &Path, errors: &mut ErrorList) {
    let forbid = |field: &str| Error::forbidden(&path.child(field), INLINE);
    if inline {
        let lists = [("claimRef", spec["claimRef"].is_object()), ("capacity", !empty_map(&spec["capacity"]))];
        errors.extend(lists.iter().filter(|l| l.1).map(|l| forbid(l.0)));
        if spec["csi"].is_null() {
            let detail = "has to be specified in the context of inline volumes";
            errors.push(Error::required(&path.child("csi"), detail));
        }
    }
    if items(spec, "accessModes").is_empty() {
        errors.push(Error::required(&path.child("accessModes"), ""));
    }
    access_modes(spec, path, errors);
    if !inline {
        capacity(&spec["capacity"], &path.child("capacity"), errors);
    }
    reclaim_policy(spec, inline, path, errors);
    let affinity = &spec["nodeAffinity"];
    let mut has_affinity = false;
    if affinity.is_object() {
        if inline {
            errors.push(forbid("nodeAffinity"));
        } else {
            has_affinity = true;
            let at = path.child("nodeAffinity").child("required");
            if affinity["required"].is_object() {
                node_selector::validate(&affinity["required"], Values::Labels, &at, errors);
            } else {
                errors.push(Error::required(&at, "must specify required node constraints"));
            }
        }
    }
    sources::validate(spec, name, has_affinity, path, errors);
    let root = clean(text(&spec["hostPath"], "path")) == "/";
    if spec["hostPath"].is_object() && root && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), detail));
    }
    if inline && !text(spec, "storageClassName").is_empty() {
        errors.push(forbid("storageClassName"));
    } else if !inline {
        class_name(spec, "storageClassName", path, errors);
    }
    volume_mode(spec, inline, path, errors);
    // Inline volumes are checked without classes of attributes.
    if !inline && spec["volumeAttributesClassName"].is_string() {
        attributes_class(spec, path, errors);
    }
}

fn empty_map(v: &Value) -> bool {
    v.as_object().is_none_or(serde_json::Map::is_empty)
}

/// A path without repeated slashes and dots, as far as it matters for being the root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    if path.starts_with('/') { format!("/{}", parts.join("/")) } else { parts.join("/") }
}

fn capacity(list: &Value, path: &Path, errors: &mut ErrorList) {
    if empty_map(list) {
        errors.push(Error::required(path, ""));
    }
    if list["storage"].is_null() || list.as_object().is_some_and(|m| m.len() > 1) {
        errors.push(Error::not_supported(path, list.clone(), &["storage"]));
    }
    for (name, q) in resources::entries(list) {
        let at = path.key(name);
        resources::basic(&q, &at, errors);
        if q.sign() <= 0 {
            errors.push(Error::invalid(&at, q.to_string(), "must be greater than zero"));
        }
    }
}

fn reclaim_policy(spec: &Value, inline: bool, path: &Path, errors: &mut ErrorList) {
    let at = path.child("persistentVolumeReclaimPolicy");
    match text(spec, "persistentVolumeReclaimPolicy") {
        "" | "Retain" => {}
        _ if inline => {
            errors.push(Error::forbidden(&at, "may only be Retain in the context of inline volumes"));
        }
        "Delete" | "Recycle" => {}
        other => errors.push(Error::not_supported(&at, other, &["Delete", "Recycle", "Retain"])),
    }
}

fn volume_mode(spec: &Value, inline: bool, path: &Path, errors: &mut ErrorList) {
    let at = path.child("volumeMode");
    match spec["volumeMode"].as_str() {
        None | Some("Filesystem") => {}
        Some(_) if inline => {
            let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.push(Error::forbidden(&at, detail));
        }
        Some("Block") => {}
        Some(other) => errors.push(Error::not_supported(&at, other, &["Block", "Filesystem"])),
    }
}

fn attributes_class(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let field = "volumeAttributesClassName";
    if text(spec, field).is_empty() {
        errors.push(Error::required(&path.child(field), "an empty string is disallowed"));
    }
    class_name(spec, field, path, errors);
    if spec["csi"].is_null() {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.push(Error::required(&path.child("csi"), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut obj = json!({"metadata": {"name": "foo"}, "spec": {"capacity": {"storage": "10G"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/foo", "type": "DirectoryOrCreate"}, "persistentVolumeReclaimPolicy": "Retain"}});
        change(&mut obj);
        volume(&obj).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn affinities_only_get_the_new_names_of_labels() {
        let affinity = |key: &str| {
            let terms = json!([{"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]}]);
            json!({"required": {"nodeSelectorTerms": terms}})
        };
        let (old, new) = (affinity("beta.kubernetes.io/os"), affinity("kubernetes.io/os"));
        assert!(same_affinity(&new, &old) && same_affinity(&old, &old));
        assert!(!same_affinity(&old, &new) && !same_affinity(&affinity("x"), &old));
        assert!(!same_affinity(&Value::Null, &old));
    }

    #[test]
    fn volumes() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
        assert_eq!(
            found(|o| o["spec"]["accessModes"] = json!(["fakemode"])),
            [
                "spec.accessModes: Unsupported value: \"fakemode\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\""
            ]
        );
        assert_eq!(found(|o| o["spec"]["capacity"] = json!({"storage": "10G", "cpu": "1"})).len(), 1);
        assert_eq!(found(|o| o["spec"]["capacity"] = json!({})).len(), 2);
        assert_eq!(
            found(|o| o["spec"]["nfs"] = json!({"server": "s", "path": "/p"})),
            ["spec.nfs: Forbidden: may not specify more than 1 volume type"]
        );
        assert_eq!(
            found(|o| {
                o["spec"]["hostPath"]["path"] = json!("/a/..");
                o["spec"]["persistentVolumeReclaimPolicy"] = json!("Recycle");
            }),
            [
                "spec.hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"
            ]
        );
        assert_eq!(
            found(|o| o["spec"]["volumeAttributesClassName"] = json!("gold")),
            ["spec.csi: Required value: has to be specified when using volumeAttributesClassName"]
        );
        assert_eq!(
            found(|o| {
                o["spec"].as_object_mut().unwrap().remove("hostPath");
                o["spec"]["local"] = json!({"path": "/foo"});
            }),
            ["spec.nodeAffinity: Required value: Local volume requires node affinity"]
        );
    }

    #[test]
    fn a_source_does_not_change() {
        let old = json!({"metadata": {"name": "foo"}, "spec": {"capacity": {"storage": "1G"}, "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d", "volumeHandle": "v"}}});
        let mut new = old.clone();
        new["spec"]["csi"]["controllerExpandSecretRef"] = json!({"name": "n", "namespace": "m"});
        assert_eq!(update(&new, &old), []);
        assert_eq!(update(&old, &new).len(), 1);
    }
}
