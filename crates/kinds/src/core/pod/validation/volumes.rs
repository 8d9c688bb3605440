//! Volumes of a pod (upstream: `ValidateVolumes`, `validateVolumeSource`).

mod projected;

use super::allowed::Allowed;
use super::env::{field_ref, resource_ref};
use super::mounts::local_path;
use super::security::id;
use crate::core::persistent_volume::sources;
use crate::core::persistent_volume_claim::validation as claims;
use crate::helpers::{dns_label_errors, dns_subdomain_errors, driver_name, qualified_name_errors};
use crate::resources::quantity;
use crate::validate::{items, labels, one_of, required, text, told};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// The sources in the order in which upstream looks at them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
/// Fields that a volume may show.
const FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// What the metadata of a claim's template may have.
const TEMPLATE_META: [&str; 2] = ["annotations", "labels"];
/// The longest `<volume>:<portal>` of an iSCSI volume with an initiator.
const ISCSI_MAX: usize = 64;

/// Volumes that mounts may use, by name.
pub struct Volumes<'a>(Vec<(&'a str, &'a Value)>);

impl<'a> Volumes<'a> {
    #[cfg(test)]
    pub fn of(list: &'a [Value]) -> Self {
        Self(list.iter().map(|v| (text(v, "name"), v)).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// Checks volumes and gives those without errors; `pod` is the Pod that has them, null in a template.
pub fn errors<'a>(
    volumes: &'a [Value],
    pod: &Value,
    allowed: &Allowed,
    path: &Path,
    errors: &mut ErrorList,
) -> Volumes<'a> {
    let mut good: Vec<(&str, &Value)> = Vec::new();
    let pod_name = object::name(pod);
    let made = |claim: &str| {
        !pod_name.is_empty()
            && volumes
                .iter()
                .any(|v| v["ephemeral"].is_object() && claim == format!("{pod_name}-{}", text(v, "name")))
    };
    for (i, v) in volumes.iter().enumerate() {
        let (at, name, before) = (path.index(i), text(v, "name"), errors.len());
        source(v, pod_name, allowed, &at, errors);
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else {
            told(name, dns_label_errors(name, false), &at.child("name"), errors);
        }
        if good.iter().any(|(n, _)| *n == name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        if errors.len() == before {
            good.push((name, v));
        }
        let claim = text(&v["persistentVolumeClaim"], "claimName");
        if made(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            let at = at.child("persistentVolumeClaim").child("claimName");
            errors.push(Error::invalid(&at, claim, detail));
        }
    }
    Volumes(good)
}

fn source(v: &Value, pod_name: &str, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    let name = text(v, "name");
    let mut found = false;
    for kind in SOURCES.iter().copied().filter(|s| v[*s].is_object()) {
        let s = &v[kind];
        if found {
            // upstream's words for these two
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                kind => kind,
            };
            errors.push(Error::forbidden(&at.child(shown), "may not specify more than 1 volume type"));
        } else {
            let path = at.child(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
            one(kind, s, allowed, &path, errors);
            if kind == "ephemeral" && !pod_name.is_empty() && !name.is_empty() {
                let claim = format!("{pod_name}-{name}");
                let messages = dns_subdomain_errors(&claim, false).into_iter();
                let messages = messages.map(|m| format!("PVC name {claim:?}: {m}")).collect();
                told(name, messages, &at.child("name"), errors);
            }
        }
        let length = name.len() + 1 + text(s, "targetPortal").len();
        if kind == "iscsi" && s["initiatorName"].is_string() && length > ISCSI_MAX {
            let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            errors.push(Error::invalid(&at.child("name"), name, detail));
        }
        found = true;
    }
    if !found {
        errors.push(Error::required(at, "must specify a volume type"));
    }
}

fn one(kind: &str, s: &Value, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    let mut need = |fields: &[&str]| fields.iter().for_each(|f| required(s, f, at, errors));
    match kind {
        "emptyDir" => {
            if quantity(&s["sizeLimit"]).sign() < 0 {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(Error::forbidden(&at.child("sizeLimit"), detail));
            }
        }
        "gitRepo" => {
            need(&["repository"]);
            super::mounts::descending(text(s, "directory"), &at.child("directory"), errors);
        }
        "secret" | "configMap" => {
            need(&[if kind == "secret" { "secretName" } else { "name" }]);
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            id(&s["defaultUser"], &at.child("defaultUser"), errors);
            keys(s, at, errors);
        }
        "downwardAPI" => {
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            id(&s["defaultUser"], &at.child("defaultUser"), errors);
            items(s, "items").iter().for_each(|file| downward_file(file, at, errors));
        }
        "projected" => projected::errors(s, allowed, at, errors),
        "persistentVolumeClaim" => need(&["claimName"]),
        "iscsi" => iscsi(s, at, errors),
        "glusterfs" => need(&["endpoints", "path"]),
        "azureFile" => need(&["secretName", "shareName"]),
        "cinder" => {
            need(&["volumeID"]);
            named_secret(s, at, errors);
        }
        "storageos" => {
            need(&["volumeName"]);
            for field in ["volumeName", "volumeNamespace"].into_iter().filter(|f| !text(s, f).is_empty()) {
                told(text(s, field), dns_label_errors(text(s, field), false), &at.child(field), errors);
            }
            named_secret(s, at, errors);
        }
        "csi" => csi(s, at, errors),
        "ephemeral" => ephemeral(s, at, errors),
        "image" => {
            if !allowed.empty_images {
                need(&["reference"]);
            }
            pull_policy(s, "pullPolicy", at, errors);
        }
        other => sources::one(other, s, "", at, errors),
    }
}

/// How images are pulled.
pub fn pull_policy(holder: &Value, field: &str, at: &Path, errors: &mut ErrorList) {
    required(holder, field, at, errors);
    one_of(holder, field, at, &["Always", "IfNotPresent", "Never"], errors);
}

fn named_secret(s: &Value, at: &Path, errors: &mut ErrorList) {
    if s["secretRef"].is_object() {
        required(&s["secretRef"], "name", &at.child("secretRef"), errors);
    }
}

fn iscsi(s: &Value, at: &Path, errors: &mut ErrorList) {
    required(s, "targetPortal", at, errors);
    required(s, "iqn", at, errors);
    let iqn = text(s, "iqn");
    for (field, value) in
        [("iqn", Some(iqn).filter(|i| !i.is_empty())), ("initiatorname", s["initiatorName"].as_str())]
    {
        let Some(value) = value.filter(|v| !sources::is_initiator(v)) else { continue };
        let known = ["iqn", "eui", "naa"].iter().any(|p| value.starts_with(p));
        let detail = if known {
            "must be valid format"
        } else {
            "must be valid format starting with iqn, eui, or naa"
        };
        errors.push(Error::invalid(&at.child(field), value, detail));
    }
    if let Some(n) = s["lun"].as_i64().filter(|n| !(0..=255).contains(n)) {
        errors.push(Error::invalid(&at.child("lun"), n, "must be between 0 and 255, inclusive"));
    }
    let authenticates = s["chapAuthDiscovery"] == true || s["chapAuthSession"] == true;
    if authenticates && s["secretRef"].is_null() {
        errors.push(Error::required(&at.child("secretRef"), ""));
    }
}

fn csi(s: &Value, at: &Path, errors: &mut ErrorList) {
    driver_name(text(s, "driver"), &at.child("driver"), errors);
    let secret = &s["nodePublishSecretRef"];
    if secret.is_object() {
        required(secret, "name", &at.child("nodePublishSecretRef"), errors);
        let name = text(secret, "name");
        if !name.is_empty() {
            told(name, dns_subdomain_errors(name, false), &at.child("name"), errors);
        }
    }
}

/// A claim that is made with the pod (upstream: `ValidatePersistentVolumeClaimTemplate`).
fn ephemeral(s: &Value, at: &Path, errors: &mut ErrorList) {
    let (template, at) = (&s["volumeClaimTemplate"], at.child("volumeClaimTemplate"));
    if template.is_null() {
        errors.push(Error::required(&at, ""));
        return;
    }
    let (meta, path) = (&template["metadata"], at.child("metadata"));
    annotations(&meta["annotations"], &path.child("annotations"), errors);
    labels(&meta["labels"], &path.child("labels"), errors);
    let others = meta.as_object().into_iter().flatten().filter(|(k, v)| {
        let empty = v.is_null() || v == &&Value::from("") || v == &&Value::from(0);
        !TEMPLATE_META.contains(&k.as_str()) && !empty
    });
    errors.extend(others.map(|(field, _)| Error::forbidden(&path.child(&go_name(field)), "cannot be set")));
    claims::spec(&template["spec"], &Value::Null, &at.child("spec"), errors);
}

/// A field as Go's struct has it, but for its first letter.
fn go_name(field: &str) -> String {
    if field == "uid" { "uID".to_owned() } else { field.to_owned() }
}

/// Annotations (upstream: `ValidateAnnotations`).
pub fn annotations(map: &Value, at: &Path, errors: &mut ErrorList) {
    /// Most bytes of all keys and values.
    const BYTES_MAX: usize = 256 * 1024;
    let mut bytes = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        told(key, qualified_name_errors(&key.to_lowercase()), at, errors);
    }
    if bytes > BYTES_MAX {
        errors.push(Error::too_long(at, BYTES_MAX));
    }
}

fn keys(s: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, item) in items(s, "items").iter().enumerate() {
        key_to_path(item, &at.child("items").index(i), errors);
    }
}

fn key_to_path(item: &Value, at: &Path, errors: &mut ErrorList) {
    required(item, "key", at, errors);
    required(item, "path", at, errors);
    local_path(text(item, "path"), &at.child("path"), errors);
    mode(&item["mode"], &at.child("mode"), errors);
}

/// A file that shows something of the pod. Upstream tells its path without the file's number.
fn downward_file(file: &Value, at: &Path, errors: &mut ErrorList) {
    required(file, "path", at, errors);
    local_path(text(file, "path"), &at.child("path"), errors);
    let (field, resource) = (&file["fieldRef"], &file["resourceFieldRef"]);
    if field.is_object() {
        field_ref(field, FIELDS, &at.child("fieldRef"), errors);
        if resource.is_object() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(Error::invalid(at, "resource", detail));
        }
    } else if resource.is_object() {
        resource_ref(resource, true, &at.child("resourceFieldRef"), errors);
    } else {
        errors.push(Error::required(at, "one of fieldRef and resourceFieldRef is required"));
    }
    mode(&file["mode"], &at.child("mode"), errors);
}

fn mode(v: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(n) = v.as_i64().filter(|n| !(0..=0o777).contains(n)) {
        errors.push(Error::invalid(at, n, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// Variables from files are in volumes that live as long as the pod (upstream: `validateFileKeyRefVolumes`).
pub fn of_files(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (c, at) in super::containers::all(spec, path) {
        for (i, e) in items(c, "env").iter().enumerate() {
            let reference = &e["valueFrom"]["fileKeyRef"];
            if !reference.is_object() {
                continue;
            }
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            let name = text(reference, "volumeName");
            match items(spec, "volumes").iter().rfind(|v| text(v, "name") == name) {
                None => errors.push(Error::not_found(&at, name)),
                Some(v) if v["emptyDir"].is_null() => {
                    errors.push(Error::invalid(&at, name, "referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(list: Value) -> Vec<String> {
        let mut all = Vec::new();
        let pod = json!({"metadata": {"name": "pod"}});
        errors(list.as_array().unwrap(), &pod, &Allowed::default(), &Path::new("v"), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateVolumes`.
    #[test]
    fn sources_of_volumes() {
        let good = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "csi": {"driver": "x.y"}},
            {"name": "c", "image": {"reference": "i", "pullPolicy": "Always"}}]);
        assert!(found(good).is_empty());
        let cases = [
            (json!({"name": "a"}), vec!["v[0]: Required value: must specify a volume type"]),
            (
                json!({"name": "a", "emptyDir": {}, "cephfs": {"monitors": ["m"]}}),
                vec!["v[0].cephFS: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                json!({"name": "a", "gcePersistentDisk": {"pdName": "", "partition": 300}}),
                vec![
                    "v[0].persistentDisk.pdName: Required value",
                    "v[0].persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive",
                ],
            ),
            (
                json!({"name": "a", "downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
                vec!["v[0].downwardAPI.resourceFieldRef.containerName: Required value"],
            ),
            (
                json!({"name": "a", "iscsi": {"targetPortal": "p", "iqn": "x"}}),
                vec![
                    "v[0].iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                ],
            ),
            (
                json!({"name": "a", "ephemeral": {}}),
                vec!["v[0].ephemeral.volumeClaimTemplate: Required value"],
            ),
        ];
        for (volume, messages) in cases {
            assert_eq!(found(json!([volume])), messages, "{volume}");
        }
    }

    #[test]
    fn claims_that_are_made_with_the_pod_are_not_named() {
        let template =
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}});
        let list = json!([{"name": "a", "ephemeral": {"volumeClaimTemplate": template}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "pod-a"}}]);
        assert_eq!(
            found(list),
            [
                "v[1].persistentVolumeClaim.claimName: Invalid value: \"pod-a\": must not reference a PVC that gets created for an ephemeral volume"
            ]
        );
    }
}
