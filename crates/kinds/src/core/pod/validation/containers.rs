//! Containers of a pod (upstream: `validateContainers`, `validateInitContainers`, `validateContainerCommon`).

use super::resize_policy;
use super::volumes::{local_path, no_backsteps};
use crate::helpers;
use crate::validate::{items, one_of, port, port_name_errors, port_or_name, text};
use meta::field::{Error, ErrorList, Path};
use meta::quantity::Quantity;
use serde_json::Value;

pub fn errors(spec: &Value, volumes: &[&str], path: &Path, errors: &mut ErrorList) {
    let regular = items(spec, "containers");
    let at = path.child("containers");
    if regular.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    let mut names: Vec<&str> = Vec::new();
    let host_network = spec["hostNetwork"] == true;
    let pod_policy = text(spec, "restartPolicy");
    let mut host_ports: Vec<(i64, &str, &str)> = Vec::new();
    for (i, c) in regular.iter().enumerate() {
        let at = at.index(i);
        common(c, volumes, &at, &mut names, errors);
        resize_policy::errors(c, pod_policy, false, &at, errors);
        ports(c, host_network, &at, &mut host_ports, errors);
        if !text(c, "restartPolicy").is_empty() {
            one_of(c, "restartPolicy", &at, &["Always", "OnFailure", "Never"], errors);
        }
        probes(c, &at, errors);
    }
    let at = path.child("initContainers");
    for (i, c) in items(spec, "initContainers").iter().enumerate() {
        let at = at.index(i);
        common(c, volumes, &at, &mut names, errors);
        let sidecar = c["restartPolicy"] == "Always";
        resize_policy::errors(c, pod_policy, !sidecar, &at, errors);
        if sidecar {
            ports(c, host_network, &at, &mut host_ports, errors);
            probes(c, &at, errors);
        } else {
            for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                if !c[field].is_null() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.push(Error::forbidden(&at.child(field), detail));
                }
            }
        }
    }
}

/// What all kinds of containers have in common.
pub fn common<'a>(
    c: &'a Value,
    volumes: &[&str],
    at: &Path,
    names: &mut Vec<&'a str>,
    errors: &mut ErrorList,
) {
    let name = text(c, "name");
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
    let image = text(c, "image");
    if image.is_empty() {
        errors.push(Error::required(&at.child("image"), ""));
    } else if image.trim() != image {
        errors.push(Error::invalid(
            &at.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    if text(c, "terminationMessagePolicy").is_empty() {
        errors.push(Error::required(&at.child("terminationMessagePolicy"), ""));
    }
    one_of(c, "terminationMessagePolicy", at, &["File", "FallbackToLogsOnError"], errors);
    one_of(c, "imagePullPolicy", at, &["Always", "IfNotPresent", "Never"], errors);
    env(c, at, errors);
    mounts(c, volumes, at, errors);
    resources(&c["resources"], &at.child("resources"), errors);
    security(&c["securityContext"], &at.child("securityContext"), errors);
    for hook in ["postStart", "preStop"] {
        let handler = &c["lifecycle"][hook];
        if !handler.is_null() {
            action(
                handler,
                &at.child("lifecycle").child(hook),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                errors,
            );
        }
    }
}

fn env(c: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, e) in items(c, "env").iter().enumerate() {
        let at = at.child("env").index(i);
        let name = text(e, "name");
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else if let Some(m) = env_name_error(name) {
            errors.push(Error::invalid(&at.child("name"), name, m));
        }
        let from = &e["valueFrom"];
        if from.is_null() {
            continue;
        }
        let at = at.child("valueFrom");
        let sources = from.as_object().map_or(0, serde_json::Map::len);
        if sources == 0 {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.push(Error::invalid(&at, "", detail));
        } else if !text(e, "value").is_empty() {
            errors.push(Error::invalid(&at, "", "may not be specified when `value` is not empty"));
        } else if sources > 1 {
            errors.push(Error::invalid(&at, "", "may not have more than one field specified at a time"));
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            if from[kind].is_object() {
                for field in ["name", "key"] {
                    if text(&from[kind], field).is_empty() {
                        errors.push(Error::required(&at.child(kind).child(field), ""));
                    }
                }
            }
        }
        if from["fieldRef"].is_object() {
            field_ref(&from["fieldRef"], &at.child("fieldRef"), errors);
        }
        if from["resourceFieldRef"].is_object() {
            resource_ref(&from["resourceFieldRef"], &at.child("resourceFieldRef"), errors);
        }
    }
    for (i, e) in items(c, "envFrom").iter().enumerate() {
        let at = at.child("envFrom").index(i);
        let sources = ["configMapRef", "secretRef"].iter().filter(|k| e[**k].is_object()).count();
        if sources == 0 {
            errors.push(Error::invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if sources > 1 {
            errors.push(Error::invalid(&at, "", "may not have more than one field specified at a time"));
        }
    }
}

/// Printable ASCII without `=` (upstream: `IsRelaxedEnvVarName`).
fn env_name_error(name: &str) -> Option<String> {
    let fine = name.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=');
    (!fine).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned()
    })
}

/// Fields that the environment may show (upstream: `validEnvDownwardAPIFieldPathExpressions`).
fn field_ref(r: &Value, at: &Path, errors: &mut ErrorList) {
    let path = text(r, "fieldPath");
    let allowed = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    if path.is_empty() {
        errors.push(Error::required(&at.child("fieldPath"), ""));
        return;
    }
    let subscript = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|p| path.starts_with(p) && path.ends_with("']"));
    let other = [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
    ];
    if !subscript && !allowed.contains(&path) && !other.contains(&path) {
        // upstream: `ConvertDownwardAPIFieldLabel`
        let detail = format!("error converting fieldPath: field label not supported: {path}");
        errors.push(Error::invalid(&at.child("fieldPath"), path, detail));
        return;
    }
    if !subscript && !allowed.contains(&path) {
        errors.push(Error::not_supported(&at.child("fieldPath"), path, &allowed));
    }
}

/// Resources that the environment may show (upstream: `validateContainerResourceFieldSelector`).
fn resource_ref(r: &Value, at: &Path, errors: &mut ErrorList) {
    const SHOWN: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let (resource, at) = (text(r, "resource"), at.child("resource"));
    let huge = ["requests.hugepages-", "limits.hugepages-"].iter().any(|p| resource.starts_with(p));
    if resource.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if !huge && !SHOWN.contains(&resource) {
        errors.push(Error::not_supported(&at, resource, &SHOWN));
    }
}

fn mounts(c: &Value, volumes: &[&str], at: &Path, errors: &mut ErrorList) {
    let mut targets: Vec<&str> = Vec::new();
    for (i, m) in items(c, "volumeMounts").iter().enumerate() {
        // upstream tells some fields without the mount's number
        let (all, at) = (at.child("volumeMounts"), at.child("volumeMounts").index(i));
        let (name, target) = (text(m, "name"), text(m, "mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if target.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if targets.contains(&target) {
            errors.push(Error::invalid(&at.child("mountPath"), target, "must be unique"));
        }
        targets.push(target);
        if !volumes.contains(&name) {
            errors.push(Error::not_found(&at.child("name"), name));
        }
        for field in ["subPath", "subPathExpr"] {
            let sub = text(m, field);
            if !sub.is_empty() {
                local_path(sub, &all.child(field), errors);
                no_backsteps(sub, &all.child(field), &mut Vec::new());
            }
        }
        if !text(m, "subPath").is_empty() && !text(m, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(Error::invalid(&at.child("subPathExpr"), text(m, "subPathExpr"), detail));
        }
        one_of(m, "mountPropagation", &all, &["Bidirectional", "HostToContainer", "None"], errors);
        if m["mountPropagation"] == "Bidirectional" && c["securityContext"]["privileged"] != true {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(Error::forbidden(&all.child("mountPropagation"), detail));
        }
    }
}

fn ports<'a>(
    c: &'a Value,
    host_network: bool,
    at: &Path,
    host_ports: &mut Vec<(i64, &'a str, &'a str)>,
    errors: &mut ErrorList,
) {
    let mut names: Vec<&str> = Vec::new();
    for (i, p) in items(c, "ports").iter().enumerate() {
        let at = at.child("ports").index(i);
        let name = text(p, "name");
        if !name.is_empty() {
            errors.extend(
                port_name_errors(name).into_iter().map(|m| Error::invalid(&at.child("name"), name, m)),
            );
            if names.contains(&name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
            names.push(name);
        }
        let number = p["containerPort"].as_i64().unwrap_or(0);
        if number == 0 {
            errors.push(Error::required(&at.child("containerPort"), ""));
        } else {
            port(number, &at.child("containerPort"), errors);
        }
        let host = p["hostPort"].as_i64().unwrap_or(0);
        if host != 0 {
            port(host, &at.child("hostPort"), errors);
            let key = (host, text(p, "protocol"), text(p, "hostIP"));
            if host_network && host != number {
                errors.push(Error::invalid(
                    &at.child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
            if host_ports.contains(&key) {
                errors.push(Error::duplicate(&at.child("hostPort"), format!("{}/{}/{host}", key.1, key.2)));
            }
            host_ports.push(key);
        }
        one_of(p, "protocol", &at, &["SCTP", "TCP", "UDP"], errors);
    }
}

fn probes(c: &Value, at: &Path, errors: &mut ErrorList) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let p = &c[field];
        if p.is_null() {
            continue;
        }
        let at = at.child(field);
        action(p, &at, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        for n in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            crate::validate::non_negative(p, n, &at, errors);
        }
        let success = p["successThreshold"].as_i64().unwrap_or(1);
        if field != "readinessProbe" && success != 1 {
            errors.push(Error::invalid(&at.child("successThreshold"), success, "must be 1"));
        }
        if let Some(s) = p["terminationGracePeriodSeconds"].as_i64() {
            if field == "readinessProbe" {
                errors.push(Error::invalid(
                    &at.child("terminationGracePeriodSeconds"),
                    s,
                    "must not be set for readinessProbes",
                ));
            } else if s <= 0 {
                errors.push(Error::invalid(
                    &at.child("terminationGracePeriodSeconds"),
                    s,
                    "must be greater than 0",
                ));
            }
        }
    }
}

/// Exactly one way of acting, and that one complete.
fn action(v: &Value, at: &Path, kinds: &[&str], errors: &mut ErrorList) {
    let given: Vec<&&str> = kinds.iter().filter(|k| !v[**k].is_null()).collect();
    if given.is_empty() {
        errors.push(Error::required(at, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        errors.push(Error::forbidden(&at.child(extra), "may not specify more than 1 handler type"));
    }
    let Some(kind) = given.first() else { return };
    let (a, at) = (&v[**kind], at.child(kind));
    match **kind {
        "exec" if items(a, "command").is_empty() => errors.push(Error::required(&at.child("command"), "")),
        "httpGet" => {
            if text(a, "path").is_empty() {
                errors.push(Error::required(&at.child("path"), ""));
            }
            port_or_name(&a["port"], &at.child("port"), errors);
            one_of(a, "scheme", &at, &["HTTP", "HTTPS"], errors);
        }
        "tcpSocket" => port_or_name(&a["port"], &at.child("port"), errors),
        "grpc" => port(a["port"].as_i64().unwrap_or(0), &at.child("port"), errors),
        "sleep" => {
            let seconds = a["seconds"].as_i64().unwrap_or(0);
            if seconds < 0 {
                errors.push(Error::invalid(
                    &at.child("seconds"),
                    seconds,
                    "must be greater than or equal to 0",
                ));
            }
        }
        _ => {}
    }
}

fn resources(r: &Value, at: &Path, errors: &mut ErrorList) {
    let quantity = |v: &Value| v.as_str().and_then(|s| Quantity::parse(s).ok());
    for list in ["limits", "requests"] {
        for (name, value) in r[list].as_object().into_iter().flatten() {
            let at = at.child(list).key(name);
            if !is_resource_name(name) {
                let detail = "must be a standard resource type or fully qualified";
                errors.push(Error::invalid(&at, name.as_str(), detail));
            }
            if quantity(value).is_some_and(|q| q.sign() < 0) {
                errors.push(Error::invalid(&at, value.clone(), "must be greater than or equal to 0"));
            }
        }
    }
    for (name, request) in r["requests"].as_object().into_iter().flatten() {
        let (Some(request_q), Some(limit)) = (quantity(request), quantity(&r["limits"][name])) else {
            continue;
        };
        if request_q > limit {
            let shown = r["limits"][name].as_str().unwrap_or("");
            let detail = format!("must be less than or equal to {name} limit of {shown}");
            errors.push(Error::invalid(&at.child("requests"), request.clone(), detail));
        }
    }
}

fn is_resource_name(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
        || name.starts_with("hugepages-")
        || name.contains('/') && helpers::qualified_name_errors(name).is_empty()
}

/// A user or group number (upstream: `IsValidUserID`).
pub fn id(v: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(n) = v.as_i64().filter(|n| !(0..=i64::from(i32::MAX)).contains(n)) {
        errors.push(Error::invalid(at, n, "must be between 0 and 2147483647, inclusive"));
    }
}

/// Upstream: `validateSeccompProfileField`; an empty profile is refused (CVE-2023-2431).
pub fn seccomp(p: &Value, at: &Path, errors: &mut ErrorList) {
    if p.is_null() {
        return;
    }
    let local = text(p, "localhostProfile");
    match text(p, "type") {
        "Localhost" => {
            if local.is_empty() {
                let detail = "must be set when seccomp type is Localhost";
                errors.push(Error::required(&at.child("localhostProfile"), detail));
            } else {
                local_path(local, &at.child("localhostProfile"), errors);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if !p["localhostProfile"].is_null() {
                let detail = "can only be set when seccomp type is Localhost";
                errors.push(Error::invalid(&at.child("localhostProfile"), local, detail));
            }
        }
        "" => errors.push(Error::required(&at.child("type"), "type is required when seccompProfile is set")),
        other => {
            errors.push(Error::not_supported(
                &at.child("type"),
                other,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            ));
        }
    }
}

fn security(s: &Value, at: &Path, errors: &mut ErrorList) {
    if s.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&s[field], &at.child(field), errors);
    }
    one_of(s, "procMount", at, &["Default", "Unmasked"], errors);
    seccomp(&s["seccompProfile"], &at.child("seccompProfile"), errors);
    if s["allowPrivilegeEscalation"] == false {
        let escalation = at.child("allowPrivilegeEscalation");
        if s["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(&escalation, false, detail));
        }
        if items(&s["capabilities"], "add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(&escalation, false, detail));
        }
    }
}
