//! Pieces of validation that several kinds use: required fields, enumerations, numbers, selectors.

use crate::helpers;
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// The text of a field, empty when absent.
pub fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or("")
}

/// The elements of a list field, none when absent.
pub fn items<'a>(v: &'a Value, field: &str) -> &'a [Value] {
    v[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A field that must have text.
pub fn required(v: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    if text(v, field).is_empty() {
        errors.push(Error::required(&path.child(field), ""));
    }
}

/// A value that must be one of a few; an empty one is not checked here.
pub fn one_of(v: &Value, field: &str, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    let value = text(v, field);
    if !value.is_empty() && !allowed.contains(&value) {
        errors.push(Error::not_supported(&path.child(field), value, allowed));
    }
}

/// A count that is there may only grow (upstream: `IsDecremented`).
pub fn not_decremented(new: &Value, old: &Value, field: &str, at: &Path, errors: &mut ErrorList) {
    let (is, was) = (new[field].as_i64(), old[field].as_i64());
    if was.is_some_and(|was| is.is_none_or(|is| is < was)) {
        errors.push(Error::invalid(&at.child(field), is.unwrap_or(0), "cannot be decremented"));
    }
}

/// A number that must not be negative, when present.
pub fn non_negative(v: &Value, field: &str, path: &Path, errors: &mut ErrorList) {
    if let Some(n) = v[field].as_i64().filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child(field), n, "must be greater than or equal to 0"));
    }
}

/// A field that an update may not change.
pub fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if new != old {
        errors.push(Error::invalid(path, new.clone(), "field is immutable"));
    }
}

/// What a check of a text said of it.
pub fn told(value: &str, messages: Vec<String>, at: &Path, errors: &mut ErrorList) {
    errors.extend(messages.into_iter().map(|m| Error::invalid(at, value, m)));
}

/// A port number 1–65535.
pub fn port(n: i64, path: &Path, errors: &mut ErrorList) {
    if !(1..=65535).contains(&n) {
        errors.push(Error::invalid(path, n, "must be between 1 and 65535, inclusive"));
    }
}

/// A port's name (upstream: `IsValidPortName`).
pub fn port_name_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A number or a port name.
pub fn port_or_name(v: &Value, path: &Path, errors: &mut ErrorList) {
    match v {
        Value::Number(n) => port(n.as_i64().unwrap_or(0), path, errors),
        Value::String(s) => {
            errors.extend(port_name_errors(s).into_iter().map(|m| Error::invalid(path, s.as_str(), m)));
        }
        _ => errors.push(Error::required(path, "")),
    }
}

/// A map of labels.
pub fn labels(v: &Value, path: &Path, errors: &mut ErrorList) {
    for (key, value) in v.as_object().into_iter().flatten() {
        errors.extend(
            helpers::qualified_name_errors(key).into_iter().map(|m| Error::invalid(path, key.as_str(), m)),
        );
        let value = value.as_str().unwrap_or("");
        errors.extend(helpers::label_value_errors(value).into_iter().map(|m| Error::invalid(path, value, m)));
    }
}

/// A `metav1.LabelSelector` (upstream: `ValidateLabelSelector`).
pub fn label_selector(v: &Value, path: &Path, errors: &mut ErrorList) {
    labels(&v["matchLabels"], &path.child("matchLabels"), errors);
    for (i, e) in items(v, "matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let values = items(e, "values");
        match text(e, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(&at.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(&at.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(Error::named_invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = text(e, "key");
        let messages = helpers::qualified_name_errors(key);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("key"), key, m)));
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            let messages = helpers::label_value_errors(value);
            errors
                .extend(messages.into_iter().map(|m| Error::invalid(&at.child("values").index(j), value, m)));
        }
    }
}

/// Whether a selector has no terms.
pub fn is_empty_selector(selector: &Value) -> bool {
    let empty = |v: &Value| v.as_object().is_none_or(serde_json::Map::is_empty);
    empty(&selector["matchLabels"]) && items(selector, "matchExpressions").is_empty()
}
