//! How containers take other amounts of a resource while they run (upstream: `validateResizePolicy`).

use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const RESOURCES: &[&str] = &["cpu", "memory"];
const POLICIES: &[&str] = &["NotRequired", "RestartContainer"];

/// Errors of a container's policies.
pub fn errors(c: &Value, pod_policy: &str, at: &Path, errors: &mut ErrorList) {
    let at = at.child("resizePolicy");
    let mut seen: Vec<&str> = Vec::new();
    for (i, p) in items(c, "resizePolicy").iter().enumerate() {
        let (resource, policy) = (text(p, "resourceName"), text(p, "restartPolicy"));
        if seen.contains(&resource) {
            errors.push(Error::duplicate(&at.index(i), resource));
        }
        seen.push(resource);
        for (value, known) in [(resource, RESOURCES), (policy, POLICIES)] {
            if value.is_empty() {
                errors.push(Error::required(&at, ""));
            } else if !known.contains(&value) {
                errors.push(Error::not_supported(&at, value, known));
            }
        }
        if pod_policy == "Never" && policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(Error::invalid(&at, policy, detail));
        }
    }
}

/// An init container that ends is not started again by a resize.
pub fn of_init(c: &Value, at: &Path, errors: &mut ErrorList) {
    let at = at.child("resizePolicy");
    for (i, p) in items(c, "resizePolicy").iter().enumerate() {
        if p["restartPolicy"] == "RestartContainer" {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.push(Error::invalid(&at.index(i).child("restartPolicy"), "RestartContainer", detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestValidateResizePolicy`.
    #[test]
    fn policies() {
        let refused = |list: Value, pod: &str, init: bool| {
            let mut all = Vec::new();
            let c = json!({"resizePolicy": list});
            errors(&c, pod, &Path::new("c"), &mut all);
            if init {
                of_init(&c, &Path::new("c"), &mut all);
            }
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let one = |resource: &str, policy: &str| json!({"resourceName": resource, "restartPolicy": policy});
        let both = json!([one("cpu", "NotRequired"), one("memory", "RestartContainer")]);
        assert!(refused(both.clone(), "Always", false).is_empty());
        assert_eq!(
            refused(both.clone(), "Never", false),
            [
                "c.resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            ]
        );
        assert_eq!(
            refused(both, "Always", true),
            [
                "c.resizePolicy[1].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers"
            ]
        );
        assert_eq!(
            refused(json!([one("cpu", "NotRequired"), one("cpu", "x"), one("gpu", "")]), "Always", false),
            [
                "c.resizePolicy[1]: Duplicate value: \"cpu\"",
                "c.resizePolicy: Unsupported value: \"x\": supported values: \"NotRequired\", \"RestartContainer\"",
                "c.resizePolicy: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\"",
                "c.resizePolicy: Required value",
            ]
        );
    }
}
