//! What an applied configuration must be before it is merged.
//!
//! Error texts are upstream's, as users see them.

use crate::schema::{Kind, ListKind, Type};
use crate::set::MAX_DEPTH;
use meta::go;
use serde_json::Value;

/// Checks kinds of values, undeclared fields and duplicate entries (upstream: structured-merge-diff
/// `typed/validate.go`).
///
/// # Errors
/// The text of all errors.
pub(crate) fn validate(value: &Value, ty: Type<'_>) -> Result<(), String> {
    let mut errors = Vec::new();
    check(value, ty, "", 0, &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn at(path: &str, message: &str) -> String {
    if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") }
}

/// How upstream prints a value it did not expect.
fn shown(value: &Value) -> String {
    format!("&{{{}}}", go::text(value))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn check(value: &Value, ty: Type<'_>, path: &str, depth: usize, errors: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        errors.push(at(path, &format!("nested deeper than {MAX_DEPTH}")));
        return;
    }
    let wrong = match (ty.kind(), value) {
        (_, Value::Null) => None,
        (Kind::Number, Value::Number(_))
        | (Kind::String, Value::String(_))
        | (Kind::Boolean, Value::Bool(_))
        | (Kind::Scalar, Value::Number(_) | Value::String(_) | Value::Bool(_))
        | (Kind::Any, _) => None,
        (Kind::Map { .. }, Value::Object(map)) => {
            for (name, child) in map {
                let path = format!("{path}.{name}");
                match ty.child(name) {
                    Some((child_ty, _)) => check(child, child_ty, &path, depth + 1, errors),
                    None => {
                        errors.push(at(&path, "field not declared in schema"));
                        break;
                    }
                }
            }
            None
        }
        (Kind::List(kind), Value::Array(list)) => {
            check_list(list, kind, ty, path, depth, errors);
            None
        }
        (Kind::Number, v) => Some(format!("expected numeric (int or float), got {}", go_type(v))),
        (Kind::String, v) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go::syntax(v)))
        }
        (Kind::Boolean, v) => Some(format!("expected boolean, got {}", shown(v))),
        (Kind::Scalar, v) => Some(format!("expected any scalar, got {}", shown(v))),
        (Kind::Map { .. }, v) => Some(format!("expected map, got {}", shown(v))),
        (Kind::List(_), v) => Some(format!("expected list, got {}", shown(v))),
    };
    errors.extend(wrong.map(|e| at(path, &e)));
}

fn check_list(
    list: &[Value],
    kind: ListKind,
    ty: Type<'_>,
    path: &str,
    depth: usize,
    errors: &mut Vec<String>,
) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, entry) in list.iter().enumerate() {
        let element = if kind == ListKind::Atomic {
            format!("[{index}]")
        } else {
            match ty.element(entry) {
                Ok(element) => {
                    let text = element.to_string();
                    if !seen.insert(element) {
                        errors.push(at(path, &format!("duplicate entries for key {text}")));
                    }
                    text
                }
                Err(e) => {
                    errors.push(at(path, &format!("element {index}: {e}")));
                    return;
                }
            }
        };
        check(entry, ty.item(), &format!("{path}{element}"), depth + 1, errors);
    }
}
