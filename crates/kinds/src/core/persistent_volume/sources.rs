//! Where a PersistentVolume's data is: exactly one of many sources
//! (upstream: `ValidatePersistentVolumeSpec` and the `validate…VolumeSource` functions).

use crate::helpers::{self, dns_label_errors, dns_subdomain_errors};
use crate::validate::{items, required, text};
use meta::field::{Error, ErrorList, Path};
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

/// The sources in the order in which upstream looks at them.
pub const NAMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const IN_BYTE: &str = "must be between 0 and 255, inclusive";
/// The longest `<volume>:<portal>` of an iSCSI volume with an initiator.
const ISCSI_MAX: usize = 64;

static IQN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$").ok());
static EUI: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^eui.[[:alnum:]]{16}$").ok());
static NAA: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^naa.[[:alnum:]]{32}$").ok());

/// Errors of the source of a volume's spec.
pub fn validate(spec: &Value, name: &str, has_affinity: bool, path: &Path, errors: &mut ErrorList) {
    let mut found = false;
    for source in NAMES.iter().filter(|s| spec[**s].is_object()) {
        let shown = if *source == "cephfs" { "cephFS" } else { source };
        if found && *source != "flexVolume" {
            errors.push(Error::forbidden(&path.child(shown), "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        let at = path.child(if *source == "gcePersistentDisk" { "persistentDisk" } else { source });
        one(source, &spec[*source], name, &at, errors);
        if *source == "local" && !has_affinity {
            let detail = "Local volume requires node affinity";
            errors.push(Error::required(&path.child("nodeAffinity"), detail));
        }
    }
    if !found {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

/// Errors of one source; those that pods have too need no name of a volume.
pub fn one(source: &str, s: &Value, name: &str, at: &Path, errors: &mut ErrorList) {
    let mut need = |fields: &[&str]| fields.iter().for_each(|f| required(s, f, at, errors));
    match source {
        "vsphereVolume" => need(&["volumePath"]),
        "photonPersistentDisk" => need(&["pdID"]),
        "portworxVolume" => need(&["volumeID"]),
        "scaleIO" => need(&["gateway", "system", "volumeName"]),
        "hostPath" => host_path(s, at, errors),
        "local" if text(s, "path").is_empty() => need(&["path"]),
        "local" => no_backsteps(text(s, "path"), &at.child("path"), errors),
        "gcePersistentDisk" => {
            need(&["pdName"]);
            partition(s, at, errors);
        }
        "awsElasticBlockStore" => {
            need(&["volumeID"]);
            partition(s, at, errors);
        }
        "glusterfs" => {
            need(&["endpoints", "path"]);
            gluster_namespace(s, at, errors);
        }
        "flocker" => flocker(s, at, errors),
        "nfs" => {
            need(&["server", "path"]);
            let path = text(s, "path");
            if !path.starts_with('/') {
                errors.push(Error::invalid(&at.child("path"), path, "must be an absolute path"));
            }
        }
        "rbd" | "cephfs" => {
            if items(s, "monitors").is_empty() {
                errors.push(Error::required(&at.child("monitors"), ""));
            }
            if source == "rbd" {
                required(s, "image", at, errors);
            }
        }
        "quobyte" => quobyte(s, at, errors),
        "iscsi" => iscsi(s, name, at, errors),
        "cinder" => {
            need(&["volumeID"]);
            named_secret(s, at, errors);
        }
        "fc" => fibre_channel(s, at, errors),
        "flexVolume" => flex(s, at, errors),
        "azureFile" => {
            need(&["secretName", "shareName"]);
            if s["secretNamespace"] == "" {
                errors.push(Error::required(&at.child("secretNamespace"), ""));
            }
        }
        "azureDisk" => azure_disk(s, at, errors),
        "storageos" => storage_os(s, at, errors),
        "csi" => csi(s, at, errors),
        _ => {}
    }
}

fn host_path(s: &Value, at: &Path, errors: &mut ErrorList) {
    required(s, "path", at, errors);
    let path = text(s, "path");
    if path.is_empty() {
        return;
    }
    no_backsteps(path, &at.child("path"), errors);
    let kind = text(s, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(Error::not_supported(&at.child("type"), kind, &HOST_PATH_TYPES));
    }
}

fn no_backsteps(path: &str, at: &Path, errors: &mut ErrorList) {
    if path.split('/').any(|p| p == "..") {
        errors.push(Error::invalid(at, path, "must not contain '..'"));
    }
}

fn partition(s: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(n) = s["partition"].as_i64().filter(|n| !(0..=255).contains(n)) {
        errors.push(Error::invalid(&at.child("partition"), n, "must be between 1 and 255, inclusive"));
    }
}

fn gluster_namespace(s: &Value, at: &Path, errors: &mut ErrorList) {
    let Some(ns) = s["endpointsNamespace"].as_str() else { return };
    let at = at.child("endpointsNamespace");
    if ns.is_empty() {
        let detail = "if the endpointnamespace is set, it must be a valid namespace name";
        errors.push(Error::invalid(&at, ns, detail));
    } else {
        errors.extend(dns_label_errors(ns, false).into_iter().map(|m| Error::invalid(&at, ns, m)));
    }
}

fn flocker(s: &Value, at: &Path, errors: &mut ErrorList) {
    let name = text(s, "datasetName");
    match (name.is_empty(), text(s, "datasetUUID").is_empty()) {
        (true, true) => errors.push(Error::required(at, "one of datasetName and datasetUUID is required")),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(Error::invalid(at, "resource", detail));
        }
        _ => {}
    }
    if name.contains('/') {
        errors.push(Error::invalid(&at.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(s: &Value, at: &Path, errors: &mut ErrorList) {
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(s, "registry");
    if registry.is_empty() {
        errors.push(Error::required(&at.child("registry"), detail));
    } else if text(s, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(Error::required(&at.child("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|p| !is_host_port(p)) {
            errors.push(Error::invalid(&at.child("registry"), registry, detail));
        }
    }
    required(s, "volume", at, errors);
}

fn is_host_port(pair: &str) -> bool {
    match pair.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").is_some_and(|(h, p)| !h.contains('[') && !p.contains([':', ']'])),
        None => pair.split_once(':').is_some_and(|(h, p)| !p.contains(':') && !h.contains([']', '['])),
    }
}

pub fn is_initiator(name: &str) -> bool {
    let pattern = match name.get(..3) {
        Some("iqn") => &IQN,
        Some("eui") => &EUI,
        Some("naa") => &NAA,
        _ => return false,
    };
    pattern.as_ref().is_some_and(|p| p.is_match(name))
}

fn iscsi(s: &Value, name: &str, at: &Path, errors: &mut ErrorList) {
    required(s, "targetPortal", at, errors);
    let portal = text(s, "targetPortal");
    let initiator = s["initiatorName"].as_str();
    if initiator.is_some() && name.len() + 1 + portal.len() > ISCSI_MAX {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(Error::invalid(&at.child("targetportal"), portal, detail));
    }
    required(s, "iqn", at, errors);
    let iqn = text(s, "iqn");
    if !iqn.is_empty() && !is_initiator(iqn) {
        errors.push(Error::invalid(&at.child("iqn"), iqn, "must be valid format"));
    }
    if let Some(n) = s["lun"].as_i64().filter(|n| !(0..=255).contains(n)) {
        errors.push(Error::invalid(&at.child("lun"), n, IN_BYTE));
    }
    let authenticates = s["chapAuthDiscovery"] == true || s["chapAuthSession"] == true;
    if s["secretRef"].is_object() {
        required(&s["secretRef"], "name", &at.child("secretRef"), errors);
    } else if authenticates {
        errors.push(Error::required(&at.child("secretRef"), ""));
    }
    if let Some(initiator) = initiator.filter(|i| !is_initiator(i)) {
        errors.push(Error::invalid(&at.child("initiatorname"), initiator, "must be valid format"));
    }
}

fn named_secret(s: &Value, at: &Path, errors: &mut ErrorList) {
    if s["secretRef"].is_object() {
        let at = at.child("secretRef");
        required(&s["secretRef"], "name", &at, errors);
        required(&s["secretRef"], "namespace", &at, errors);
    }
}

fn fibre_channel(s: &Value, at: &Path, errors: &mut ErrorList) {
    let (names, ids) = (items(s, "targetWWNs"), items(s, "wwids"));
    let path = at.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errors.push(Error::required(&path, "must specify either targetWWNs or wwids, but not both"));
    }
    if !names.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(Error::invalid(&path, names.to_vec(), detail));
    }
    if !names.is_empty() {
        match s["lun"].as_i64() {
            None => {
                errors.push(Error::required(&at.child("lun"), "lun is required if targetWWNs is specified"))
            }
            Some(n) if !(0..=255).contains(&n) => errors.push(Error::invalid(&at.child("lun"), n, IN_BYTE)),
            Some(_) => {}
        }
    }
}

fn flex(s: &Value, at: &Path, errors: &mut ErrorList) {
    required(s, "driver", at, errors);
    for key in s["options"].as_object().into_iter().flat_map(|m| m.keys()) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(ns, _)| ns);
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(Error::invalid(&at.child("options").key(key), key.as_str(), detail));
        }
    }
}

fn azure_disk(s: &Value, at: &Path, errors: &mut ErrorList) {
    required(s, "diskName", at, errors);
    required(s, "diskURI", at, errors);
    let one_of = |field: &str, allowed: &[&str], errors: &mut ErrorList| {
        if let Some(v) = s[field].as_str().filter(|v| !allowed.contains(v)) {
            errors.push(Error::not_supported(&at.child(field), v, allowed));
        }
    };
    one_of("cachingMode", &["None", "ReadOnly", "ReadWrite"], errors);
    one_of("kind", &["Dedicated", "Managed", "Shared"], errors);
    let uri = text(s, "diskURI");
    let managed =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    let blob = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let (prefix, form) = match s["kind"].as_str() {
        Some("Managed") => ("/subscriptions/", managed),
        Some(_) => ("https://", blob),
        None => return,
    };
    if !uri.starts_with(prefix) {
        errors.push(Error::not_supported(&at.child("diskURI"), uri, &[form]));
    }
}

fn storage_os(s: &Value, at: &Path, errors: &mut ErrorList) {
    required(s, "volumeName", at, errors);
    for field in ["volumeName", "volumeNamespace"] {
        let value = text(s, field);
        if !value.is_empty() {
            let messages = dns_label_errors(value, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child(field), value, m)));
        }
    }
    named_secret(s, at, errors);
}

fn csi(s: &Value, at: &Path, errors: &mut ErrorList) {
    helpers::driver_name(text(s, "driver"), &at.child("driver"), errors);
    required(s, "volumeHandle", at, errors);
    let secrets = [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ];
    for secret in secrets {
        let r = &s[secret];
        if !r.is_object() {
            continue;
        }
        let at = at.child(secret);
        let (name, ns) = (text(r, "name"), text(r, "namespace"));
        required(r, "name", &at, errors);
        if !name.is_empty() {
            let messages = dns_subdomain_errors(name, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
        }
        required(r, "namespace", &at, errors);
        if !ns.is_empty() {
            let messages = dns_label_errors(ns, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("namespace"), ns, m)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(source: &str, s: Value) -> Vec<String> {
        let mut errors = Vec::new();
        one(source, &s, "pv", &Path::new("s"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sources() {
        assert!(
            found(
                "iscsi",
                json!({"targetPortal": "127.0.0.1", "iqn": "iqn.2015-02.example.com:test", "lun": 1})
            )
            .is_empty()
        );
        assert_eq!(
            found(
                "iscsi",
                json!({"targetPortal": "127.0.0.1", "iqn": "eui.0123456789ABCDEFGHIJ", "lun": 256})
            ),
            [
                "s.iqn: Invalid value: \"eui.0123456789ABCDEFGHIJ\": must be valid format",
                "s.lun: Invalid value: 256: must be between 0 and 255, inclusive"
            ]
        );
        assert!(found("quobyte", json!({"registry": "registry1:7861,reg2:7861", "volume": "v"})).is_empty());
        assert_eq!(found("quobyte", json!({"registry": "registry7861", "volume": "v"})).len(), 1);
        assert_eq!(
            found("flexVolume", json!({"driver": "d", "options": {"sub.k8s.io/x": "y"}})),
            [
                "s.options[sub.k8s.io/x]: Invalid value: \"sub.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved"
            ]
        );
        assert_eq!(
            found("azureDisk", json!({"diskName": "d", "diskURI": "blob:/x", "kind": "Managed"})).len(),
            1
        );
        assert_eq!(
            found(
                "csi",
                json!({"driver": "a_b", "volumeHandle": "v", "nodePublishSecretRef": {"name": "n"}})
            )
            .len(),
            2
        );
    }
}
