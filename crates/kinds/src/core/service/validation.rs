//! Validation of Services (upstream: `pkg/apis/core/validation/validation.go#validateService`).

use super::needs_health_check;
use crate::helpers;
use crate::ip;
use crate::validate::{items, labels, one_of, port, port_or_name, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

/// Upstream: `core.MaxClientIPServiceAffinitySeconds`, a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
const UNCHANGED: &str = "may not change once set";

/// Errors of a Service; `old` is the one that is updated.
pub fn service(obj: &Value, old: Option<&Value>) -> ErrorList {
    let (path, spec) = (Path::new("spec"), &obj["spec"]);
    // upstream looks at these before it hands out addresses, and at the rest after that
    let mut errors = cluster_ip_errors(obj, old);
    if !errors.is_empty() {
        return errors;
    }
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let list = items(spec, "ports");
    if list.is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(spec, &path, &mut errors),
        _ => {}
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, p) in list.iter().enumerate() {
        one_port(p, list.len() > 1, &mut names, &path.child("ports").index(i), &mut errors);
    }
    labels(&spec["selector"], &path.child("selector"), &mut errors);
    affinity(spec, &path, &mut errors);
    let had: Vec<String> = old.map(|o| object::strings(&o["spec"]["externalIPs"])).unwrap_or_default();
    let had: Vec<&str> = had.iter().map(String::as_str).collect();
    for (i, value) in items(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        let (at, before) = (path.child("externalIPs").index(i), errors.len());
        ip::legacy(value, &at, &had, &mut errors);
        if errors.len() == before {
            ip::endpoint(value, &at, &mut errors);
        }
    }
    if kind.is_empty() {
        errors.push(Error::required(&path.child("type"), ""));
    }
    one_of(spec, "type", &path, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &mut errors);
    port_sets(list, kind, &path.child("ports"), &mut errors);
    source_ranges(obj, old, &path, &mut errors);
    if !spec["allocateLoadBalancerNodePorts"].is_null() && kind != "LoadBalancer" {
        errors.push(Error::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCERS));
    }
    balancer_class(spec, &path, &mut errors);
    traffic(spec, &path, &mut errors);
    errors
}

fn external_name(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
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
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("externalName"), bare, m)));
    }
}

fn one_port<'a>(p: &'a Value, needs_name: bool, names: &mut Vec<&'a str>, at: &Path, errors: &mut ErrorList) {
    let name = text(p, "name");
    if name.is_empty() && needs_name {
        errors.push(Error::required(&at.child("name"), ""));
    } else if !name.is_empty() {
        let messages = helpers::dns_label_errors(name, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("name"), name, m)));
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        names.push(name);
    }
    port(p["port"].as_i64().unwrap_or(0), &at.child("port"), errors);
    if text(p, "protocol").is_empty() {
        errors.push(Error::required(&at.child("protocol"), ""));
    }
    one_of(p, "protocol", at, &["SCTP", "TCP", "UDP"], errors);
    port_or_name(&p["targetPort"], &at.child("targetPort"), errors);
    if let Some(protocol) = p["appProtocol"].as_str() {
        let messages = helpers::qualified_name_errors(protocol).into_iter();
        errors.extend(messages.map(|m| Error::invalid(&at.child("appProtocol"), protocol, m)));
    }
}

fn affinity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    if text(spec, "sessionAffinity").is_empty() {
        errors.push(Error::required(&path.child("sessionAffinity"), ""));
    }
    one_of(spec, "sessionAffinity", path, &["ClientIP", "None"], errors);
    let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
    if let Some(s) = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64()
        && !(1..=AFFINITY_SECONDS_MAX).contains(&s)
    {
        let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        errors.push(Error::invalid(&at, s, detail));
    }
}

/// What ports may not have, or not have twice.
fn port_sets(list: &[Value], kind: &str, at: &Path, errors: &mut ErrorList) {
    let node_port = |p: &Value| p["nodePort"].as_i64().unwrap_or(0);
    for (i, _) in list.iter().enumerate().filter(|(_, p)| node_port(p) != 0 && kind == "ClusterIP") {
        let detail = "may not be used when `type` is 'ClusterIP'";
        errors.push(Error::forbidden(&at.index(i).child("nodePort"), detail));
    }
    let before = |i: usize, same: &dyn Fn(&Value) -> bool| list.iter().take(i).any(same);
    for (i, p) in list.iter().enumerate().filter(|(_, p)| node_port(p) != 0) {
        if before(i, &|o| node_port(o) == node_port(p) && o["protocol"] == p["protocol"]) {
            errors.push(Error::duplicate(&at.index(i).child("nodePort"), node_port(p)));
        }
    }
    for (i, p) in list.iter().enumerate() {
        if before(i, &|o| o["port"] == p["port"] && o["protocol"] == p["protocol"]) {
            let key = json!({"Name": "", "Protocol": p["protocol"], "AppProtocol": null, "Port": p["port"],
                "TargetPort": 0, "NodePort": 0});
            errors.push(Error::duplicate(&at.index(i), key));
        }
    }
}

fn source_ranges(obj: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let balancer = text(&obj["spec"], "type") == "LoadBalancer";
    let ranges = object::strings(&obj["spec"]["loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if !balancer {
            errors.push(Error::forbidden(&at, ONLY_BALANCERS));
        }
        let had = old.map(|o| object::strings(&o["spec"]["loadBalancerSourceRanges"])).unwrap_or_default();
        let had: Vec<&str> = had.iter().map(|r| r.trim()).collect();
        for (i, range) in ranges.iter().enumerate() {
            ip::legacy_cidr(range.trim(), &at.index(i), &had, errors);
        }
    } else if let Some(value) = object::annotation(obj, RANGES) {
        let at = Path::new("metadata").child("annotations").key(RANGES);
        if !balancer {
            errors.push(Error::forbidden(&at, ONLY_BALANCERS));
        }
        let same = old.is_some_and(|o| object::annotation(o, RANGES) == Some(value));
        if !same && !value.trim().is_empty() {
            value.trim().split(',').for_each(|range| ip::legacy_cidr(range.trim(), &at, &[], errors));
        }
    }
}

fn balancer_class(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(class) = spec["loadBalancerClass"].as_str() else { return };
    let at = path.child("loadBalancerClass");
    if text(spec, "type") == "LoadBalancer" {
        let messages = helpers::qualified_name_errors(class).into_iter();
        errors.extend(messages.map(|m| Error::invalid(&at, class, m)));
    } else {
        errors.push(Error::forbidden(&at, ONLY_BALANCERS));
    }
}

pub fn cluster_ip_errors(obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = Vec::new();
    if text(&obj["spec"], "type") != "ExternalName" {
        cluster_ips(&obj["spec"], old, &Path::new("spec"), &mut errors);
    }
    errors
}

fn cluster_ips(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let list: Vec<&str> = items(spec, "clusterIPs").iter().filter_map(Value::as_str).collect();
    let (first, at) = (text(spec, "clusterIP"), path.child("clusterIPs"));
    let whole = |detail: &str| Error::invalid(&at, spec["clusterIPs"].clone(), detail);
    match (first.is_empty(), list.first()) {
        (false, None) => errors.push(Error::required(&at, "")),
        (false, Some(listed)) if *listed != first => {
            errors.push(whole("first value must match `clusterIP`"));
        }
        (true, Some(_)) => errors.push(whole("must be empty when `clusterIP` is not specified")),
        _ => {}
    }
    let families: Vec<&str> = items(spec, "ipFamilies").iter().filter_map(Value::as_str).collect();
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        if !matches!(*family, "IPv4" | "IPv6") {
            errors.push(Error::not_supported(&at, *family, &["IPv4", "IPv6"]));
        }
        if families.iter().take(i).any(|f| f == family) {
            errors.push(Error::duplicate(&at, *family));
        }
    }
    one_of(spec, "ipFamilyPolicy", path, &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
    let had = old.map(|o| object::strings(&o["spec"]["clusterIPs"])).unwrap_or_default();
    let had: Vec<&str> = had.iter().map(String::as_str).collect();
    let mut wrong = false;
    for (i, value) in list.iter().enumerate() {
        if i == 0 && *value == "None" {
            if list.len() > 1 {
                wrong = true;
                errors.push(whole("'None' must be the first and only value"));
            }
            continue;
        }
        let before = errors.len();
        ip::legacy(value, &at.index(i), &had, errors);
        wrong |= errors.len() > before;
    }
    if list.len() > 2 {
        errors.push(whole("may only hold up to 2 values"));
    }
    if wrong {
        return;
    }
    let is_v6 = |value: &str| ip::parse(value).is_some_and(|a| a.is_ipv6());
    let dual = list.len() == 2 && list.iter().any(|v| is_v6(v)) && list.iter().any(|v| !is_v6(v));
    if list.len() > 1 && !dual {
        errors.push(whole("may specify no more than one IP for each IP family"));
    }
    if first != "None" {
        for (i, (value, family)) in list.iter().zip(&families).enumerate() {
            if matches!((*family, is_v6(value)), ("IPv4", true) | ("IPv6", false)) {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errors.push(Error::invalid(&at.index(i), *value, detail));
            }
        }
    }
}

fn traffic(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("externalTrafficPolicy");
    let policy = text(spec, "externalTrafficPolicy");
    match (super::is_external(spec), policy) {
        (false, "") => {}
        (false, _) => {
            errors.push(Error::invalid(&at, policy, "may only be set for externally-accessible services"));
        }
        (true, "") => errors.push(Error::required(&at, "")),
        (true, _) => one_of(spec, "externalTrafficPolicy", path, &["Cluster", "Local"], errors),
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let at = path.child("healthCheckNodePort");
    if health != 0 && !needs_health_check(spec) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&at, health, detail));
    } else if health != 0 {
        port(health, &at, errors);
    }
    let policy = text(spec, "internalTrafficPolicy");
    if policy.is_empty() && matches!(text(spec, "type"), "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.push(Error::required(&path.child("internalTrafficPolicy"), ""));
    }
    one_of(spec, "internalTrafficPolicy", path, &["Cluster", "Local"], errors);
    let near = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of(spec, "trafficDistribution", path, &near, errors);
}

/// Upstream: `ValidateLoadBalancerStatus`.
pub fn status(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = items(&new["status"]["loadBalancer"], "ingress");
    let mut errors = Vec::new();
    if text(&new["spec"], "type") != "LoadBalancer" && !ingress.is_empty() {
        errors.push(Error::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    let had = items(&old["status"]["loadBalancer"], "ingress").iter();
    let had: Vec<&str> = had.map(|i| text(i, "ip")).filter(|ip| !ip.is_empty()).collect();
    for (i, one) in ingress.iter().enumerate() {
        let at = path.index(i);
        let (ip, name) = (text(one, "ip"), text(one, "hostname"));
        if !ip.is_empty() {
            ip::legacy(ip, &at.child("ip"), &had, &mut errors);
        }
        let mode = at.child("ipMode");
        match (one["ipMode"].as_str(), ip.is_empty()) {
            (None, true) | (Some("VIP" | "Proxy"), false) => {}
            (None, false) => errors.push(Error::required(&mode, "must be specified when `ip` is set")),
            (Some(_), true) => {
                errors.push(Error::forbidden(&mode, "may not be specified when `ip` is not set"));
            }
            (Some(other), false) => errors.push(Error::not_supported(&mode, other, &["Proxy", "VIP"])),
        }
        if !name.is_empty() {
            let at = at.child("hostname");
            let wrong = helpers::dns_subdomain_errors(name, false);
            errors.extend(wrong.into_iter().map(|m| Error::invalid(&at, name, m)));
            if ip::parse(name).is_some() {
                errors.push(Error::invalid(&at, name, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

/// Upstream: `pkg/api/service/warnings.go#GetWarningsForService`.
pub fn warnings(obj: &Value) -> Vec<String> {
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    let (headless, kind) = (text(spec, "clusterIP") == "None", text(spec, "type"));
    let outside = !items(spec, "externalIPs").is_empty();
    let mut out = Vec::new();
    let hints = "service.kubernetes.io/topology-aware-hints";
    if object::annotation(obj, hints).is_some() {
        out.push(format!(
            "annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let of_list = |field: &str, out: &mut Vec<String>| {
        for (i, value) in object::strings(&spec[field]).iter().enumerate().filter(|(_, v)| *v != "None") {
            out.extend(ip::warnings(value, &path.child(field).index(i)));
        }
    };
    of_list("clusterIPs", &mut out);
    if headless {
        let ignored = [
            ("loadBalancerIP", !text(spec, "loadBalancerIP").is_empty()),
            ("externalIPs", outside),
            ("SessionAffinity", text(spec, "sessionAffinity") != "None"),
        ];
        let told = ignored.iter().filter(|(_, is_set)| *is_set);
        out.extend(told.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    }
    of_list("externalIPs", &mut out);
    if outside && !headless && kind != "ExternalName" {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if let Some(address) = spec["loadBalancerIP"].as_str().filter(|a| !a.is_empty()) {
        out.extend(ip::warnings(address, &path.child("loadBalancerIP")));
    }
    for (i, range) in object::strings(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        out.extend(ip::cidr_warnings(range, &path.child("loadBalancerSourceRanges").index(i)));
    }
    if kind == "ExternalName" && outside {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(spec, "externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        out.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    out
}

/// Upstream: `ValidateServiceUpdate`.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (n, o, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    let headless = |s: &Value| text(s, "clusterIP") == "None";
    if text(n, "type") != "ExternalName" && text(o, "type") != "ExternalName" {
        if !(headless(n) && headless(o)) {
            address_changes(n, o, &path, &mut errors);
        }
        if !headless(n) && !headless(o) {
            family_changes(n, o, &path, &mut errors);
        }
    }
    if [n, o].iter().all(|s| text(s, "type") == "LoadBalancer")
        && n["loadBalancerClass"] != o["loadBalancerClass"]
    {
        let at = path.child("loadBalancerClass");
        errors.push(Error::invalid(&at, n["loadBalancerClass"].clone(), UNCHANGED));
    }
    if needs_health_check(n) && needs_health_check(o) && n["healthCheckNodePort"] != o["healthCheckNodePort"]
    {
        errors.push(Error::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
    errors.extend(service(new, Some(old)));
    errors
}

/// Upstream: `validateUpgradeDowngradeClusterIPs`.
fn address_changes(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let (n, o) = (items(new, "clusterIPs"), items(old, "clusterIPs"));
    let at = path.child("clusterIPs");
    let wrong = |i: usize, detail: &str| Error::invalid(&at.index(i), new["clusterIPs"].clone(), detail);
    if n.len() == o.len() {
        for (i, _) in n.iter().zip(o).enumerate().filter(|(_, (n, o))| n != o) {
            errors.push(wrong(i, UNCHANGED));
        }
        return;
    }
    if n.is_empty() {
        errors.push(wrong(0, "primary clusterIP can not be unset"));
    }
    if let (Some(a), Some(b)) = (n.first(), o.first())
        && a != b
    {
        errors.push(wrong(0, UNCHANGED));
    }
    if o.len() > n.len() && n.len() == 1 && text(new, "ipFamilyPolicy") != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.push(Error::invalid(&path.child("ipFamilyPolicy"), new["ipFamilyPolicy"].clone(), detail));
    }
}

/// Upstream: `validateUpgradeDowngradeIPFamilies`.
fn family_changes(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let (n, o) = (items(new, "ipFamilies"), items(old, "ipFamilies"));
    let at = path.child("ipFamilies").index(0);
    if n.len() == o.len() {
        for _ in n.iter().zip(o).filter(|(n, o)| n != o) {
            errors.push(Error::invalid(&at, new["ipFamilies"].clone(), UNCHANGED));
        }
        return;
    }
    if let (Some(a), Some(b)) = (n.first(), o.first())
        && a != b
    {
        errors.push(Error::invalid(&at, new["clusterIPs"].clone(), UNCHANGED));
    }
    if o.len() > n.len() && n.len() == 1 && text(new, "ipFamilyPolicy") != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.push(Error::invalid(&path.child("ipFamilyPolicy"), new["ipFamilyPolicy"].clone(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_has_addresses_and_names() {
        let old = json!({"status": {"loadBalancer": {}}});
        let told = |kind: &str, ingress: Value| {
            let new = json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": ingress}}});
            status(&new, &old).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            told("LoadBalancer", json!([{"ip": "1.2.3.4", "ipMode": "VIP"}, {"hostname": "a.b"}])),
            [""; 0]
        );
        assert_eq!(
            told("ClusterIP", json!([{"ip": "1.2.3.4", "ipMode": "VIP"}])),
            ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
        );
        let wrong = json!([{"ip": "1.2.3.4"}, {"ipMode": "VIP"}, {"ip": "1.2.3.4", "ipMode": "Nope"}, {"hostname": "1.2.3.4"}]);
        assert_eq!(
            told("LoadBalancer", wrong),
            [
                "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set",
                "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
                "status.loadBalancer.ingress[2].ipMode: Unsupported value: \"Nope\": supported values: \"Proxy\", \"VIP\"",
                "status.loadBalancer.ingress[3].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ]
        );
    }
}
