//! Uniqueness in lists that are sets or maps (upstream: apiextensions `pkg/apiserver/schema/listtype`).

use super::structural::Structural;
use meta::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Errors of all lists of type `set` and `map` in a value.
pub fn check(v: &Value, s: &Structural, path: &Path, errors: &mut ErrorList) {
    match v {
        Value::Object(map) => {
            if let Some(additional) = s.additional.as_ref().and_then(|a| a.schema()) {
                for (key, value) in map {
                    check(value, additional, &path.key(key), errors);
                }
            }
            for (key, value) in map {
                if let Some(property) = s.properties.get(key) {
                    check(value, property, &path.child(key), errors);
                }
            }
        }
        Value::Array(list) => {
            match s.list_type.as_deref() {
                Some("set") => {
                    for i in duplicates(list.iter()) {
                        errors.push(Error::duplicate(&path.index(i), list[i].clone()));
                    }
                }
                Some("map") => map_keys(list, s, path, errors),
                _ => {}
            }
            if let Some(items) = &s.items {
                for (i, value) in list.iter().enumerate() {
                    check(value, items, &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

/// The key of an element of a list of type `map`; absent keys are left out.
pub fn key(element: &Value, keys: &[String]) -> Value {
    let key: Map<String, Value> =
        keys.iter().filter_map(|k| element.get(k).map(|v| (k.clone(), v.clone()))).collect();
    Value::Object(key)
}

fn map_keys(list: &[Value], s: &Structural, path: &Path, errors: &mut ErrorList) {
    if let Some((i, bad)) = list.iter().enumerate().find(|(_, v)| !v.is_null() && !v.is_object()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(Error::invalid(&path.index(i), bad.clone(), detail));
        return;
    }
    let keys: Vec<Value> = list.iter().map(|v| key(v, &s.list_map_keys)).collect();
    for i in duplicates(keys.iter()) {
        errors.push(Error::duplicate(&path.index(i), keys[i].clone()));
    }
}

/// The second place of every value that comes more than once.
fn duplicates<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut out = Vec::new();
    for (i, v) in values.enumerate() {
        let times = seen.entry(v.to_string()).or_insert(0);
        *times += 1;
        if *times == 2 {
            out.push(i);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;
    use serde_json::json;

    #[test]
    fn sets_and_maps_have_no_duplicates() {
        let s = Structural::parse(&json!({"properties": {
            "set": {"items": {}, "x-kubernetes-list-type": "set"},
            "map": {"items": {}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"]},
        }}))
        .unwrap();
        let mut errors = Vec::new();
        let v =
            json!({"set": [1, 2, 1, 1, "1"], "map": [{"a": 1, "c": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 2}]});
        check(&v, &s, &Path::root(), &mut errors);
        assert_eq!(aggregate(&errors), "[map[2]: Duplicate value: {\"a\":1}, set[2]: Duplicate value: 1]");
    }
}
