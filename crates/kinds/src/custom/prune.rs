//! Dropping what a schema does not name (upstream: apiextensions `pkg/apiserver/schema/pruning`).

use super::structural::{Additional, Structural};
use serde_json::Value;

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops unknown fields and gives their paths, sorted. `root` says that the value is a whole object, whose metadata is
/// not the schema's to judge.
pub fn prune(obj: &mut Value, schema: Option<&Structural>, root: bool) -> Vec<String> {
    let none = Structural::default();
    let schema = if root { Some(schema.unwrap_or(&none)) } else { schema };
    let mut unknown = Vec::new();
    let embedded = root || schema.is_some_and(|s| s.embedded_resource);
    walk(obj, schema, embedded, &mut String::new(), &mut unknown);
    unknown.sort_unstable();
    unknown
}

/// Runs `f` with the path longer by a field's name.
fn within(path: &mut String, name: &str, f: impl FnOnce(&mut String)) {
    let len = path.len();
    if len > 0 {
        path.push('.');
    }
    path.push_str(name);
    f(path);
    path.truncate(len);
}

fn at_index(path: &mut String, i: usize, f: impl FnOnce(&mut String)) {
    let len = path.len();
    path.push_str(&format!("[{i}]"));
    f(path);
    path.truncate(len);
}

fn embedded(s: Option<&Structural>) -> bool {
    s.is_some_and(|s| s.embedded_resource)
}

fn walk(x: &mut Value, s: Option<&Structural>, resource: bool, path: &mut String, unknown: &mut Vec<String>) {
    if let Some(s) = s.filter(|s| s.preserve_unknown_fields) {
        keep(x, Some(s), resource, path, unknown);
        return;
    }
    match x {
        Value::Object(map) => map.retain(|key, value| {
            if resource && META_FIELDS.contains(&key.as_str()) {
                return true;
            }
            if let Some(child) = s.and_then(|s| s.properties.get(key)) {
                within(path, key, |p| walk(value, Some(child), child.embedded_resource, p, unknown));
                return true;
            }
            if let Some(additional) = s.and_then(|s| s.additional.as_ref()) {
                let child = additional.schema().map(|c| &**c);
                within(path, key, |p| walk(value, child, embedded(child), p, unknown));
                return true;
            }
            if s.is_none() || !META_FIELDS.contains(&key.as_str()) || !path.is_empty() {
                within(path, key, |p| unknown.push(p.clone()));
            }
            false
        }),
        Value::Array(list) => {
            let items = s.and_then(|s| s.items.as_deref());
            for (i, value) in list.iter_mut().enumerate() {
                at_index(path, i, |p| walk(value, items, embedded(items), p, unknown));
            }
        }
        _ => {}
    }
}

/// Under `x-kubernetes-preserve-unknown-fields` only what is specified is looked into.
fn keep(x: &mut Value, s: Option<&Structural>, resource: bool, path: &mut String, unknown: &mut Vec<String>) {
    let Some(s) = s else { return };
    match x {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if resource && META_FIELDS.contains(&key.as_str()) {
                    continue;
                }
                if let Some(child) = s.properties.get(key) {
                    within(path, key, |p| walk(value, Some(child), child.embedded_resource, p, unknown));
                } else if let Some(additional) = &s.additional {
                    let child = match additional {
                        Additional::Any(_) => None,
                        Additional::Schema(c) => Some(&**c),
                    };
                    within(path, key, |p| walk(value, child, embedded(child), p, unknown));
                }
            }
        }
        Value::Array(list) => {
            let items = s.items.as_deref();
            for (i, value) in list.iter_mut().enumerate() {
                at_index(path, i, |p| keep(value, items, embedded(items), p, unknown));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(schema: Value, mut obj: Value, root: bool) -> (Value, Vec<String>) {
        let s = Structural::parse(&schema).unwrap();
        let unknown = prune(&mut obj, Some(&s), root);
        (obj, unknown)
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = json!({"properties": {
            "spec": {"properties": {"a": {}, "list": {"items": {"properties": {"x": {}}}}}},
            "free": {"x-kubernetes-preserve-unknown-fields": true, "properties": {"in": {"type": "object"}}},
            "map": {"additionalProperties": {"properties": {"k": {}}}},
            "open": {"additionalProperties": true},
        }});
        let obj = json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "odd": 1},
            "spec": {"a": 1, "b": 2, "list": [{"x": 1}, {"x": 1, "y": 2}]},
            "free": {"any": {"thing": 1}, "in": {"z": 1}},
            "map": {"m": {"k": 1, "l": 2}},
            "open": {"o": {"p": 1}},
            "extra": 1,
        });
        let (pruned, unknown) = run(schema, obj, true);
        assert_eq!(
            pruned,
            json!({
                "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "odd": 1},
                "spec": {"a": 1, "list": [{"x": 1}, {"x": 1}]},
                "free": {"any": {"thing": 1}, "in": {}},
                "map": {"m": {"k": 1}},
                "open": {"o": {}},
            })
        );
        assert_eq!(unknown, ["extra", "free.in.z", "map.m.l", "open.o.p", "spec.b", "spec.list[1].y"]);
    }

    #[test]
    fn embedded_resources_keep_their_metadata() {
        let schema = json!({"properties": {"r": {"x-kubernetes-embedded-resource": true, "properties": {"spec": {}}}}});
        let obj = json!({"r": {"apiVersion": "v1", "kind": "K", "metadata": {"a": 1}, "spec": 1, "x": 2}});
        let (pruned, unknown) = run(schema, obj, false);
        assert_eq!(pruned, json!({"r": {"apiVersion": "v1", "kind": "K", "metadata": {"a": 1}, "spec": 1}}));
        assert_eq!(unknown, ["r.x"]);
    }
}
