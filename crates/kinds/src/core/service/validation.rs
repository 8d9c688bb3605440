//! Validation of Services.

use super::{has_node_ports, needs_cluster_ip};
use crate::helpers;
use crate::validate::{immutable, items, labels, one_of, port, port_name_errors, port_or_name, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;
use std::net::IpAddr;

/// Upstream: `core.MaxClientIPServiceAffinitySeconds`, a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

pub fn service(obj: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (path, spec) = (Path::new("spec"), &obj["spec"]);
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let list = items(spec, "ports");
    if list.is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    if kind == "LoadBalancer" && headless {
        let detail = "may not be set to 'None' for LoadBalancer services";
        errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", detail));
    }
    if kind == "NodePort" && headless {
        let detail = "may not be set to 'None' for NodePort services";
        errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", detail));
    }
    if kind == "ExternalName" {
        external_name(spec, &path, &mut errors);
    }
    ports(list, headless, &path, &mut errors);
    labels(&spec["selector"], &path.child("selector"), &mut errors);
    if text(spec, "sessionAffinity").is_empty() {
        errors.push(Error::required(&path.child("sessionAffinity"), ""));
    }
    one_of(spec, "sessionAffinity", &path, &["ClientIP", "None"], &mut errors);
    if let Some(s) = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64()
        && !(1..=AFFINITY_SECONDS_MAX).contains(&s)
    {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        errors.push(Error::invalid(
            &at,
            s,
            format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
        ));
    }
    cluster_ips(spec, &path, &mut errors);
    for (i, ip) in items(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("externalIPs").index(i);
        match ip.parse::<IpAddr>() {
            Ok(a) if a.is_loopback() || a.is_unspecified() => {
                errors.push(Error::invalid(
                    &at,
                    ip,
                    "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ));
            }
            Ok(_) => {}
            Err(_) => errors.push(Error::invalid(
                &at,
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            )),
        }
    }
    one_of(spec, "type", &path, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &mut errors);
    traffic(spec, &path, &mut errors);
    for (i, p) in list.iter().enumerate() {
        if p["nodePort"].as_i64().unwrap_or(0) != 0 && !has_node_ports(spec) && kind != "LoadBalancer" {
            let at = path.child("ports").index(i).child("nodePort");
            errors.push(Error::forbidden(&at, "may not be used when `type` is 'ClusterIP'"));
        }
    }
    errors
}

fn external_name(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["clusterIP", "clusterIPs"] {
        if !text(spec, field).is_empty() || !items(spec, field).is_empty() {
            errors.push(Error::forbidden(&path.child(field), "may not be set for ExternalName services"));
        }
    }
    let name = text(spec, "externalName");
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.is_empty() {
        errors.push(Error::required(&path.child("externalName"), ""));
    } else {
        let messages = helpers::dns_subdomain_errors(bare, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("externalName"), name, m)));
    }
}

fn ports(list: &[Value], headless: bool, path: &Path, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    let mut seen: Vec<(i64, &str)> = Vec::new();
    for (i, p) in list.iter().enumerate() {
        let at = path.child("ports").index(i);
        let name = text(p, "name");
        if name.is_empty() {
            if list.len() > 1 {
                errors.push(Error::required(&at.child("name"), ""));
            }
        } else {
            let messages = helpers::dns_label_errors(name, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
            if names.contains(&name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            names.push(name);
        }
        let number = p["port"].as_i64().unwrap_or(0);
        port(number, &at.child("port"), errors);
        if text(p, "protocol").is_empty() {
            errors.push(Error::required(&at.child("protocol"), ""));
        }
        one_of(p, "protocol", &at, &["SCTP", "TCP", "UDP"], errors);
        port_or_name(&p["targetPort"], &at.child("targetPort"), errors);
        if headless && p["targetPort"].is_string() {
            let target = text(p, "targetPort");
            errors.extend(
                port_name_errors(target)
                    .into_iter()
                    .map(|m| Error::invalid(&at.child("targetPort"), target, m)),
            );
        }
        let key = (number, text(p, "protocol"));
        if seen.contains(&key) {
            errors.push(Error::duplicate(&at, serde_json::json!({"port": key.0, "protocol": key.1})));
        }
        seen.push(key);
    }
}

/// Upstream: `ValidateServiceClusterIPsRelatedFields`.
fn cluster_ips(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let list: Vec<&str> = items(spec, "clusterIPs").iter().filter_map(Value::as_str).collect();
    let first = text(spec, "clusterIP");
    let at = path.child("clusterIPs");
    if let Some(listed) = list.first()
        && first != *listed
    {
        let detail = if first.is_empty() {
            "must be empty when `clusterIP` is not specified".to_owned()
        } else {
            "first value must match `clusterIP`".to_owned()
        };
        errors.push(Error::invalid(&at, spec["clusterIPs"].clone(), detail));
    }
    if list.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(Error::invalid(&at, spec["clusterIPs"].clone(), detail));
    }
    let families = items(spec, "ipFamilies");
    if families.len() > 2 {
        errors.push(Error::invalid(
            &path.child("ipFamilies"),
            spec["ipFamilies"].clone(),
            "may only hold up to 2 values",
        ));
    }
    for (i, f) in families.iter().filter_map(Value::as_str).enumerate() {
        if !matches!(f, "IPv4" | "IPv6") {
            errors.push(Error::not_supported(&path.child("ipFamilies").index(i), f, &["IPv4", "IPv6"]));
        }
    }
    if families.len() == 2 && families[0] == families[1] {
        errors.push(Error::duplicate(&path.child("ipFamilies").index(1), families[1].clone()));
    }
    one_of(spec, "ipFamilyPolicy", path, &["SingleStack", "PreferDualStack", "RequireDualStack"], errors);
    if needs_cluster_ip(spec) {
        for (i, ip) in list.iter().enumerate() {
            match ip.parse::<IpAddr>() {
                Err(_) => errors.push(Error::invalid(
                    &at.index(i),
                    *ip,
                    "must be empty, 'None', or a valid IP address",
                )),
                Ok(a) => {
                    let family = if a.is_ipv4() { "IPv4" } else { "IPv6" };
                    if families.get(i).and_then(Value::as_str).is_some_and(|f| f != family) {
                        let detail = format!(
                            "expected an {} value as indicated by `ipFamilies[{i}]`",
                            text_at(families, i)
                        );
                        errors.push(Error::invalid(&at.index(i), *ip, detail));
                    }
                }
            }
        }
    }
}

fn text_at(list: &[Value], i: usize) -> &str {
    list.get(i).and_then(Value::as_str).unwrap_or("")
}

fn traffic(spec: &Value, path: &Path, errors: &mut ErrorList) {
    one_of(spec, "internalTrafficPolicy", path, &["Cluster", "Local"], errors);
    one_of(spec, "externalTrafficPolicy", path, &["Cluster", "Local"], errors);
    let external =
        matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || !items(spec, "externalIPs").is_empty();
    if !external && !text(spec, "externalTrafficPolicy").is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(Error::invalid(
            &path.child("externalTrafficPolicy"),
            text(spec, "externalTrafficPolicy"),
            detail,
        ));
    }
    if spec["healthCheckNodePort"].as_i64().unwrap_or(0) != 0 {
        let wanted = text(spec, "type") == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
        if !wanted {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(Error::invalid(
                &path.child("healthCheckNodePort"),
                spec["healthCheckNodePort"].clone(),
                detail,
            ));
        }
    }
}

/// Upstream: `ValidateServiceUpdate`.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("clusterIPs");
    let (n, o) = (&new["spec"], &old["spec"]);
    let same_type = text(n, "type") == text(o, "type");
    if same_type && text(o, "type") != "ExternalName" && !text(o, "clusterIP").is_empty() {
        let first =
            |s: &Value| items(s, "clusterIPs").first().cloned().unwrap_or_else(|| s["clusterIP"].clone());
        let mut found = Vec::new();
        immutable(&first(n), &first(o), &path.index(0), &mut found);
        for e in &mut found {
            e.detail = "may not change once set".to_owned();
        }
        errors.extend(found);
    }
    errors.extend(service(new));
    errors
}
