//! Defaults of a schema, and nulls that it does not allow (upstream: apiextensions
//! `pkg/apiserver/schema/defaulting/{algorithm,prunenulls}.go`).
//!
//! Both run on requests and on what was stored.

use super::structural::{Additional, Structural};
use serde_json::Value;

fn null_not_allowed(v: &Value, s: &Structural) -> bool {
    v.is_null() && !s.nullable
}

/// Fills in defaults where a field is absent, or null without being nullable.
pub fn default(x: &mut Value, s: &Structural) {
    match x {
        Value::Object(map) => {
            for (name, property) in &s.properties {
                let Some(value) = &property.default else { continue };
                if map.get(name).is_none_or(|v| null_not_allowed(v, property)) {
                    map.insert(name.clone(), value.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(property) = s.properties.get(name) {
                    default(value, property);
                } else if let Some(Additional::Schema(additional)) = &s.additional {
                    element(value, additional);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &s.items {
                list.iter_mut().for_each(|value| element(value, items));
            }
        }
        _ => {}
    }
}

fn element(value: &mut Value, s: &Structural) {
    if null_not_allowed(value, s) {
        *value = s.default.clone().unwrap_or(Value::Null);
    }
    default(value, s);
}

/// Drops null fields that are neither nullable nor have a default.
pub fn prune_nulls(x: &mut Value, s: Option<&Structural>) {
    match x {
        Value::Object(map) => map.retain(|name, value| {
            let child = s.and_then(|s| s.field(name));
            if child.is_some_and(|c| null_not_allowed(value, c) && c.default.is_none()) {
                return false;
            }
            prune_nulls(value, child.map(|c| &**c));
            true
        }),
        Value::Array(list) => {
            let items = s.and_then(|s| s.items.as_deref());
            list.iter_mut().for_each(|value| prune_nulls(value, items));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_nulls() {
        let s = Structural::parse(&json!({"properties": {
            "a": {"default": "A"},
            "n": {"default": 1, "nullable": true},
            "none": {"type": "string"},
            "o": {"default": {}, "properties": {"x": {"default": 5}}},
            "list": {"items": {"properties": {"x": {"default": 6}}}},
            "map": {"additionalProperties": {"default": 7}},
        }}))
        .unwrap();
        let mut obj = json!({"a": null, "n": null, "none": null, "list": [{}, {"x": 1}], "map": {"k": null}});
        prune_nulls(&mut obj, Some(&s));
        default(&mut obj, &s);
        assert_eq!(
            obj,
            json!({"a": "A", "n": null, "o": {"x": 5}, "list": [{"x": 6}, {"x": 1}], "map": {"k": 7}})
        );
        let again = obj.clone();
        default(&mut obj, &s);
        assert_eq!(obj, again);
    }
}
