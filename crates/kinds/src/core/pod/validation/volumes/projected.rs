//! Volumes that put several sources into one directory (upstream: `validateProjectedVolumeSource`).

use super::{downward_file, key_to_path, mode};
use crate::certificates::{is_kubernetes_signer, signer_name, trust_bundle};
use crate::core::pod::validation::allowed::Allowed;
use crate::core::pod::validation::mounts::local_path;
use crate::helpers::qualified_name_errors;
use crate::internal;
use crate::validate::{items, label_selector, required, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const TOKEN_SECONDS_MIN: i64 = 600;
const CERTIFICATE_SECONDS_MIN: i64 = 3600;
const CERTIFICATE_SECONDS_MAX: i64 = 91 * 86_400;
/// The same of upstream's own signers.
const CERTIFICATE_SECONDS_MAX_OWN: i64 = 86_400;

/// Paths within the volume, each of which has one source.
#[derive(Default)]
struct Taken<'a>(Vec<&'a str>);

impl<'a> Taken<'a> {
    /// `shown` is what upstream shows of the second that wants a path.
    fn take(&mut self, path: &'a str, shown: &str, at: &Path, errors: &mut ErrorList) {
        if self.0.contains(&path) {
            errors.push(Error::invalid(at, shown, "conflicting duplicate paths"));
        } else {
            self.0.push(path);
        }
    }
}

pub fn errors(s: &Value, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    mode(&s["defaultMode"], &at.child("defaultMode"), errors);
    let mut taken = Taken::default();
    for (i, source) in items(s, "sources").iter().enumerate() {
        let path = at.child("sources").index(i);
        let mut sources = 0;
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        for kind in kinds.into_iter().filter(|k| source[*k].is_object()) {
            sources += 1;
            let (p, path) = (&source[kind], path.child(kind));
            match kind {
                "secret" | "configMap" => keys(p, &mut taken, &path, at, errors),
                "downwardAPI" => {
                    for file in items(p, "items") {
                        downward_file(file, &path, errors);
                        let own = text(file, "path");
                        if !own.is_empty() {
                            taken.take(own, own, at, errors);
                        }
                    }
                }
                "serviceAccountToken" => token(p, allowed, &path, at, errors),
                "clusterTrustBundle" => bundle(p, &mut taken, &path, at, errors),
                _ => certificate(p, &mut taken, &path, at, errors),
            }
        }
        if sources > 1 {
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type per source"));
        }
    }
}

fn keys<'a>(p: &'a Value, taken: &mut Taken<'a>, path: &Path, volume: &Path, errors: &mut ErrorList) {
    required(p, "name", path, errors);
    for (i, item) in items(p, "items").iter().enumerate() {
        key_to_path(item, &path.child("items").index(i), errors);
        let own = text(item, "path");
        if !own.is_empty() {
            taken.take(own, text(p, "name"), volume, errors);
        }
    }
}

fn token(p: &Value, allowed: &Allowed, path: &Path, volume: &Path, errors: &mut ErrorList) {
    let at = path.child("expirationSeconds");
    match p["expirationSeconds"].as_i64() {
        None => errors.push(Error::required(&at, "")),
        Some(s) if s < TOKEN_SECONDS_MIN => {
            errors.push(Error::invalid(&at, s, "may not specify a duration less than 10 minutes"));
        }
        Some(s) if s > 1 << 32 => {
            errors.push(Error::invalid(&at, s, "may not specify a duration larger than 2^32 seconds"));
        }
        Some(_) => {}
    }
    // upstream tells these at the volume
    let own = text(p, "path");
    if own.is_empty() {
        errors.push(Error::required(&volume.child("path"), ""));
    } else if !allowed.token_paths {
        local_path(own, &volume.child("path"), errors);
    }
}

fn bundle<'a>(p: &'a Value, taken: &mut Taken<'a>, path: &Path, volume: &Path, errors: &mut ErrorList) {
    let selector = &p["labelSelector"];
    match (p["name"].as_str(), p["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            let both = internal::shown("ClusterTrustBundleProjection", p);
            errors.push(Error::invalid(path, both, "only one of name and signerName may be used"));
        }
        (Some(name), None) => {
            let at = path.child("name");
            if name.is_empty() {
                errors.push(Error::required(&at, "must be a valid object name"));
            }
            // the signer is what stands before the last colon, with its slash a colon too
            let signer = name.rsplit_once(':').map_or("", |(signer, _)| signer).replace(':', "/");
            for message in trust_bundle::name_errors(name, &signer) {
                errors.push(Error::invalid(
                    &at,
                    name,
                    format!("not a valid clustertrustbundlename: {message}"),
                ));
            }
            if !selector.is_null() {
                let detail = "labelSelector must be unset if name is specified";
                errors.push(Error::invalid(&path.child("labelSelector"), selector.clone(), detail));
            }
        }
        (None, Some(signer)) => {
            let at = path.child("signerName");
            if signer.is_empty() {
                errors.push(Error::required(&at, "must be a valid signer name"));
            }
            signer_name(signer, &at, errors);
            label_selector(selector, &path.child("labelSelector"), errors);
        }
        (None, None) => errors.push(Error::required(path, "either name or signerName must be specified")),
    }
    required(p, "path", path, errors);
    let own = text(p, "path");
    local_path(own, &path.child("path"), errors);
    taken.take(own, own, volume, errors);
}

fn certificate<'a>(p: &'a Value, taken: &mut Taken<'a>, path: &Path, volume: &Path, errors: &mut ErrorList) {
    let signer = text(p, "signerName");
    signer_name(signer, &path.child("signerName"), errors);
    user_annotations(&p["userAnnotations"], &path.child("userAnnotations"), errors);
    let key = text(p, "keyType");
    if !KEY_TYPES.contains(&key) {
        errors.push(Error::not_supported(&path.child("keyType"), key, KEY_TYPES));
    }
    if let Some(seconds) = p["maxExpirationSeconds"].as_i64() {
        let at = path.child("maxExpirationSeconds");
        let own = is_kubernetes_signer(signer);
        let max = if own { CERTIFICATE_SECONDS_MAX_OWN } else { CERTIFICATE_SECONDS_MAX };
        if seconds < CERTIFICATE_SECONDS_MIN {
            let detail = format!("if provided, maxExpirationSeconds must be >= {CERTIFICATE_SECONDS_MIN}");
            errors.push(Error::invalid(&at, seconds, detail));
        }
        if seconds > max {
            let detail = format!("if provided, maxExpirationSeconds must be <= {max}");
            errors.push(Error::invalid(&at, seconds, detail));
        }
    }
    let mut paths = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let own = text(p, field);
        if !own.is_empty() {
            paths += 1;
            local_path(own, &path.child(field), errors);
            taken.take(own, own, volume, errors);
        }
    }
    if paths == 0 {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(Error::required(path, detail));
    }
}

/// Upstream: `ValidateUserAnnotations`, `IsDomainPrefixedKey`.
fn user_annotations(map: &Value, at: &Path, errors: &mut ErrorList) {
    for (key, _) in map.as_object().into_iter().flatten() {
        let key = key.to_lowercase();
        let messages = qualified_name_errors(&key);
        if key.is_empty() {
            errors.push(Error::required(at, ""));
        } else if messages.is_empty() && !key.contains('/') {
            let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.push(Error::invalid(at, key.as_str(), detail));
        } else {
            told(&key, messages, at, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(sources: Value) -> Vec<String> {
        let mut all = Vec::new();
        errors(&json!({ "sources": sources }), &Allowed::default(), &Path::new("p"), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateVolumes`, projected cases; `TestPodCertificateVolume…`.
    #[test]
    fn sources() {
        let item = |path: &str| json!([{"key": "k", "path": path}]);
        assert!(
            found(json!([{"secret": {"name": "s", "items": item("a")}}, {"configMap": {"name": "c"}}]))
                .is_empty()
        );
        assert_eq!(
            found(
                json!([{"secret": {"name": "s", "items": item("a")}}, {"configMap": {"name": "c", "items": item("a")}}])
            ),
            ["p: Invalid value: \"c\": conflicting duplicate paths"]
        );
        assert_eq!(
            found(json!([{"serviceAccountToken": {"path": "../x", "expirationSeconds": 5}}])),
            [
                "p.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
                "p.path: Invalid value: \"../x\": must not contain '..'",
            ]
        );
        assert_eq!(
            found(json!([{"clusterTrustBundle": {"path": "x"}}])),
            ["p.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified"]
        );
        assert!(found(json!([{"clusterTrustBundle": {"path": "x", "name": "k8s.io:foo:bar"}}])).is_empty());
    }
}
