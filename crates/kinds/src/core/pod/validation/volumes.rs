//! Volumes of a pod (upstream: `ValidateVolumes`).

use crate::helpers;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Checks volumes and gives the names that mounts may use.
pub fn errors<'a>(volumes: &'a [Value], path: &Path, errors: &mut ErrorList) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (i, v) in volumes.iter().enumerate() {
        let at = path.index(i);
        let name = text(v, "name");
        source(v, &at, errors);
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else {
            let messages = helpers::dns_label_errors(name, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
            if names.contains(&name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
        }
        names.push(name);
    }
    names
}

fn source(v: &Value, at: &Path, errors: &mut ErrorList) {
    let sources: Vec<(&String, &Value)> =
        v.as_object().into_iter().flatten().filter(|(k, _)| *k != "name").collect();
    match sources.as_slice() {
        [] => errors.push(Error::required(at, "must specify a volume type")),
        [(kind, s)] => one(kind, s, &at.child(kind), errors),
        [_, more @ ..] => {
            for (kind, _) in more {
                errors.push(Error::forbidden(&at.child(kind), "may not specify more than 1 volume type"));
            }
        }
    }
}

fn one(kind: &str, s: &Value, at: &Path, errors: &mut ErrorList) {
    match kind {
        "hostPath" => {
            let path = text(s, "path");
            if path.is_empty() {
                errors.push(Error::required(&at.child("path"), ""));
            }
            no_backsteps(path, &at.child("path"), errors);
            let types = [
                "",
                "DirectoryOrCreate",
                "Directory",
                "FileOrCreate",
                "File",
                "Socket",
                "CharDevice",
                "BlockDevice",
            ];
            let kind = text(s, "type");
            if !types.contains(&kind) {
                errors.push(Error::not_supported(&at.child("type"), kind, &types));
            }
        }
        "secret" => {
            if text(s, "secretName").is_empty() {
                errors.push(Error::required(&at.child("secretName"), ""));
            }
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            keys(s, at, errors);
        }
        "configMap" => {
            if text(s, "name").is_empty() {
                errors.push(Error::required(&at.child("name"), ""));
            }
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            keys(s, at, errors);
        }
        "downwardAPI" => {
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            downward(s, at, errors);
        }
        "projected" => {
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            for (i, p) in items(s, "sources").iter().enumerate() {
                projection(p, &at.child("sources").index(i), errors);
            }
        }
        "persistentVolumeClaim" if text(s, "claimName").is_empty() => {
            errors.push(Error::required(&at.child("claimName"), ""));
        }
        _ => {}
    }
}

/// Upstream: `validateProjectionSources`, of pod certificates.
fn pod_certificate(p: &Value, at: &Path, errors: &mut ErrorList) {
    const KEYS: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    const SECONDS_MIN: i64 = 3600;
    const SECONDS_MAX: i64 = 91 * 86_400;
    const SECONDS_MAX_OWN: i64 = 86_400;
    let signer = text(p, "signerName");
    if signer.is_empty() {
        errors.push(Error::required(&at.child("signerName"), ""));
    }
    let key = text(p, "keyType");
    if !KEYS.contains(&key) {
        errors.push(Error::not_supported(&at.child("keyType"), key, KEYS));
    }
    if let Some(seconds) = p["maxExpirationSeconds"].as_i64() {
        let own =
            signer.split('/').next().is_some_and(|d| d == "kubernetes.io" || d.ends_with(".kubernetes.io"));
        let max = if own { SECONDS_MAX_OWN } else { SECONDS_MAX };
        let path = at.child("maxExpirationSeconds");
        if seconds < SECONDS_MIN {
            let detail = format!("if provided, maxExpirationSeconds must be >= {SECONDS_MIN}");
            errors.push(Error::invalid(&path, seconds, detail));
        }
        if seconds > max {
            let detail = format!("if provided, maxExpirationSeconds must be <= {max}");
            errors.push(Error::invalid(&path, seconds, detail));
        }
    }
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    let given: Vec<&str> = paths.into_iter().filter(|f| !text(p, f).is_empty()).collect();
    if given.is_empty() {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(Error::required(at, detail));
    }
    given.iter().for_each(|f| local_path(text(p, f), &at.child(f), errors));
}

fn projection(p: &Value, at: &Path, errors: &mut ErrorList) {
    let kinds = p.as_object().map_or(0, serde_json::Map::len);
    if kinds > 1 {
        errors.push(Error::forbidden(at, "may not specify more than 1 volume type per source"));
    }
    for kind in ["secret", "configMap"] {
        if p[kind].is_object() {
            if text(&p[kind], "name").is_empty() {
                errors.push(Error::required(&at.child(kind).child("name"), ""));
            }
            keys(&p[kind], &at.child(kind), errors);
        }
    }
    if p["downwardAPI"].is_object() {
        downward(&p["downwardAPI"], &at.child("downwardAPI"), errors);
    }
    if p["podCertificate"].is_object() {
        pod_certificate(&p["podCertificate"], &at.child("podCertificate"), errors);
    }
    let token = &p["serviceAccountToken"];
    if token.is_object() {
        let at = at.child("serviceAccountToken");
        let seconds = token["expirationSeconds"].as_i64().unwrap_or(0);
        if seconds < 600 {
            errors.push(Error::invalid(
                &at.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 10 minutes",
            ));
        }
        if seconds > 1 << 32 {
            errors.push(Error::invalid(
                &at.child("expirationSeconds"),
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
        if text(token, "path").is_empty() {
            errors.push(Error::required(&at.child("path"), ""));
        }
        local_path(text(token, "path"), &at.child("path"), errors);
    }
}

fn keys(s: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, item) in items(s, "items").iter().enumerate() {
        let at = at.child("items").index(i);
        for field in ["key", "path"] {
            if text(item, field).is_empty() {
                errors.push(Error::required(&at.child(field), ""));
            }
        }
        local_path(text(item, "path"), &at.child("path"), errors);
        mode(&item["mode"], &at.child("mode"), errors);
    }
}

fn downward(s: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, item) in items(s, "items").iter().enumerate() {
        let at = at.child("items").index(i);
        if text(item, "path").is_empty() {
            errors.push(Error::required(&at.child("path"), ""));
        }
        local_path(text(item, "path"), &at.child("path"), errors);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (false, false) => {
                errors.push(Error::required(&at, "one of fieldRef and resourceFieldRef is required"))
            }
            (true, true) => {
                errors.push(Error::invalid(
                    &at,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
            _ => {}
        }
        mode(&item["mode"], &at.child("mode"), errors);
    }
}

fn mode(v: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(n) = v.as_i64().filter(|n| !(0..=0o777).contains(n)) {
        errors.push(Error::invalid(at, n, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// A relative path that stays below where it starts (upstream: `validateLocalNonReservedPath`).
pub fn local_path(path: &str, at: &Path, errors: &mut ErrorList) {
    if path.starts_with('/') {
        errors.push(Error::invalid(at, path, "must be a relative path"));
    }
    no_backsteps(path, at, errors);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.push(Error::invalid(at, path, "must not start with '..'"));
    }
}

pub fn no_backsteps(path: &str, at: &Path, errors: &mut ErrorList) {
    if path.split('/').any(|p| p == "..") {
        errors.push(Error::invalid(at, path, "must not contain '..'"));
    }
}
