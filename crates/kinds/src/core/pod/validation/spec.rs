//! The spec of a pod (upstream: `ValidatePodSpec`).

use super::allowed::Allowed;
use super::containers::{self, Pod};
use super::{affinity, requirements, scheduling, security, volumes, windows};
use crate::helpers;
use crate::internal;
use crate::ip;
use crate::validate::{items, labels, one_of, required, text, told};
use meta::field::{Error, ErrorList, Path, quoted};
use meta::object;
use serde_json::Value;

/// Upstream: `MaxInt32`, the largest deadline in seconds.
const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;
const HOSTNAME_BYTES_MAX: usize = 64;

/// Errors of a pod spec; `pod` is the Pod that has it, null for a template's.
pub fn errors(spec: &Value, pod: &Value, allowed: &Allowed, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    let own = !pod.is_null();
    required_number(spec, "terminationGracePeriodSeconds", path, &mut errors);
    let at = path.child("volumes");
    let volumes = volumes::errors(items(spec, "volumes"), pod, allowed, &at, &mut errors);
    claims(spec, pod, &path.child("resourceClaims"), &mut errors);
    containers::errors(&Pod { spec, volumes: &volumes, allowed }, path, &mut errors);
    requirements::of_pod(spec, allowed, path, &mut errors);
    containers::host_network(spec, own, path, &mut errors);
    required(spec, "restartPolicy", path, &mut errors);
    one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], &mut errors);
    required(spec, "dnsPolicy", path, &mut errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, "dnsPolicy", path, &policies, &mut errors);
    labels(&spec["nodeSelector"], &path.child("nodeSelector"), &mut errors);
    security::pod(spec, allowed, path, &mut errors);
    affinity::errors(&spec["affinity"], allowed, &path.child("affinity"), &mut errors);
    dns_config(spec, &path.child("dnsConfig"), &mut errors);
    for (i, g) in items(spec, "readinessGates").iter().enumerate() {
        let (name, at) = (text(g, "conditionType"), path.child("readinessGates").index(i));
        told(name, helpers::qualified_name_errors(name), &at.child("conditionType"), &mut errors);
    }
    scheduling::gates(spec, path, &mut errors);
    scheduling::spread(spec, allowed, path, &mut errors);
    windows::host_process(spec, path, &mut errors);
    security::host_users(spec, allowed, path, &mut errors);
    hostname(spec, path, &mut errors);
    names(spec, path, &mut errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=DEADLINE_SECONDS_MAX).contains(&seconds)
    {
        let detail = format!("must be between 1 and {DEADLINE_SECONDS_MAX}, inclusive");
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    let at = path.child("tolerations");
    scheduling::tolerations(items(spec, "tolerations"), allowed, &at, &mut errors);
    host_aliases(spec, path, &mut errors);
    preemption(spec, path, &mut errors);
    if spec["overhead"].is_object() {
        requirements::overhead(&spec["overhead"], allowed, &path.child("overhead"), &mut errors);
    }
    windows::os(spec, path, &mut errors);
    volumes::of_files(spec, path, &mut errors);
    errors
}

fn required_number(spec: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    if spec[field].is_null() {
        errors.push(Error::required(&path.child(field), ""));
    }
}

fn preemption(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("preemptionPolicy");
    match spec["preemptionPolicy"].as_str() {
        None | Some("PreemptLowerPriority" | "Never") => {}
        Some("") => errors.push(Error::required(&at, "")),
        Some(other) => {
            errors.push(Error::not_supported(&at, other, &["PreemptLowerPriority", "Never"]));
        }
    }
}

fn names(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut check = |field: &str, f: fn(&str, bool) -> Vec<String>| {
        let name = text(spec, field);
        if !name.is_empty() {
            told(name, f(name, false), &path.child(field), errors);
        }
    };
    check("serviceAccountName", helpers::dns_subdomain_errors);
    check("nodeName", helpers::dns_subdomain_errors);
    check("hostname", helpers::dns_label_errors);
    check("subdomain", helpers::dns_label_errors);
    check("priorityClassName", helpers::dns_subdomain_errors);
    if let Some(name) = spec["runtimeClassName"].as_str() {
        told(name, helpers::dns_subdomain_errors(name, false), &path.child("runtimeClassName"), errors);
    }
    let (account, alias) = (text(spec, "serviceAccountName"), text(spec, "serviceAccount"));
    if account != alias {
        let detail = format!("must be the same as serviceAccountName: {account}", account = quoted(account));
        errors.push(Error::invalid(&path.child("deprecatedServiceAccount"), alias, detail));
    }
}

/// Upstream: `validatePodHostName`.
fn hostname(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    let at = path.child("hostnameOverride");
    for field in ["setHostnameAsFQDN", "hostNetwork"].into_iter().filter(|f| spec[*f] == true) {
        errors.push(Error::forbidden(&at, format!("may not be specified when {field} is true")));
    }
    if name.len() > HOSTNAME_BYTES_MAX {
        errors.push(Error::too_long(&at, HOSTNAME_BYTES_MAX));
    }
    told(name, helpers::dns_subdomain_errors(name, false), &at, errors);
}

/// Upstream: `validatePodDNSConfig`.
fn dns_config(spec: &Value, at: &Path, errors: &mut ErrorList) {
    let config = &spec["dnsConfig"];
    let servers = items(config, "nameservers");
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            errors.push(Error::required(at, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(&at.child("nameservers"), detail));
            return;
        }
    }
    let path = at.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(&path, config["nameservers"].clone(), detail));
    }
    for (i, s) in servers.iter().filter_map(Value::as_str).enumerate() {
        ip::legacy(s, &path.index(i), &[], errors);
    }
    let path = at.child("searches");
    let searches = object::strings(&config["searches"]);
    let mut refuse = |what: String| {
        let detail = format!("must not have more than {what}");
        errors.push(Error::invalid(&path, config["searches"].clone(), detail));
    };
    if searches.len() > SEARCHES_MAX {
        refuse(format!("{SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_BYTES_MAX {
        refuse(format!("{SEARCH_BYTES_MAX} characters (including spaces) in the search list"));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        told(search, helpers::underscored_subdomain_errors(search), &path.index(i), errors);
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
        ip::legacy(text(alias, "ip"), &at.child("ip"), &[], errors);
        for (j, name) in items(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            told(name, helpers::dns_subdomain_errors(name, false), &at.child("hostnames").index(j), errors);
        }
    }
}

/// Upstream: `validatePodResourceClaims`.
fn claims(spec: &Value, pod: &Value, path: &Path, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    for (i, claim) in items(spec, "resourceClaims").iter().enumerate() {
        if object::annotation(pod, super::annotations::MIRROR).is_some() {
            errors.push(Error::forbidden(&Path::new(""), "static pods do not support resource claims"));
            continue;
        }
        let (at, name) = (path.index(i), text(claim, "name"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else {
            told(name, helpers::dns_label_errors(name, false), &at.child("name"), errors);
            names.push(name);
        }
        let both = ["resourceClaimName", "resourceClaimTemplateName"];
        let given = both.iter().filter(|f| claim[**f].is_string()).count();
        let detail = match given {
            0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            1 => "",
            _ => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
        };
        if !detail.is_empty() {
            errors.push(Error::invalid(&at, internal::shown("PodResourceClaim", claim), detail));
        }
        for field in both {
            if let Some(name) = claim[field].as_str() {
                told(name, helpers::dns_subdomain_errors(name, false), &at.child(field), errors);
            }
        }
    }
}
