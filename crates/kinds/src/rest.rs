//! What strategies of several groups share: keeping fields and metadata, webhook addresses, qualified names.
//!
//! Texts equal upstream's; nothing here knows a kind.

use crate::certificates::pem;
use crate::helpers;
use crate::validate::text;
use meta::field::{Error, ErrorList, ErrorType, Path, quoted};
use meta::object;
use serde_json::Value;

/// Puts a top-level or metadata field of `new` back to what `old` has, absent included.
pub fn keep(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(v) => {
            map.insert(field.to_owned(), v.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

/// A write of status changes no metadata but managedFields (upstream: `metav1.ResetObjectMetaForStatus`).
pub fn keep_metadata(new: &mut Value, old: &Value) {
    let Some(metadata) = new.get_mut("metadata") else { return };
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        keep(metadata, &old["metadata"], field);
    }
}

/// All metadata as before but managedFields and the version that the client named.
pub fn keep_all_metadata(new: &mut Value, old: &Value) {
    let managed = new["metadata"].get("managedFields").cloned();
    let version = new["metadata"].get("resourceVersion").cloned();
    keep(new, old, "metadata");
    for (field, value) in [("managedFields", managed), ("resourceVersion", version)] {
        match value {
            Some(v) => object::set_meta(new, field, v),
            None => object::remove_meta(new, field),
        }
    }
}

/// An error whose value is not shown (upstream: `field.OmitValueType`).
pub fn omitted(path: &Path, detail: impl Into<String>) -> Error {
    Error { kind: ErrorType::Invalid, field: path.clone(), bad: None, detail: detail.into() }
}

/// One error that joins the messages of a failed name check, as kinds without a message each do.
pub fn joined(path: &Path, bad: &str, messages: &[String], intro: &str, errors: &mut ErrorList) {
    if !messages.is_empty() {
        errors.push(Error::invalid(path, bad, format!("{intro}{}", messages.join(","))));
    }
}

/// Whether a condition of the type is there and `True`.
pub fn is_true(list: &[Value], ty: &str) -> bool {
    list.iter().find(|c| c["type"] == ty).is_some_and(|c| c["status"] == "True")
}

/// Where a webhook is: exactly one of `url` and `service` (upstream: `webhook.ValidateWebhookURL`,
/// `ValidateWebhookService`).
pub fn webhook_client(client: &Value, path: &Path, errors: &mut ErrorList) {
    let (url, service) = (&client["url"], &client["service"]);
    if url.is_null() == service.is_null() {
        errors.push(Error::required(path, "exactly one of url or service is required"));
    } else if let Some(url) = url.as_str() {
        webhook_url(url, &path.child("url"), errors);
    } else {
        webhook_service(service, &path.child("service"), errors);
    }
}

fn webhook_url(raw: &str, path: &Path, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match Url::parse(raw) {
        Ok(url) => url,
        Err(why) => {
            let detail = format!("url must be a valid URL: parse {raw}: {why}{FORM}", raw = quoted(raw));
            errors.push(Error::required(path, detail));
            return;
        }
    };
    if url.scheme != "https" {
        errors.push(Error::invalid(
            path,
            url.scheme.as_str(),
            format!("'https' is the only allowed URL scheme{FORM}"),
        ));
    }
    if url.host.is_empty() {
        errors.push(Error::invalid(path, "", format!("host must be specified{FORM}")));
    }
    if let Some(user) = url.user {
        errors.push(Error::invalid(path, user, "user information is not permitted in the URL"));
    }
    if !url.fragment.is_empty() {
        errors.push(Error::invalid(path, url.fragment, "fragments are not permitted in the URL"));
    }
    if !url.query.is_empty() {
        errors.push(Error::invalid(path, url.query, "query parameters are not permitted in the URL"));
    }
}

/// The parts of an URL as Go's `net/url` splits it.
struct Url<'a> {
    scheme: String,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    fn parse(raw: &'a str) -> Result<Self, String> {
        if raw.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (rest, fragment) = raw.split_once('#').unwrap_or((raw, ""));
        let (scheme, rest) = scheme(rest)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some(rest) = rest.strip_prefix("//") else {
            let first = rest.split('/').next().unwrap_or("");
            if scheme.is_empty() && first.contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
            return Ok(Self { scheme, user: None, host: "", query, fragment });
        };
        let authority = rest.split('/').next().unwrap_or("");
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(bad) =
            host.chars().find(|c| matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '}' | '|'))
        {
            return Err(format!("invalid character {:?} in host name", bad.to_string()));
        }
        let port = match host.rfind(']') {
            Some(end) => &host[end + 1..],
            None => host.find(':').map_or("", |colon| &host[colon..]),
        };
        if !port.is_empty() && (!port.starts_with(':') || !port[1..].bytes().all(|b| b.is_ascii_digit())) {
            return Err(format!("invalid port {port} after host", port = quoted(port)));
        }
        Ok(Self { scheme, user, host, query, fragment })
    }
}

/// The scheme, lower case, and what follows its colon.
fn scheme(raw: &str) -> Result<(String, &str), String> {
    for (i, c) in raw.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((raw[..i].to_ascii_lowercase(), &raw[i + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), raw))
}

/// Upstream calls this with name and namespace swapped; the paths of its errors are kept.
fn webhook_service(service: &Value, path: &Path, errors: &mut ErrorList) {
    if text(service, "namespace").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    if text(service, "name").is_empty() {
        errors.push(Error::required(&path.child("namespace"), ""));
    }
    let port = service["port"].as_i64().unwrap_or(0);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(&path.child("port"), port, detail));
    }
    if let Some(url_path) = service["path"].as_str() {
        webhook_path(url_path, &path.child("path"), errors);
    }
}

fn webhook_path(url_path: &str, path: &Path, errors: &mut ErrorList) {
    match url_path {
        "" | "/" => return,
        "//" => {
            errors.push(Error::invalid(path, url_path, "segment[0] may not be empty"));
            return;
        }
        _ => {}
    }
    let rest = match url_path.strip_prefix('/') {
        Some(rest) => rest,
        None => {
            errors.push(Error::invalid(path, url_path, "must start with a '/'"));
            // Upstream drops the first byte, whatever it is.
            url_path.char_indices().nth(1).map_or("", |(i, _)| &url_path[i..])
        }
    };
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(path, url_path, format!("segment[{i}] may not be empty")));
            continue;
        }
        for message in helpers::dns_subdomain_errors(step, false) {
            errors.push(Error::invalid(path, url_path, format!("segment[{i}]: {message}")));
        }
    }
}

/// What is wrong with the certificates of a webhook's `caBundle`, base64 (upstream: `webhook.ValidateCABundle`). None
/// at all is well.
pub fn ca_bundle_error(bundle: &str) -> Option<String> {
    use base64::Engine;
    let raw = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default();
    if raw.is_empty() {
        return None;
    }
    let blocks = pem::blocks(&String::from_utf8_lossy(&raw));
    let certificates: Vec<_> = blocks.iter().filter(|b| b.label == "CERTIFICATE" && !b.headers).collect();
    let why = if blocks.is_empty() {
        "unable to parse bytes as PEM block"
    } else if certificates.is_empty() {
        "no valid certificate authority data seen"
    } else if certificates.iter().any(|b| crate::certificates::is_certificate(&b.der)) {
        return None;
    } else {
        "failed to parse certificate: x509: malformed certificate"
    };
    Some(format!("unable to load root certificates: {why}"))
}

/// A name of at least three dotted segments (upstream: `IsFullyQualifiedName`).
pub fn fully_qualified_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let messages = helpers::dns_subdomain_errors(name, false);
    if !messages.is_empty() {
        joined(path, name, &messages, "", errors);
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(Error::invalid(path, name, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;
    use serde_json::json;

    fn client(v: Value) -> String {
        let mut errors = Vec::new();
        webhook_client(&v, &Path::new("c"), &mut errors);
        if errors.is_empty() { String::new() } else { aggregate(&errors) }
    }

    #[test]
    fn addresses_of_webhooks() {
        assert_eq!(client(json!({})), "c: Required value: exactly one of url or service is required");
        assert_eq!(client(json!({"url": "https://a/b"})), "");
        assert_eq!(
            client(json!({"url": "arg#backwards=thisis?html.index/port:host//:https"})),
            "[c.url: Invalid value: \"\": 'https' is the only allowed URL scheme; desired format: https://host[/path], c.url: Invalid value: \"\": host must be specified; desired format: https://host[/path], c.url: Invalid value: \"backwards=thisis?html.index/port:host//:https\": fragments are not permitted in the URL]"
        );
        assert_eq!(
            client(json!({"url": "https://user:pass@a/?x=y"})),
            "[c.url: Invalid value: \"user:pass\": user information is not permitted in the URL, c.url: Invalid value: \"x=y\": query parameters are not permitted in the URL]"
        );
        let service = |path: &str| {
            client(json!({"service": {"name": "n", "namespace": "ns", "port": 443, "path": path}}))
        };
        assert_eq!(service("/foo/bar"), "");
        assert_eq!(service("//"), "c.service.path: Invalid value: \"//\": segment[0] may not be empty");
        assert_eq!(
            service("/foo//bar"),
            "c.service.path: Invalid value: \"/foo//bar\": segment[1] may not be empty"
        );
        assert_eq!(
            client(json!({"service": {"name": "n", "namespace": "ns", "port": 0}})),
            "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"
        );
    }
}
