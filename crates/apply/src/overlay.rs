//! A configuration laid over an object without anybody coming to own what it says: how mutating policies change objects
//! (upstream: apiserver `pkg/admission/plugin/policy/mutating/patch/smd.go`).

use crate::schema::{Type, View};
use crate::set::MAX_DEPTH;
use crate::{typed, validate};
use serde_json::Value;

/// The object with the configuration's fields set. Nothing that is not in the configuration goes.
///
/// # Errors
/// The configuration has not the object's type, or would replace something that is only ever replaced as a whole.
pub fn overlay(live: &Value, config: &Value, view: View<'_>) -> Result<Value, String> {
    let ty = view.root();
    validate::validate(config, ty)
        .map_err(|e| format!("failed to convert patch object to typed object: {e}"))?;
    let mut atomic = Vec::new();
    find_atomic(config, ty, "", 0, &mut atomic);
    if !atomic.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomic.join(", ")
        ));
    }
    typed::merge(live, config, ty).map_err(|e| format!("failed to merge patch: {e}"))
}

/// Upstream: `findAtomics`.
fn find_atomic(value: &Value, ty: Type<'_>, path: &str, depth: usize, out: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            if ty.is_atomic_map() {
                out.push(path.to_owned());
            }
            for (name, child) in map {
                if let Some((child_ty, true)) = ty.child(name) {
                    find_atomic(child, child_ty, &format!("{path}.{name}"), depth + 1, out);
                }
            }
        }
        Value::Array(list) => {
            if ty.is_atomic_list() {
                out.push(path.to_owned());
            }
            for (i, entry) in list.iter().enumerate() {
                find_atomic(entry, ty.item(), &format!("{path}[{i}]"), depth + 1, out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn laid(live: Value, config: Value) -> Result<Value, String> {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer"}, "other": {"type": "string"},
            "list": {"type": "array", "items": {"type": "string"}},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "string"}}}}}}}});
        let types = meta::schema::Schema::default();
        overlay(&live, &config, View::Structural { types: &types, schema: &schema })
    }

    #[test]
    fn fields_are_laid_over() {
        let live = json!({"spec": {"n": 1, "other": "x", "keyed": [{"name": "a", "v": "1"}, {"name": "b", "v": "2"}]}});
        let config = json!({"spec": {"n": 2, "keyed": [{"name": "b", "v": "3"}]}});
        assert_eq!(
            laid(live, config),
            Ok(
                json!({"spec": {"n": 2, "other": "x", "keyed": [{"name": "a", "v": "1"}, {"name": "b", "v": "3"}]}})
            )
        );
    }

    #[test]
    fn whole_things_are_not_replaced() {
        let refused = laid(json!({}), json!({"spec": {"list": ["a"]}})).unwrap_err();
        assert_eq!(
            refused,
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.list"
        );
        let refused = laid(json!({}), json!({"spec": {"nope": 1}})).unwrap_err();
        assert!(refused.contains(".spec.nope: field not declared in schema"), "{refused}");
    }
}
