//! The objects that a pod's spec names (upstream: `pkg/api/v1/pod/util.go`).

use meta::object;
use serde_json::Value;
use std::collections::BTreeSet;

/// Set on pods that a kubelet made from its own files.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Names of the secrets that a pod's containers, volumes and image pulls use.
pub fn secrets(pod: &Value) -> BTreeSet<&str> {
    let spec = &pod["spec"];
    let mut out: Vec<&Value> = items(&spec["imagePullSecrets"]).iter().map(|s| &s["name"]).collect();
    for c in containers(spec) {
        out.extend(items(&c["envFrom"]).iter().map(|e| &e["secretRef"]["name"]));
        out.extend(items(&c["env"]).iter().map(|e| &e["valueFrom"]["secretKeyRef"]["name"]));
    }
    for v in items(&spec["volumes"]) {
        out.push(&v["secret"]["secretName"]);
        out.push(&v["azureFile"]["secretName"]);
        out.push(&v["csi"]["nodePublishSecretRef"]["name"]);
        out.extend(
            ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"]
                .iter()
                .map(|kind| &v[kind]["secretRef"]["name"]),
        );
        out.extend(items(&v["projected"]["sources"]).iter().map(|s| &s["secret"]["name"]));
    }
    names(out)
}

/// Names of the ConfigMaps that a pod's containers and volumes use.
pub(crate) fn config_maps(pod: &Value) -> BTreeSet<&str> {
    let spec = &pod["spec"];
    let mut out: Vec<&Value> = Vec::new();
    for c in containers(spec) {
        out.extend(items(&c["envFrom"]).iter().map(|e| &e["configMapRef"]["name"]));
        out.extend(items(&c["env"]).iter().map(|e| &e["valueFrom"]["configMapKeyRef"]["name"]));
    }
    for v in items(&spec["volumes"]) {
        out.push(&v["configMap"]["name"]);
        out.extend(items(&v["projected"]["sources"]).iter().map(|s| &s["configMap"]["name"]));
    }
    names(out)
}

/// Names of the claims that a pod mounts, including those made for it.
pub(crate) fn claims(pod: &Value) -> BTreeSet<String> {
    items(&pod["spec"]["volumes"])
        .iter()
        .filter_map(|v| match v["persistentVolumeClaim"]["claimName"].as_str() {
            Some(name) => Some(name.to_owned()),
            None if v["ephemeral"].is_object() => {
                Some(format!("{}-{}", object::name(pod), v["name"].as_str().unwrap_or("")))
            }
            None => None,
        })
        .collect()
}

/// Which kind of API object a pod refers to, if any; mirror pods may refer to none
/// (upstream: `podutil.HasAPIObjectReference`).
///
/// # Errors
/// A volume whose kind is not known.
pub(crate) fn api_object(pod: &Value) -> Result<Option<&'static str>, String> {
    let spec = &pod["spec"];
    if !spec["serviceAccountName"].as_str().unwrap_or("").is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if !secrets(pod).is_empty() {
        return Ok(Some("secrets"));
    }
    if !config_maps(pod).is_empty() {
        return Ok(Some("configmaps"));
    }
    if !items(&spec["resourceClaims"]).is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for v in items(&spec["volumes"]) {
        if let Some(found) = volume_object(v)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn volume_object(v: &Value) -> Result<Option<&'static str>, String> {
    const LOCAL: [&str; 22] = [
        "awsElasticBlockStore",
        "azureDisk",
        "cephfs",
        "cinder",
        "downwardAPI",
        "emptyDir",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "gitRepo",
        "hostPath",
        "image",
        "iscsi",
        "nfs",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ];
    const REMOTE: [(&str, &str); 7] = [
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const SOURCES: [(&str, &str); 5] = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let has = |v: &Value, kind: &str| v.get(kind).is_some_and(|k| !k.is_null());
    if LOCAL.iter().any(|k| has(v, k)) {
        return Ok(None);
    }
    if let Some((_, what)) = REMOTE.iter().find(|(k, _)| has(v, k)) {
        return Ok(Some(what));
    }
    let name = v["name"].as_str().unwrap_or("");
    if !has(v, "projected") {
        return Err(format!("unknown volume type for volume  {name:?}"));
    }
    for s in items(&v["projected"]["sources"]) {
        if let Some((_, what)) = SOURCES.iter().find(|(k, _)| has(s, k)) {
            return Ok(Some(what));
        }
        if !has(s, "downwardAPI") {
            return Err(format!("unknown source for projected volume {name:?}"));
        }
    }
    Ok(None)
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(&spec[list]))
}

pub(crate) fn items(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

fn names(all: Vec<&Value>) -> BTreeSet<&str> {
    all.into_iter().filter_map(Value::as_str).filter(|n| !n.is_empty()).collect()
}
