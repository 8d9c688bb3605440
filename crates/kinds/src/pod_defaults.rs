//! Defaults of pods and pod templates (upstream: `pkg/apis/core/v1/defaults.go`).

mod image;

use crate::resources;
use crate::validate::text;
use meta::object::default_at;
use serde_json::{Value, json};

/// Texts of volumes that stand where there are none.
const TEXTS: &[(&str, &[(&str, &str)])] = &[
    ("iscsi", &[("iscsiInterface", "default")]),
    ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
    ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
];
const CONTAINER_LISTS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a pod template; what is defaulted only in a Pod itself is left open.
/// One that is left out is an empty one, as the field is in Go.
pub fn template(template: &mut Value) {
    if template.is_null() {
        *template = json!({});
    }
    if template.is_object() {
        default_at(template, &[], "metadata", json!({}));
        default_at(template, &[], "spec", json!({}));
        spec(&mut template["spec"]);
    }
}

/// Defaults of a Pod.
pub fn pod(obj: &mut Value) {
    spec(&mut obj["spec"]);
    let pod = &mut obj["spec"];
    if pod["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        pod["terminationGracePeriodSeconds"] = 1.into();
    }
    for list in ["containers", "initContainers"] {
        for c in list_mut(pod, list) {
            requests_from_limits(c);
        }
    }
    default_at(pod, &[], "enableServiceLinks", true);
    if pod["hostNetwork"] == true {
        for list in ["containers", "initContainers"] {
            for port in list_mut(pod, list).flat_map(|c| list_mut(c, "ports")) {
                if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                    port["hostPort"] = port["containerPort"].clone();
                }
            }
        }
    }
    default_at(obj, &[], "status", json!({}));
    sync_ips(&mut obj["status"]);
}

/// The first of `podIPs` and `podIP` say the same.
fn sync_ips(status: &mut Value) {
    let one = text(status, "podIP").to_owned();
    let first = text(&status["podIPs"][0], "ip").to_owned();
    if !one.is_empty() && first != one {
        status["podIPs"] = json!([{"ip": one}]);
    } else if one.is_empty() && !first.is_empty() {
        status["podIP"] = first.into();
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    for (name, value) in limits {
        default_at(container, &["resources", "requests"], &name, value);
    }
}

fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    let account = text(spec, "serviceAccountName").to_owned();
    let old = text(spec, "serviceAccount").to_owned();
    if account.is_empty() && !old.is_empty() {
        spec["serviceAccountName"] = old.into();
    } else if !account.is_empty() {
        spec["serviceAccount"] = account.into();
    }
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default_at(spec, &[], "securityContext", json!({}));
    default_at(spec, &[], "terminationGracePeriodSeconds", 30);
    for list in CONTAINER_LISTS {
        for c in list_mut(spec, list) {
            container(c);
        }
    }
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.iter_mut().for_each(volume);
    }
    resources::round(spec.get_mut("overhead"));
    round(spec.get_mut("resources"));
}

/// Rounds the amounts of a holder of requests and limits.
fn round(holder: Option<&mut Value>) {
    let Some(holder) = holder else { return };
    for side in ["limits", "requests"] {
        resources::round(holder.get_mut(side));
    }
}

/// The elements of a list field, none when it is absent (indexing would insert a null).
fn list_mut<'a>(v: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    v.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn default_text(v: &mut Value, field: &str, value: &str) {
    if text(v, field).is_empty() {
        v[field] = value.into();
    }
}

fn container(c: &mut Value) {
    if text(c, "imagePullPolicy").is_empty() {
        c["imagePullPolicy"] = pull_policy(text(c, "image")).into();
    }
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    default_at(c, &[], "resources", json!({}));
    round(c.get_mut("resources"));
    if let Some(ports) = c.get_mut("ports").and_then(Value::as_array_mut) {
        ports.iter_mut().for_each(|p| default_text(p, "protocol", "TCP"));
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.get_mut(name).filter(|p| p.is_object()) {
            probe(p);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = c.pointer_mut(&format!("/lifecycle/{hook}/httpGet")).filter(|a| a.is_object()) {
            http_get(action);
        }
    }
    for env in c.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(reference) = env.pointer_mut("/valueFrom/fieldRef").filter(|r| r.is_object()) {
            default_text(reference, "apiVersion", "v1");
        }
        if let Some(reference) = env.pointer_mut("/valueFrom/resourceFieldRef").filter(|r| r.is_object()) {
            default_at(reference, &[], "divisor", "0");
        }
        if let Some(reference) = env.pointer_mut("/valueFrom/fileKeyRef").filter(|r| r.is_object()) {
            default_at(reference, &[], "optional", false);
        }
    }
}

fn probe(p: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if p[field].as_i64().unwrap_or(0) == 0 {
            p[field] = value.into();
        }
    }
    if let Some(action) = p.get_mut("httpGet").filter(|a| a.is_object()) {
        http_get(action);
    }
    if let Some(action) = p.get_mut("grpc").filter(|a| a.is_object()) {
        default_at(action, &[], "service", "");
    }
}

fn http_get(action: &mut Value) {
    default_text(action, "path", "/");
    default_text(action, "scheme", "HTTP");
}

/// How an image is pulled for which nobody says it.
fn pull_policy(image: &str) -> &'static str {
    if image::is_latest(image) { "Always" } else { "IfNotPresent" }
}

fn volume(v: &mut Value) {
    let Some(map) = v.as_object() else { return };
    if map.keys().all(|k| k == "name") {
        v["emptyDir"] = json!({});
    }
    for (source, mode) in [("secret", 420), ("configMap", 420), ("downwardAPI", 420), ("projected", 420)] {
        if v[source].is_object() {
            default_at(v, &[source], "defaultMode", mode);
        }
    }
    if v.get("hostPath").is_some_and(Value::is_object) {
        default_at(v, &["hostPath"], "type", "");
    }
    for (source, fields) in TEXTS {
        if let Some(source) = v.get_mut(source).filter(|s| s.is_object()) {
            fields.iter().for_each(|(field, value)| default_text(source, field, value));
        }
    }
    if let Some(disk) = v.get_mut("azureDisk").filter(|s| s.is_object()) {
        for (field, value) in [("cachingMode", "ReadWrite"), ("fsType", "ext4"), ("kind", "Shared")] {
            default_at(disk, &[], field, value);
        }
        default_at(disk, &[], "readOnly", false);
    }
    if let Some(image) = v.get_mut("image").filter(|s| s.is_object()) {
        let policy = pull_policy(text(image, "reference"));
        default_text(image, "pullPolicy", policy);
    }
    if let Some(claim) = v.pointer_mut("/ephemeral/volumeClaimTemplate").filter(|c| c.is_object()) {
        default_at(claim, &[], "spec", json!({}));
        crate::core::persistent_volume_claim::default_spec(&mut claim["spec"]);
    }
    field_refs(v.pointer_mut("/downwardAPI/items"));
    for source in v.pointer_mut("/projected/sources").and_then(Value::as_array_mut).into_iter().flatten() {
        if source.get("serviceAccountToken").is_some_and(Value::is_object) {
            default_at(source, &["serviceAccountToken"], "expirationSeconds", 3600);
        }
        field_refs(source.pointer_mut("/downwardAPI/items"));
    }
}

fn field_refs(items: Option<&mut Value>) {
    for item in items.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(reference) = item.get_mut("fieldRef").filter(|r| r.is_object()) {
            default_text(reference, "apiVersion", "v1");
        }
        if let Some(reference) = item.get_mut("resourceFieldRef").filter(|r| r.is_object()) {
            default_at(reference, &[], "divisor", "0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_gets_upstreams_defaults() {
        let mut p = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "app:1", "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}]}});
        pod(&mut p);
        assert_eq!(
            p["spec"],
            json!({
                "containers": [{
                    "name": "c", "image": "app:1", "imagePullPolicy": "IfNotPresent",
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "volumes": [{"name": "v", "emptyDir": {}}]
            })
        );
        let once = p.clone();
        pod(&mut p);
        assert_eq!(p, once, "defaulting twice changes nothing");
    }
}
