//! Values of a schema as values of CEL (upstream: apiserver `pkg/cel/common/valuesunstructured.go`).
//!
//! Fields have the names that expressions use; what cannot be named cannot be seen.

use crate::custom::structural::{Additional, Structural};
use crate::declared::{engine, escape, with_type_and_metadata};
use serde_json::{Map, Value};

/// The value as expressions see it; at the `root` of a resource with its type and name.
pub(super) fn of(v: &Value, s: &Structural, root: bool) -> engine::Value {
    if root { node(v, &with_type_and_metadata(s)) } else { node(v, s) }
}

fn node(v: &Value, s: &Structural) -> engine::Value {
    if s.int_or_string {
        return engine::value(v);
    }
    match (s.ty.as_str(), v) {
        ("object", Value::Object(map)) if s.embedded_resource => object(map, &with_type_and_metadata(s)),
        ("object", Value::Object(map)) => object(map, s),
        ("array", Value::Array(list)) => match &s.items {
            Some(items) => engine::list(list.iter().map(|v| node(v, items)).collect()),
            None => engine::value(v),
        },
        ("string", Value::String(text)) => string(text, s),
        // Whole numbers may be written without a point.
        ("number", Value::Number(n)) => {
            n.as_f64().map_or_else(|| engine::value(v), |n| engine::value(&double(n)))
        }
        _ => engine::value(v),
    }
}

/// A number that stays one with a point.
fn double(n: f64) -> Value {
    serde_json::Number::from_f64(n).map_or(Value::Null, Value::Number)
}

fn object(map: &Map<String, Value>, s: &Structural) -> engine::Value {
    if let Some(Additional::Schema(values)) = &s.additional {
        return engine::map(map.iter().map(|(k, v)| (k.clone(), node(v, values))));
    }
    engine::map(map.iter().filter_map(|(k, v)| {
        let value = match s.properties.get(k) {
            Some(property) => node(v, property),
            None => engine::value(v),
        };
        Some((escape(k)?, value))
    }))
}

/// Texts of a format have a type of their own; what is not of the format stays a text.
fn string(text: &str, s: &Structural) -> engine::Value {
    let plain = || engine::text(text);
    match s.values.format.as_str() {
        "byte" => engine::bytes(text).unwrap_or_else(plain),
        "date-time" => text.parse().map_or_else(|_| plain(), engine::timestamp),
        "date" => {
            let midnight = format!("{text}T00:00:00Z");
            midnight.parse().map_or_else(|_| plain(), engine::timestamp)
        }
        "duration" => match meta::time::parse_duration(text).map(jiff::SignedDuration::try_from) {
            Ok(Ok(length)) => engine::duration(length),
            _ => plain(),
        },
        _ => plain(),
    }
}
