//! Who the processes of a pod are and what they may do (upstream: `validatePodSpecSecurityContext`,
//! `ValidateSecurityContext`).

use super::allowed::Allowed;
use super::containers::all;
use super::mounts::descending;
use super::windows;
use crate::internal::shown;
use crate::validate::{items, one_of, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const SYSCTL_BYTES_MAX: usize = 253;
/// One less than the longest path, in bytes.
const APPARMOR_BYTES_MAX: usize = 4095;
/// Sysctls of the namespace of interprocess communication.
const IPC: &[&str] = &[
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];

/// The security context of a pod.
pub fn pod(spec: &Value, allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    let (context, at) = (&spec["securityContext"], path.child("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[field], &at.child(field), errors);
    }
    for (i, g) in items(context, "supplementalGroups").iter().enumerate() {
        id(g, &at.child("supplementalGroups").index(i), errors);
    }
    sysctls(spec, allowed, &at.child("sysctls"), errors);
    one_of(context, "fsGroupChangePolicy", &at, &["Always", "OnRootMismatch"], errors);
    seccomp(&context["seccompProfile"], &at.child("seccompProfile"), errors);
    windows::options(&context["windowsOptions"], &at.child("windowsOptions"), errors);
    apparmor(&context["appArmorProfile"], &at.child("appArmorProfile"), errors);
    one_of(context, "supplementalGroupsPolicy", &at, &["Merge", "Strict"], errors);
    one_of(context, "seLinuxChangePolicy", &at, &["MountOption", "Recursive"], errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
}

/// The security context of a container; `host_users` tells that the pod has the host's user namespace.
pub fn container(s: &Value, host_users: bool, allowed: &Allowed, at: &Path, errors: &mut ErrorList) {
    if s.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&s[field], &at.child(field), errors);
    }
    if let Some(mount) = s["procMount"].as_str() {
        let at = at.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(Error::not_supported(&at, mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            errors.push(Error::invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(&s["seccompProfile"], &at.child("seccompProfile"), errors);
    if s["allowPrivilegeEscalation"] == false {
        if s["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(at, shown("SecurityContext", s), detail));
        }
        if !allowed.sys_admin && has_sys_admin(s) {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(at, shown("SecurityContext", s), detail));
        }
    }
    windows::options(&s["windowsOptions"], &at.child("windowsOptions"), errors);
    apparmor(&s["appArmorProfile"], &at.child("appArmorProfile"), errors);
}

/// Whether a container's context adds CAP_SYS_ADMIN.
pub fn has_sys_admin(s: &Value) -> bool {
    items(&s["capabilities"], "add").iter().any(|c| c == "CAP_SYS_ADMIN")
}

/// A user or group number (upstream: `IsValidUserID`).
pub fn id(v: &Value, at: &Path, errors: &mut ErrorList) {
    if let Some(n) = v.as_i64().filter(|n| !(0..=i64::from(i32::MAX)).contains(n)) {
        errors.push(Error::invalid(at, n, "must be between 0 and 2147483647, inclusive"));
    }
}

fn sysctls(spec: &Value, allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, s) in items(&spec["securityContext"], "sysctls").iter().enumerate() {
        let (at, name) = (path.index(i).child("name"), text(s, "name"));
        if name.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if name.len() > SYSCTL_BYTES_MAX || !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(&at, name, detail));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(&at, name));
        }
        if !allowed.host_sysctls
            && let Some(detail) = host_sysctl(name, spec)
        {
            errors.push(Error::invalid(&at, name, detail));
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

/// Why a sysctl cannot be set: it would be the host's (upstream: `ValidateHostSysctl`).
pub fn host_sysctl(name: &str, spec: &Value) -> Option<&'static str> {
    // a slash may stand for a dot, and then a dot for a slash
    let slash_first = name.find(['.', '/']).is_some_and(|i| name.as_bytes()[i] == b'/');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let name: String = if slash_first { name.chars().map(swap).collect() } else { name.to_owned() };
    if spec["hostNetwork"] == true && name.starts_with("net.") {
        return Some("may not be specified when 'hostNetwork' is true");
    }
    let ipc = IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
    (spec["hostIPC"] == true && ipc).then_some("may not be specified when 'hostIPC' is true")
}

/// Upstream: `validateSeccompProfileField`; an empty profile is refused (CVE-2023-2431).
fn seccomp(p: &Value, at: &Path, errors: &mut ErrorList) {
    if p.is_null() {
        return;
    }
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    let kind = text(p, "type");
    match kind {
        "" => errors.push(Error::required(&at.child("type"), "type is required when seccompProfile is set")),
        kind if !types.contains(&kind) => errors.push(Error::not_supported(&at.child("type"), kind, &types)),
        _ => {}
    }
    let path = at.child("localhostProfile");
    match p["localhostProfile"].as_str() {
        None if kind == "Localhost" => {
            errors.push(Error::required(&path, "must be set when seccomp type is Localhost"));
        }
        Some(local) if kind == "Localhost" => descending(local, &path, errors),
        Some(_) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(Error::invalid(&path, shown("SeccompProfile", p), detail));
        }
        None => {}
    }
}

/// Upstream: `ValidateAppArmorProfileField`.
pub fn apparmor(p: &Value, at: &Path, errors: &mut ErrorList) {
    if p.is_null() {
        return;
    }
    let (local, path) = (p["localhostProfile"].as_str(), at.child("localhostProfile"));
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    match text(p, "type") {
        "Localhost" => {
            let needed = "must be set when AppArmor type is Localhost";
            let Some(local) = local else {
                errors.push(Error::required(&path, needed));
                return;
            };
            if local.trim() != local {
                errors.push(Error::invalid(&path, local, "must not be padded with whitespace"));
            } else if local.is_empty() {
                errors.push(Error::required(&path, needed));
            }
            if local.len() > APPARMOR_BYTES_MAX {
                errors.push(Error::too_long(&path, APPARMOR_BYTES_MAX));
            }
        }
        "" => errors.push(Error::required(&at.child("type"), "type is required when appArmorProfile is set")),
        kind if !types.contains(&kind) => errors.push(Error::not_supported(&at.child("type"), kind, &types)),
        _ => {
            let detail = "can only be set when AppArmor type is Localhost";
            errors.extend(local.map(|l| Error::invalid(&path, l, detail)));
        }
    }
}

/// What a pod with its own user namespace cannot share with its host (upstream: `validateHostUsers`).
pub fn host_users(spec: &Value, allowed: &Allowed, path: &Path, errors: &mut ErrorList) {
    if spec["hostUsers"] != false {
        return;
    }
    let detail = "when `hostUsers` is false";
    if !allowed.user_namespace_network && spec["hostNetwork"] == true {
        errors.push(Error::forbidden(&path.child("hostNetwork"), detail));
    }
    for (field, told) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[field] == true {
            errors.push(Error::forbidden(&path.child(told), detail));
        }
    }
    if !allowed.user_namespace_devices {
        let with = all(spec, path).into_iter().filter(|(c, _)| !items(c, "volumeDevices").is_empty());
        errors.extend(with.map(|(_, at)| Error::forbidden(&at.child("volumeDevices"), detail)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestValidateSecurityContext`, `TestValidateSeccompProfileField`.
    #[test]
    fn containers() {
        let found = |s: Value| {
            let mut all = Vec::new();
            container(&s, true, &Allowed::default(), &Path::new("s"), &mut all);
            all.iter().map(|e| format!("{} {}", e.field, e.detail)).collect::<Vec<_>>()
        };
        assert!(found(json!({"privileged": true, "runAsUser": 0, "procMount": "Default"})).is_empty());
        assert_eq!(
            found(json!({"allowPrivilegeEscalation": false, "privileged": true, "procMount": "Unmasked",
                "capabilities": {"add": ["CAP_SYS_ADMIN"]}})),
            [
                "s.procMount `hostUsers` must be false to use `Unmasked`",
                "s cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
                "s cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ]
        );
        assert_eq!(
            found(
                json!({"seccompProfile": {"type": "Nope", "localhostProfile": "a"}, "appArmorProfile": {"type": "Localhost"}})
            ),
            [
                "s.seccompProfile.type supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
                "s.seccompProfile.localhostProfile can only be set when seccomp type is Localhost",
                "s.appArmorProfile.localhostProfile must be set when AppArmor type is Localhost",
            ]
        );
    }

    #[test]
    fn sysctls_of_the_host() {
        let spec = json!({"hostNetwork": true, "hostIPC": true});
        for name in ["net.core.somaxconn", "net/core/somaxconn", "kernel.sem", "fs.mqueue.x"] {
            assert!(host_sysctl(name, &spec).is_some(), "{name}");
            assert!(host_sysctl(name, &json!({})).is_none());
        }
        assert!(host_sysctl("vm.swappiness", &spec).is_none());
    }
}
