//! Values against a schema, in the words of kube-openapi (upstream: kube-openapi `validation/validate`,
//! apiextensions `pkg/apiserver/validation`).
//!
//! On updates, errors of parts that did not change are dropped (ratcheting): a part is compared with what it was where
//! the two can be told to be the same part, which is by field name, and by key in lists of type `map`.

mod correlation;
mod numbers;
mod report;

pub use correlation::Correlated;

use super::formats;
use super::structural::{Additional, Structural};
use meta::field::{ErrorList, Path, quoted};
use numbers::{go_type, is_integral};
use report::{Code, Failure, Found};
use serde_json::{Map, Value};

/// Errors of a new value.
pub fn check(v: &Value, s: &Structural, prefix: &Path) -> ErrorList {
    node(v, s, "", None).into_errors(prefix)
}

/// Errors of a value that was another before.
pub fn check_update(v: &Value, old: Option<&Value>, s: &Structural, prefix: &Path) -> ErrorList {
    let found = match old {
        Some(old) => ratcheting(v, s, "", &Correlated::new(v, old, s)),
        None => node(v, s, "", None),
    };
    found.into_errors(prefix)
}

/// Upstream: `ratchetingValueValidator.Validate`.
fn ratcheting(v: &Value, s: &Structural, path: &str, was: &Correlated) -> Found {
    let found = node(v, s, path, Some(was));
    if !found.errors.is_empty() && was.same() {
        return Found { errors: Vec::new(), matches: found.matches };
    }
    found
}

fn field(v: &Value, s: &Structural, name: &str, path: &str, parent: &str, was: Option<&Correlated>) -> Found {
    let type_meta = parent.is_empty() && matches!(name, "kind" | "apiVersion");
    match was.and_then(|w| w.field(name)).filter(|_| !type_meta) {
        Some(child) => ratcheting(v, s, path, &child),
        None => node(v, s, path, None),
    }
}

/// Upstream: `SchemaValidator.Validate`.
fn node(v: &Value, s: &Structural, path: &str, was: Option<&Correlated>) -> Found {
    let mut found = Found::default();
    if v.is_null() {
        found.merge(null(s, path));
        found.merge(enumeration(v, s, path));
        return found;
    }
    if has_types(s) || !s.checked_format().is_empty() {
        found.merge(types(v, s, path));
        found.matches += 1;
    }
    found.merge(junctions(v, s, path, was));
    found.matches += 1;
    match v {
        Value::String(text) => {
            found.merge(string(text, s, path));
            found.matches += 1;
            let format = s.checked_format();
            if !format.is_empty() && !matches!(s.ty.as_str(), "integer" | "number") {
                if !formats::matches(format, text) {
                    found.add(Failure::wrong_type(path, format, text));
                }
                found.matches += 1;
            }
        }
        Value::Number(n) => {
            found.merge(numbers::check(n, s, path));
            found.matches += 1;
        }
        Value::Array(list) => {
            found.merge(array(list, s, path, was));
            found.matches += 1;
        }
        _ => {}
    }
    found.merge(enumeration(v, s, path));
    found.matches += 1;
    if let Value::Object(map) = v {
        found.merge(object(map, s, path, was));
        found.matches += 1;
    }
    found.matches += 1;
    found
}

fn has_types(s: &Structural) -> bool {
    s.int_or_string || !s.ty.is_empty()
}

/// The types as an error lists them.
fn types_text(s: &Structural) -> &str {
    if s.int_or_string { "integer,string" } else { &s.ty }
}

fn allows(s: &Structural, ty: &str) -> bool {
    if s.int_or_string { matches!(ty, "integer" | "string") } else { s.ty == ty }
}

fn null(s: &Structural, path: &str) -> Found {
    if has_types(s) && !allows(s, "null") && !s.nullable {
        return Failure::wrong_type(path, types_text(s), "null").into();
    }
    Found { errors: Vec::new(), matches: 1 }
}

/// Upstream: `typeValidator.Validate`.
fn types(v: &Value, s: &Structural, path: &str) -> Found {
    let ok = Found { errors: Vec::new(), matches: 1 };
    let (ty, format) = go_type(v);
    let wanted = s.checked_format();
    let float_int = ty == "number" && v.as_f64().is_some_and(is_integral) && allows(s, "integer");
    let int_float = ty == "integer" && allows(s, "number");
    let text_or_list = matches!(v, Value::String(_) | Value::Array(_));
    let fits = allows(s, ty) || float_int || int_float;
    if !(text_or_list || wanted.is_empty() || fits || format == wanted) {
        return Failure::wrong_type(path, wanted, format).into();
    }
    let numeric = allows(s, "number") || allows(s, "integer");
    if !numeric && !wanted.is_empty() && text_or_list {
        return ok;
    }
    if fits { ok } else { Failure::wrong_type(path, types_text(s), ty).into() }
}

/// Upstream: `basicCommonValidator.Validate`. Whole numbers are the same whichever way they are written.
fn enumeration(v: &Value, s: &Structural, path: &str) -> Found {
    let list = &s.values.enumeration;
    let same = |e: &Value| e == v || matches!((e.as_f64(), v.as_f64()), (Some(a), Some(b)) if a == b);
    if list.is_empty() || (!v.is_null() && list.iter().any(same)) {
        return Found::default();
    }
    Failure {
        code: Code::Enum,
        path: path.to_owned(),
        value: Some(v.clone()),
        values: list.clone(),
        message: format!("{path} in body should be one of {}", report::go_list(list)),
        ..Failure::default()
    }
    .into()
}

/// Upstream: `schemaPropsValidator.Validate`: `anyOf`, `oneOf`, `allOf` and `not`.
fn junctions(v: &Value, s: &Structural, path: &str, was: Option<&Correlated>) -> Found {
    let mut out = Found::default();
    let each = |list: &[Structural]| -> Vec<Found> { list.iter().map(|n| node(v, n, path, was)).collect() };
    let any = each(&s.values.any_of);
    if !any.is_empty() {
        match any.iter().position(Found::is_ok) {
            Some(i) => out.matches += any[i].matches,
            None => {
                out.add(Failure::other(format!(
                    "{path} must validate at least one schema (anyOf)",
                    path = quoted(path)
                )));
                out.merge_best(any);
            }
        }
    }
    let one = each(&s.values.one_of);
    if !one.is_empty() {
        let valid = one.iter().filter(|f| f.is_ok()).count();
        if valid == 1 {
            out.matches += one.iter().find(|f| f.is_ok()).map_or(0, |f| f.matches);
        } else {
            let found = if valid == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {valid} valid alternatives")
            };
            let message =
                format!("{path} must validate one and only one schema (oneOf). {found}", path = quoted(path));
            out.add(Failure::other(message));
            if valid == 0 {
                out.merge_best(one);
            }
        }
    }
    let all = each(&s.values.all_of);
    let (count, valid) = (all.len(), all.iter().filter(|f| f.is_ok()).count());
    all.into_iter().for_each(|f| out.merge(f));
    if valid != count {
        let none = if valid == 0 { ". None validated" } else { "" };
        out.add(Failure::other(format!(
            "{path} must validate all the schemas (allOf){none}",
            path = quoted(path)
        )));
    }
    if s.values.not.as_ref().is_some_and(|n| node(v, n, path, was).is_ok()) {
        out.add(Failure::other(format!("{path} must not validate the schema (not)", path = quoted(path))));
    }
    out.matches += 1;
    out
}

/// Upstream: `stringValidator.Validate`; the first error alone.
fn string(text: &str, s: &Structural, path: &str) -> Found {
    let values = &s.values;
    let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = values.max_length.filter(|max| length() > *max) {
        let message = format!("{path} in body should be at most {max} chars long");
        return Failure::limit(Code::TooLong, path, text.into(), max, message).into();
    }
    if let Some(min) = values.min_length.filter(|min| length() < *min) {
        let message = format!("{path} in body should be at least {min} chars long");
        return Failure::limit(Code::Invalid, path, text.into(), min, message).into();
    }
    if !values.pattern.is_empty() {
        let message = match values.regex() {
            Ok(regex) if regex.is_match(text) => return Found::default(),
            Ok(_) => format!("{path} in body should match '{}'", values.pattern),
            Err(why) => {
                format!("{path} in body should match '{}, but pattern is invalid: {why}'", values.pattern)
            }
        };
        return Failure::limit(Code::Invalid, path, text.into(), 0, message).into();
    }
    Found::default()
}

/// Upstream: `schemaSliceValidator.Validate`.
fn array(list: &[Value], s: &Structural, path: &str, was: Option<&Correlated>) -> Found {
    let mut out = Found::default();
    if let Some(items) = &s.items {
        for (i, v) in list.iter().enumerate() {
            let at = format!("{path}[{i}]");
            out.merge(match was.and_then(|w| w.index(i)) {
                Some(child) => ratcheting(v, items, &at, &child),
                None => node(v, items, &at, None),
            });
        }
    }
    let size = i64::try_from(list.len()).unwrap_or(i64::MAX);
    if let Some(min) = s.values.min_items.filter(|min| size < *min) {
        let message = format!("{path} in body should have at least {min} items");
        out.add(Failure::limit(Code::Invalid, path, size.into(), min, message));
    }
    if let Some(max) = s.values.max_items.filter(|max| size > *max) {
        let message = format!("{path} in body should have at most {max} items");
        out.add(Failure::limit(Code::TooMany, path, size.into(), max, message));
    }
    if s.values.unique_items && list.iter().enumerate().any(|(i, v)| list[..i].contains(v)) {
        let message = format!("{path} in body shouldn't contain duplicates");
        out.add(Failure { code: Code::Invalid, path: path.to_owned(), message, ..Failure::default() });
    }
    out.matches += 1;
    out
}

/// Upstream: `objectValidator.Validate`.
fn object(map: &Map<String, Value>, s: &Structural, path: &str, was: Option<&Correlated>) -> Found {
    let mut out = Found::default();
    let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = s.values.min_properties.filter(|min| size < *min) {
        let message = format!("{path} in body should have at least {min} properties");
        out.add(Failure::limit(Code::Invalid, path, size.into(), min, message));
    }
    if let Some(max) = s.values.max_properties.filter(|max| size > *max) {
        let message = format!("{path} in body should have at most {max} properties");
        out.add(Failure::limit(Code::TooMany, path, size.into(), max, message));
    }
    for (key, v) in map.iter().filter(|(key, _)| !s.properties.contains_key(*key)) {
        match &s.additional {
            Some(Additional::Any(false)) => {
                let message = format!("{path}.{key} in body is a forbidden property");
                out.add(Failure::limit(Code::Invalid, path, key.as_str().into(), 0, message));
            }
            Some(Additional::Schema(child)) => {
                out.merge(field(v, child, key, &format!("{path}.{key}"), path, was));
            }
            _ => {}
        }
    }
    for (name, child) in &s.properties {
        if let Some(v) = map.get(name) {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            out.merge(field(v, child, name, &at, path, was));
        }
    }
    for name in s.values.required.iter().filter(|name| !map.contains_key(*name)) {
        let at = format!("{path}.{name}");
        let message = format!("{at} in body is required");
        out.add(Failure { code: Code::Required, path: at, message, ..Failure::default() });
    }
    out
}

#[cfg(test)]
mod tests;
