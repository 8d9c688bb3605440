//! Ephemeral containers of a pod (upstream: `validateEphemeralContainers`).

use super::containers::common;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const REFUSED: &str = "cannot be set for an Ephemeral Container";

/// What containers have that no ephemeral one may, in the order of Go's struct.
const FIELDS: &[&str] = &[
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

/// Errors of the ephemeral containers; names differ from those of all other containers.
pub fn errors(spec: &Value, volumes: &[&str], path: &Path, errors: &mut ErrorList) {
    let all = ["containers", "initContainers"];
    let others: Vec<&str> = all.iter().flat_map(|l| items(spec, l)).map(|c| text(c, "name")).collect();
    let mut names = others.clone();
    for (i, c) in items(spec, "ephemeralContainers").iter().enumerate() {
        let at = path.child("ephemeralContainers").index(i);
        common(c, volumes, &at, &mut names, errors);
        let target = text(c, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        // An empty object is what defaults leave there.
        let given = |f: &str| !c[f].is_null() && (f == "lifecycle" || !is_empty(&c[f]));
        for field in FIELDS.iter().filter(|f| given(f)) {
            errors.push(Error::forbidden(&at.child(field), REFUSED));
        }
        for (j, mount) in items(c, "volumeMounts").iter().enumerate() {
            let at = at.child("volumeMounts").index(j);
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    errors.push(Error::forbidden(&at.child(field), REFUSED));
                }
            }
        }
    }
}

fn is_empty(v: &Value) -> bool {
    v.as_object().is_some_and(serde_json::Map::is_empty) || v.as_array().is_some_and(Vec::is_empty)
}
