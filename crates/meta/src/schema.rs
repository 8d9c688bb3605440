//! The type table: what fields a type has and how they merge, default and encode.
//!
//! The data comes from the published Kubernetes OpenAPI document and Go struct tags (`cargo xtask schema`);
//! custom resources bring their own. Everything that needs to know a type reads it here: decoding and field
//! validation, strategic merge, OpenAPI, `explain`.

mod decode;
mod strict;
mod unstructured;

pub use decode::{DecodeError, Strictness};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The type of a field or list element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ty {
    String,
    Bool,
    Int32,
    Int64,
    /// A floating point number.
    Double,
    /// Base64 text (Go `[]byte`).
    Bytes,
    /// RFC 3339 with whole seconds (`metav1.Time`).
    Time,
    /// RFC 3339 with microseconds (`metav1.MicroTime`).
    MicroTime,
    /// `metav1.Duration` text.
    Duration,
    IntOrString,
    Quantity,
    /// Any JSON (`runtime.RawExtension`, `JSON`, `FieldsV1`).
    Any,
    /// Another type of the table, by definition name.
    Ref(String),
    List(Box<Ty>),
    /// String keys to values.
    Map(Box<Ty>),
}

/// One field of a type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    pub ty: Ty,
    /// Listed under `required` in OpenAPI.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Go: the field is a pointer, so an explicit zero value is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pointer: bool,
    /// Go: the JSON tag has `omitempty` (or `omitzero`), so a zero value is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub omitempty: bool,
    /// The OpenAPI `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<serde_json::Value>,
    /// The published default is the zero of the type although the field can be absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shows_zero: bool,
    /// The only values of a text, or of the texts in a list or map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// `x-kubernetes-patch-strategy`, comma separated (`merge`, `replace`, `retainKeys`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub patch_strategy: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub patch_merge_key: String,
    /// `x-kubernetes-list-type`: `atomic`, `set`, `map` or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub list_type: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type`: `atomic`, `granular` or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub map_type: String,
    /// Protobuf field number; 0 when the type is not in protobuf.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub proto: u32,
    /// The Go type as errors print it, where [`Ty::go`] does not say it (`v1.PodPhase`). For decoding errors only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub go: String,
    /// Names of the embedded Go structs between this type and the field, dotted (`TypeMeta`). For decoding errors only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub embed: String,
    /// Protobuf numbers of those embedded structs, outermost first; `TypeMeta` travels in the envelope and has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embed_proto: Vec<u32>,
}

impl Field {
    /// A plain optional field of the type, for types made at run time.
    pub fn of(ty: Ty) -> Self {
        Self {
            ty,
            required: false,
            pointer: true,
            omitempty: true,
            default: None,
            shows_zero: false,
            values: Vec::new(),
            patch_strategy: String::new(),
            patch_merge_key: String::new(),
            list_type: String::new(),
            list_map_keys: Vec::new(),
            map_type: String::new(),
            proto: 0,
            go: String::new(),
            embed: String::new(),
            embed_proto: Vec::new(),
        }
    }

    /// The zero of the type, which is published as the default of every field that cannot be absent.
    pub fn zero_default(&self) -> Option<Value> {
        match &self.ty {
            Ty::Ref(_) if !self.pointer => Some(serde_json::json!({})),
            _ if self.pointer || self.omitempty => None,
            ty => ty.zero(),
        }
    }

    /// The OpenAPI `default`: upstream writes one for every field that is no pointer and whose zero value is no null.
    pub fn published_default(&self) -> Option<Value> {
        let zero = || if self.shows_zero { self.ty.zero() } else { self.zero_default() };
        self.default.clone().or_else(zero)
    }

    /// The Go type of the field as errors print it.
    pub fn go_type(&self) -> Cow<'_, str> {
        if self.go.is_empty() { Cow::Owned(self.ty.go()) } else { Cow::Borrowed(&self.go) }
    }
}

impl Schema {
    /// Makes lists without entries nulls, wherever the type has lists.
    pub fn without_empty_lists(&self, value: &mut Value, ty: &str) {
        let Some(def) = self.types.get(ty) else { return };
        let Some(map) = value.as_object_mut() else { return };
        for (name, field) in map.iter_mut() {
            match def.fields.get(name) {
                Some(def) if !field.is_null() => self.without_empty(field, &def.ty),
                _ => {}
            }
        }
    }

    fn without_empty(&self, value: &mut Value, ty: &Ty) {
        match (ty, value) {
            (Ty::List(_), value @ Value::Array(_)) if value.as_array().is_some_and(Vec::is_empty) => {
                *value = Value::Null;
            }
            // bytes in a map are there, even if they are none
            (Ty::Bytes, value @ Value::Null) => *value = "".into(),
            (Ty::List(inner), Value::Array(list)) => {
                list.iter_mut().for_each(|v| self.without_empty(v, inner));
            }
            (Ty::Map(inner), Value::Object(map)) => {
                map.values_mut().for_each(|v| self.without_empty(v, inner))
            }
            (Ty::Ref(name), value) => self.without_empty_lists(value, name),
            _ => {}
        }
    }
}

impl Ty {
    /// The zero of a plain type.
    pub fn zero(&self) -> Option<Value> {
        match self {
            Self::String => Some("".into()),
            Self::Int32 | Self::Int64 => Some(0.into()),
            Self::Bool => Some(false.into()),
            _ => None,
        }
    }

    /// The Go type as errors print it, when it has no name of its own: `[]v1.Container`.
    pub fn go(&self) -> String {
        match self {
            Self::String => "string".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Int32 => "int32".to_owned(),
            Self::Int64 => "int64".to_owned(),
            Self::Double => "float64".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Time => "v1.Time".to_owned(),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Duration => "v1.Duration".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::Any => "runtime.RawExtension".to_owned(),
            Self::Ref(name) => {
                let mut parts = name.rsplit('.');
                let ty = parts.next().unwrap_or("");
                format!("{}.{ty}", parts.next().unwrap_or(""))
            }
            Self::List(inner) => format!("[]{}", inner.go()),
            Self::Map(inner) => format!("map[string]{}", inner.go()),
        }
    }
}

/// What Go's decoding errors call a JSON value: `object`, `array`, `string`, `number`, `bool`, `null`.
pub fn go_kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One struct type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeDef {
    pub fields: BTreeMap<String, Field>,
    /// Go's bare type name as its JSON errors print it (`ConfigMap`).
    pub go_name: String,
    /// `x-kubernetes-map-type` of the struct itself (`atomic` for selectors and references).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub map_type: String,
    /// `x-kubernetes-unions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unions: Option<Value>,
    /// The fields as they stand in the struct, where that is not the order of their protobuf numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<String>,
}

impl TypeDef {
    /// The fields in the order of the struct.
    pub fn in_order(&self) -> impl Iterator<Item = (&String, &Field)> {
        let mut ordered: Vec<_> = self.fields.iter().collect();
        let at = |name: &String| self.order.iter().position(|o| o == name);
        ordered.sort_by_cached_key(|(name, field)| {
            let numbers: Vec<u32> = field.embed_proto.iter().copied().chain([field.proto]).collect();
            (at(name), field.embed != "TypeMeta", numbers)
        });
        ordered.into_iter()
    }
}

/// All types by OpenAPI definition name (`io.k8s.api.core.v1.Pod`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    pub types: BTreeMap<String, TypeDef>,
}
