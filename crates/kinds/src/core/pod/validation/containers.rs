//! Containers of a pod (upstream: `validateContainers`, `validateInitContainers`, `validateEphemeralContainers`,
//! `validateContainerCommon`).

use super::allowed::Allowed;
use super::volumes::{Volumes, pull_policy};
use super::{env, handlers, mounts, requirements, resize_policy, restart, security};
use crate::helpers::dns_label_errors;
use crate::validate::{items, one_of, port, port_name_errors, required, text, told};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const REFUSED: &str = "cannot be set for an Ephemeral Container";
/// What containers have that no ephemeral one may, in the order of Go's struct.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// All containers with their places, in the order in which upstream visits them.
pub fn all<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let of = |list: &'static str| {
        let at = path.child(list);
        items(spec, list).iter().enumerate().map(move |(i, c)| (c, at.index(i)))
    };
    LISTS.into_iter().flat_map(of).collect()
}

/// What containers are checked against.
pub struct Pod<'a> {
    pub spec: &'a Value,
    pub volumes: &'a Volumes<'a>,
    pub allowed: &'a Allowed,
}

pub fn errors(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    regular(pod, &path.child("containers"), errors);
    init(pod, &path.child("initContainers"), errors);
    ephemeral(pod, &path.child("ephemeralContainers"), errors);
}

fn regular(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    let list = items(pod.spec, "containers");
    if list.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, c) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(c, "name"));
        common(c, pod, &at, errors);
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        names.push(name);
        handlers::errors(c, pod.spec, &at, errors);
        restart::errors(c, &at, errors);
    }
    host_ports(list, path, errors);
}

fn init(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    let mut names: Vec<&str> = items(pod.spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (i, c) in items(pod.spec, "initContainers").iter().enumerate() {
        let (at, name) = (path.index(i), text(c, "name"));
        common(c, pod, &at, errors);
        restart::errors(c, &at, errors);
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            names.push(name);
        }
        // one runs after the other: upstream looks at each as if it were the first
        host_ports(std::slice::from_ref(c), path, errors);
        if c["restartPolicy"] == "Always" {
            handlers::errors(c, pod.spec, &at, errors);
        } else {
            handlers::refused(c, &at, errors);
            if !pod.allowed.init_restarts {
                resize_policy::of_init(c, &at, errors);
            }
        }
    }
}

fn ephemeral(pod: &Pod<'_>, path: &Path, errors: &mut ErrorList) {
    let others = ["containers", "initContainers"].into_iter().flat_map(|l| items(pod.spec, l));
    let others: Vec<&str> = others.map(|c| text(c, "name")).collect();
    let mut names = others.clone();
    for (i, c) in items(pod.spec, "ephemeralContainers").iter().enumerate() {
        let (at, name) = (path.index(i), text(c, "name"));
        common(c, pod, &at, errors);
        image_of_pod(c, &at, errors);
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        names.push(name);
        let target = text(c, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        // An empty object is what defaults leave there.
        let given = |f: &str| !c[f].is_null() && (f == "lifecycle" || !is_empty(&c[f]));
        for field in NOT_EPHEMERAL.iter().filter(|f| given(f)) {
            errors.push(Error::forbidden(&at.child(field), REFUSED));
        }
        for (j, mount) in items(c, "volumeMounts").iter().enumerate() {
            let at = at.child("volumeMounts").index(j);
            for field in ["subPath", "subPathExpr"].into_iter().filter(|f| !text(mount, f).is_empty()) {
                errors.push(Error::forbidden(&at.child(field), REFUSED));
            }
        }
    }
}

fn is_empty(v: &Value) -> bool {
    v.as_object().is_some_and(serde_json::Map::is_empty) || v.as_array().is_some_and(Vec::is_empty)
}

/// What all kinds of containers have in common.
fn common(c: &Value, pod: &Pod<'_>, at: &Path, errors: &mut ErrorList) {
    let name = text(c, "name");
    if name.is_empty() {
        errors.push(Error::required(&at.child("name"), ""));
    } else {
        told(name, dns_label_errors(name, false), &at.child("name"), errors);
    }
    required(c, "image", at, errors);
    required(c, "terminationMessagePolicy", at, errors);
    one_of(c, "terminationMessagePolicy", at, &["File", "FallbackToLogsOnError"], errors);
    ports(c, at, errors);
    env::errors(c, at, errors);
    mounts::errors(c, pod.volumes, at, errors);
    pull_policy(c, "imagePullPolicy", at, errors);
    let claims: Vec<&str> = items(pod.spec, "resourceClaims").iter().map(|c| text(c, "name")).collect();
    requirements::errors(&c["resources"], &claims, pod.allowed, &at.child("resources"), errors);
    resize_policy::errors(c, text(pod.spec, "restartPolicy"), at, errors);
    let host_users = pod.spec["hostUsers"] != false;
    security::container(&c["securityContext"], host_users, pod.allowed, &at.child("securityContext"), errors);
}

/// Images of templates may have spaces around them, for whoever puts another there.
pub fn image_of_pod(c: &Value, at: &Path, errors: &mut ErrorList) {
    let image = text(c, "image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(Error::invalid(&at.child("image"), image, detail));
    }
}

fn ports(c: &Value, at: &Path, errors: &mut ErrorList) {
    let mut names: Vec<&str> = Vec::new();
    for (i, p) in items(c, "ports").iter().enumerate() {
        let at = at.child("ports").index(i);
        let name = text(p, "name");
        let messages = if name.is_empty() { Vec::new() } else { port_name_errors(name) };
        if !messages.is_empty() {
            told(name, messages, &at.child("name"), errors);
        } else if !name.is_empty() && names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else {
            names.push(name);
        }
        let number = |field: &str| p[field].as_i64().unwrap_or(0);
        if number("containerPort") == 0 {
            errors.push(Error::required(&at.child("containerPort"), ""));
        } else {
            port(number("containerPort"), &at.child("containerPort"), errors);
        }
        if number("hostPort") != 0 {
            port(number("hostPort"), &at.child("hostPort"), errors);
        }
        required(p, "protocol", &at, errors);
        one_of(p, "protocol", &at, PROTOCOLS, errors);
    }
}

/// Ports of the host that two containers want.
fn host_ports(list: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for (i, c) in list.iter().enumerate() {
        for (j, p) in items(c, "ports").iter().enumerate() {
            let host = p["hostPort"].as_i64().unwrap_or(0);
            if host == 0 {
                continue;
            }
            let key = format!("{}/{}/{host}", text(p, "protocol"), text(p, "hostIP"));
            if seen.contains(&key) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(Error::duplicate(&at, key));
            } else {
                seen.push(key);
            }
        }
    }
}

/// In the host's network a container's ports are the host's (upstream: `validatePodHostNetworkDeps`).
pub fn host_network(spec: &Value, own: bool, path: &Path, errors: &mut ErrorList) {
    if spec["hostNetwork"] != true {
        return;
    }
    for (i, c) in items(spec, "containers").iter().enumerate() {
        for (j, p) in items(c, "ports").iter().enumerate() {
            let number = |field: &str| p[field].as_i64().unwrap_or(0);
            let (host, inner) = (number("hostPort"), number("containerPort"));
            if (own || host != 0) && host != inner {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(&at, host, detail));
            }
        }
    }
}
