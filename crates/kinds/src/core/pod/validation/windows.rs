//! Pods of one operating system, and the options of Windows (upstream: `validateOS`, `validateWindows`,
//! `validateWindowsSecurityContextOptions`, `validateWindowsHostProcessPod`).

use super::containers::all;
use crate::helpers::dns_subdomain_errors;
use crate::validate::{text, told};
use meta::field::{Error, ErrorList, Path};
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

const GMSA_KIB_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 256;
const USER_BYTES_MAX: usize = 104;

static NETBIOS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$"#).ok());
static DOMAIN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
    Regex::new(&format!(r"^{label}(?:\.{label})*$")).ok()
});

/// What a Windows pod has none of, in the pod's security context and a container's.
const NOT_OF_PODS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const NOT_OF_CONTAINERS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// The operating system that a pod names, and what pods of it cannot have.
pub fn os(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let os = &spec["os"];
    if os.is_null() {
        return;
    }
    let context = path.child("securityContext");
    match text(os, "name") {
        "" => errors.push(Error::required(&path.child("os").child("name"), "")),
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            let mut check = |context: &Value, at: &Path| {
                if !context["windowsOptions"].is_null() {
                    errors.push(Error::forbidden(&at.child("windowsOptions"), detail));
                }
            };
            check(&spec["securityContext"], &context);
            for (c, at) in all(spec, path) {
                check(&c["securityContext"], &at.child("securityContext"));
            }
        }
        "windows" => {
            let mut refuse = |holder: &Value, fields: &[&str], at: &Path| {
                for field in fields.iter().filter(|f| is_set(&holder[**f])) {
                    errors.push(Error::forbidden(&at.child(field), "cannot be set for a windows pod"));
                }
            };
            refuse(&spec["securityContext"], NOT_OF_PODS, &context);
            refuse(spec, &["hostUsers"], path);
            for field in ["hostPID", "hostIPC"].iter().filter(|f| spec[**f] == true) {
                refuse(spec, &[field], path);
            }
            refuse(spec, &["shareProcessNamespace"], path);
            for (c, at) in all(spec, path) {
                refuse(&c["securityContext"], NOT_OF_CONTAINERS, &at.child("securityContext"));
            }
        }
        other => errors.push(Error::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
}

/// Whether the field says something; of lists, whether there is anything in it.
fn is_set(v: &Value) -> bool {
    !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty())
}

/// Containers that are processes of their host: all or none, in its network.
pub fn host_process(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let of = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let pod = of(spec);
    let containers = all(spec, path);
    let mut found = 0;
    for (c, at) in &containers {
        let own = of(c);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let at = at.child("securityContext").child("windowsOptions").child("hostProcess");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(Error::invalid(&at, own, detail));
        }
        found += usize::from(own.or(pod) == Some(true));
    }
    if found == 0 {
        return;
    }
    if found != containers.len() {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path, "", detail));
    }
    if spec["hostNetwork"] != true {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(Error::invalid(&path.child("hostNetwork"), false, detail));
    }
}

/// Options of a pod or a container.
pub fn options(o: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(name) = o["gmsaCredentialSpecName"].as_str() {
        told(name, dns_subdomain_errors(name, false), &at.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(spec) = o["gmsaCredentialSpec"].as_str() {
        let at = at.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(Error::invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > GMSA_KIB_MAX * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {GMSA_KIB_MAX} KiB");
            errors.push(Error::invalid(&at, spec, detail));
        }
    }
    if let Some(name) = o["runAsUserName"].as_str() {
        let at = at.child("runAsUserName");
        errors.extend(
            user_name_errors(name)
                .into_iter()
                .map(|m| Error::invalid(&at, name, format!("runAsUserName{m}"))),
        );
    }
}

/// What is wrong with a user's name, with or without a domain.
fn user_name_errors(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec![" cannot be an empty string".to_owned()];
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return vec![" cannot contain control characters".to_owned()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec![" cannot contain more than one backslash".to_owned()],
    };
    let mut errors = Vec::new();
    if domain.is_some_and(|d| d.len() >= DOMAIN_BYTES_MAX) {
        errors.push(format!("'s Domain length must be under {DOMAIN_BYTES_MAX} characters"));
    }
    let is = |pattern: &LazyLock<Option<Regex>>, d: &str| pattern.as_ref().is_some_and(|p| p.is_match(d));
    if domain.is_some_and(|d| !is(&NETBIOS, d) && !is(&DOMAIN, d)) {
        errors.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        errors.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_BYTES_MAX {
        errors.push(format!("'s User length must not be longer than {USER_BYTES_MAX} characters"));
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        errors.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        errors.push("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(check: fn(&Value, &Path, &mut ErrorList), v: Value) -> Vec<String> {
        let mut all = Vec::new();
        check(&v, &Path::new("spec"), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateWindowsSecurityContextOptions`, `TestValidateWindowsHostProcessPod`.
    #[test]
    fn options_of_windows() {
        assert!(found(options, json!({"runAsUserName": "DOMAIN\\user"})).is_empty());
        assert_eq!(
            found(options, json!({"runAsUserName": "a\\b\\c", "gmsaCredentialSpec": ""})),
            [
                "spec.gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string",
                "spec.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
            ]
        );
        let host = json!({"securityContext": {"windowsOptions": {"hostProcess": true}}});
        assert_eq!(
            found(host_process, json!({"containers": [host, {}]})),
            [
                "spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers",
                "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
            ]
        );
    }

    #[test]
    fn systems() {
        let spec = json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"sysctls": [], "runAsUser": 1},
            "containers": [{"securityContext": {"privileged": false}}]});
        assert_eq!(
            found(os, spec),
            [
                "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                "spec.hostPID: Forbidden: cannot be set for a windows pod",
                "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ]
        );
        assert_eq!(
            found(os, json!({"os": {"name": "plan9"}})),
            ["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]
        );
    }
}
