//! What writes of a status share: clearing it, keeping metadata as it was, and conditions
//! (upstream: `ResetObjectMetaForStatus`, apimachinery `pkg/apis/meta/v1/validation`).

use crate::def::Ctx;
use crate::helpers;
use crate::rest::{keep, keep_metadata};
use crate::schema::schema;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Longest reason of a condition, in bytes.
const REASON_MAX: usize = 1024;
/// Longest message of a condition, in bytes.
const MESSAGE_MAX: usize = 32 * 1024;
const REASON: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
const REASON_TEXT: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";

/// Clears the status of an object of a type of the schema table.
pub fn clear(obj: &mut Value, ty: &str) {
    let field = schema().types.get(ty).and_then(|t| t.fields.get("status"));
    match (field, obj.as_object_mut()) {
        (Some(f), Some(map)) if !f.omitempty => drop(map.insert("status".into(), schema().zero(&f.ty))),
        (_, Some(map)) => drop(map.remove("status")),
        _ => {}
    }
}

/// The usual rule: a write of the status keeps the spec, any other write keeps the status.
pub fn split(new: &mut Value, old: &Value, ctx: &Ctx) {
    keep(new, old, if ctx.subresource == "status" { "spec" } else { "status" });
}

/// The fields that [`split_with_metadata`] resets in a write of the status.
pub fn reset_with_metadata(subresource: &str) -> Option<&'static [&'static str]> {
    (subresource == "status").then_some(&["metadata", "spec"])
}

/// [`split`], where a write of the status keeps the metadata too.
pub fn split_with_metadata(new: &mut Value, old: &Value, ctx: &Ctx) {
    split(new, old, ctx);
    if ctx.subresource == "status" {
        keep_metadata(new, old);
    }
}

/// Whether a write came by the status: any other keeps it as it was. Warnings are the main resource's.
pub fn was_written(new: &Value, old: Option<&Value>) -> bool {
    old.is_some_and(|old| old.get("status") != new.get("status"))
}

/// Errors of a reason (upstream: `IsValidConditionReason`).
pub fn reason_errors(reason: &str) -> Option<String> {
    let b = reason.as_bytes();
    let good = b.first().is_some_and(u8::is_ascii_alphabetic)
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b',' | b':'))
        && b.last().is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_');
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    (!good).then(|| helpers::regex_error(REASON_TEXT, REASON, &examples))
}

/// Errors of a list of `metav1.Condition` (upstream: `ValidateConditions`).
pub fn conditions(list: &[Value], path: &Path, errors: &mut ErrorList) {
    for (i, c) in list.iter().enumerate() {
        let at = path.index(i);
        let kind = text(c, "type");
        if list[..i].iter().any(|other| text(other, "type") == kind) {
            errors.push(Error::duplicate(&at, kind));
        }
        if kind.is_empty() {
            errors.push(Error::required(&at.child("type"), "is required"));
        } else {
            let messages = helpers::qualified_name_errors(kind);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("type"), kind, m)));
        }
        match text(c, "status") {
            "" => errors.push(Error::required(&at.child("status"), "")),
            "True" | "False" | "Unknown" => {}
            other => {
                let allowed = ["False", "True", "Unknown"];
                errors.push(Error::not_supported(&at.child("status"), other, &allowed));
            }
        }
        if let Some(n) = c["observedGeneration"].as_i64().filter(|n| *n < 0) {
            let detail = "must be greater than or equal to zero";
            errors.push(Error::invalid(&at.child("observedGeneration"), n, detail));
        }
        if text(c, "lastTransitionTime").is_empty() {
            errors.push(Error::required(&at.child("lastTransitionTime"), ""));
        }
        let reason = text(c, "reason");
        if reason.is_empty() {
            errors.push(Error::required(&at.child("reason"), ""));
        } else {
            errors.extend(reason_errors(reason).map(|m| Error::invalid(&at.child("reason"), reason, m)));
            if reason.len() > REASON_MAX {
                errors.push(Error::too_long(&at.child("reason"), REASON_MAX));
            }
        }
        if text(c, "message").len() > MESSAGE_MAX {
            errors.push(Error::too_long(&at.child("message"), MESSAGE_MAX));
        }
    }
}

/// The values of a list of texts that stand in an object more than once, with their places.
pub fn duplicates<'a>(v: &'a Value, field: &str) -> Vec<(usize, &'a str)> {
    let list = items(v, field);
    let texts = list.iter().enumerate().filter_map(|(i, x)| Some((i, x.as_str()?)));
    texts.filter(|(i, x)| list[..*i].iter().any(|y| y.as_str() == Some(x))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cleared_status_has_the_fields_that_go_writes() {
        let mut obj = json!({"status": {"attached": true}});
        clear(&mut obj, "io.k8s.api.storage.v1.VolumeAttachment");
        assert_eq!(obj, json!({"status": {"attached": false}}));
    }

    #[test]
    fn conditions_are_checked() {
        let mut errors = Vec::new();
        let good = json!({"type": "Ready", "status": "True", "reason": "All:Good", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        conditions(&[good], &Path::new("c"), &mut errors);
        assert_eq!(errors, []);
        conditions(&[json!({}), json!({})], &Path::new("c"), &mut errors);
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields[..4], ["c[0].type", "c[0].status", "c[0].lastTransitionTime", "c[0].reason"]);
        assert_eq!(fields[4], "c[1]");
    }

    #[test]
    fn conditions_are_checked_in_upstreams_order() {
        let list = [json!({"type": "A", "status": "x", "reason": "r-"}), json!({"type": "A"})];
        let mut errors = Vec::new();
        conditions(&list, &Path::new("s"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            texts[0].starts_with("s[0].status: Unsupported value: \"x\": supported values: \"False\""),
            "{texts:?}"
        );
        assert_eq!(texts[1], "s[0].lastTransitionTime: Required value");
        assert!(texts[2].starts_with("s[0].reason: Invalid value: \"r-\": a condition reason must start"));
        assert_eq!(texts[3], "s[1]: Duplicate value: \"A\"");
    }
}
