//! Security contexts to the runtime's settings (upstream: `kuberuntime/security_context.go`,
//! `pkg/securitycontext`).
//!
//! Differs from upstream on purpose: seccomp is RuntimeDefault for every container that does not ask for Unconfined
//! (upstream's `--seccomp-default`).

use super::spec;
use super::users::{self, Accounts, Choice, ID_MAX, User};
use crate::runtime::{Seccomp, Security};
use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, SeccompProfile};
use std::path::Path;

/// containerd's default set.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const ALL_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// The fields of a container that fall back to the pod's.
struct Effective {
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
    run_as_non_root: bool,
}

fn effective(pod: &Pod, container: &Container) -> Effective {
    let p = spec::spec(pod).security_context.as_ref();
    let c = container.security_context.as_ref();
    Effective {
        run_as_user: c.and_then(|c| c.run_as_user).or_else(|| p.and_then(|p| p.run_as_user)),
        run_as_group: c.and_then(|c| c.run_as_group).or_else(|| p.and_then(|p| p.run_as_group)),
        run_as_non_root: c
            .and_then(|c| c.run_as_non_root)
            .or_else(|| p.and_then(|p| p.run_as_non_root))
            .unwrap_or(false),
    }
}

/// upstream: `verifyRunAsNonRoot`
///
/// # Errors
/// Upstream's text; the container waits with `CreateContainerConfigError`.
fn verify_non_root(pod: &Pod, container: &Container, image_user: &str) -> Result<(), String> {
    let e = effective(pod, container);
    let place = format!("(pod: {:?}, container: {})", spec::display(pod), container.name);
    if !e.run_as_non_root {
        return Ok(());
    }
    if let Some(uid) = e.run_as_user {
        return match uid {
            0 => Err(format!("container's runAsUser breaks non-root policy {place}")),
            _ => Ok(()),
        };
    }
    match users::image_uid(image_user) {
        Some(Err(name)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        )),
        // Without a user the image runs as root (upstream: getImageUser answers 0).
        Some(Ok(0)) | None => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        Some(Ok(uid)) if !(0..=ID_MAX).contains(&uid) => Err(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({ID_MAX})): \
             must be between 0 and {ID_MAX}, inclusive {place}"
        )),
        Some(Ok(_)) => Ok(()),
    }
}

/// `NET_ADMIN` and `CAP_NET_ADMIN` are the same.
fn canonical(name: &str) -> String {
    let upper = name.to_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// Adds first, then drops, `ALL` before the others, as containerd does.
fn capabilities(asked: Option<&Capabilities>) -> Vec<String> {
    let list =
        |l: Option<&Vec<String>>| -> Vec<String> { l.into_iter().flatten().map(|n| canonical(n)).collect() };
    let (add, drop) = (list(asked.and_then(|c| c.add.as_ref())), list(asked.and_then(|c| c.drop.as_ref())));
    let mut set: std::collections::BTreeSet<String> =
        DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    if add.iter().any(|c| c == "CAP_ALL") {
        set = ALL_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    }
    if drop.iter().any(|c| c == "CAP_ALL") {
        set.clear();
    }
    set.extend(add.into_iter().filter(|c| c != "CAP_ALL"));
    for c in &drop {
        set.remove(c);
    }
    set.into_iter().collect()
}

fn seccomp(pod: &Pod, container: &Container, privileged: bool, root: &Path) -> Result<Seccomp, String> {
    let c = container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let p = || spec::spec(pod).security_context.as_ref().and_then(|p| p.seccomp_profile.as_ref());
    let profile: Option<&SeccompProfile> = c.or_else(p);
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    match profile.map(|p| p.type_.as_str()) {
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).filter(|n| !n.is_empty());
            let name = name.ok_or("localhostProfile must be set if seccompProfile type is Localhost.")?;
            let path = root.join("seccomp").join(name);
            let text = std::fs::read_to_string(&path);
            text.map(Seccomp::Profile)
                .map_err(|e| format!("cannot load seccomp profile {:?}: {e}", path.display().to_string()))
        }
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

/// Who the container runs as and what it may do. `root` is the agent's root directory.
///
/// # Errors
/// Upstream's text where it has one.
pub fn security(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    accounts: &Accounts,
    root: &Path,
) -> Result<(Security, User), String> {
    verify_non_root(pod, container, image_user)?;
    let e = effective(pod, container);
    let pod_context = spec::spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let mut supplemental: Vec<i64> = pod_context.and_then(|p| p.fs_group).into_iter().collect();
    supplemental.extend(pod_context.and_then(|p| p.supplemental_groups.as_ref()).into_iter().flatten());
    let user = users::resolve(
        &Choice {
            image: image_user,
            run_as_user: e.run_as_user,
            run_as_group: e.run_as_group,
            supplemental: &supplemental,
            strict: pod_context.and_then(|p| p.supplemental_groups_policy.as_deref()) == Some("Strict"),
        },
        accounts,
    )?;
    let privileged = own.and_then(|c| c.privileged).unwrap_or(false);
    let capabilities = if privileged {
        ALL_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect()
    } else {
        capabilities(own.and_then(|c| c.capabilities.as_ref()))
    };
    let security = Security {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        capabilities,
        privileged,
        read_only_root: own.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        seccomp: seccomp(pod, container, privileged, root)?,
        unmasked_proc: own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked"),
    };
    Ok((security, user))
}

/// The user that all containers run as, if they agree (upstream: `volumeutil.FsUserFrom`).
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let mut found = None;
    for c in spec::init_containers(pod).iter().chain(&spec::spec(pod).containers) {
        let uid = effective(pod, c).run_as_user?;
        if found.is_some_and(|f| f != uid) {
            return None;
        }
        found = Some(uid);
    }
    u32::try_from(found?).ok()
}

/// The number of a stop signal: `SIGTERM`, `TERM` or `15`; 15 when it is none.
pub fn stop_signal(text: &str) -> i32 {
    const NAMES: &[(&str, i32)] = &[
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];
    let upper = text.trim().to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(n) = name.parse::<i32>() {
        return if (1..=64).contains(&n) { n } else { 15 };
    }
    let real_time = |prefix: &str, base: i32, sign: i32| {
        let rest = name.strip_prefix(prefix)?;
        if rest.is_empty() {
            return Some(base);
        }
        rest[1..].parse::<i32>().ok().map(|n| base + sign * n).filter(|n| (34..=64).contains(n))
    };
    let named = NAMES.iter().find(|(n, _)| *n == name).map(|(_, n)| *n);
    named.or_else(|| real_time("RTMIN", 34, 1)).or_else(|| real_time("RTMAX", 64, -1)).unwrap_or(15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn get(pod_context: Value, context: Value, image: &str) -> Result<Security, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": context}]}}))
        .unwrap();
        let container = spec::spec(&pod).containers[0].clone();
        security(&pod, &container, image, &Accounts::default(), Path::new("/none")).map(|(s, _)| s)
    }

    #[test]
    fn non_root_texts() {
        let non = json!({"runAsNonRoot": true});
        for (pod, own, image, want) in [
            (
                non.clone(),
                json!({}),
                "",
                "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)",
            ),
            (
                non.clone(),
                json!({"runAsUser": 0}),
                "",
                "container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)",
            ),
            (
                non.clone(),
                json!({}),
                "web",
                "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: \"p_n(u)\", container: c)",
            ),
        ] {
            assert_eq!(get(pod, own, image).unwrap_err(), want);
        }
        assert_eq!(get(non.clone(), json!({}), "1000").unwrap().uid, 1000);
        assert_eq!(
            get(non, json!({"runAsNonRoot": false}), "").unwrap().uid,
            0,
            "the container's word counts"
        );
    }

    #[test]
    fn capability_sets() {
        let caps = |v: Value| get(json!({}), json!({"capabilities": v}), "").unwrap().capabilities;
        assert_eq!(caps(json!({"drop": ["ALL"]})), Vec::<String>::new());
        assert_eq!(caps(json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})), ["CAP_NET_ADMIN"]);
        assert!(!caps(json!({"drop": ["net_raw"]})).contains(&"CAP_NET_RAW".to_owned()));
        assert_eq!(caps(json!({"add": ["ALL"]})).len(), ALL_CAPABILITIES.len());
        assert_eq!(caps(json!({})).len(), DEFAULT_CAPABILITIES.len());
    }

    #[test]
    fn seccomp_and_groups() {
        assert_eq!(get(json!({}), json!({}), "").unwrap().seccomp, Seccomp::RuntimeDefault);
        assert_eq!(
            get(json!({"seccompProfile": {"type": "Unconfined"}}), json!({}), "").unwrap().seccomp,
            Seccomp::Unconfined
        );
        let privileged = get(json!({}), json!({"privileged": true}), "").unwrap();
        assert_eq!(
            (privileged.seccomp, privileged.capabilities.len()),
            (Seccomp::Unconfined, ALL_CAPABILITIES.len())
        );
        assert_eq!(
            get(json!({"fsGroup": 7, "supplementalGroups": [9]}), json!({}), "5").unwrap().groups,
            [0, 7, 9]
        );
    }

    #[test]
    fn signals() {
        for (text, want) in [("SIGTERM", 15), ("quit", 3), ("9", 9), ("", 15), ("SIGRTMIN+3", 37), ("99", 15)]
        {
            assert_eq!(stop_signal(text), want, "{text}");
        }
    }
}
