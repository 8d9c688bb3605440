//! The subresource `ephemeralcontainers`: containers that join a running pod to look into it
//! (upstream: `pkg/registry/core/pod/strategy.go#podEphemeralContainersStrategy`, `ValidatePodEphemeralContainersUpdate`).
//!
//! Invariant: containers are only ever added; nothing else of the pod changes.

use super::validation;
use crate::internal;
use crate::rest::{keep, keep_metadata};
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path, quoted};
use meta::object;
use serde_json::Value;

const LIST: &str = "ephemeralContainers";

/// Puts back what this path does not change.
pub fn prepare(new: &mut Value, old: &Value) {
    let wanted = new["spec"].clone();
    keep(new, old, "spec");
    keep(&mut new["spec"], &wanted, LIST);
    keep(new, old, "status");
    keep_metadata(new, old);
}

/// Errors of a change.
pub fn errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = validation::existing(new, old);
    if object::annotation(old, "kubernetes.io/config.mirror").is_some() {
        return vec![Error::forbidden(&Path::new(""), "static pods do not support ephemeral containers")];
    }
    let at = Path::new("spec").child(LIST);
    let all = items(&new["spec"], LIST);
    for was in items(&old["spec"], LIST) {
        let name = text(was, "name");
        match all.iter().rev().find(|c| text(c, "name") == name) {
            None => {
                let detail =
                    format!("existing ephemeral containers {name} may not be removed\n", name = quoted(name));
                errors.push(Error::forbidden(&at, detail));
            }
            Some(is) if is != was => {
                let shown = internal::difference("EphemeralContainer", was, is);
                let detail = format!(
                    "existing ephemeral containers {name} may not be changed\n{shown}",
                    name = quoted(name)
                );
                errors.push(Error::forbidden(&at, detail));
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: Value) -> Value {
        let mut obj = json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": containers,
                "volumes": [{"name": "v"}]},
        });
        crate::pod_defaults::pod(&mut obj);
        for c in obj["spec"][LIST].as_array_mut().into_iter().flatten() {
            // Upstream leaves an empty object there, which says nothing.
            c.as_object_mut().map(|c| c.remove("resources"));
        }
        obj
    }

    fn refused(new: Value, old: Value) -> Vec<String> {
        errors(&pod(new), &pod(old)).iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateEphemeralContainers`, `TestValidatePodEphemeralContainersUpdate`.
    #[test]
    fn containers_are_added_only() {
        let one = || json!({"name": "debugger", "image": "busybox"});
        let two = || json!({"name": "other", "image": "busybox", "targetContainerName": "c"});
        assert!(refused(json!([one()]), json!([])).is_empty());
        assert!(refused(json!([two(), one()]), json!([one()])).is_empty());
        assert_eq!(
            refused(json!([two()]), json!([one()])),
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debugger\" may not be removed\n"
            ]
        );
        let changed = json!({"name": "debugger", "image": "alpine"});
        let messages = refused(json!([changed]), json!([one()]));
        assert!(
            messages[0].starts_with(
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debugger\" may not be changed\n"
            ),
            "{messages:?}"
        );
    }

    #[test]
    fn what_they_may_not_have() {
        let cases = [
            (json!({"name": "c", "image": "i"}), "spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
            (
                json!({"name": "e", "image": "i", "targetContainerName": "bogus"}),
                "spec.ephemeralContainers[0].targetContainerName: Not found: \"bogus\"",
            ),
            (
                json!({"name": "e", "image": "i", "ports": [{"containerPort": 80}]}),
                "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!({"name": "e", "image": "i", "lifecycle": {}}),
                "spec.ephemeralContainers[0].lifecycle: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!({"name": "e", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]}),
                "spec.ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
            ),
        ];
        for (container, message) in cases {
            assert_eq!(refused(json!([container]), json!([])), [message]);
        }
    }
}
