//! How the values of a type merge: the type table, a structural schema, or nothing known.
//!
//! Every type answers the same questions ([`Type::shape`], [`Type::child`], [`Type::item`]); walkers know no other source.

use crate::element::Element;
use meta::schema::{Field, Schema, Ty, TypeDef};
use serde_json::{Map, Value};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// How deep a zero value is made; Go types nest far less without a pointer.
const ZERO_DEPTH: usize = 32;

/// What is known of the type of an object.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// A type of the table, by definition name.
    Typed { types: &'a Schema, definition: &'a str },
    /// The structural schema of a custom resource's version (`openAPIV3Schema`); metadata is typed by the table.
    Structural { types: &'a Schema, schema: &'a Value },
    /// Nothing: objects are granular, lists atomic.
    Deduced,
}

/// The type of a value somewhere in an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Type<'a> {
    Struct {
        types: &'a Schema,
        def: &'a TypeDef,
        map_type: &'a str,
    },
    Plain {
        types: &'a Schema,
        ty: &'a Ty,
        field: Option<&'a Field>,
    },
    Structural {
        types: &'a Schema,
        schema: &'a Value,
        object: bool,
    },
    /// Objects granular, lists atomic.
    Deduced,
    /// Anything, as one leaf.
    Untyped,
}

/// What the type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    String,
    Boolean,
    /// Any scalar.
    Scalar,
    Map {
        atomic: bool,
    },
    List(ListKind),
    /// Anything.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    Keyed,
}

/// How a value is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As a whole.
    Leaf,
    /// Field by field.
    Map,
    /// Entry by entry.
    List,
}

impl<'a> View<'a> {
    pub(crate) fn root(self) -> Type<'a> {
        match self {
            Self::Typed { types, definition } => named(types, definition, ""),
            Self::Structural { types, schema } => Type::Structural { types, schema, object: true },
            Self::Deduced => Type::Deduced,
        }
    }

    /// What an object of the type is before anything is set, as upstream's typed objects encode it: fields that are
    /// never left out are there. Creation is compared with it.
    pub(crate) fn zero(self) -> Value {
        match self {
            Self::Typed { types, definition } => zero(types, definition, 0),
            _ => Value::Object(Map::new()),
        }
    }
}

fn zero(types: &Schema, definition: &str, depth: usize) -> Value {
    let mut out = Map::new();
    let Some(def) = types.types.get(definition).filter(|_| depth < ZERO_DEPTH) else {
        return Value::Object(out);
    };
    for (name, field) in def.fields.iter().filter(|(_, f)| !f.omitempty) {
        let value = match &field.ty {
            _ if field.pointer => Value::Null,
            Ty::Ref(inner) => zero(types, inner, depth + 1),
            Ty::String => Value::String(String::new()),
            Ty::Bool => Value::Bool(false),
            Ty::Int32 | Ty::Int64 | Ty::Double | Ty::IntOrString => Value::from(0),
            Ty::Quantity => Value::from("0"),
            Ty::Duration => Value::from("0s"),
            Ty::List(_) | Ty::Map(_) | Ty::Bytes | Ty::Time | Ty::MicroTime | Ty::Any => Value::Null,
        };
        out.insert(name.clone(), value);
    }
    Value::Object(out)
}

fn named<'a>(types: &'a Schema, definition: &str, map_type: &'a str) -> Type<'a> {
    match types.types.get(definition) {
        Some(def) => {
            let map_type = if map_type.is_empty() { def.map_type.as_str() } else { map_type };
            Type::Struct { types, def, map_type }
        }
        None => Type::Deduced,
    }
}

fn plain<'a>(types: &'a Schema, ty: &'a Ty, field: Option<&'a Field>) -> Type<'a> {
    match ty {
        Ty::Ref(name) => named(types, name, field.map_or("", |f| f.map_type.as_str())),
        Ty::Any if field.is_none() => Type::Deduced,
        // which the documents give no type, so that it may be anything
        Ty::IntOrString => Type::Deduced,
        Ty::Any => Type::Untyped,
        _ => Type::Plain { types, ty, field },
    }
}

/// Whether the flag is set in the schema.
fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

impl<'a> Type<'a> {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Deduced | Self::Untyped => Kind::Any,
            Self::Struct { map_type, .. } => Kind::Map { atomic: map_type == "atomic" },
            Self::Plain { ty, field, .. } => match ty {
                Ty::String | Ty::Bytes | Ty::Duration => Kind::String,
                Ty::Bool => Kind::Boolean,
                Ty::Int32 | Ty::Int64 | Ty::Double => Kind::Number,
                Ty::Time | Ty::MicroTime | Ty::Quantity => Kind::Scalar,
                Ty::Any | Ty::IntOrString | Ty::Ref(_) => Kind::Any,
                Ty::Map(_) => Kind::Map { atomic: field.is_some_and(|f| f.map_type == "atomic") },
                Ty::List(_) => Kind::List(field.map_or(ListKind::Atomic, list_kind)),
            },
            Self::Structural { schema, object, .. } => structural_kind(schema, object),
        }
    }

    /// How this value of the type is walked; null as an empty value of the type.
    pub(crate) fn shape(self, value: &Value) -> Shape {
        let kind = self.kind();
        match (kind, value) {
            (Kind::Map { atomic: false }, Value::Object(_) | Value::Null) => Shape::Map,
            (Kind::Any, Value::Object(_)) if self.granular() => Shape::Map,
            (Kind::List(ListKind::Set | ListKind::Keyed), Value::Array(_) | Value::Null) => Shape::List,
            _ => Shape::Leaf,
        }
    }

    /// Whether lists and objects of the type are never walked.
    pub(crate) fn is_whole(self) -> bool {
        match self.kind() {
            Kind::Map { atomic } => atomic,
            Kind::List(kind) => kind == ListKind::Atomic,
            Kind::Any => !self.granular(),
            _ => false,
        }
    }

    /// Whether objects are replaced as a whole.
    pub(crate) fn is_atomic_map(self) -> bool {
        matches!(self.kind(), Kind::Map { atomic: true })
    }

    /// Whether lists are replaced as a whole.
    pub(crate) fn is_atomic_list(self) -> bool {
        self.kind() == Kind::List(ListKind::Atomic)
    }

    /// Whether objects in a value of any kind are walked.
    fn granular(self) -> bool {
        match self {
            Self::Untyped => false,
            Self::Structural { schema, .. } => flag(schema, PRESERVE),
            _ => true,
        }
    }

    /// The type of a field, and whether the type names the field (the fields of a struct, not the keys of a map).
    /// `None` when the type has no such field.
    pub(crate) fn child(self, name: &str) -> Option<(Self, bool)> {
        match self {
            Self::Deduced => Some((Self::Deduced, false)),
            Self::Untyped => Some((Self::Untyped, false)),
            Self::Struct { types, def, .. } => {
                def.fields.get(name).map(|f| (plain(types, &f.ty, Some(f)), true))
            }
            Self::Plain { types, ty: Ty::Map(inner), .. } => Some((plain(types, inner, None), false)),
            Self::Plain { .. } => None,
            Self::Structural { types, schema, object } => {
                if object || flag(schema, EMBEDDED) {
                    match name {
                        "metadata" => return Some((named(types, OBJECT_META, ""), true)),
                        "apiVersion" | "kind" => return Some((Self::Untyped, true)),
                        _ => {}
                    }
                }
                let inner = |schema| Self::Structural { types, schema, object: false };
                if let Some(child) = schema.get("properties").and_then(|p| p.get(name)) {
                    return Some((inner(child), true));
                }
                match schema.get("additionalProperties") {
                    Some(more @ Value::Object(_)) => Some((inner(more), false)),
                    Some(Value::Bool(true)) => Some((Self::Deduced, false)),
                    _ => flag(schema, PRESERVE).then_some((Self::Deduced, false)),
                }
            }
        }
    }

    /// [`Self::child`]; a field that is not known is one leaf.
    pub(crate) fn field(self, name: &str) -> (Self, bool) {
        self.child(name).unwrap_or((Self::Untyped, false))
    }

    /// The type of the entries of a list.
    pub(crate) fn item(self) -> Self {
        match self {
            Self::Plain { types, ty: Ty::List(inner), .. } => plain(types, inner, None),
            Self::Structural { types, schema, .. } => match schema.get("items") {
                Some(schema) => Self::Structural { types, schema, object: false },
                None => Self::Untyped,
            },
            _ => Self::Untyped,
        }
    }

    fn keys(self) -> Vec<&'a str> {
        match self {
            Self::Plain { field: Some(f), .. } if f.list_map_keys.is_empty() => {
                vec![f.patch_merge_key.as_str()]
            }
            Self::Plain { field: Some(f), .. } => f.list_map_keys.iter().map(String::as_str).collect(),
            Self::Structural { schema, .. } => schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .map(|keys| keys.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn field_default(self, name: &str) -> Option<Value> {
        match self {
            Self::Struct { def, .. } => def.fields.get(name)?.published_default(),
            Self::Structural { schema, .. } => schema.get("properties")?.get(name)?.get("default").cloned(),
            _ => None,
        }
    }

    /// The element of an entry of a set or keyed list.
    ///
    /// # Errors
    /// The entry cannot be told from others (upstream: structured-merge-diff `typed/helpers.go#listItemToPathElement`).
    pub(crate) fn element(self, entry: &Value) -> Result<Element, String> {
        if self.kind() != Kind::List(ListKind::Keyed) {
            return match entry {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".to_owned())
                }
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".to_owned())
                }
                scalar => Ok(Element::Value(scalar.clone())),
            };
        }
        let entry = match entry {
            Value::Object(entry) => entry,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let keys = self.keys();
        let item = self.item();
        let mut fields: Vec<(String, Value)> = keys
            .iter()
            .filter_map(|key| {
                let value = entry.get(*key).cloned().or_else(|| item.field_default(key))?;
                Some(((*key).to_owned(), value))
            })
            .collect();
        if fields.is_empty() && !keys.is_empty() {
            let quoted: Vec<_> = keys.iter().map(|k| format!("{k:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] \
                 (and doesn't have default values for any key fields)",
                quoted.join(" ")
            ));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Element::Key(fields))
    }
}

fn list_kind(field: &Field) -> ListKind {
    match field.list_type.as_str() {
        "atomic" => ListKind::Atomic,
        "set" => ListKind::Set,
        "map" => ListKind::Keyed,
        _ if field.patch_strategy.split(',').any(|s| s == "merge") => {
            if field.patch_merge_key.is_empty() {
                ListKind::Set
            } else {
                ListKind::Keyed
            }
        }
        _ => ListKind::Atomic,
    }
}

fn structural_kind(schema: &Value, object: bool) -> Kind {
    if object || flag(schema, EMBEDDED) {
        return Kind::Map { atomic: false };
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        return Kind::Any;
    }
    match text(schema, "type") {
        "object" => Kind::Map { atomic: text(schema, "x-kubernetes-map-type") == "atomic" },
        "array" => Kind::List(match text(schema, "x-kubernetes-list-type") {
            "set" => ListKind::Set,
            "map" => ListKind::Keyed,
            _ => ListKind::Atomic,
        }),
        "string" if text(schema, "format") == "int-or-string" => Kind::Scalar,
        "string" => Kind::String,
        "boolean" => Kind::Boolean,
        "integer" | "number" => Kind::Number,
        _ => Kind::Any,
    }
}
