//! Ingress (upstream: `pkg/registry/networking/ingress`, `validateIngress`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::helpers;
use crate::ip;
use crate::status as shared;
use crate::validate::{items, port, port_name_errors, required, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

const TYPE: &str = "io.k8s.api.networking.v1.Ingress";
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const WILDCARD: &str = "\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD_TEXT: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
/// Hosts shown in a cell before the rest is counted.
const SHOWN_MAX: usize = 3;
/// Longest cell of addresses (upstream: `loadBalancerWidth`).
const ADDRESS_WIDTH: usize = 16;

pub fn kind() -> KindDef {
    KindDef {
        kind: "Ingress".into(),
        plural: "ingresses".into(),
        singular: "ingress".into(),
        short: &["ing"],
        schema: TYPE.into(),
        storage: "ingress".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Class", "string", |o, _| {
                    o["spec"]["ingressClassName"].as_str().unwrap_or("<none>").into()
                }),
                column("Hosts", "string", |o, _| hosts(o).into()),
                column("Address", "string", |o, _| address(o).into()),
                column("Ports", "string", |o, _| {
                    if items(&o["spec"], "tls").is_empty() { "80" } else { "80, 443" }.into()
                }),
                AGE,
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&Ingress),
        sample: "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, namespace: default}\nspec:\n  ingressClassName: external\n  rules: [{host: web.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]\nstatus: {loadBalancer: {}}\n",
        ..GROUP
    }
}

fn hosts(o: &Value) -> String {
    let rules = items(&o["spec"], "rules");
    let mut list = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= list.len() == SHOWN_MAX;
        if !more && !text(rule, "host").is_empty() {
            list.push(text(rule, "host"));
        }
    }
    if list.is_empty() {
        return "*".to_owned();
    }
    let out = list.join(",");
    if more { format!("{out} + {} more...", rules.len() - SHOWN_MAX) } else { out }
}

fn address(o: &Value) -> String {
    let points = items(&o["status"]["loadBalancer"], "ingress").iter();
    let shown = points.map(|p| if text(p, "ip").is_empty() { text(p, "hostname") } else { text(p, "ip") });
    let mut all: Vec<&str> = shown.filter(|s| !s.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    let out = all.join(",");
    if out.len() > ADDRESS_WIDTH { format!("{}...", out.get(..ADDRESS_WIDTH - 3).unwrap_or("")) } else { out }
}

/// What an update does not check because the old object was wrong already.
#[derive(Clone, Copy, Default)]
struct Lax {
    secret_names: bool,
    wildcard_rules: bool,
}

struct Ingress;

impl Strategy for Ingress {
    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, TYPE);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = spec(&obj["spec"], Lax::default());
        let class = obj["spec"]["ingressClassName"].as_str();
        if let (Some(old), Some(class)) = (object::annotation(obj, CLASS_ANNOTATION), class)
            && old != class
        {
            let at = Path::new("annotations").child(CLASS_ANNOTATION);
            errors.push(Error::invalid(&at, old, "must match `ingressClassName` when both are specified"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_update(new, old);
        }
        let bad_name = |t: &Value| !secret_errors(text(t, "secretName")).is_empty();
        let bad_rule = |r: &Value| {
            let mut found = Vec::new();
            rule(r, &Path::root(), &mut found);
            text(r, "host").contains('*') && !found.is_empty()
        };
        let lax = Lax {
            secret_names: items(&old["spec"], "tls").iter().any(bad_name),
            wildcard_rules: items(&old["spec"], "rules").iter().any(bad_rule),
        };
        spec(&new["spec"], lax)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_none() {
            let dated = object::annotation(new, CLASS_ANNOTATION).is_some()
                && new["spec"]["ingressClassName"].is_null();
            let text = format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            );
            return dated.then_some(text).into_iter().collect();
        }
        if !shared::was_written(new, old) {
            return Vec::new();
        }
        let path = Path::new("status").child("loadBalancer").child("ingress");
        let points = items(&new["status"]["loadBalancer"], "ingress").iter().enumerate();
        points.filter_map(|(i, p)| ip::warnings(text(p, "ip"), &path.index(i))).collect()
    }
}

fn status_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let points = |o: &'_ Value| items(&o["status"]["loadBalancer"], "ingress").to_vec();
    let old_points = points(old);
    let known: Vec<&str> = old_points.iter().map(|p| text(p, "ip")).filter(|i| !i.is_empty()).collect();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (i, p) in points(new).iter().enumerate() {
        let (at, address, host) = (path.index(i), text(p, "ip"), text(p, "hostname"));
        if !address.is_empty() {
            ip::legacy(address, &at.child("ip"), &known, &mut errors);
        }
        if !host.is_empty() {
            let at = at.child("hostname");
            let messages = helpers::dns_subdomain_errors(host, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, host, m)));
            not_ip(host, &at, &mut errors);
        }
    }
    errors
}

fn not_ip(host: &str, at: &Path, errors: &mut ErrorList) {
    if ip::parse(host).is_some() {
        errors.push(Error::invalid(at, host, "must be a DNS name, not an IP address"));
    }
}

fn secret_errors(name: &str) -> Vec<String> {
    if name.is_empty() { Vec::new() } else { helpers::dns_subdomain_errors(name, false) }
}

/// A host, with `*.` in front allowed (upstream: `IsWildcardDNS1123Subdomain`).
fn host_errors(host: &str) -> Vec<String> {
    if !host.contains('*') {
        return helpers::dns_subdomain_errors(host, false);
    }
    let mut out = Vec::new();
    if host.len() > helpers::DNS_SUBDOMAIN_MAX {
        out.push(format!("must be no more than {} characters", helpers::DNS_SUBDOMAIN_MAX));
    }
    let rest = host.strip_prefix("*.").and_then(|h| h.get(..h.len().min(helpers::DNS_SUBDOMAIN_MAX)));
    if rest.is_none_or(|h| !helpers::dns_subdomain_errors(h, false).is_empty()) {
        out.push(helpers::regex_error(WILDCARD_TEXT, WILDCARD, &["*.example.com"]));
    }
    out
}

fn spec(spec: &Value, lax: Lax) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let rules = items(spec, "rules");
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(&path, spec["rules"].clone(), detail));
    }
    if spec["defaultBackend"].is_object() {
        backend(&spec["defaultBackend"], &path.child("defaultBackend"), &mut errors);
    }
    for (i, r) in rules.iter().enumerate() {
        let (at, host) = (path.child("rules").index(i), text(r, "host"));
        if !host.is_empty() {
            not_ip(host, &at.child("host"), &mut errors);
            let messages = host_errors(host);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("host"), host, m)));
        }
        if !host.contains('*') || !lax.wildcard_rules {
            rule(r, &at, &mut errors);
        }
    }
    for (i, t) in items(spec, "tls").iter().enumerate() {
        let at = path.child("tls").index(i);
        for (j, host) in items(t, "hosts").iter().filter_map(Value::as_str).enumerate() {
            let at = at.child("hosts").index(j);
            errors.extend(host_errors(host).into_iter().map(|m| Error::invalid(&at, host, m)));
        }
        let name = text(t, "secretName");
        if !lax.secret_names {
            let messages = secret_errors(name);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("secretName"), name, m)));
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        let at = path.child("ingressClassName");
        let messages = helpers::dns_subdomain_errors(class, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, class, m)));
    }
    errors
}

fn rule(r: &Value, at: &Path, errors: &mut ErrorList) {
    if !r["http"].is_object() {
        return;
    }
    let (at, paths) = (at.child("http").child("paths"), items(&r["http"], "paths"));
    if paths.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    for (i, p) in paths.iter().enumerate() {
        http_path(p, &at.index(i), errors);
    }
}

fn http_path(p: &Value, at: &Path, errors: &mut ErrorList) {
    let (path, path_at) = (text(p, "path"), at.child("path"));
    let mut wrong = |detail: String| errors.push(Error::invalid(&path_at, path, detail));
    match p["pathType"].as_str() {
        None => {
            errors.push(Error::required(&at.child("pathType"), "pathType must be specified"));
            return;
        }
        Some("Exact" | "Prefix") => {
            if !path.starts_with('/') {
                wrong("must be an absolute path".to_owned());
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|b| path.contains(**b)) {
                wrong(format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].iter().filter(|b| path.ends_with(**b)) {
                wrong(format!("cannot end with '{bad}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !path.is_empty() && !path.starts_with('/') {
                wrong("must be an absolute path".to_owned());
            }
        }
        Some(other) => {
            let allowed = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(Error::not_supported(&at.child("pathType"), other, &allowed));
        }
    }
    backend(&p["backend"], &at.child("backend"), errors);
}

fn backend(b: &Value, at: &Path, errors: &mut ErrorList) {
    match (b["resource"].is_object(), b["service"].is_object()) {
        (true, true) => errors.push(Error::invalid(at, "", "cannot set both resource and service backends")),
        (false, false) => errors.push(Error::invalid(at, "", "resource or service backend is required")),
        (true, false) => resource(&b["resource"], &at.child("resource"), errors),
        (false, true) => service(&b["service"], at, errors),
    }
}

fn resource(r: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(group) = r["apiGroup"].as_str() {
        let messages = helpers::dns_subdomain_errors(group, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("apiGroup"), group, m)));
    }
    for field in ["kind", "name"] {
        required(r, field, at, errors);
        let value = text(r, field);
        let messages = helpers::path_segment_errors(value, value.is_empty());
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child(field), value, m)));
    }
}

fn service(s: &Value, at: &Path, errors: &mut ErrorList) {
    let (path, name) = (at.child("service"), text(s, "name"));
    required(s, "name", &path, errors);
    if !name.is_empty() {
        let messages = helpers::dns_label_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("name"), name, m)));
    }
    let (name, number) = (text(&s["port"], "name"), s["port"]["number"].as_i64().unwrap_or(0));
    let path = path.child("port");
    match (name.is_empty(), number) {
        (false, 0) => {
            let messages = port_name_errors(name);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("name"), name, m)));
        }
        (false, _) => errors.push(Error::invalid(at, "", "cannot set both port name & port number")),
        (true, 0) => errors.push(Error::required(at, "port name or number is required")),
        (true, number) => port(number, &path.child("number"), errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(path: &str, kind: &str, host: &str) -> Vec<String> {
        let backend = json!({"service": {"name": "default-backend", "port": {"number": 80}}});
        let obj = json!({"spec": {"rules": [{"host": host, "http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]}});
        Ingress.validate(&obj).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules() {
        assert!(with("/foo", "Prefix", "foo.bar.com").is_empty());
        assert!(with("", "ImplementationSpecific", "*.bar.com").is_empty());
        assert_eq!(
            with("foo", "Exact", "127.0.0.1"),
            [
                "spec.rules[0].host: Invalid value: \"127.0.0.1\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"foo\": must be an absolute path"
            ]
        );
        assert_eq!(
            with("/foo//..", "Prefix", ""),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"/foo//..\": must not contain '//'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"/foo//..\": cannot end with '/..'"
            ]
        );
        assert_eq!(with("/", "Prefix", "foobar.*.com").len(), 1);
        assert_eq!(
            with("/", "Foo", ""),
            [
                "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Foo\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
            ]
        );
        let none: Vec<String> =
            Ingress.validate(&json!({"spec": {}})).iter().map(ToString::to_string).collect();
        assert_eq!(none, ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]);
    }

    #[test]
    fn backends_and_status() {
        let mut errors = Vec::new();
        backend(
            &json!({"service": {"name": "x", "port": {"name": "a", "number": 1}}}),
            &Path::new("b"),
            &mut errors,
        );
        backend(&json!({"service": {"name": "x", "port": {}}}), &Path::new("b"), &mut errors);
        backend(&json!({}), &Path::new("b"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "b: Invalid value: \"\": cannot set both port name & port number",
                "b: Required value: port name or number is required",
                "b: Invalid value: \"\": resource or service backend is required"
            ]
        );
        let new = json!({"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1", "hostname": "foo.bar.com"}, {"hostname": "127.0.0.2"}]}}});
        assert_eq!(status_update(&new, &json!({})).len(), 1);
        assert_eq!(address(&new), "127.0.0.1,127...");
    }

    #[test]
    fn the_old_annotation() {
        let mut obj = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "nginx"}}, "spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 1}}}}});
        assert_eq!(
            Ingress.warnings(&obj, None),
            [
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
            ]
        );
        obj["spec"]["ingressClassName"] = json!("other");
        assert_eq!(Ingress.validate(&obj).len(), 1);
    }
}
