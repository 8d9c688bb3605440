//! Probes and hooks of a container (upstream: `validateProbe`, `validateLifecycle`, `validateHandler`).

use crate::helpers::regex_error;
use crate::validate::{items, non_negative, port, port_name_errors, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// Ways of acting, in the order in which upstream looks at them.
const OF_PROBES: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const OF_HOOKS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Hooks and probes of a container that has them; `spec` is the pod's.
pub fn errors(c: &Value, spec: &Value, at: &Path, errors: &mut ErrorList) {
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let (hooks, path) = (&c["lifecycle"], at.child("lifecycle"));
    for hook in ["postStart", "preStop"] {
        if hooks[hook].is_object() {
            action(&hooks[hook], OF_HOOKS, grace, &path.child(hook), errors);
        }
    }
    for field in PROBES {
        probe(&c[field], field == "readinessProbe", grace, &at.child(field), errors);
    }
}

/// What an init container that ends has none of.
pub fn refused(c: &Value, at: &Path, errors: &mut ErrorList) {
    for field in ["lifecycle"].into_iter().chain(PROBES).filter(|f| !c[*f].is_null()) {
        let detail = "may not be set for init containers without restartPolicy=Always";
        errors.push(Error::forbidden(&at.child(field), detail));
    }
}

fn probe(p: &Value, readiness: bool, grace: Option<i64>, at: &Path, errors: &mut ErrorList) {
    if p.is_null() {
        return;
    }
    action(p, OF_PROBES, grace, at, errors);
    for n in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        non_negative(p, n, at, errors);
    }
    let (own, path) =
        (p["terminationGracePeriodSeconds"].as_i64(), at.child("terminationGracePeriodSeconds"));
    if let Some(seconds) = own.filter(|s| *s <= 0) {
        errors.push(Error::invalid(&path, seconds, "must be greater than 0"));
    }
    if readiness {
        errors.extend(own.map(|s| Error::invalid(&path, s, "must not be set for readinessProbes")));
        return;
    }
    let success = p["successThreshold"].as_i64().unwrap_or(0);
    if success != 1 {
        errors.push(Error::invalid(&at.child("successThreshold"), success, "must be 1"));
    }
}

/// Exactly one way of acting, and that one complete.
fn action(v: &Value, kinds: &[&str], grace: Option<i64>, at: &Path, errors: &mut ErrorList) {
    let given: Vec<&str> = kinds.iter().copied().filter(|k| !v[*k].is_null()).collect();
    let Some(first) = given.first() else {
        errors.push(Error::required(at, "must specify a handler type"));
        return;
    };
    one(first, &v[*first], grace, &at.child(first), errors);
    for extra in given.iter().skip(1) {
        errors.push(Error::forbidden(&at.child(extra), "may not specify more than 1 handler type"));
    }
}

fn one(kind: &str, a: &Value, grace: Option<i64>, at: &Path, errors: &mut ErrorList) {
    match kind {
        "exec" if items(a, "command").is_empty() => errors.push(Error::required(&at.child("command"), "")),
        "httpGet" => http_get(a, at, errors),
        "tcpSocket" => number_or_name(&a["port"], &at.child("port"), errors),
        "grpc" => port(a["port"].as_i64().unwrap_or(0), &at.child("port"), errors),
        "sleep" => {
            let seconds = a["seconds"].as_i64().unwrap_or(0);
            if let Some(grace) = grace.filter(|g| seconds < 0 || seconds > *g) {
                let detail =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.push(Error::invalid(at, seconds, detail));
            }
        }
        _ => {}
    }
}

fn http_get(a: &Value, at: &Path, errors: &mut ErrorList) {
    if text(a, "path").is_empty() {
        errors.push(Error::required(&at.child("path"), ""));
    }
    number_or_name(&a["port"], &at.child("port"), errors);
    let scheme = text(a, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(Error::not_supported(&at.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(a, "httpHeaders") {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let told = "a valid HTTP header must consist of alphanumeric characters or '-'";
            let detail = regex_error(told, "[-A-Za-z0-9]+", &["X-Header-Name"]);
            errors.push(Error::invalid(&at.child("httpHeaders"), name, detail));
        }
    }
}

/// A port: a number, zero when absent, or a name.
fn number_or_name(v: &Value, at: &Path, errors: &mut ErrorList) {
    match v.as_str() {
        Some(name) => told(name, port_name_errors(name), at, errors),
        None => port(v.as_i64().unwrap_or(0), at, errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(c: Value, spec: Value) -> Vec<String> {
        let mut all = Vec::new();
        errors(&c, &spec, &Path::root(), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateProbe`, `TestValidateHandler`.
    #[test]
    fn probes_and_hooks() {
        let ok = json!({"readinessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2},
            "lifecycle": {"preStop": {"sleep": {"seconds": 30}}}});
        let spec = || json!({"terminationGracePeriodSeconds": 30});
        assert!(found(ok, spec()).is_empty());
        assert_eq!(
            found(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "postStart": {}}}), spec()),
            [
                "lifecycle.postStart: Required value: must specify a handler type",
                "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ]
        );
        let http = json!({"path": "/", "port": 80, "scheme": "FTP", "httpHeaders": [{"name": "a b"}]});
        assert_eq!(
            found(
                json!({"livenessProbe": {"httpGet": http, "grpc": {"port": 1}, "successThreshold": 2}}),
                spec()
            ),
            [
                "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
                "livenessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
                "livenessProbe.grpc: Forbidden: may not specify more than 1 handler type",
                "livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ]
        );
    }
}
