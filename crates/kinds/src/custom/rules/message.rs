//! What a failed rule says.

use super::MESSAGE_BYTES_MAX;
use crate::validate::text;
use meta::field::{Error, Path};
use serde_json::Value;

/// How a rule is called in errors: its message, or itself.
pub(super) fn name(rule: &Value) -> &str {
    match text(rule, "message") {
        "" => text(rule, "rule").trim(),
        message => message.trim(),
    }
}

/// The message of a rule without one made by an expression.
pub(super) fn default(rule: &Value) -> String {
    match text(rule, "message") {
        "" => format!("failed rule: {}", name(rule)),
        message => message.trim().to_owned(),
    }
}

/// The message that an expression made, when it is fit to be shown.
pub(super) fn made(message: &str) -> Option<String> {
    let message = message.trim();
    let fit = !message.is_empty() && message.len() <= MESSAGE_BYTES_MAX && !message.contains('\n');
    fit.then(|| message.to_owned())
}

/// Upstream: `fieldErrorForReason`; objects and lists are not shown.
pub(super) fn error(rule: &Value, ty: &str, value: &Value, detail: String, at: &Path) -> Error {
    let shown = !matches!(ty, "object" | "array");
    let mut error = match text(rule, "reason") {
        "FieldValueForbidden" => Error::forbidden(at, detail),
        "FieldValueRequired" => Error::required(at, detail),
        "FieldValueDuplicate" => Error::duplicate(at, value.clone()),
        _ => Error::invalid(at, value.clone(), detail),
    };
    if !shown {
        error.bad = None;
    }
    error
}
