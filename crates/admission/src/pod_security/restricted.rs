//! The checks that the restricted level adds: what a hardened pod must say of itself (upstream: pod-security-admission
//! `policy/check_*.go`; the texts are upstream's).

use super::baseline::{bad_profile_type, profile, seccomp_profile as bad_seccomp_profile, violation};
use super::checks::Violation;
use super::pod::{Pod, Values, containers_named, join_quoted, list_of, plural, text};
use serde_json::Value;

/// Volumes whose content is the cluster's to give.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The other kinds of volumes, in the order in which upstream looks for them.
const RESTRICTED_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

/// Processes gain nothing over their parent (upstream: `check_allowPrivilegeEscalation.go`).
pub fn allow_privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.containers_where(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    violation(&containers, "allowPrivilegeEscalation != false", |who| {
        format!("{who} must set securityContext.allowPrivilegeEscalation=false")
    })
}

/// All capabilities dropped, at most the one for low ports added (upstream: `check_capabilities_restricted.go`).
pub fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let of = |c| profile(c, "capabilities");
    let keeping = pod.containers_where(|c| !list_of(&of(c)["drop"]).any(|cap| cap == "ALL"));
    let mut values = Values::new();
    let adding = pod.containers_where(|c| {
        let added = list_of(&of(c)["add"]).map(text).filter(|cap| *cap != "NET_BIND_SERVICE");
        let added: Values<'_> = added.collect();
        values.extend(&added);
        !added.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers_named(&keeping);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adding.is_empty() {
        let (who, what) = (containers_named(&adding), join_quoted(&values));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    (!details.is_empty())
        .then(|| Violation { reason: "unrestricted capabilities", detail: details.join("; ") })
}

/// Volumes of the harmless kinds only (upstream: `check_restrictedVolumes.go`).
pub fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let has =
        |volume: &Value, kinds: &[&'static str]| kinds.iter().copied().find(|kind| !volume[*kind].is_null());
    let mut kinds = Values::new();
    let mut names = Vec::new();
    for volume in list_of(&pod.spec()["volumes"]).filter(|v| has(v, VOLUMES).is_none()) {
        names.push(text(&volume["name"]));
        kinds.insert(has(volume, RESTRICTED_VOLUMES).unwrap_or("unknown"));
    }
    (!names.is_empty()).then(|| Violation {
        reason: "restricted volume types",
        detail: format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            join_quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            join_quoted(&kinds),
        ),
    })
}

/// Not as root, said so by the pod or by each container (upstream: `check_runAsNonRoot.go`).
pub fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of = |holder| profile(holder, "runAsNonRoot").as_bool();
    let pod_says = of(pod.spec());
    let who = pod.culprits(|holder| of(holder) == Some(false));
    if !who.is_empty() {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return Some(Violation { reason: REASON, detail });
    }
    let silent = pod.containers_where(|c| of(c).is_none() && pod_says != Some(true));
    violation(&silent, REASON, |who| format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

/// Not as root by number (upstream: `check_runAsUser.go`).
pub fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.culprits(|holder| profile(holder, "runAsUser").as_i64() == Some(0));
    (!who.is_empty())
        .then(|| Violation { reason: "runAsUser=0", detail: format!("{who} must not set runAsUser=0") })
}

/// A seccomp profile, set by the pod or by each container (upstream: `check_seccompProfile_restricted.go`).
pub fn seccomp_profile(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(bad) = bad_seccomp_profile(pod) {
        return Some(bad);
    }
    let of = |holder| profile(holder, "seccompProfile");
    let covered = !of(pod.spec()).is_null() && bad_profile_type(of(pod.spec())).is_none();
    let silent = pod.containers_where(|c| of(c).is_null() && !covered);
    violation(&silent, "seccompProfile", |who| {
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        )
    })
}
