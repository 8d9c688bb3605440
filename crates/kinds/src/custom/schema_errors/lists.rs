//! List and map types of a schema.

use super::{Options, any};
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// Errors of a node's `x-kubernetes-map-type`, `-list-type` and `-list-map-keys`.
pub(super) fn check(s: &Value, options: &Options, path: &Path, errors: &mut ErrorList) {
    let ty = text(s, "type");
    if let Some(map_type) = s["x-kubernetes-map-type"].as_str() {
        typed(ty, "object", "must be object if x-kubernetes-map-type is specified", path, errors);
        if !matches!(map_type, "atomic" | "granular") {
            let at = path.child("x-kubernetes-map-type");
            errors.push(Error::not_supported(&at, map_type, &["atomic", "granular"]));
        }
    }
    let (at, list_type) = (path.child("x-kubernetes-list-type"), s["x-kubernetes-list-type"].as_str());
    if list_type.is_some() && ty != "array" {
        typed(ty, "array", "must be array if x-kubernetes-list-type is specified", path, errors);
    } else if list_type == Some("set") && options.require_atomic_sets {
        atomic_items(&s["items"], path, errors);
    }
    if let Some(other) = list_type.filter(|t| !matches!(*t, "atomic" | "set" | "map")) {
        errors.push(Error::not_supported(&at, other, &["atomic", "set", "map"]));
    }
    if !items(s, "x-kubernetes-list-map-keys").is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            None => Error::required(&at, detail),
            Some(other) => Error::invalid(&at, other, detail),
        });
    }
    if list_type == Some("map") {
        map_list(s, path, errors);
    }
    if options.require_map_keys {
        errors.extend(bad_map_or_set(s, path));
    }
}

fn typed(ty: &str, want: &str, detail: &str, path: &Path, errors: &mut ErrorList) {
    let at = path.child("type");
    match ty {
        "" => errors.push(Error::required(&at, detail)),
        t if t != want => errors.push(Error::invalid(&at, t, detail)),
        _ => {}
    }
}

fn is_atomic(item: &Value) -> bool {
    match text(item, "type") {
        "array" => item["x-kubernetes-list-type"].as_str().is_none_or(|t| t == "atomic"),
        "object" => item["x-kubernetes-map-type"] == "atomic",
        _ => true,
    }
}

fn atomic_items(item: &Value, path: &Path, errors: &mut ErrorList) {
    if !item.is_object() || is_atomic(item) {
        return;
    }
    let field = if item["type"] == "array" { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
    // Upstream shows the list type in both cases.
    let shown = item["x-kubernetes-list-type"].clone();
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    errors.push(Error::invalid(&path.child("items").child(field), shown, detail));
}

/// Whether a schema has a set of what is not atomic (upstream: `hasNonAtomicSetType`).
pub fn has_non_atomic_set(schema: &Value) -> bool {
    any(schema, &mut |s| {
        s["x-kubernetes-list-type"] == "set" && s["items"].is_object() && !is_atomic(&s["items"])
    })
}

fn map_list(s: &Value, path: &Path, errors: &mut ErrorList) {
    let keys = items(s, "x-kubernetes-list-map-keys");
    let keys_at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(Error::required(&keys_at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let (item, at) = (&s["items"], path.child("items"));
    match item {
        Value::Null => {
            errors.push(Error::required(&at, "must have a schema if x-kubernetes-list-type is map"));
            return;
        }
        Value::Object(_) => {}
        other => {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            errors.push(Error::invalid(&at, other.clone(), detail));
            return;
        }
    }
    let ty = text(item, "type");
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(Error::invalid(&at.child("type"), ty, detail));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or("");
        match item["properties"].get(name) {
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let at = at.child("properties").key(name).child("type");
                errors.push(Error::invalid(&at, ty, detail));
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(Error::invalid(&keys_at, s["x-kubernetes-list-map-keys"].clone(), detail));
            }
        }
        if keys[..i].contains(key) {
            let detail = "must not contain duplicate entries";
            errors.push(Error::invalid(&keys_at, s["x-kubernetes-list-map-keys"].clone(), detail));
        }
    }
}

/// Items and keys that could be null or missing (upstream: `validateMapListKeysMapSet`).
pub fn bad_map_or_set(s: &Value, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    let (item, at) = (&s["items"], path.child("items"));
    let Some(list_type) = s["x-kubernetes-list-type"].as_str().filter(|t| matches!(*t, "set" | "map")) else {
        return errors;
    };
    if !item.is_object() {
        return errors;
    }
    if item["nullable"] == true {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(Error::forbidden(&at.child("nullable"), detail));
    }
    if list_type == "set" {
        return errors;
    }
    for key in items(s, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = item["properties"].get(key) else { continue };
        let at = at.child("properties").key(key);
        if !items(item, "required").iter().any(|r| r == key) && property["default"].is_null() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&at.child("default"), detail));
        }
        if property["nullable"] == true {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&at.child("nullable"), detail));
        }
    }
    errors
}
