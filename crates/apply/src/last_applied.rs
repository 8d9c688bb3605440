//! From client-side apply to server-side apply, without conflicts over what the user applied before.
//!
//! Only the manager `kubectl` takes part; another name opts out.

use crate::conflict::Conflict;
use crate::{Options, typed};
use serde_json::Value;

/// The manager whose applies take over from client-side apply.
pub(crate) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// All annotations of an object together, in bytes; the configuration is left out when it would make them more.
const MAX_ANNOTATIONS: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|t| !t.is_empty())
}

/// The conflicts that stay: those over fields that the last client-side apply set as they are now are none (upstream:
/// apimachinery `managedfields/internal/lastappliedmanager.go`).
pub(crate) fn left_over(live: &Value, conflicts: Vec<Conflict>, o: &Options<'_>) -> Vec<Conflict> {
    let applied = annotation(live)
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .filter(|applied| applied.get("apiVersion").and_then(Value::as_str) == Some(o.api_version));
    let Some(applied) = applied else { return conflicts };
    let ty = o.view.root();
    let mut allowed = typed::to_set(&applied, ty);
    let changes = typed::compare(&applied, live, ty);
    for set in [&changes.modified, &changes.added, &changes.removed] {
        allowed.subtract(set);
    }
    let allowed: std::collections::BTreeSet<String> = allowed.texts().into_iter().collect();
    conflicts.into_iter().filter(|c| !allowed.contains(&c.field)).collect()
}

/// Writes the applied configuration into the annotation of an object that has it, so client-side apply can follow
/// (upstream: apimachinery `managedfields/internal/lastappliedupdater.go`).
pub(crate) fn renew(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) =
        config.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let annotations =
        object.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        annotations.insert(ANNOTATION.to_owned(), Value::String(text));
        let size: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
        if size > MAX_ANNOTATIONS {
            annotations.remove(ANNOTATION);
        }
    }
}
