//! The downward API's fields (upstream: `pkg/fieldpath`, `podFieldSelectorRuntimeValue`).

use super::spec;
use k8s_openapi::api::core::v1::Pod;
use meta::field::quoted;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Addresses that a field may ask for.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub pod: Vec<IpAddr>,
    pub host: Vec<IpAddr>,
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(ToString::to_string).unwrap_or_default()
}

/// `metadata.labels['x']` → (`metadata.labels`, `x`)
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(p, _)| !p.is_empty())
}

/// A field of the pod as text.
///
/// # Errors
/// Upstream's text for a path that is none.
pub fn value(pod: &Pod, path: &str, addresses: &Addresses) -> Result<String, String> {
    let labels = pod.metadata.labels.as_ref();
    let annotations = pod.metadata.annotations.as_ref();
    if let Some((map, key)) = subscript(path) {
        let from = match map {
            "metadata.annotations" => annotations,
            "metadata.labels" => labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(from.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = |o: Option<&String>| o.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.annotations" => format_map(annotations),
        "metadata.labels" => format_map(labels),
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "spec.nodeName" => text(spec::spec(pod).node_name.as_ref()),
        "spec.serviceAccountName" => text(spec::spec(pod).service_account_name.as_ref()),
        "status.hostIP" => first(&addresses.host),
        "status.hostIPs" => join(&addresses.host),
        "status.podIP" => first(&addresses.pod),
        "status.podIPs" => join(&addresses.pod),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `key="value"` lines in order of the keys, values quoted as Go does.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "1\n\"x\""},
                         "annotations": {"k/y": "v"}},
            "spec": {"nodeName": "node", "containers": []}
        }))
        .unwrap();
        let a = Addresses {
            pod: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            host: vec!["192.0.2.1".parse().unwrap()],
        };
        let cases = [
            ("metadata.labels", "a=\"1\\n\\\"x\\\"\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.annotations['k/y']", "v"),
            ("metadata.annotations['none']", ""),
            ("status.podIPs", "10.0.0.1,fd00::1"),
            ("status.hostIP", "192.0.2.1"),
            ("spec.nodeName", "node"),
        ];
        for (path, want) in cases {
            assert_eq!(value(&pod, path, &a).as_deref(), Ok(want), "{path}");
        }
        assert_eq!(value(&pod, "spec.x", &a).unwrap_err(), "unsupported fieldPath: spec.x");
        assert_eq!(
            value(&pod, "metadata.name['x']", &a).unwrap_err(),
            "fieldPath \"metadata.name['x']\" does not support subscript"
        );
    }
}
