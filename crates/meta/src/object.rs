//! Reading and writing the metadata of an object tree.
//!
//! Functions take the whole object; absent fields read as empty, and writers make what is missing.

use serde_json::{Map, Value, json};

/// A string field under `metadata`, empty when absent.
pub fn meta_str<'a>(obj: &'a Value, field: &str) -> &'a str {
    obj["metadata"][field].as_str().unwrap_or("")
}

pub fn name(obj: &Value) -> &str {
    meta_str(obj, "name")
}

pub fn namespace(obj: &Value) -> &str {
    meta_str(obj, "namespace")
}

pub fn uid(obj: &Value) -> &str {
    meta_str(obj, "uid")
}

pub fn resource_version(obj: &Value) -> &str {
    meta_str(obj, "resourceVersion")
}

pub fn generation(obj: &Value) -> i64 {
    obj["metadata"]["generation"].as_i64().unwrap_or(0)
}

pub fn is_deleting(obj: &Value) -> bool {
    !meta_str(obj, "deletionTimestamp").is_empty()
}

/// A map of strings under `metadata` (labels, annotations), `None` when absent.
pub fn meta_map<'a>(obj: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    obj["metadata"][field].as_object()
}

pub fn label<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    meta_map(obj, "labels")?.get(key)?.as_str()
}

pub fn annotation<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    meta_map(obj, "annotations")?.get(key)?.as_str()
}

/// The strings of a list, none when it is not one.
pub fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn finalizers(obj: &Value) -> Vec<&str> {
    obj["metadata"]["finalizers"]
        .as_array()
        .map(|a| a.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// The `metadata` map, made when missing. `None` only when the object or its metadata is not a map.
pub fn metadata_mut(obj: &mut Value) -> Option<&mut Map<String, Value>> {
    obj.as_object_mut()?.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
}

/// Sets `metadata.<field>`; does nothing to a tree that is no object.
pub fn set_meta(obj: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(m) = metadata_mut(obj) {
        m.insert(field.to_owned(), value.into());
    }
}

pub fn remove_meta(obj: &mut Value, field: &str) {
    if let Some(m) = metadata_mut(obj) {
        m.remove(field);
    }
}

/// The value at a chain of map keys, `None` when any is absent or null.
pub fn at<'a>(obj: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut v = obj;
    for p in path {
        v = v.get(p)?;
    }
    (!v.is_null()).then_some(v)
}

/// The map at a chain of map keys, made where absent or null. `None` when something else is in the way.
pub fn map_at<'a>(obj: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut v = obj;
    for p in path {
        let slot = v.as_object_mut()?.entry(*p).or_insert(Value::Null);
        if slot.is_null() {
            *slot = json!({});
        }
        v = slot;
    }
    v.as_object_mut()
}

/// Inserts a default where the field is absent or null.
pub fn default_at(obj: &mut Value, path: &[&str], field: &str, value: impl Into<Value>) {
    if let Some(m) = map_at(obj, path) {
        let slot = m.entry(field).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value.into();
        }
    }
}

/// Whether anything but the given top-level fields and `metadata` differs (the test for a new generation).
pub fn spec_differs(a: &Value, b: &Value, ignore: &[&str]) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a != b };
    let skip = |k: &str| k == "metadata" || ignore.contains(&k);
    a.iter().filter(|(k, _)| !skip(k)).any(|(k, v)| b.get(k) != Some(v))
        || b.keys().any(|k| !skip(k) && !a.contains_key(k))
}

/// The controlling owner reference, if any.
pub fn controller_of(obj: &Value) -> Option<&Value> {
    obj["metadata"]["ownerReferences"].as_array()?.iter().find(|r| r["controller"] == true)
}
