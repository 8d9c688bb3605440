//! The checks of the baseline level: what lets a pod out of its box (upstream: pod-security-admission
//! `policy/check_*.go`; the texts are upstream's).

use super::checks::Violation;
use super::pod::{Pod, Values, containers_named, join_quoted, list_of, plural, text};
use meta::field::quoted;
use serde_json::Value;
use std::collections::BTreeSet;

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Capabilities that a container may add: the usual set of runtimes but for NET_RAW.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// SELinux types that may be set, and since which minor version.
const SE_LINUX_TYPES: &[(u64, &str)] = &[
    (0, ""),
    (0, "container_t"),
    (0, "container_init_t"),
    (0, "container_kvm_t"),
    (31, "container_engine_t"),
];

/// Sysctls that concern the pod alone, and since which minor version they are known to.
const SYSCTLS: &[(u64, &str)] = &[
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
    (37, "net.ipv4.tcp_slow_start_after_idle"),
    (37, "net.ipv4.tcp_notsent_lowat"),
];

/// Whether a list of values, each with its first version, has this one at that version.
fn listed(list: &[(u64, &str)], minor: u64, value: &str) -> bool {
    list.iter().any(|(since, v)| *since <= minor && *v == value)
}

/// A profile type that is neither the runtime's own nor a file of the node's; `None` where no profile is set.
pub fn bad_profile_type(profile: &Value) -> Option<&str> {
    let ty = text(&profile["type"]);
    (!profile.is_null() && !matches!(ty, "RuntimeDefault" | "Localhost")).then_some(ty)
}

/// AppArmor profiles, as fields and as the annotations before them (upstream: `check_appArmorProfile.go`).
pub fn app_armor_profile(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = Values::new();
    let mut who = pod.culprits(|holder| {
        let ty = bad_profile_type(profile(holder, "appArmorProfile"));
        values.extend(ty);
        ty.is_some()
    });
    let annotations: BTreeSet<String> = pod
        .annotations()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, text(value)))
        .filter(|(key, value)| {
            let fine = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APP_ARMOR_ANNOTATION) && !fine
        })
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    if !annotations.is_empty() {
        let and = if who.is_empty() { "" } else { " and " };
        who = format!("{who}{and}{}", plural("annotation", "annotations", annotations.len()));
    }
    let values: Vec<&str> = values.into_iter().chain(annotations.iter().map(String::as_str)).collect();
    (!who.is_empty()).then(|| Violation {
        reason: plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        detail: format!("{who} must not set AppArmor profile type to {}", join_quoted(values)),
    })
}

/// Added capabilities (upstream: `check_capabilities_baseline.go`).
pub fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = Values::new();
    let containers = pod.containers_where(|c| {
        let added = list_of(&c["securityContext"]["capabilities"]["add"]).map(text);
        let bad: Values<'_> = added.filter(|c| !CAPABILITIES.contains(c)).collect();
        values.extend(&bad);
        !bad.is_empty()
    });
    violation(&containers, "non-default capabilities", |who| {
        format!("{who} must not include {} in securityContext.capabilities.add", join_quoted(&values))
    })
}

/// The node's own namespaces (upstream: `check_hostNamespaces.go`).
pub fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let used: Vec<String> = fields.filter(|f| pod.spec()[f] == true).map(|f| format!("{f}=true")).collect();
    (!used.is_empty()).then(|| Violation { reason: "host namespaces", detail: used.join(", ") })
}

/// Directories of the node (upstream: `check_hostPathVolumes.go`).
pub fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = list_of(&pod.spec()["volumes"]).filter(|v| !v["hostPath"].is_null());
    let names: Vec<&str> = volumes.map(|v| text(&v["name"])).collect();
    (!names.is_empty()).then(|| Violation {
        reason: "hostPath volumes",
        detail: format!("{} {}", plural("volume", "volumes", names.len()), join_quoted(&names)),
    })
}

/// Ports of the node (upstream: `check_hostPorts.go`).
pub fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    // Sorted as texts, as upstream's are.
    let mut ports = BTreeSet::new();
    let containers = pod.containers_where(|c| {
        let used = list_of(&c["ports"]).filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0);
        let used: Vec<String> = used.map(|p| p.to_string()).collect();
        let bad = !used.is_empty();
        ports.extend(used);
        bad
    });
    violation(&containers, "hostPort", |who| {
        let uses = plural("uses", "use", containers.len());
        let noun = plural("hostPort", "hostPorts", ports.len());
        format!("{who} {uses} {noun} {}", ports.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
    })
}

/// Probes and hooks that make the node call another host (upstream: `check_hostProbesAndhostLifecycle.go`).
pub fn host_probes_and_host_lifecycle(pod: &Pod<'_>) -> Option<Violation> {
    let mut hosts = Values::new();
    let containers = pod.containers_where(|c| {
        let hooks = &c["lifecycle"];
        let handlers = [
            &c["livenessProbe"],
            &c["readinessProbe"],
            &c["startupProbe"],
            &hooks["postStart"],
            &hooks["preStop"],
        ];
        let named = handlers.into_iter().flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        let named: Values<'_> = named.map(text).filter(|host| !host.is_empty()).collect();
        hosts.extend(&named);
        !named.is_empty()
    });
    let containers: Vec<&str> = containers.into_iter().collect::<Values<'_>>().into_iter().collect();
    violation(&containers, "probe or lifecycle host", |who| {
        let uses = plural("uses", "use", containers.len());
        let noun = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
        format!("{who} {uses} {noun} {}", join_quoted(&hosts))
    })
}

/// Containers without walls (upstream: `check_privileged.go`).
pub fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.containers_where(|c| c["securityContext"]["privileged"] == true);
    violation(&containers, "privileged", |who| format!("{who} must not set securityContext.privileged=true"))
}

/// An unmasked /proc (upstream: `check_procMount_baseline.go`).
pub fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = Values::new();
    let containers = pod.containers_where(|c| {
        let value = c["securityContext"]["procMount"].as_str().filter(|v| *v != "Default");
        values.extend(value);
        value.is_some()
    });
    violation(&containers, "procMount", |who| {
        format!("{who} must not set securityContext.procMount to {}", join_quoted(&values))
    })
}

/// SELinux labels (upstream: `check_seLinuxOptions.go`). `minor` decides which types are allowed.
pub fn se_linux_options(pod: &Pod<'_>, minor: u64) -> Option<Violation> {
    let (mut types, mut user, mut role) = (Values::new(), false, false);
    let who = pod.culprits(|holder| {
        let options = profile(holder, "seLinuxOptions");
        let set = |field: &str| !text(&options[field]).is_empty();
        let ty = Some(text(&options["type"])).filter(|t| !listed(SE_LINUX_TYPES, minor, t));
        types.extend(ty);
        user |= set("user");
        role |= set("role");
        ty.is_some() || set("user") || set("role")
    });
    if who.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), join_quoted(&types)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Some(Violation { reason: "seLinuxOptions", detail })
}

/// Seccomp profiles as the annotations of before 1.19 (upstream: `check_seccompProfile_baseline.go`).
pub fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let keys = pod.containers().map(|c| format!("{SECCOMP_CONTAINER_ANNOTATION}{}", text(&c["name"])));
    let keys = std::iter::once(SECCOMP_POD_ANNOTATION.to_owned()).chain(keys);
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = text(pod.annotations()?.get(&key)?);
            let fine =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={}", quoted(value)))
        })
        .collect();
    (!forbidden.is_empty()).then(|| {
        let noun = plural("annotation", "annotations", forbidden.len());
        let list: Vec<String> = forbidden.into_iter().collect();
        Violation { reason: "seccompProfile", detail: format!("forbidden {noun} {}", list.join(", ")) }
    })
}

/// Seccomp profiles as fields (upstream: `check_seccompProfile_baseline.go`).
pub fn seccomp_profile(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = Values::new();
    let who = pod.culprits(|holder| {
        let ty = bad_profile_type(profile(holder, "seccompProfile"));
        values.extend(ty);
        ty.is_some()
    });
    (!who.is_empty()).then(|| Violation {
        reason: "seccompProfile",
        detail: format!("{who} must not set securityContext.seccompProfile.type to {}", join_quoted(&values)),
    })
}

/// Kernel parameters (upstream: `check_sysctls.go`). `minor` decides which are safe.
pub fn sysctls(pod: &Pod<'_>, minor: u64) -> Option<Violation> {
    let set = list_of(&pod.spec()["securityContext"]["sysctls"]).map(|s| text(&s["name"]));
    let forbidden: Vec<&str> = set.filter(|name| !listed(SYSCTLS, minor, name)).collect();
    (!forbidden.is_empty()).then(|| Violation { reason: "forbidden sysctls", detail: forbidden.join(", ") })
}

/// Windows' kind of privileged containers (upstream: `check_windowsHostProcess.go`).
pub fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.culprits(|holder| profile(holder, "windowsOptions")["hostProcess"] == true);
    (!who.is_empty()).then(|| Violation {
        reason: "hostProcess",
        detail: format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    })
}

/// A field of the security context of a pod's spec or a container.
pub fn profile<'a>(holder: &'a Value, field: &str) -> &'a Value {
    &holder["securityContext"][field]
}

/// A violation by containers, none where there are none.
pub fn violation(
    containers: &[&str],
    reason: &'static str,
    detail: impl FnOnce(String) -> String,
) -> Option<Violation> {
    (!containers.is_empty()).then(|| Violation { reason, detail: detail(containers_named(containers)) })
}
