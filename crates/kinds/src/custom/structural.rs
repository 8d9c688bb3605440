//! The structural schema of a version: a tree of nodes parsed once from `openAPIV3Schema`
//! (upstream: apiextensions `pkg/apiserver/schema/{structural,convert}.go`).
//!
//! The same node stands for both forms of upstream: the skeleton, and what stands under `allOf`, `anyOf`, `oneOf` and
//! `not`. [`super::invariants`] says which of its fields each may have.

use super::{formats, patterns};
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Deepest nesting of nodes. No tree that was read or patched is deeper.
const DEPTH_MAX: usize = meta::yaml::MAX_DEPTH;

/// One node. Absent texts are empty.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    pub ty: String,
    pub title: String,
    pub description: String,
    pub nullable: bool,
    pub default: Option<Value>,
    pub example: Option<Value>,
    pub external_docs: Option<Value>,
    pub items: Option<Arc<Self>>,
    pub properties: BTreeMap<String, Arc<Self>>,
    pub additional: Option<Additional>,
    pub preserve_unknown_fields: bool,
    pub embedded_resource: bool,
    pub int_or_string: bool,
    pub list_map_keys: Vec<String>,
    pub list_type: Option<String>,
    pub map_type: Option<String>,
    /// `x-kubernetes-validations`, as they stand.
    pub rules: Vec<Value>,
    pub values: Values,
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    Any(bool),
    Schema(Arc<Structural>),
}

impl Additional {
    pub fn schema(&self) -> Option<&Arc<Structural>> {
        match self {
            Self::Any(_) => None,
            Self::Schema(s) => Some(s),
        }
    }
}

/// Checks of values.
#[derive(Clone, Debug, Default)]
pub struct Values {
    pub format: String,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: String,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub multiple_of: Option<f64>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Values {
    /// The compiled pattern, made on first use.
    pub fn regex(&self) -> &Result<Regex, String> {
        self.compiled.get_or_init(|| patterns::compile(&self.pattern))
    }

    /// Whether nothing is checked.
    pub fn is_empty(&self) -> bool {
        self.format.is_empty()
            && self.maximum.or(self.minimum).or(self.multiple_of).is_none()
            && !(self.exclusive_maximum || self.exclusive_minimum || self.unique_items)
            && self.max_length.or(self.min_length).or(self.max_items).or(self.min_items).is_none()
            && self.max_properties.or(self.min_properties).is_none()
            && self.pattern.is_empty()
            && self.required.is_empty()
            && self.enumeration.is_empty()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

impl Structural {
    /// Parses a schema. Errors are upstream's words for schemas that have no structural form at all.
    pub fn parse(schema: &Value) -> Result<Self, String> {
        parse(schema, 0)
    }

    /// The format that is checked: empty for those that the type does not support.
    pub fn checked_format(&self) -> &str {
        let ty = if self.int_or_string { "" } else { &self.ty };
        if formats::is_supported(ty, &self.values.format) { &self.values.format } else { "" }
    }

    /// The schema of a field: its property, else what additional ones have.
    pub fn field(&self, name: &str) -> Option<&Arc<Self>> {
        self.properties.get(name).or_else(|| self.additional.as_ref().and_then(Additional::schema))
    }
}

fn text(v: &Map<String, Value>, field: &str) -> String {
    v.get(field).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn flag(v: &Map<String, Value>, field: &str) -> bool {
    v.get(field) == Some(&Value::Bool(true))
}

fn present<'a>(v: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    v.get(field).filter(|v| !v.is_null())
}

fn list<'a>(v: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    v.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn strings(v: &Map<String, Value>, field: &str) -> Vec<String> {
    list(v, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Upstream: `NewStructural`, `newNestedValueValidation`.
fn parse(schema: &Value, depth: usize) -> Result<Structural, String> {
    if depth > DEPTH_MAX {
        return Err(format!("OpenAPIV3Schema is nested deeper than {DEPTH_MAX} levels"));
    }
    let empty = Map::new();
    let v = schema.as_object().unwrap_or(&empty);
    unsupported(v)?;
    let child = |v: &Value| parse(v, depth + 1);
    let preserve = v.get("x-kubernetes-preserve-unknown-fields");
    if preserve == Some(&Value::Bool(false)) {
        return Err(
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".to_owned()
        );
    }
    let items = match present(v, "items") {
        Some(Value::Array(a)) if !a.is_empty() => {
            return Err("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
        }
        Some(Value::Object(_)) => present(v, "items").map(child).transpose()?.map(Arc::new),
        _ => None,
    };
    let mut properties = BTreeMap::new();
    for (name, property) in v.get("properties").and_then(Value::as_object).into_iter().flatten() {
        properties.insert(name.clone(), Arc::new(child(property)?));
    }
    let additional = match present(v, "additionalProperties") {
        Some(Value::Bool(b)) => Some(Additional::Any(*b)),
        Some(schema) => Some(Additional::Schema(Arc::new(child(schema)?))),
        None => None,
    };
    Ok(Structural {
        ty: text(v, "type"),
        title: text(v, "title"),
        description: text(v, "description"),
        nullable: flag(v, "nullable"),
        default: present(v, "default").cloned(),
        example: present(v, "example").cloned(),
        external_docs: present(v, "externalDocs").cloned(),
        items,
        properties,
        additional,
        preserve_unknown_fields: preserve == Some(&Value::Bool(true)),
        embedded_resource: flag(v, "x-kubernetes-embedded-resource"),
        int_or_string: flag(v, "x-kubernetes-int-or-string"),
        list_map_keys: strings(v, "x-kubernetes-list-map-keys"),
        list_type: v.get("x-kubernetes-list-type").and_then(Value::as_str).map(str::to_owned),
        map_type: v.get("x-kubernetes-map-type").and_then(Value::as_str).map(str::to_owned),
        rules: list(v, "x-kubernetes-validations").to_vec(),
        values: values(v, depth)?,
    })
}

fn values(v: &Map<String, Value>, depth: usize) -> Result<Values, String> {
    let number = |field: &str| v.get(field).and_then(Value::as_f64);
    let count = |field: &str| v.get(field).and_then(Value::as_i64);
    let nested =
        |field: &str| list(v, field).iter().map(|s| parse(s, depth + 1)).collect::<Result<Vec<_>, _>>();
    Ok(Values {
        format: text(v, "format"),
        maximum: number("maximum"),
        exclusive_maximum: flag(v, "exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag(v, "exclusiveMinimum"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text(v, "pattern"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        unique_items: flag(v, "uniqueItems"),
        multiple_of: number("multipleOf"),
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        required: strings(v, "required"),
        enumeration: list(v, "enum").to_vec(),
        all_of: nested("allOf")?,
        any_of: nested("anyOf")?,
        one_of: nested("oneOf")?,
        not: present(v, "not").map(|s| parse(s, depth + 1)).transpose()?.map(Box::new),
        compiled: OnceLock::new(),
    })
}

/// Upstream: `validateUnsupportedFields`.
fn unsupported(v: &Map<String, Value>) -> Result<(), String> {
    for (field, name) in [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ] {
        let said = match v.get(field) {
            None | Some(Value::Null) => false,
            Some(Value::String(s)) => !s.is_empty(),
            Some(Value::Object(m)) if field != "additionalItems" => !m.is_empty(),
            Some(_) => true,
        };
        if said {
            return Err(format!("OpenAPIV3Schema '{name}' is not supported"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_becomes_a_tree() {
        let s = Structural::parse(&json!({
            "type": "object",
            "properties": {
                "spec": {"type": "object", "additionalProperties": {"type": "integer", "format": "int32", "maximum": 5}},
                "any": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            },
            "x-kubernetes-validations": [{"rule": "self.x > 1"}],
        }))
        .unwrap();
        assert_eq!(s.rules.len(), 1);
        let number = s.properties["spec"].field("whatever").unwrap();
        assert_eq!((number.values.maximum, number.checked_format()), (Some(5.0), "int32"));
        assert_eq!(s.properties["any"].values.any_of.len(), 2);
        assert_eq!(
            Structural::parse(&json!({"properties": {"a": {"$ref": "x"}}})).unwrap_err(),
            "OpenAPIV3Schema '$ref' is not supported"
        );
        let mut deep = json!({"type": "object"});
        for _ in 0..200 {
            deep = json!({"items": deep});
        }
        assert!(Structural::parse(&deep).is_err());
    }
}
