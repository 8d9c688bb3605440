//! The spec of a pod (upstream: `ValidatePodSpec`).

use super::{containers, ephemeral, volumes};
use crate::helpers;
use crate::node_selector::{self, Values};
use crate::validate::{items, labels, one_of, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Upstream: `MaxInt32`, the largest deadline in seconds.
const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;
const DNS_NAMESERVERS_MAX: usize = 3;
const DNS_SEARCHES_MAX: usize = 32;

/// Errors of a pod spec; `own` is for a Pod itself rather than a template.
pub fn errors(spec: &Value, path: &Path, own: bool) -> ErrorList {
    let mut errors = Vec::new();
    let names = volumes::errors(items(spec, "volumes"), &path.child("volumes"), &mut errors);
    containers::errors(spec, &names, path, &mut errors);
    ephemeral::errors(spec, &names, path, &mut errors);
    if text(spec, "restartPolicy").is_empty() {
        errors.push(Error::required(&path.child("restartPolicy"), ""));
    }
    one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], &mut errors);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    if text(spec, "dnsPolicy").is_empty() {
        errors.push(Error::required(&path.child("dnsPolicy"), ""));
    }
    one_of(spec, "dnsPolicy", path, &dns, &mut errors);
    dns_config(spec, path, &mut errors);
    labels(&spec["nodeSelector"], &path.child("nodeSelector"), &mut errors);
    names_of(spec, path, &mut errors);
    security_context(spec, path, &mut errors);
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(Error::required(&path.child("imagePullSecrets").index(i).child("name"), ""));
        }
    }
    affinity(&spec["affinity"], &path.child("affinity"), &mut errors);
    for (i, t) in items(spec, "tolerations").iter().enumerate() {
        toleration(t, &path.child("tolerations").index(i), &mut errors);
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=DEADLINE_SECONDS_MAX).contains(&seconds)
    {
        let detail = format!("must be between 1 and {DEADLINE_SECONDS_MAX}, inclusive");
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    if let Some(seconds) = spec["terminationGracePeriodSeconds"].as_i64().filter(|s| *s < 0 && own) {
        let detail = "must be greater than or equal to 0";
        errors.push(Error::invalid(&path.child("terminationGracePeriodSeconds"), seconds, detail));
    }
    host_aliases(spec, path, &mut errors);
    for (i, g) in items(spec, "readinessGates").iter().enumerate() {
        let name = text(g, "conditionType");
        let at = path.child("readinessGates").index(i).child("conditionType");
        errors.extend(helpers::qualified_name_errors(name).into_iter().map(|m| Error::invalid(&at, name, m)));
    }
    one_of(spec, "preemptionPolicy", path, &["Never", "PreemptLowerPriority"], &mut errors);
    errors
}

fn names_of(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut check = |field: &str, f: fn(&str, bool) -> Vec<String>| {
        let name = text(spec, field);
        if !name.is_empty() {
            errors.extend(f(name, false).into_iter().map(|m| Error::invalid(&path.child(field), name, m)));
        }
    };
    check("serviceAccountName", helpers::dns_subdomain_errors);
    check("nodeName", helpers::dns_subdomain_errors);
    check("hostname", helpers::dns_label_errors);
    check("subdomain", helpers::dns_label_errors);
    check("priorityClassName", helpers::dns_subdomain_errors);
}

fn security_context(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("securityContext");
    let context = &spec["securityContext"];
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        containers::id(&context[field], &at.child(field), errors);
    }
    for (i, g) in items(context, "supplementalGroups").iter().enumerate() {
        containers::id(g, &at.child("supplementalGroups").index(i), errors);
    }
    containers::seccomp(&context["seccompProfile"], &at.child("seccompProfile"), errors);
    one_of(context, "fsGroupChangePolicy", &at, &["Always", "OnRootMismatch"], errors);
    one_of(context, "supplementalGroupsPolicy", &at, &["Merge", "Strict"], errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, s) in items(context, "sysctls").iter().enumerate() {
        let at = at.child("sysctls").index(i).child("name");
        let name = text(s, "name");
        if name.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if name.len() > 253 || !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(&at, name, detail));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(&at, name));
        }
        seen.push(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    name.split(['.', '/']).all(|p| {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let b = p.as_bytes();
        !b.is_empty()
            && edge(b[0])
            && edge(b[b.len() - 1])
            && b.iter().all(|c| edge(*c) || matches!(c, b'-' | b'_'))
    })
}

fn dns_config(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let config = &spec["dnsConfig"];
    let at = path.child("dnsConfig");
    let servers = items(config, "nameservers");
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(Error::required(&at.child("nameservers"), detail));
    }
    if servers.len() > DNS_NAMESERVERS_MAX {
        let detail = format!("must not have more than {DNS_NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(&at.child("nameservers"), config["nameservers"].clone(), detail));
    }
    for (i, s) in servers.iter().filter_map(Value::as_str).enumerate() {
        if s.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(Error::invalid(&at.child("nameservers").index(i), s, detail));
        }
    }
    let searches = items(config, "searches");
    if searches.len() > DNS_SEARCHES_MAX {
        let detail = format!("must not have more than {DNS_SEARCHES_MAX} search paths");
        errors.push(Error::invalid(&at.child("searches"), config["searches"].clone(), detail));
    }
    for (i, o) in items(config, "options").iter().enumerate() {
        if text(o, "name").is_empty() {
            errors.push(Error::required(&at.child("options").index(i), "must not be empty"));
        }
    }
}

fn host_aliases(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        let ip = text(alias, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(Error::invalid(&at.child("ip"), ip, detail));
        }
        for (j, name) in items(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            let messages = helpers::dns_subdomain_errors(name, false);
            errors.extend(
                messages.into_iter().map(|m| Error::invalid(&at.child("hostnames").index(j), name, m)),
            );
        }
    }
}

/// Upstream: `ValidateTolerations`.
fn toleration(t: &Value, at: &Path, errors: &mut ErrorList) {
    let (key, operator) = (text(t, "key"), text(t, "operator"));
    if !key.is_empty() {
        let messages = helpers::qualified_name_errors(key);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("key"), key, m)));
    }
    if key.is_empty() && operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(Error::invalid(&at.child("operator"), operator, detail));
    }
    if !t["tolerationSeconds"].is_null() && text(t, "effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(Error::invalid(&at.child("effect"), text(t, "effect"), detail));
    }
    match operator {
        "" | "Equal" => {
            let value = text(t, "value");
            let messages = helpers::label_value_errors(value);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("operator"), value, m)));
        }
        "Exists" => {
            if !text(t, "value").is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(&at.child("operator"), t.clone(), detail));
            }
        }
        other => errors.push(Error::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
    }
    one_of(t, "effect", at, &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
}

fn affinity(a: &Value, path: &Path, errors: &mut ErrorList) {
    let node = &a["nodeAffinity"];
    let at = path.child("nodeAffinity").child("requiredDuringSchedulingIgnoredDuringExecution");
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if !required.is_null() {
        node_selector::validate(required, Values::Any, &at, errors);
    }
    let at = path.child("nodeAffinity").child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, p) in items(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        weight(p, &at.index(i), errors);
        node_selector::term(&p["preference"], Values::Any, &at.index(i).child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(kind);
        let field = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, t) in items(&a[kind], field).iter().enumerate() {
            pod_term(t, &at.child(field).index(i), errors);
        }
        let field = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, t) in items(&a[kind], field).iter().enumerate() {
            let at = at.child(field).index(i);
            weight(t, &at, errors);
            pod_term(&t["podAffinityTerm"], &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(v: &Value, at: &Path, errors: &mut ErrorList) {
    let n = v["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&n) {
        errors.push(Error::invalid(&at.child("weight"), n, "must be in the range 1-100"));
    }
}

fn pod_term(term: &Value, at: &Path, errors: &mut ErrorList) {
    crate::validate::label_selector(&term["labelSelector"], &at.child("labelSelector"), errors);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&at.child("topologyKey"), "can not be empty"));
    } else {
        let messages = helpers::qualified_name_errors(key);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("topologyKey"), key, m)));
    }
}
