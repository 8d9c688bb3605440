//! Declared types: what an expression in CEL knows of the objects it is about, and how large they can be
//! (upstream: apiserver `pkg/cel/types.go`, `pkg/cel/common/schemas.go`).
//!
//! Invariant: a field whose type cannot be told is not declared, nor is what holds it.

pub mod admission;
pub mod engine;
mod escape;
mod table;

pub use escape::escape;
pub use table::of_type;

use crate::custom::structural::{Additional, Structural};
use engine::{Env, Type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The largest request that sizes are estimated from, in bytes (upstream: `MaxRequestSizeBytes`).
pub const REQUEST_BYTES_MAX: i64 = 3 << 20;
/// The longest name of an object, in characters; a generated one leaves a place for its suffix.
const NAME_CHARS_MAX: i64 = 253;

/// A type with its limits.
#[derive(Clone, Debug)]
pub struct Decl {
    pub shape: Shape,
    /// Most elements of a list or map, or bytes of a text; 0 for what has no size.
    pub max_elements: i64,
    /// The fewest bytes that a value takes in JSON.
    pub min_bytes: i64,
}

/// What values look like.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Decided at run time.
    Dyn,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Decl>),
    /// Of texts to values.
    Map(Arc<Decl>),
    /// Fields by the name that expressions use.
    Object(BTreeMap<String, Arc<Decl>>),
}

/// Upstream: `limits.go`.
const DURATION_BYTES_MIN: i64 = 3;
const DURATION_BYTES_MAX: i64 = 32;
const DATE_BYTES: i64 = 12;
const TIME_BYTES_MIN: i64 = 21;
const TIME_BYTES_MAX: i64 = 32;
const STRING_BYTES_MIN: i64 = 2;
const BOOL_BYTES_MIN: i64 = 4;
const NUMBER_BYTES_MIN: i64 = 1;
/// The longest text in a request, without its quotes.
const STRING_BYTES_MAX: i64 = REQUEST_BYTES_MAX - 2;

impl Decl {
    fn new(shape: Shape, min_bytes: i64, max_elements: i64) -> Self {
        Self { shape, max_elements, min_bytes }
    }

    /// A type without limits, as the hand-made ones are.
    pub fn plain(shape: Shape) -> Self {
        Self::new(shape, 2, 0)
    }

    fn boolean() -> Self {
        Self::new(Shape::Bool, BOOL_BYTES_MIN, 0)
    }

    fn number(shape: Shape) -> Self {
        Self::new(shape, NUMBER_BYTES_MIN, 0)
    }

    fn list(items: Self, max: Option<i64>) -> Self {
        // Brackets and a comma each.
        let max = max.map_or_else(|| (REQUEST_BYTES_MAX - 2) / (items.min_bytes + 1), |n| n.max(0));
        Self::new(Shape::List(Arc::new(items)), 2, max)
    }

    fn map(values: Self, max: Option<i64>) -> Self {
        // Quotes, a letter, colon and comma of a key.
        let max = max.map_or_else(|| (REQUEST_BYTES_MAX - 2) / (values.min_bytes + 6), |n| n.max(0));
        Self::new(Shape::Map(Arc::new(values)), 2, max)
    }

    fn text(format: &str, max_chars: Option<i64>, longest_value: Option<i64>) -> Self {
        match format {
            "byte" => {
                let max = max_chars.map_or(STRING_BYTES_MAX, |n| n.max(0));
                Self::new(Shape::Bytes, STRING_BYTES_MIN, max)
            }
            "duration" => Self::new(Shape::Duration, DURATION_BYTES_MIN, DURATION_BYTES_MAX),
            "date" => Self::new(Shape::Timestamp, DATE_BYTES, DATE_BYTES),
            "date-time" => Self::new(Shape::Timestamp, TIME_BYTES_MIN, TIME_BYTES_MAX),
            _ => {
                let max = max_chars.map(bytes_of_chars).or(longest_value).unwrap_or(STRING_BYTES_MAX);
                Self::new(Shape::String, STRING_BYTES_MIN, max)
            }
        }
    }

    /// How often values can occur in one object at most, from their size (upstream: `maxCardinality`).
    pub fn max_cardinality(&self) -> u64 {
        u64::try_from(REQUEST_BYTES_MAX / (self.min_bytes + 1)).unwrap_or(0)
    }

    /// The type under a name; objects in it get names made from it.
    pub fn named(&self, name: &str) -> Type {
        match &self.shape {
            Shape::Dyn => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Timestamp => Type::Timestamp,
            Shape::Duration => Type::Duration,
            Shape::List(items) => Type::list(items.named(&format!("{name}.@idx"))),
            Shape::Map(values) => Type::map(Type::String, values.named(&format!("{name}.@elem"))),
            Shape::Object(_) => Type::object(name),
        }
    }

    /// Declares the objects in the type, named as [`Self::named`] names them.
    pub fn declare(&self, name: &str, env: &mut Env) {
        match &self.shape {
            Shape::List(items) => items.declare(&format!("{name}.@idx"), env),
            Shape::Map(values) => values.declare(&format!("{name}.@elem"), env),
            Shape::Object(fields) => {
                let of = |(field, decl): (&String, &Arc<Self>)| {
                    (field.clone(), decl.named(&format!("{name}.{field}")))
                };
                engine::object_type(env, name, fields.iter().map(of).collect());
                for (field, decl) in fields {
                    decl.declare(&format!("{name}.{field}"), env);
                }
            }
            _ => {}
        }
    }

    /// The largest size at a path that begins with the name of a variable of the type.
    pub fn max_size(&self, path: &[String]) -> Option<u64> {
        let (_, below) = path.split_first()?;
        self.at(below).map(|d| u64::try_from(d.max_elements).unwrap_or(0))
    }

    /// The type at a path below the value itself.
    fn at(&self, path: &[String]) -> Option<&Self> {
        let mut at = self;
        for name in path {
            at = match (&at.shape, name.as_str()) {
                (Shape::List(items), "@items" | "@values") => items,
                (Shape::Map(values), "@items" | "@values") => values,
                // Keys are texts of any length.
                (Shape::Object(fields), name) => fields.get(name)?,
                _ => return None,
            };
        }
        Some(at)
    }
}

/// Characters may take up to four bytes.
fn bytes_of_chars(chars: i64) -> i64 {
    chars.max(0).saturating_mul(4)
}

/// The declared type of a schema; `None` when expressions cannot see values of it. At the `root` of a resource its type
/// and name are always there (upstream: `SchemaDeclType`).
pub fn of_schema(s: &Structural, root: bool) -> Option<Decl> {
    if s.int_or_string {
        let max = s.values.max_length.map_or(STRING_BYTES_MAX, bytes_of_chars);
        return Some(Decl::new(Shape::Dyn, 1, max));
    }
    let completed = root.then(|| with_type_and_metadata(s));
    let s = completed.as_ref().unwrap_or(s);
    match s.ty.as_str() {
        "array" => {
            let items = s.items.as_ref()?;
            Some(Decl::list(of_schema(items, items.embedded_resource)?, s.values.max_items))
        }
        "object" => match &s.additional {
            Some(Additional::Schema(values)) => {
                Some(Decl::map(of_schema(values, values.embedded_resource)?, s.values.max_properties))
            }
            _ => Some(of_object(s)),
        },
        "string" => {
            let longest = s.values.enumeration.iter().filter_map(|v| v.as_str().map(str::len)).max();
            let longest = (!s.values.enumeration.is_empty())
                .then(|| i64::try_from(longest.unwrap_or(0)).unwrap_or(i64::MAX));
            Some(Decl::text(&s.values.format, s.values.max_length, longest))
        }
        "boolean" => Some(Decl::boolean()),
        "number" => Some(Decl::number(Shape::Double)),
        "integer" => Some(Decl::number(Shape::Int)),
        _ => None,
    }
}

fn of_object(s: &Structural) -> Decl {
    let mut fields = BTreeMap::new();
    let mut min_bytes = 2;
    for (name, property) in &s.properties {
        let Some(decl) = of_schema(property, property.embedded_resource) else { continue };
        // What has a default need not be sent.
        if property.default.is_none() && s.values.required.contains(name) {
            min_bytes += i64::try_from(name.len()).unwrap_or(0) + decl.min_bytes + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, Arc::new(decl));
        }
    }
    Decl::new(Shape::Object(fields), min_bytes, 0)
}

/// The declared type of a custom resource as its published schema has it, which knows all of metadata.
pub fn of_resource(s: &Structural) -> Option<Decl> {
    const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let mut decl = of_schema(s, true)?;
    if let (Shape::Object(fields), Some(metadata)) =
        (&mut decl.shape, of_type(crate::schema::schema(), OBJECT_META))
    {
        fields.insert("metadata".to_owned(), Arc::new(metadata));
    }
    Some(decl)
}

/// The schema with the parts that every resource has (upstream: `model.WithTypeAndObjectMeta`).
pub fn with_type_and_metadata(s: &Structural) -> Structural {
    let of = |s: &Structural, name: &str, ty: &str| s.properties.get(name).is_some_and(|p| p.ty == ty);
    let named = s
        .properties
        .get("metadata")
        .is_some_and(|m| of(m, "name", "string") && of(m, "generateName", "string"));
    if of(s, "kind", "string") && of(s, "apiVersion", "string") && of(s, "metadata", "object") && named {
        return s.clone();
    }
    let mut out = s.clone();
    let string = |max: Option<i64>| {
        let mut s = Structural { ty: "string".into(), ..Structural::default() };
        s.values.max_length = max;
        Arc::new(s)
    };
    let capped = |name: &str, max: i64| {
        let own = s.properties.get("metadata").and_then(|m| m.properties.get(name));
        string(Some(own.and_then(|p| p.values.max_length).map_or(max, |n| n.min(max))))
    };
    let metadata = Structural {
        ty: "object".into(),
        properties: BTreeMap::from([
            ("name".to_owned(), capped("name", NAME_CHARS_MAX)),
            ("generateName".to_owned(), capped("generateName", NAME_CHARS_MAX - 1)),
        ]),
        ..Structural::default()
    };
    out.properties.insert("kind".into(), string(None));
    out.properties.insert("apiVersion".into(), string(None));
    out.properties.insert("metadata".into(), Arc::new(metadata));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(schema: Value) -> Option<Decl> {
        of_schema(&Structural::parse(&schema).expect("structural"), false)
    }

    #[test]
    fn limits_come_from_the_schema_or_the_size_of_a_request() {
        let max = |schema| of(schema).map(|d| d.max_elements);
        assert_eq!(max(json!({"type": "string", "maxLength": 10})), Some(40));
        assert_eq!(max(json!({"type": "string", "enum": ["a", "abc"]})), Some(3));
        assert_eq!(max(json!({"type": "string"})), Some(STRING_BYTES_MAX));
        assert_eq!(
            max(json!({"type": "array", "items": {"type": "integer"}})),
            Some((REQUEST_BYTES_MAX - 2) / 2)
        );
        assert_eq!(max(json!({"type": "array", "maxItems": 7, "items": {"type": "integer"}})), Some(7));
        let map = json!({"type": "object", "additionalProperties": {"type": "boolean"}});
        assert_eq!(max(map), Some((REQUEST_BYTES_MAX - 2) / 10));
    }

    #[test]
    fn what_is_required_makes_objects_larger() {
        let schema = json!({"type": "object", "required": ["name", "sized"], "properties": {
            "name": {"type": "string"}, "sized": {"type": "integer", "default": 1}, "other": {"type": "integer"}}});
        let decl = of(schema).expect("declared");
        assert_eq!(decl.min_bytes, 2 + 4 + 2 + 4);
        assert_eq!(decl.max_cardinality(), u64::try_from(REQUEST_BYTES_MAX / 13).unwrap_or(0));
    }

    #[test]
    fn what_has_no_type_is_not_declared() {
        let schema = json!({"type": "object", "properties": {
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"x-kubernetes-preserve-unknown-fields": true}},
            "a-b": {"type": "string"}, "9": {"type": "string"},
            "either": {"x-kubernetes-int-or-string": true}}});
        let Some(Decl { shape: Shape::Object(fields), .. }) = of(schema) else { panic!("an object") };
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["a__dash__b", "either"]);
        assert!(matches!(fields["either"].shape, Shape::Dyn));
    }

    #[test]
    fn a_root_has_its_type_and_name() {
        let schema =
            Structural::parse(&json!({"type": "object", "properties": {"metadata": {"type": "object",
            "properties": {"name": {"type": "string", "maxLength": 5}}}}}))
            .expect("structural");
        let Some(Decl { shape: Shape::Object(fields), .. }) = of_schema(&schema, true) else {
            panic!("an object")
        };
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["apiVersion", "kind", "metadata"]);
        let Shape::Object(metadata) = &fields["metadata"].shape else { panic!("an object") };
        assert_eq!((metadata["name"].max_elements, metadata["generateName"].max_elements), (20, 252 * 4));
    }
}
