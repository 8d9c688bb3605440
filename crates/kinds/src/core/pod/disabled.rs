//! Fields of pods that exist in the types and are switched off by default (upstream:
//! `pkg/api/pod/util.go#DropDisabledPodFields`, `DropDisabledTemplateFields`).
//!
//! Invariant: what a client sends in them is dropped, unless the object had something in a field of the same feature.

use meta::object;
use serde_json::{Map, Value};

/// Fields by feature: steps into the spec, `*` for each of a list, alternatives parted by bars.
const FEATURES: &[&[&str]] = &[
    // GenericWorkload
    &["schedulingGroup"],
    // EvictionRequestAPI
    &["evictionResponders"],
    // EmptyDirVolumeMode
    &["volumes/*/emptyDir/mode"],
    // VolumeBindMountOptions
    &["initContainers|containers|ephemeralContainers/*/volumeMounts/*/bindMountOptions"],
    // GRPCContainerProbeTLS
    &["initContainers|containers|ephemeralContainers/*/livenessProbe|readinessProbe|startupProbe/grpc/mode"],
    // H2CContainerProbe
    &[
        "initContainers|containers|ephemeralContainers/*/livenessProbe|readinessProbe|startupProbe/httpGet/protocol",
        "initContainers|containers|ephemeralContainers/*/lifecycle/postStart|preStop/httpGet/protocol",
    ],
    // ContainerStopSignals
    &["initContainers|containers|ephemeralContainers/*/lifecycle/stopSignal"],
    // AtomicWriteVolumeUserFields
    &[
        "volumes/*/secret|configMap|downwardAPI|projected/defaultUser",
        "volumes/*/secret|configMap|downwardAPI/items/*/user",
        "volumes/*/projected/sources/*/secret|configMap|downwardAPI/items/*/user",
        "volumes/*/projected/sources/*/serviceAccountToken|clusterTrustBundle|podCertificate/user",
    ],
];
/// The names under which init containers once were annotations.
const ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Drops what is switched off from a Pod or a template; `old` is null on create.
pub fn drop_fields(obj: &mut Value, old: &Value) {
    if let Some(spec) = obj.get_mut("spec").filter(|s| s.is_object()) {
        for feature in FEATURES {
            if feature.iter().any(|path| has(&old["spec"], path)) {
                continue;
            }
            for path in *feature {
                remove(spec, path);
            }
        }
    }
    if ANNOTATIONS.iter().any(|a| object::annotation(obj, a).is_some())
        && let Some(map) = object::map_at(obj, &["metadata", "annotations"])
    {
        map.retain(|key, _| !ANNOTATIONS.contains(&key.as_str()));
        if map.is_empty() {
            object::remove_meta(obj, "annotations");
        }
    }
}

/// The same for the template at `spec.template` of a workload.
pub fn of_workload(obj: &mut Value, old: &Value) {
    if let Some(template) = obj.pointer_mut("/spec/template").filter(|t| t.is_object()) {
        drop_fields(template, &old["spec"]["template"]);
    }
}

fn has(v: &Value, path: &str) -> bool {
    let Some((step, rest)) = path.split_once('/') else { return !v[path].is_null() };
    match step {
        "*" => v.as_array().is_some_and(|list| list.iter().any(|v| has(v, rest))),
        step => step.split('|').any(|s| !v[s].is_null() && has(&v[s], rest)),
    }
}

fn remove(v: &mut Value, path: &str) {
    let Some((step, rest)) = path.split_once('/') else {
        v.as_object_mut().map(|m| m.remove(path));
        return;
    };
    if step == "*" {
        v.as_array_mut().into_iter().flatten().for_each(|v| remove(v, rest));
        return;
    }
    let Some(map) = v.as_object_mut() else { return };
    for field in step.split('|') {
        let Some(inner) = map.get_mut(field) else { continue };
        let there = has(inner, rest);
        remove(inner, rest);
        // hooks of which only the signal was told
        if there && field == "lifecycle" && inner.as_object().is_some_and(Map::is_empty) {
            map.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_off_is_dropped_unless_it_was_there() {
        let sent = || {
            json!({"metadata": {"annotations": {"a": "b", "pod.beta.kubernetes.io/init-containers": "[]"}},
                "spec": {"schedulingGroup": {"podGroupName": "g"}, "volumes": [{"emptyDir": {"mode": 1}}, {"secret": {"defaultUser": 5}}],
                    "containers": [{"lifecycle": {"stopSignal": "SIGINT"}, "livenessProbe": {"grpc": {"port": 1, "mode": "TLS"}}}]}})
        };
        let mut obj = sent();
        drop_fields(&mut obj, &Value::Null);
        assert_eq!(
            obj,
            json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"volumes": [{"emptyDir": {}}, {"secret": {}}],
                "containers": [{"livenessProbe": {"grpc": {"port": 1}}}]}})
        );
        let mut obj = sent();
        drop_fields(&mut obj, &json!({"spec": {"containers": [{"lifecycle": {"stopSignal": "SIGHUP"}}]}}));
        assert_eq!(obj["spec"]["containers"][0]["lifecycle"]["stopSignal"], "SIGINT");
    }
}
