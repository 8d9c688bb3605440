//! What makes a schema structural (upstream: apiextensions `pkg/apiserver/schema/{validation,complete}.go`).

use super::structural::{Additional, Structural, Values};
use meta::field::{Error, ErrorList, Path};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All errors of a schema at its root, sorted by their texts (upstream: `ValidateStructural`).
pub fn check(s: &Structural, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    node(s, Level::Root, path, &mut errors);
    complete_values(&s.values, s, path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

/// Upstream: `validateStructuralInvariants`.
fn node(s: &Structural, level: Level, path: &Path, errors: &mut ErrorList) {
    if s.ty == "array" && s.items.is_none() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = &s.items {
        node(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in &s.properties {
        node(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = path.child("additionalProperties");
    if let Some(a) = &s.additional {
        if level == Level::Root {
            errors.push(Error::forbidden(&additional, "must not be used at the root"));
        }
        if let Some(schema) = a.schema() {
            node(schema, Level::Field, &additional, errors);
        }
    }
    if s.int_or_string && s.preserve_unknown_fields {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(Error::invalid(&at, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if s.int_or_string && s.embedded_resource {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(Error::invalid(&at, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    let skip = Skip { any_of: is_int_or_string(&s.values.any_of), first_all_of: first_all_of(&s.values) };
    values(&s.values, skip, path, errors);
    types(s, level, path, errors);
    let is_object = level == Level::Root || s.embedded_resource;
    for field in ["kind", "apiVersion"] {
        if let Some(property) = s.properties.get(field).filter(|p| is_object && p.ty != "string") {
            let at = path.child("properties").key(field).child("type");
            errors.push(Error::invalid(&at, property.ty.as_str(), "must be string"));
        }
    }
    if let Some(metadata) = s.properties.get("metadata") {
        metadata_node(metadata, is_object, level, &path.child("properties").key("metadata"), errors);
    }
    if s.embedded_resource && !s.preserve_unknown_fields && s.properties.is_empty() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&path.child("properties"), detail));
    }
}

fn types(s: &Structural, level: Level, path: &Path, errors: &mut ErrorList) {
    let at = path.child("type");
    if s.embedded_resource && s.ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if s.ty.is_empty() {
            Error::required(&at, detail)
        } else {
            Error::invalid(&at, s.ty.as_str(), detail)
        });
    } else if s.ty.is_empty() && !s.int_or_string && !s.preserve_unknown_fields {
        errors.push(Error::required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        ));
    }
    if s.embedded_resource && s.additional.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(Error::forbidden(&path.child("additionalProperties"), detail));
    }
    if level == Level::Root && !s.ty.is_empty() && s.ty != "object" {
        errors.push(Error::invalid(&at, s.ty.as_str(), "must be object at the root"));
    }
}

/// Upstream: `validateStructuralMetadataInvariants`.
fn metadata_node(s: &Structural, is_object: bool, level: Level, path: &Path, errors: &mut ErrorList) {
    if is_object && s.ty != "object" {
        errors.push(Error::invalid(&path.child("type"), s.ty.as_str(), "must be object"));
    }
    let only_names = s.properties.keys().all(|k| k == "name" || k == "generateName");
    let plain = only_names
        && s.title.is_empty()
        && s.description.is_empty()
        && !s.nullable
        && s.example.is_none()
        && s.external_docs.is_none()
        && s.items.is_none()
        && s.additional.is_none()
        && !(s.preserve_unknown_fields || s.embedded_resource || s.int_or_string)
        && s.list_map_keys.is_empty()
        && s.list_type.as_ref().or(s.map_type.as_ref()).is_none()
        && s.rules.is_empty()
        && s.values.is_empty();
    if level == Level::Root && !plain {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(Error::forbidden(path, detail));
    }
}

/// Which parts are the two forms in which an int-or-string may say its types.
#[derive(Clone, Copy, Default)]
struct Skip {
    any_of: bool,
    first_all_of: bool,
}

/// Exactly `[{type: integer}, {type: string}]`.
pub(super) fn is_int_or_string(list: &[Structural]) -> bool {
    let bare = |s: &Structural, ty: &str| {
        s.ty == ty
            && s.values.is_empty()
            && s.properties.is_empty()
            && s.items.is_none()
            && s.additional.is_none()
            && s.default.is_none()
            && s.title.is_empty()
            && s.description.is_empty()
            && !(s.nullable || s.preserve_unknown_fields || s.embedded_resource || s.int_or_string)
            && s.rules.is_empty()
    };
    matches!(list, [a, b] if bare(a, "integer") && bare(b, "string"))
}

fn first_all_of(v: &Values) -> bool {
    v.all_of.first().is_some_and(|s| is_int_or_string(&s.values.any_of))
}

/// Whether an int-or-string says its types itself.
pub(super) fn says_int_or_string(v: &Values) -> bool {
    is_int_or_string(&v.any_of) || first_all_of(v)
}

/// Upstream: `validateValueValidation`.
fn values(v: &Values, skip: Skip, path: &Path, errors: &mut ErrorList) {
    if !skip.any_of {
        for (i, s) in v.any_of.iter().enumerate() {
            nested(s, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, s) in v.all_of.iter().enumerate() {
        nested(s, skip.first_all_of && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, s) in v.one_of.iter().enumerate() {
        nested(s, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(s) = &v.not {
        nested(s, false, &path.child("not"), errors);
    }
    if !v.pattern.is_empty()
        && let Err(why) = v.regex()
    {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&path.child("pattern"), v.pattern.as_str(), detail));
    }
}

/// Upstream: `validateNestedValueValidation`.
fn nested(s: &Structural, skip_any_of: bool, path: &Path, errors: &mut ErrorList) {
    values(&s.values, Skip { any_of: skip_any_of, first_all_of: false }, path, errors);
    if let Some(items) = &s.items {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in &s.properties {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let mut forbid = |said: bool, field: &str, detail: &str| {
        if said {
            errors.push(Error::forbidden(&path.child(field), detail));
        }
    };
    forbid(!s.ty.is_empty(), "type", "must be empty to be structural");
    let additional = !matches!(s.additional, None | Some(Additional::Any(false)));
    forbid(additional, "additionalProperties", "must be undefined to be structural");
    forbid(s.default.is_some(), "default", "must be undefined to be structural");
    forbid(!s.title.is_empty(), "title", "must be empty to be structural");
    forbid(!s.description.is_empty(), "description", "must be empty to be structural");
    forbid(s.nullable, "nullable", "must be false to be structural");
    const FALSE: &str = "must be false to be structural";
    forbid(s.preserve_unknown_fields, "x-kubernetes-preserve-unknown-fields", FALSE);
    forbid(s.embedded_resource, "x-kubernetes-embedded-resource", FALSE);
    forbid(s.int_or_string, "x-kubernetes-int-or-string", FALSE);
    forbid(!s.list_map_keys.is_empty(), "x-kubernetes-list-map-keys", "must be empty to be structural");
    forbid(s.list_type.is_some(), "x-kubernetes-list-type", "must be undefined to be structural");
    forbid(s.map_type.is_some(), "x-kubernetes-map-type", "must be undefined to be structural");
    forbid(!s.rules.is_empty(), "x-kubernetes-validations", "must be empty to be structural");
    if s.properties.contains_key("metadata") {
        let at = path.child("properties").key("metadata");
        errors.push(Error::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// Upstream: `validateValueValidationCompleteness`: what is checked must be in the skeleton.
fn complete_values(v: &Values, s: &Structural, at: &Path, of: &Path, errors: &mut ErrorList) {
    if let Some(not) = &v.not {
        complete(not, s, at, &of.child("not"), errors);
    }
    for (field, list) in [("allOf", &v.all_of), ("anyOf", &v.any_of), ("oneOf", &v.one_of)] {
        for (i, nested) in list.iter().enumerate() {
            complete(nested, s, at, &of.child(field).index(i), errors);
        }
    }
}

fn complete(v: &Structural, s: &Structural, at: &Path, of: &Path, errors: &mut ErrorList) {
    complete_values(&v.values, s, at, of, errors);
    if let Some(items) = &v.items {
        match &s.items {
            Some(known) => complete(items, known, &at.child("items"), &of.child("items"), errors),
            None => missing(&at.child("items"), &of.child("items"), errors),
        }
    }
    complete_properties(&v.properties, s, at, of, errors);
}

fn complete_properties(
    properties: &BTreeMap<String, Arc<Structural>>,
    s: &Structural,
    at: &Path,
    of: &Path,
    errors: &mut ErrorList,
) {
    for (name, property) in properties {
        let (at, of) = (at.child("properties").key(name), of.child("properties").key(name));
        match s.properties.get(name) {
            Some(known) => complete(property, known, &at, &of, errors),
            None => missing(&at, &of, errors),
        }
    }
}

fn missing(at: &Path, of: &Path, errors: &mut ErrorList) {
    errors.push(Error::required(at, format!("because it is defined in {of}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(schema: Value) -> Vec<String> {
        let s = Structural::parse(&schema).unwrap();
        check(&s, &Path::root()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn structural_schemas_pass() {
        assert_eq!(
            texts(json!({"type": "object", "properties": {
                "metadata": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a"}}},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "raw": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
                "list": {"type": "array", "items": {"type": "string"}},
            }})),
            Vec::<String>::new()
        );
    }

    #[test]
    fn others_are_told_why_not() {
        assert_eq!(
            texts(json!({"type": "object", "properties": {
                "a": {"anyOf": [{"type": "string", "title": "x"}]},
                "l": {"type": "array"},
                "metadata": {"type": "object", "properties": {"labels": {"type": "object"}}},
            }, "oneOf": [{"properties": {"b": {"minimum": 1.0}}}], "additionalProperties": true})),
            [
                "additionalProperties: Forbidden: must not be used at the root",
                "properties[a].anyOf[0].title: Forbidden: must be empty to be structural",
                "properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
                "properties[a].type: Required value: must not be empty for specified object fields",
                "properties[b]: Required value: because it is defined in oneOf[0].properties[b]",
                "properties[l].items: Required value: must be specified",
                "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ]
        );
    }
}
