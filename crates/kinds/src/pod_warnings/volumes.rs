//! Warnings of volumes: plugins that are gone, and files that would lie over one another
//! (upstream: `warningsForOverlappingVirtualPaths`).

use crate::core::persistent_volume_claim::spec_warnings;
use crate::validate::{items, text};
use meta::field::Path;
use meta::field::quoted;
use serde_json::Value;

const GONE: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("ephemeral", ""),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings of a pod's volumes.
pub fn warnings(volumes: &[Value], at: &Path, out: &mut Vec<String>) {
    for (i, v) in volumes.iter().enumerate() {
        for (field, message) in GONE.iter().filter(|(f, _)| !v[*f].is_null()) {
            let at = at.index(i).child(if *field == "storageos" { "storageOS" } else { field });
            let claim = &v["ephemeral"]["volumeClaimTemplate"];
            match *field {
                "ephemeral" if claim.is_null() => {}
                "ephemeral" => {
                    let at = at.child("volumeClaimTemplate").child("spec");
                    out.extend(spec_warnings(&claim["spec"], &at));
                }
                _ => out.push(format!("{at}: {message}")),
            }
        }
    }
    volumes.iter().for_each(|v| overlaps(v, out));
}

/// Where a file lies, and what puts it there; shown as `"a/b" (Secret "x")`.
#[derive(PartialEq)]
struct File<'a> {
    path: &'a str,
    source: String,
}

impl std::fmt::Display for File<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source.as_str() {
            "" => f.write_str(&quoted(self.path)),
            source => write!(f, "{} ({source})", quoted(self.path)),
        }
    }
}

fn files<'a>(holder: &'a Value, source: &str) -> Vec<File<'a>> {
    let paths = items(holder, "items").iter().map(|i| text(i, "path"));
    paths.map(|path| File { path: path.trim_end_matches('/'), source: source.to_owned() }).collect()
}

fn overlaps(v: &Value, out: &mut Vec<String>) {
    let volume = text(v, "name");
    let described = [
        ("configMap", format!("ConfigMap {}", quoted(text(&v["configMap"], "name")))),
        ("secret", format!("Secret {}", quoted(text(&v["secret"], "secretName")))),
        ("downwardAPI", "DownwardAPI".to_owned()),
    ];
    for (field, description) in described {
        collide(volume, &description, files(&v[field], ""), out);
    }
    let mut all = Vec::new();
    for source in items(&v["projected"], "sources") {
        if source.as_object().is_none_or(|s| s.values().all(Value::is_null)) {
            out.push(format!("volume {volume} (Projected) has no sources provided", volume = quoted(volume)));
        }
        all.extend(projected(source));
    }
    collide(volume, "Projected", all, out);
}

fn projected(source: &Value) -> Vec<File<'_>> {
    let one = |holder: &'_ Value, field: &str| !text(holder, field).is_empty();
    let file =
        |holder, field, source: String| File { path: text(holder, field).trim_end_matches('/'), source };
    for (field, what) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if !items(&source[field], "items").is_empty() {
            return files(&source[field], &format!("{what} {}", quoted(text(&source[field], "name"))));
        }
    }
    if !items(&source["downwardAPI"], "items").is_empty() {
        return files(&source["downwardAPI"], "DownwardAPI");
    }
    if source["serviceAccountToken"].is_object() {
        return vec![file(&source["serviceAccountToken"], "path", "ServiceAccountToken".to_owned())];
    }
    let bundle = &source["clusterTrustBundle"];
    if bundle.is_object() {
        let name = bundle["name"].as_str().unwrap_or_else(|| text(bundle, "signerName"));
        return vec![file(bundle, "path", format!("ClusterTrustBundle {name}", name = quoted(name)))];
    }
    let certificate = &source["podCertificate"];
    let parts = [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ];
    let given = parts.into_iter().filter(|(field, _)| one(certificate, field));
    given.map(|(field, what)| file(certificate, field, what.to_owned())).collect()
}

fn collide(volume: &str, description: &str, files: Vec<File<'_>>, out: &mut Vec<String>) {
    let within = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
    for (i, file) in files.iter().enumerate().filter(|(_, f)| !f.path.is_empty()) {
        for other in files[..i].iter().filter(|o| !o.path.is_empty()) {
            if within(other.path, file.path) || within(file.path, other.path) {
                out.push(format!(
                    "volume {volume} ({description}): overlapping paths: {file} with {other}",
                    volume = quoted(volume)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestWarnings`, the cases of overlapping paths.
    #[test]
    fn files_that_lie_over_one_another() {
        let file = |path: &str| json!({"key": path, "path": path});
        let cases = [
            (
                json!({"name": "foo", "configMap": {"name": "f", "items": [file("test"), file("test")]}}),
                vec!["volume \"foo\" (ConfigMap \"f\"): overlapping paths: \"test\" with \"test\""],
            ),
            (
                json!({"name": "foo", "secret": {"secretName": "f", "items": [file("test/"), file("test/app")]}}),
                vec!["volume \"foo\" (Secret \"f\"): overlapping paths: \"test/app\" with \"test\""],
            ),
            (json!({"name": "foo", "downwardAPI": {"items": [file("tes"), file("test")]}}), vec![]),
            (
                json!({"name": "foo", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "test"}}, {"configMap": {"name": "f", "items": [file("test")]}}, {}]}}),
                vec![
                    "volume \"foo\" (Projected) has no sources provided",
                    "volume \"foo\" (Projected): overlapping paths: \"test\" (ConfigMap \"f\") with \"test\" (ServiceAccountToken)",
                ],
            ),
        ];
        for (volume, wanted) in cases {
            let mut out = Vec::new();
            warnings(&[volume], &Path::new("spec"), &mut out);
            assert_eq!(out, wanted);
        }
    }
}
