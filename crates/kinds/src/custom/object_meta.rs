//! Metadata of embedded resources, and of custom resources themselves (upstream: apiextensions
//! `pkg/apiserver/schema/objectmeta`).

use super::structural::Structural;
use crate::helpers;
use meta::field::{Error, ErrorList, Path};
use meta::schema::{Strictness, go_kind};
use serde_json::Value;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Reads `apiVersion`, `kind` and `metadata` of embedded resources, and of the whole value when `root`, in their types.
/// Gives the paths of unknown metadata fields, which are dropped. With `lenient`, what has a wrong type is dropped too.
pub fn coerce(
    obj: &mut Value,
    schema: Option<&Structural>,
    root: bool,
    lenient: bool,
) -> Result<Vec<String>, Box<Error>> {
    let none = Structural::default();
    let schema = if root { Some(schema.unwrap_or(&none)) } else { schema };
    let mut unknown = Vec::new();
    if let Some(s) = schema {
        walk(obj, s, root || s.embedded_resource, lenient, &Path::root(), &mut unknown)?;
    }
    unknown.sort_unstable();
    Ok(unknown)
}

/// Reads the metadata of a custom resource itself; a text says what is wrong with its type.
pub fn coerce_root(obj: &mut Value) -> Result<Vec<String>, String> {
    let Some(slot) = obj.get_mut("metadata") else { return Ok(Vec::new()) };
    let (value, fields) = decode(slot.take())?;
    *slot = value;
    Ok(fields.into_iter().map(|f| format!("metadata.{f}")).collect())
}

fn walk(
    x: &mut Value,
    s: &Structural,
    resource: bool,
    lenient: bool,
    path: &Path,
    unknown: &mut Vec<String>,
) -> Result<(), Box<Error>> {
    if resource && x.is_object() {
        type_meta(x, lenient, path)?;
        metadata(x, lenient, path, unknown)?;
    }
    match x {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if let Some(property) = s.properties.get(key) {
                    walk(value, property, property.embedded_resource, lenient, &path.child(key), unknown)?;
                } else if let Some(child) = s.additional.as_ref().and_then(|a| a.schema()) {
                    walk(value, child, child.embedded_resource, lenient, &path.key(key), unknown)?;
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &s.items {
                for (i, value) in list.iter_mut().enumerate() {
                    walk(value, items, items.embedded_resource, lenient, &path.index(i), unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn type_meta(x: &mut Value, lenient: bool, path: &Path) -> Result<(), Box<Error>> {
    let Some(map) = x.as_object_mut() else { return Ok(()) };
    for field in ["apiVersion", "kind"] {
        if let Some(v) = map.get(field).filter(|v| !v.is_string()) {
            if !lenient {
                return Err(Box::new(Error::invalid(&path.child(field), v.clone(), "must be a string")));
            }
            map.remove(field);
        }
    }
    Ok(())
}

fn metadata(x: &mut Value, lenient: bool, path: &Path, unknown: &mut Vec<String>) -> Result<(), Box<Error>> {
    let at = path.child("metadata");
    let Some(slot) = x.get_mut("metadata") else { return Ok(()) };
    let given = slot.clone();
    match decode(given.clone()) {
        Ok((value, fields)) => {
            unknown.extend(fields.into_iter().map(|f| format!("{at}.{f}")));
            *slot = value;
            Ok(())
        }
        Err(_) if lenient => {
            if let Value::Object(map) = given {
                let kept = map.into_iter().filter(|(k, v)| {
                    decode(Value::Object([(k.clone(), v.clone())].into_iter().collect())).is_ok()
                });
                *slot = Value::Object(kept.collect());
            }
            Ok(())
        }
        Err(why) => Err(Box::new(Error::invalid(&at, given, why))),
    }
}

/// Metadata in its type, and the paths of fields that it does not have.
fn decode(value: Value) -> Result<(Value, Vec<String>), String> {
    if !value.is_object() && !value.is_null() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type v1.ObjectMeta",
            go_kind(&value)
        ));
    }
    let (mut value, problems) =
        crate::schema::schema().decode(value, OBJECT_META, Strictness::Warn).map_err(|e| e.to_string())?;
    if let Some(map) =
        value.as_object_mut().filter(|m| m.get("creationTimestamp").is_some_and(Value::is_null))
    {
        map.remove("creationTimestamp");
    }
    let fields = problems
        .iter()
        .filter_map(|p| p.strip_prefix("unknown field \"").and_then(|p| p.strip_suffix('"')))
        .map(str::to_owned)
        .collect();
    Ok((value, fields))
}

/// Errors of embedded resources, and of the whole value when `root` (upstream: `objectmeta.Validate`).
pub fn check(v: &Value, s: &Structural, root: bool, path: &Path, errors: &mut ErrorList) {
    match v {
        Value::Object(map) => {
            if root || s.embedded_resource {
                resource(v, path, errors);
            }
            for (key, value) in map {
                if let Some(property) = s.properties.get(key) {
                    check(value, property, false, &path.child(key), errors);
                } else if let Some(child) = s.additional.as_ref().and_then(|a| a.schema()) {
                    check(value, child, false, &path.key(key), errors);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &s.items {
                for (i, value) in list.iter().enumerate() {
                    check(value, items, false, &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

/// Upstream: `validateEmbeddedResource`.
fn resource(v: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["apiVersion", "kind"] {
        if v.get(field).is_none() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    let at = path.child("apiVersion");
    match v.get("apiVersion") {
        None => {}
        Some(Value::String(s)) if s.is_empty() => errors.push(Error::invalid(&at, "", "must not be empty")),
        Some(Value::String(s)) if s.matches('/').count() > 1 => {
            let detail = format!("unexpected GroupVersion string: {s}");
            errors.push(Error::invalid(&at, s.as_str(), detail));
        }
        Some(Value::String(_)) => {}
        Some(other) => errors.push(Error::invalid(&at, other.clone(), "must be a string")),
    }
    let at = path.child("kind");
    match v.get("kind") {
        None => {}
        Some(Value::String(s)) if s.is_empty() => errors.push(Error::invalid(&at, "", "must not be empty")),
        Some(Value::String(s)) => {
            let messages = helpers::dns1035_label_errors(&s.to_lowercase(), false);
            let intro = "may have mixed case, but should otherwise match: ";
            crate::rest::joined(&at, s, &messages, intro, errors);
        }
        Some(other) => errors.push(Error::invalid(&at, other.clone(), "must be a string")),
    }
    if let Some(metadata) = v.get("metadata") {
        match decode(metadata.clone()) {
            Err(why) => errors.push(Error::invalid(&path.child("metadata"), metadata.clone(), why)),
            Ok((metadata, _)) => object_meta(&metadata, &path.child("metadata"), errors),
        }
    }
}

/// What matters of `ValidateObjectMeta` for an object that is not stored on its own.
fn object_meta(v: &Value, path: &Path, errors: &mut ErrorList) {
    for (field, prefix) in [("generateName", true), ("name", false)] {
        if let Some(name) = v[field].as_str().filter(|n| !n.is_empty()) {
            let messages = helpers::path_segment_errors(name, prefix);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child(field), name, m)));
        }
    }
    if let Some(ns) = v["namespace"].as_str().filter(|n| !n.is_empty()) {
        let messages = helpers::dns_label_errors(ns, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("namespace"), ns, m)));
    }
    crate::validate::labels(&v["labels"], &path.child("labels"), errors);
    for key in v["annotations"].as_object().into_iter().flatten().map(|(k, _)| k) {
        let messages = helpers::qualified_name_errors(&key.to_lowercase());
        let at = path.child("annotations");
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, key.as_str(), m)));
    }
    for finalizer in v["finalizers"].as_array().into_iter().flatten().filter_map(|f| f.as_str()) {
        let messages = helpers::qualified_name_errors(finalizer);
        let at = path.child("finalizers");
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, finalizer, m)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;
    use serde_json::json;

    fn schema() -> Structural {
        Structural::parse(&json!({"properties": {"r": {
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}))
        .unwrap()
    }

    #[test]
    fn metadata_is_read_in_its_type() {
        let mut obj = json!({"r": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "odd": 1, "labels": {"x": "y"}}}});
        let unknown = coerce(&mut obj, Some(&schema()), false, false).unwrap();
        assert_eq!(unknown, ["r.metadata.odd"]);
        assert_eq!(obj["r"]["metadata"], json!({"name": "a", "labels": {"x": "y"}}));
        let mut bad = json!({"r": {"apiVersion": 1}});
        let error = coerce(&mut bad.clone(), Some(&schema()), false, false).unwrap_err();
        assert_eq!(error.to_string(), "r.apiVersion: Invalid value: 1: must be a string");
        coerce(&mut bad, Some(&schema()), false, true).unwrap();
        assert_eq!(bad, json!({"r": {}}));
    }

    #[test]
    fn embedded_resources_have_a_type() {
        let mut errors = Vec::new();
        let v = json!({"r": {"kind": "a-B_", "metadata": {"name": "a/b"}}});
        check(&v, &schema(), false, &Path::root(), &mut errors);
        let text = aggregate(&errors);
        assert!(text.starts_with("[r.apiVersion: Required value, r.kind: Invalid value: \"a-B_\": may have mixed case, but should otherwise match: "), "{text}");
        assert!(text.ends_with("r.metadata.name: Invalid value: \"a/b\": may not contain '/']"), "{text}");
    }
}
