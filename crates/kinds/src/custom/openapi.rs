//! The definitions that a custom resource publishes (upstream: apiextensions `pkg/controller/openapi/builder`).
//!
//! The v2 form says less than the schema where older clients would otherwise refuse what the server takes.

use super::invariants;
use super::structural::{Additional, Structural, Values};
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION_DOC: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND_DOC: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA_DOC: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA_DOC: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION_DOC: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND_DOC: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// What a version publishes, in both forms.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Name of the object's definition: `com.example.v1.Foo`.
    pub name: String,
    /// Name of the list's definition.
    pub list_name: String,
    pub v2: Value,
    pub v3: Value,
    pub list_v2: Value,
    pub list_v3: Value,
}

/// What of a definition goes into its publication.
pub struct Source<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub list_kind: &'a str,
    pub plural: &'a str,
    /// `None` publishes any object: there is no schema, or none that is structural.
    pub schema: Option<&'a Structural>,
    pub preserve_unknown_fields: bool,
    /// Without the leading dot.
    pub selectable: &'a [String],
}

/// Name of a kind's definition.
pub fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// Builds both forms.
pub fn publish(s: &Source) -> Published {
    let name = definition_name(s.group, s.version, s.kind);
    Published {
        v2: object(s, true),
        v3: object(s, false),
        list_v2: list(s, &name, true),
        list_v3: list(s, &name, false),
        list_name: definition_name(s.group, s.version, s.list_kind),
        name,
    }
}

/// A reference with a description; in v3 nothing may stand beside a reference.
fn described(name: &str, description: &str, v2: bool) -> Value {
    if v2 {
        json!({"description": description, "$ref": format!("#/definitions/{name}")})
    } else {
        json!({"description": description, "allOf": [{"$ref": format!("#/components/schemas/{name}")}]})
    }
}

fn type_meta(properties: &mut Map<String, Value>, api_version: &str, kind: &str) {
    properties.insert("apiVersion".into(), json!({"description": api_version, "type": "string"}));
    properties.insert("kind".into(), json!({"description": kind, "type": "string"}));
}

fn extensions(s: &Source, kind: &str, out: &mut Map<String, Value>) {
    let gvk = json!([{"group": s.group, "version": s.version, "kind": kind}]);
    out.insert("x-kubernetes-group-version-kind".into(), gvk);
    if !s.selectable.is_empty() {
        let fields: Vec<Value> = s.selectable.iter().map(|f| json!({"fieldPath": f})).collect();
        out.insert("x-kubernetes-selectable-fields".into(), fields.into());
    }
}

/// Upstream: `buildKubeNative`.
fn object(s: &Source, v2: bool) -> Value {
    let any = || Map::from_iter([("type".to_owned(), Value::from("object"))]);
    let mut out = match s.schema {
        None => any(),
        Some(schema) if v2 && (schema.preserve_unknown_fields || s.preserve_unknown_fields) => any(),
        Some(schema) => {
            let mut out = node(schema, v2);
            let properties = out.entry("properties").or_insert_with(|| json!({}));
            if let Some(properties) = properties.as_object_mut() {
                let name = format!("{META}.ObjectMeta");
                properties.insert("metadata".into(), described(&name, METADATA_DOC, v2));
                type_meta(properties, API_VERSION_DOC, KIND_DOC);
            }
            out
        }
    };
    extensions(s, s.kind, &mut out);
    Value::Object(out)
}

/// Upstream: `buildListSchema`.
fn list(s: &Source, name: &str, v2: bool) -> Value {
    const MORE: &str =
        "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    let reference = if v2 {
        json!({"$ref": format!("#/definitions/{name}")})
    } else {
        json!({"$ref": format!("#/components/schemas/{name}")})
    };
    let mut properties = Map::new();
    type_meta(&mut properties, API_VERSION_DOC, KIND_DOC);
    let items =
        json!({"description": format!("List of {}. {MORE}", s.plural), "type": "array", "items": reference});
    properties.insert("items".into(), items);
    let metadata = described(&format!("{META}.ListMeta"), LIST_METADATA_DOC, v2);
    properties.insert("metadata".into(), metadata);
    let mut out = Map::from_iter([
        ("description".to_owned(), format!("{} is a list of {}", s.list_kind, s.kind).into()),
        ("type".to_owned(), "object".into()),
        ("required".to_owned(), json!(["items"])),
        ("properties".to_owned(), Value::Object(properties)),
    ]);
    extensions(s, s.list_kind, &mut out);
    Value::Object(out)
}

/// A node of the skeleton (upstream: `ToKubeOpenAPI`, for v2 after `ToStructuralOpenAPIV2`).
fn node(s: &Structural, v2: bool) -> Map<String, Value> {
    let opaque = v2 && (s.nullable || s.preserve_unknown_fields);
    let mut out = Map::new();
    let items = s.items.as_ref().filter(|_| !opaque);
    let untyped = v2
        && (s.nullable
            || (s.ty == "array" && items.is_none())
            || (s.preserve_unknown_fields && s.ty == "object"));
    texts(s, untyped, v2, &mut out);
    if let Some(items) = items {
        out.insert("items".into(), Value::Object(node(items, v2)));
    }
    if !opaque && !s.properties.is_empty() {
        let properties = s.properties.iter().map(|(k, p)| (k.clone(), Value::Object(node(p, v2))));
        out.insert("properties".into(), Value::Object(properties.collect()));
    }
    match &s.additional {
        Some(Additional::Any(b)) => {
            out.insert("additionalProperties".into(), (*b).into());
        }
        Some(Additional::Schema(a)) => {
            out.insert("additionalProperties".into(), Value::Object(node(a, v2)));
        }
        None => {}
    }
    vendor(s, &mut out);
    values(&s.values, v2, &mut out);
    if v2 {
        nullable_is_optional(s, opaque, &mut out);
    } else {
        int_or_string(s, &mut out);
    }
    embedded(s, v2, &mut out);
    out
}

/// Older clients take a null for a missing field.
fn nullable_is_optional(s: &Structural, opaque: bool, out: &mut Map<String, Value>) {
    let map_of_nullables = matches!(&s.additional, Some(Additional::Schema(a)) if a.nullable);
    let required: Vec<&String> = s
        .values
        .required
        .iter()
        .filter(|name| opaque || !s.properties.get(*name).is_some_and(|p| p.nullable))
        .collect();
    if required.is_empty() || map_of_nullables {
        out.remove("required");
    } else {
        out.insert("required".into(), json!(required));
    }
}

/// Upstream: `Unfold`: an int-or-string that does not say its types gets them.
fn int_or_string(s: &Structural, out: &mut Map<String, Value>) {
    if !s.int_or_string || invariants::says_int_or_string(&s.values) {
        return;
    }
    let types = json!([{"type": "integer"}, {"type": "string"}]);
    if s.values.any_of.is_empty() {
        out.insert("anyOf".into(), types);
    } else if let Some(list) = out.entry("allOf").or_insert_with(|| json!([])).as_array_mut() {
        list.insert(0, json!({"anyOf": types}));
    }
}

fn texts(s: &Structural, untyped: bool, v2: bool, out: &mut Map<String, Value>) {
    for (key, text) in [("description", &s.description), ("title", &s.title)] {
        if !text.is_empty() {
            out.insert(key.into(), text.as_str().into());
        }
    }
    if !s.ty.is_empty() && !untyped {
        out.insert("type".into(), s.ty.as_str().into());
    }
    if s.nullable && !v2 {
        out.insert("nullable".into(), true.into());
    }
    for (key, value) in [("default", &s.default), ("example", &s.example), ("externalDocs", &s.external_docs)]
    {
        if let Some(value) = value {
            out.insert(key.into(), value.clone());
        }
    }
}

fn vendor(s: &Structural, out: &mut Map<String, Value>) {
    let mut set = |key: &str, said: bool, value: Value| {
        if said {
            out.insert(format!("x-kubernetes-{key}"), value);
        }
    };
    set("preserve-unknown-fields", s.preserve_unknown_fields, true.into());
    set("embedded-resource", s.embedded_resource, true.into());
    set("int-or-string", s.int_or_string, true.into());
    set("list-map-keys", !s.list_map_keys.is_empty(), json!(s.list_map_keys));
    set("list-type", s.list_type.is_some(), json!(s.list_type));
    set("map-type", s.map_type.is_some(), json!(s.map_type));
    set("validations", !s.rules.is_empty(), json!(s.rules));
}

/// A number as Go writes it: whole ones without their point.
fn number(f: f64) -> Value {
    if f.fract() == 0.0 && f.abs() < 1e15 { Value::from(f as i64) } else { f.into() }
}

fn values(v: &Values, v2: bool, out: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(key.to_owned(), value);
        }
    };
    let flag = |b: bool| b.then(|| Value::from(true));
    let text = |t: &str| (!t.is_empty()).then(|| Value::from(t));
    set("format", text(&v.format));
    set("maximum", v.maximum.map(number));
    set("exclusiveMaximum", flag(v.exclusive_maximum));
    set("minimum", v.minimum.map(number));
    set("exclusiveMinimum", flag(v.exclusive_minimum));
    set("maxLength", v.max_length.map(Value::from));
    set("minLength", v.min_length.map(Value::from));
    set("pattern", text(&v.pattern));
    set("maxItems", v.max_items.map(Value::from));
    set("minItems", v.min_items.map(Value::from));
    set("uniqueItems", flag(v.unique_items));
    set("multipleOf", v.multiple_of.map(number));
    set("maxProperties", v.max_properties.map(Value::from));
    set("minProperties", v.min_properties.map(Value::from));
    set("required", (!v.required.is_empty()).then(|| json!(v.required)));
    set("enum", (!v.enumeration.is_empty()).then(|| v.enumeration.clone().into()));
    if v2 {
        return;
    }
    for (key, nested) in [("allOf", &v.all_of), ("anyOf", &v.any_of), ("oneOf", &v.one_of)] {
        let list: Vec<Value> = nested.iter().map(|n| Value::Object(node(n, false))).collect();
        set(key, (!list.is_empty()).then(|| list.into()));
    }
    set("not", v.not.as_ref().map(|n| Value::Object(node(n, false))));
}

/// Upstream: `addEmbeddedProperties`.
fn embedded(s: &Structural, v2: bool, out: &mut Map<String, Value>) {
    if !s.embedded_resource || (v2 && s.preserve_unknown_fields) {
        return;
    }
    let properties = out.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        type_meta(properties, EMBEDDED_API_VERSION_DOC, EMBEDDED_KIND_DOC);
        let metadata = described(&format!("{META}.ObjectMeta"), METADATA_DOC, v2);
        properties.insert("metadata".into(), metadata);
    }
    if let Some(required) = out.entry("required").or_insert_with(|| json!([])).as_array_mut() {
        for field in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r == field) {
                required.push(field.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(schema: Value) -> Published {
        let s = Structural::parse(&schema).unwrap();
        publish(&Source {
            group: "stable.example.com",
            version: "v1",
            kind: "Foo",
            list_kind: "FooList",
            plural: "foos",
            schema: Some(&s),
            preserve_unknown_fields: false,
            selectable: &["spec.x".to_owned()],
        })
    }

    #[test]
    fn both_forms_are_published() {
        let p = published(
            json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["n", "x"], "properties": {
                "n": {"type": "string", "nullable": true},
                "x": {"type": "integer", "maximum": 5.0, "oneOf": [{"minimum": 1.0}]},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
                "port": {"x-kubernetes-int-or-string": true},
            }}}}),
        );
        assert_eq!(
            (p.name.as_str(), p.list_name.as_str()),
            ("com.example.stable.v1.Foo", "com.example.stable.v1.FooList")
        );
        let spec = &p.v2["properties"]["spec"];
        assert_eq!(spec["required"], json!(["x"]));
        assert_eq!(spec["properties"]["n"], json!({}));
        assert_eq!(spec["properties"]["x"], json!({"type": "integer", "maximum": 5}));
        assert_eq!(spec["properties"]["any"], json!({"x-kubernetes-preserve-unknown-fields": true}));
        let spec = &p.v3["properties"]["spec"];
        assert_eq!(spec["required"], json!(["n", "x"]));
        assert_eq!(spec["properties"]["x"]["oneOf"], json!([{"minimum": 1}]));
        assert_eq!(spec["properties"]["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        assert_eq!(
            p.v3["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        assert_eq!(p.v2["x-kubernetes-group-version-kind"][0]["kind"], "Foo");
        assert_eq!(p.v2["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.x"}]));
        assert_eq!(
            p.list_v2["properties"]["items"]["items"]["$ref"],
            "#/definitions/com.example.stable.v1.Foo"
        );
    }

    #[test]
    fn an_open_schema_says_nothing_in_v2() {
        let p = published(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        assert!(p.v2.get("properties").is_none() && p.v3.get("properties").is_some());
    }
}
