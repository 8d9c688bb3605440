//! JSON merge patch, RFC 7386 (upstream: evanphx/json-patch v4 `merge.go`).

use serde_json::{Map, Value};

/// Merges the patch into the document: nulls delete, maps merge, everything else replaces. A patch that is no
/// map becomes the document.
pub fn apply(doc: &mut Value, patch: &Value) {
    match (doc, patch) {
        (Value::Object(doc), Value::Object(patch)) => merge(doc, patch),
        (doc, patch) => {
            *doc = patch.clone();
            prune(doc);
        }
    }
}

fn merge(doc: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, new) in patch {
        match (doc.get_mut(key), new) {
            (_, Value::Null) => {
                doc.remove(key);
            }
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (Some(Value::Object(_)), new) => {
                doc.insert(key.clone(), new.clone());
            }
            (_, new) => {
                let mut new = new.clone();
                prune(&mut new);
                doc.insert(key.clone(), new);
            }
        }
    }
}

/// Removes what is null from every map within.
fn prune(v: &mut Value) {
    match v {
        Value::Object(m) => {
            m.retain(|_, v| !v.is_null());
            m.values_mut().for_each(prune);
        }
        Value::Array(a) => a.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The cases of RFC 7386, appendix A, and one of nested nulls.
    #[test]
    fn the_rfcs_cases() {
        for (doc, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut got = doc;
            apply(&mut got, &patch);
            assert_eq!(got, want, "{patch}");
        }
    }
}
