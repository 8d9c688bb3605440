//! What an update may keep because the object had it before a check for it came
//! (upstream: `pkg/api/pod/util.go#GetValidationOptionsFromPodSpecAndMeta`).
//!
//! Invariant: on create nothing is allowed.

use super::{containers, mounts, requirements, scheduling, security};
use crate::helpers::label_value_errors;
use crate::validate::{items, label_selector, text};
use meta::field::Path;
use serde_json::Value;

#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Amounts of huge pages that are no multiple of the page.
    pub odd_huge_pages: bool,
    /// Values in selectors of pod affinity that no label has.
    pub selector_values: bool,
    /// Values in required node affinity that no label has.
    pub node_values: bool,
    /// Bad label selectors of topology spread.
    pub spread_selectors: bool,
    /// Keys of topology spread that only the older check lets pass.
    pub spread_keys: bool,
    /// Tokens at paths outside the volume.
    pub token_paths: bool,
    /// Sysctls of a namespace that the pod shares with its host.
    pub host_sysctls: bool,
    /// Block devices in a user namespace of the pod's own.
    pub user_namespace_devices: bool,
    /// The host's network in a user namespace of the pod's own.
    pub user_namespace_network: bool,
    /// Image volumes without an image.
    pub empty_images: bool,
    /// CAP_SYS_ADMIN without escalation of privileges.
    pub sys_admin: bool,
    /// Init containers that restart when they are resized.
    pub init_restarts: bool,
    /// Tolerations that compare numbers.
    pub comparisons: bool,
}

impl Allowed {
    /// What the spec `old` has; null allows nothing.
    pub fn by(old: &Value) -> Self {
        if !old.is_object() {
            return Self::default();
        }
        let all = || containers::all(old, &Path::root()).into_iter().map(|(c, _)| c);
        let own_users = old["hostUsers"] == false;
        let spread = || items(old, "topologySpreadConstraints").iter();
        let errs = |check: &dyn Fn(&mut meta::field::ErrorList)| {
            let mut errors = Vec::new();
            check(&mut errors);
            !errors.is_empty()
        };
        let at = Path::root();
        Self {
            odd_huge_pages: all().any(|c| requirements::has_odd_huge_pages(&c["resources"])),
            selector_values: pod_terms(old)
                .any(|t| ["labelSelector", "namespaceSelector"].iter().any(|s| has_odd_values(&t[*s]))),
            node_values: required_terms(old).any(has_odd_values),
            spread_selectors: spread().any(|c| errs(&|e| label_selector(&c["labelSelector"], &at, e))),
            spread_keys: spread().any(|c| errs(&|e| scheduling::label_keys(c, &at, e))),
            token_paths: tokens(old).any(|t| errs(&|e| mounts::local_path(text(t, "path"), &at, e))),
            host_sysctls: items(&old["securityContext"], "sysctls")
                .iter()
                .any(|s| security::host_sysctl(text(s, "name"), old).is_some()),
            user_namespace_devices: own_users && all().any(|c| !items(c, "volumeDevices").is_empty()),
            user_namespace_network: own_users && old["hostNetwork"] == true,
            empty_images: items(old, "volumes")
                .iter()
                .any(|v| v["image"].is_object() && text(&v["image"], "reference").is_empty()),
            sys_admin: all().map(|c| &c["securityContext"]).any(|s| {
                s.is_object() && s["allowPrivilegeEscalation"] != true && security::has_sys_admin(s)
            }),
            init_restarts: items(old, "initContainers").iter().any(|c| {
                c["restartPolicy"] != "Always"
                    && items(c, "resizePolicy").iter().any(|p| p["restartPolicy"] == "RestartContainer")
            }),
            comparisons: items(old, "tolerations").iter().any(|t| matches!(text(t, "operator"), "Lt" | "Gt")),
        }
    }
}

fn has_odd_values(holder: &Value) -> bool {
    let values = items(holder, "matchExpressions").iter().flat_map(|e| items(e, "values"));
    values.filter_map(Value::as_str).any(|v| !label_value_errors(v).is_empty())
}

fn required_terms(spec: &Value) -> impl Iterator<Item = &Value> {
    let affinity = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    items(affinity, "nodeSelectorTerms").iter()
}

fn pod_terms(spec: &Value) -> impl Iterator<Item = &Value> {
    ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let kind = &spec["affinity"][kind];
        let preferred = items(kind, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        let required = items(kind, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        required.chain(preferred.map(|t| &t["podAffinityTerm"]))
    })
}

fn tokens(spec: &Value) -> impl Iterator<Item = &Value> {
    let sources = items(spec, "volumes").iter().flat_map(|v| items(&v["projected"], "sources"));
    sources.map(|s| &s["serviceAccountToken"]).filter(|t| t.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_there_may_stay() {
        let nothing = format!("{:?}", Allowed::default());
        assert_eq!(format!("{:?}", Allowed::by(&Value::Null)), nothing);
        assert_eq!(format!("{:?}", Allowed::by(&json!({"containers": [{"name": "c"}]}))), nothing);
        let old = json!({"hostUsers": false, "hostNetwork": true,
            "securityContext": {"sysctls": [{"name": "net.core.somaxconn"}]},
            "containers": [{"resources": {"limits": {"hugepages-2Mi": "3Mi"}},
                "securityContext": {"capabilities": {"add": ["CAP_SYS_ADMIN"]}}}],
            "volumes": [{"image": {}}, {"projected": {"sources": [{"serviceAccountToken": {"path": "/a"}}]}}]});
        let allowed = Allowed::by(&old);
        assert!(allowed.odd_huge_pages && allowed.host_sysctls && allowed.user_namespace_network);
        assert!(allowed.empty_images && allowed.token_paths && allowed.sys_admin);
        assert!(!allowed.node_values && !allowed.comparisons);
    }
}
