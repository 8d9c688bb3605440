//! Warnings of pods and pod templates: what is accepted and does not do what it seems to
//! (upstream: `pkg/api/pod/warnings.go`).

mod volumes;

use crate::helpers::{dns_label_errors, label_value_errors};
use crate::node_selector::{deprecated_label, expression_warnings};
use crate::validate::{items, text};
use crate::{ip, resources};
use meta::field::Path;
use meta::field::quoted;
use meta::object;
use serde_json::Value;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The warning of a workload whose name its pods cannot have as a host name.
pub fn name(name: &str) -> Vec<String> {
    named(name, "Pod names and hostnames")
}

fn named(name: &str, used: &str) -> Vec<String> {
    let messages = dns_label_errors(name, false);
    if messages.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        messages.join(" ")
    )]
}

/// Warnings of a template about to be stored at `at`.
pub fn template(template: &Value, at: &Path) -> Vec<String> {
    let mut out = Vec::new();
    if !template.is_null() {
        spec_and_meta(template, at, true, &mut out);
    }
    out
}

/// Warnings of a Pod about to be created.
pub fn pod(obj: &Value) -> Vec<String> {
    let mut out = named(object::name(obj), "the Pod's hostname");
    spec_and_meta(obj, &Path::root(), false, &mut out);
    out
}

fn spec_and_meta(obj: &Value, path: &Path, is_template: bool, out: &mut Vec<String>) {
    let (spec, at) = (&obj["spec"], path.child("spec"));
    let annotations = path.child("metadata").child("annotations");
    node_labels(spec, &at, out);
    for (key, message) in ANNOTATIONS {
        if object::annotation(obj, key).is_some() {
            out.push(format!("{}: {message}", annotations.key(key)));
        }
    }
    volumes::warnings(items(spec, "volumes"), &at.child("volumes"), out);
    duplicates(spec, "hostAliases", "ip", &at, out);
    duplicates(spec, "imagePullSecrets", "name", &at, out);
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            let at = at.child("imagePullSecrets").index(i).child("name");
            out.push(format!("{at}: invalid empty name \"\""));
        }
    }
    fractions(&spec["overhead"], &at.child("overhead"), out);
    if spec["securityContext"]["seccompProfile"].is_null() && object::annotation(obj, SECCOMP_POD).is_some() {
        out.push(seccomp(&annotations.key(SECCOMP_POD)));
    }
    let containers: Vec<(&Value, Path)> = CONTAINER_LISTS
        .iter()
        .flat_map(|list| items(spec, list).iter().enumerate().map(|(i, c)| (c, at.child(list).index(i))))
        .collect();
    for (c, at) in &containers {
        container(c, at, obj, is_template, &annotations, out);
    }
    ports(&containers, out);
    port_names(&containers, out);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let at = at.child("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(spec, &at, out);
    addresses(spec, &at, out);
}

fn seccomp(at: &Path) -> String {
    format!("{at}: non-functional in v1.27+; use the \"seccompProfile\" field instead")
}

fn node_labels(spec: &Value, at: &Path, out: &mut Vec<String>) {
    for key in spec["nodeSelector"].as_object().into_iter().flatten().map(|(k, _)| k) {
        out.extend(deprecated_label(key).map(|m| format!("{}: {m}", at.child("nodeSelector").key(key))));
    }
    let (affinity, path) = (&spec["affinity"]["nodeAffinity"], at.child("affinity").child("nodeAffinity"));
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in items(&affinity[required], "nodeSelectorTerms").iter().enumerate() {
        out.extend(expression_warnings(term, &path.child(required).child("nodeSelectorTerms").index(i)));
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in items(affinity, preferred).iter().enumerate() {
        let at = path.child(preferred).index(i).child("preference");
        out.extend(expression_warnings(&term["preference"], &at));
        for (j, e) in items(&term["preference"], "matchExpressions").iter().enumerate() {
            for (k, value) in items(e, "values").iter().filter_map(Value::as_str).enumerate() {
                let at = at.child("matchExpressions").index(j).child("values").index(k);
                let messages = label_value_errors(value).into_iter();
                out.extend(messages.map(|m| format!("{at}: {value} is invalid, {m}")));
            }
        }
    }
    for (i, c) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let (at, key) = (at.child("topologySpreadConstraints").index(i), text(c, "topologyKey"));
        out.extend(deprecated_label(key).map(|m| format!("{}: {key} is {m}", at.child("topologyKey"))));
        if c["labelSelector"].is_null() {
            out.push(matches_nothing(&at));
        }
    }
}

fn matches_nothing(at: &Path) -> String {
    format!("{}: a null labelSelector results in matching no pod", at.child("labelSelector"))
}

fn duplicates(spec: &Value, list: &str, field: &str, at: &Path, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, item) in items(spec, list).iter().enumerate() {
        let value = text(item, field);
        if seen.contains(&value) {
            out.push(format!(
                "{}: duplicate {field} {value}",
                at.child(list).index(i).child(field),
                value = quoted(value)
            ));
        }
        seen.push(value);
    }
}

fn fraction(list: &Value, resource: &str, at: &Path, out: &mut Vec<String>) {
    if let Some(q) = resources::amount(&list[resource]).filter(|q| !resources::is_whole(q)) {
        out.push(format!(
            "{}: fractional byte value \"{q}\" is invalid, must be an integer",
            at.key(resource)
        ));
    }
}

fn fractions(list: &Value, at: &Path, out: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        fraction(list, resource, at, out);
    }
}

fn container(
    c: &Value,
    at: &Path,
    obj: &Value,
    is_template: bool,
    annotations: &Path,
    out: &mut Vec<String>,
) {
    let name = text(c, "name");
    let key = format!("{SECCOMP_CONTAINER}{name}");
    if c["securityContext"]["seccompProfile"].is_null() && object::annotation(obj, &key).is_some() {
        out.push(seccomp(&annotations.key(&key)));
    }
    let key = format!("{APPARMOR}{name}");
    if is_template
        && c["securityContext"]["appArmorProfile"].is_null()
        && let Some(profile) = object::annotation(obj, &key)
        && !same_profile(&obj["spec"]["securityContext"]["appArmorProfile"], profile)
    {
        let at = annotations.key(&key);
        out.push(format!("{at}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
    }
    for resource in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            fraction(&c["resources"][list], resource, &at.child("resources").child(list), out);
        }
    }
    let env = items(c, "env");
    for (i, e) in env.iter().enumerate() {
        let name = text(e, "name");
        let hides = env[..i].iter().any(|before| text(before, "name") == name);
        let (value, before) = (text(e, "value"), format!("$({name})"));
        if hides && (!e["valueFrom"].is_null() || value == before || !value.contains(&before)) {
            out.push(format!(
                "{}: hides previous definition of {name}, which may be dropped when using apply",
                at.child("env").index(i),
                name = quoted(name)
            ));
        }
    }
}

/// Whether a pod's profile is what an annotation of old says (upstream: `ApparmorFieldForAnnotation`).
fn same_profile(field: &Value, annotation: &str) -> bool {
    let local = annotation.strip_prefix("localhost/");
    match (annotation, local) {
        ("unconfined", _) => field["type"] == "Unconfined",
        ("runtime/default", _) => field["type"] == "RuntimeDefault",
        (_, Some(name)) if !name.is_empty() => {
            field["type"] == "Localhost" && field["localhostProfile"] == name
        }
        _ => false,
    }
}

fn ports(containers: &[(&Value, Path)], out: &mut Vec<String>) {
    let mut seen: Vec<(Path, &Value)> = Vec::new();
    let number = |p: &Value, f: &str| p[f].as_i64().unwrap_or(0);
    for (c, at) in containers {
        for (i, p) in items(c, "ports").iter().enumerate() {
            let at = at.child("ports").index(i);
            let (host_ip, host_port) = (text(p, "hostIP"), number(p, "hostPort"));
            if !host_ip.is_empty() && host_port == 0 {
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{host_ip}}}",
                    text(p, "name"),
                    number(p, "containerPort"),
                    text(p, "protocol")
                ));
            }
            let same = |o: &Value| {
                number(o, "containerPort") == number(p, "containerPort")
                    && text(o, "protocol") == text(p, "protocol")
            };
            for (other_at, other) in seen.iter().filter(|(_, o)| same(o)) {
                let (other_ip, other_port) = (text(other, "hostIP"), number(other, "hostPort"));
                let what = if host_ip == other_ip && host_port == other_port {
                    "duplicate"
                } else if host_port == 0 || other_port == 0 {
                    "overlapping"
                } else if host_port == other_port && host_ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{at}: {what} port definition with {other_at}"));
            }
            seen.push((at, p));
        }
    }
}

fn port_names(containers: &[(&Value, Path)], out: &mut Vec<String>) {
    let mut seen: Vec<(&str, Path)> = Vec::new();
    for (c, at) in containers {
        for (i, p) in items(c, "ports").iter().enumerate() {
            let (at, name) = (at.child("ports").index(i), text(p, "name"));
            match seen.iter().find(|(n, _)| *n == name) {
                _ if name.is_empty() => {}
                Some((_, other)) => out.push(format!(
                    "{at}: duplicate port name {name} with {other}, services and probes that select ports by name will use {other}", name = quoted(name))),
                None => seen.push((name, at)),
            }
        }
    }
}

fn affinity(spec: &Value, at: &Path, out: &mut Vec<String>) {
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (&spec["affinity"][kind], at.child("affinity").child(kind));
        for (i, term) in items(terms, required).iter().enumerate() {
            if term["labelSelector"].is_null() {
                out.push(matches_nothing(&at.child(required).index(i)));
            }
        }
        for (i, term) in items(terms, preferred).iter().enumerate() {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                out.push(matches_nothing(&at.child(preferred).index(i).child("podAffinityTerm")));
            }
        }
    }
}

fn addresses(spec: &Value, at: &Path, out: &mut Vec<String>) {
    let servers = items(&spec["dnsConfig"], "nameservers").iter().filter_map(Value::as_str);
    for (i, server) in servers.enumerate() {
        out.extend(ip::warnings(server, &at.child("dnsConfig").child("nameservers").index(i)));
    }
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        out.extend(ip::warnings(text(alias, "ip"), &at.child("hostAliases").index(i).child("ip")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `warnings_test.go#TestWarnings`.
    #[test]
    fn what_is_warned_of() {
        let cases = [
            (json!({"spec": {}}), vec![]),
            (
                json!({"spec": {"volumes": [{"name": "s", "gitRepo": {}}, {"name": "t", "rbd": {}}]}}),
                vec![
                    "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                    "spec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+",
                ],
            ),
            (
                json!({"spec": {"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]}}),
                vec!["spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\""],
            ),
            (
                json!({"spec": {"imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}}),
                vec![
                    "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                    "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                ],
            ),
            (
                json!({"spec": {"containers": [{"env": [{"name": "a", "value": "1"}, {"name": "a", "value": "$(a)2"}, {"name": "a", "value": "3"}]}]}}),
                vec![
                    "spec.containers[0].env[2]: hides previous definition of \"a\", which may be dropped when using apply",
                ],
            ),
            (
                json!({"spec": {"containers": [{"resources": {"requests": {"memory": "4500m"}}}], "overhead": {"memory": "1500m"}}}),
                vec![
                    "spec.overhead[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                    "spec.containers[0].resources.requests[memory]: fractional byte value \"4500m\" is invalid, must be an integer",
                ],
            ),
            (
                json!({"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}}),
                vec![
                    "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                ],
            ),
            (
                json!({"spec": {"topologySpreadConstraints": [{"topologyKey": "foo"}], "terminationGracePeriodSeconds": -1}}),
                vec![
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
            (
                json!({"spec": {"containers": [{"ports": [{"containerPort": 80, "protocol": "TCP", "name": "p"}]},
                    {"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 80, "name": "p"}]}]}}),
                vec![
                    "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[1].ports[0]: duplicate port name \"p\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
                ],
            ),
            (
                json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}}, "spec": {}}),
                vec![
                    "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                ],
            ),
        ];
        for (obj, wanted) in cases {
            assert_eq!(template(&obj, &Path::root()), wanted);
        }
    }

    #[test]
    fn names_that_are_no_labels() {
        assert_eq!(name("web"), Vec::<String>::new());
        assert_eq!(
            name("a.b"),
            [
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
            ]
        );
    }
}
