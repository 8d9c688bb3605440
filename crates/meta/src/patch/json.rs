//! JSON patch, RFC 6902, with the liberties of upstream's library (evanphx/json-patch v4): negative list
//! indices count from the end, and `replace` makes a map key that is missing.

use crate::patch::deeper_than;
use crate::status::{Details, Reason, Status};
use crate::yaml::MAX_DEPTH;
use serde_json::Value;

/// Most operations in a patch (upstream: `maxJSONPatchOperations`).
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes of JSON that the `copy` operations of a patch may add (upstream: `JSONPatchMaxCopyBytes`).
pub const MAX_COPY_BYTES: usize = 3 << 20;

/// How a test says that it did not hold.
const TEST_FAILED: &str = "failed: test failed";

/// Applies a patch.
///
/// # Errors
/// 400 when it is no JSON patch, 413 above [`MAX_OPERATIONS`], 422 when an operation does not apply or a test
/// fails; upstream's texts, which for 422 do not say what went wrong.
pub fn apply(doc: &mut Value, patch: &Value) -> Result<(), Status> {
    let operations = match patch {
        Value::Null => return Ok(()),
        Value::Array(a) => a,
        other => return Err(undecodable(other, "[]handlers.jsonPatchOp")),
    };
    if let Some(odd) = operations.iter().find(|o| !o.is_object() && !o.is_null()) {
        return Err(undecodable(odd, "jsonpatch.Operation"));
    }
    if operations.len() > MAX_OPERATIONS {
        let n = operations.len();
        return Err(Status::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {n}"
        )));
    }
    let mut copied = 0;
    for op in operations {
        operation(doc, op, &mut copied).map_err(|_| {
            let text = "the server rejected our request due to an error in our request";
            let mut s = Status::new(422, Reason::Invalid, text);
            s.details = Some(Details::default());
            s
        })?;
    }
    Ok(())
}

/// Refuses operations whose members are of the wrong types, as upstream does before it tries them, where it looks for
/// unknown fields.
///
/// # Errors
/// 400 for the first.
pub fn check(patch: &Value) -> Result<(), Status> {
    for op in patch.as_array().into_iter().flatten() {
        if !op.is_object() && !op.is_null() {
            return Err(undecodable(op, "handlers.jsonPatchOp"));
        }
        for name in ["from", "op", "path"] {
            let wrong = op.get(name).filter(|v| !v.is_string() && !v.is_null());
            if let Some(wrong) = wrong {
                let what = crate::schema::go_kind(wrong);
                return Err(Status::bad_request(format!(
                    "error decoding patch: json: cannot unmarshal {what} into Go struct field jsonPatchOp.{name} of type string"
                )));
            }
        }
    }
    Ok(())
}

/// Applies one operation after the other; the text says what is wrong, in upstream's words. An operation that fails leaves
/// what those before it changed.
///
/// # Errors
/// See [`Failed`].
pub fn apply_each(doc: &mut Value, operations: &[Value]) -> Result<(), Failed> {
    if operations.len() > MAX_OPERATIONS {
        return Err(Failed::Other(format!("more than {MAX_OPERATIONS} operations")));
    }
    let mut copied = 0;
    for op in operations {
        operation(doc, op, &mut copied)
            .map_err(|why| if why.ends_with(TEST_FAILED) { Failed::Test } else { Failed::Other(why) })?;
    }
    Ok(())
}

/// Why a patch does not apply.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// A test did not hold.
    Test,
    Other(String),
}

fn undecodable(v: &Value, into: &str) -> Status {
    let what = crate::schema::go_kind(v);
    Status::bad_request(format!(
        "error decoding patch: json: cannot unmarshal {what} into Go value of type {into}"
    ))
}

/// One operation; the text says what is wrong, in upstream's words.
fn operation(doc: &mut Value, op: &Value, copied: &mut usize) -> Result<(), String> {
    let text = |f: &str| op.get(f).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let path =
        || text("path").ok_or_else(|| format!("{kind} operation failed to decode path: missing value"));
    let from =
        || text("from").ok_or_else(|| format!("{kind} operation failed to decode from: missing value"));
    match kind {
        "add" => add(doc, path()?, op.get("value").cloned().unwrap_or(Value::Null), kind),
        "remove" => remove(doc, path()?, kind).map(|_| ()),
        "replace" => replace(doc, path()?, op.get("value").cloned().unwrap_or(Value::Null)),
        "test" => test(doc, path()?, op.get("value")),
        "move" => {
            let (from, path) = (from()?, path()?);
            let value = remove(doc, from, kind)?;
            add(doc, path, value, kind)
        }
        "copy" => {
            let (from, path) = (from()?, path()?);
            let (container, key) = find(doc, from).ok_or_else(|| missing(kind, from))?;
            let value = get(container, &key)?.cloned().unwrap_or(Value::Null);
            *copied += value.to_string().len();
            if *copied > MAX_COPY_BYTES {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPY_BYTES}"
                ));
            }
            add(doc, path, value, kind)
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn missing(kind: &str, path: &str) -> String {
    format!("{kind} operation does not apply: doc is missing path: {path:?}: missing value")
}

/// The container that holds the path's last step, and that step.
fn find<'a>(doc: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parents, key) = path.rsplit_once('/')?;
    let mut at = doc;
    for part in parents.split('/').skip(1) {
        let key = unescape(part);
        at = match at {
            Value::Object(m) => m.get_mut(&key)?,
            Value::Array(a) => {
                let i = index(&key, a.len()).ok()?;
                a.get_mut(i)?
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then(|| (at, unescape(key)))
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// A list index below `len`, negative ones from the end.
fn index(key: &str, len: usize) -> Result<usize, String> {
    let i: i64 = key.parse().map_err(|_| format!("value was not a proper array index: '{key}'"))?;
    let signed = i64::try_from(len).unwrap_or(i64::MAX);
    let at = if i < 0 { i.saturating_add(signed) } else { i };
    match usize::try_from(at) {
        Ok(at) if at < len => Ok(at),
        _ => Err(format!("Unable to access invalid index: {i}: invalid index referenced")),
    }
}

/// What a container holds; a map may hold nothing there.
fn get<'a>(container: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match container {
        Value::Array(a) => Ok(a.get(index(key, a.len())?)),
        other => Ok(other.get(key)),
    }
}

fn too_deep(path: &str, value: &Value) -> Result<(), String> {
    let steps = path.matches('/').count();
    if steps > MAX_DEPTH || deeper_than(value, MAX_DEPTH - steps) {
        Err("exceeded max depth".to_owned())
    } else {
        Ok(())
    }
}

fn add(doc: &mut Value, path: &str, value: Value, kind: &str) -> Result<(), String> {
    too_deep(path, &value)?;
    let (container, key) = find(doc, path).ok_or_else(|| missing(kind, path))?;
    match container {
        Value::Array(a) if key == "-" => a.push(value),
        Value::Array(a) => {
            let i = index(&key, a.len() + 1)?;
            a.insert(i, value);
        }
        Value::Object(m) => {
            m.insert(key, value);
        }
        _ => return Err(missing(kind, path)),
    }
    Ok(())
}

fn remove(doc: &mut Value, path: &str, kind: &str) -> Result<Value, String> {
    let (container, key) = find(doc, path).ok_or_else(|| missing(kind, path))?;
    match container {
        Value::Array(a) => {
            let i = index(&key, a.len())?;
            Ok(a.remove(i))
        }
        Value::Object(m) => {
            m.remove(&key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        _ => Err(missing(kind, path)),
    }
}

fn replace(doc: &mut Value, path: &str, value: Value) -> Result<(), String> {
    too_deep(path, &value)?;
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".to_owned());
        }
        *doc = value;
        return Ok(());
    }
    let (container, key) = find(doc, path).ok_or_else(|| missing("replace", path))?;
    match container {
        Value::Array(a) => {
            let i = index(&key, a.len())?;
            a[i] = value;
        }
        Value::Object(m) => {
            m.insert(key, value);
        }
        _ => return Err(missing("replace", path)),
    }
    Ok(())
}

fn test(doc: &mut Value, path: &str, want: Option<&Value>) -> Result<(), String> {
    let want = want.unwrap_or(&Value::Null);
    let have = if path.is_empty() {
        &*doc
    } else {
        let (container, key) = find(doc, path).ok_or_else(|| missing("test", path))?;
        get(container, &key)?.unwrap_or(&Value::Null)
    };
    if same(have, want) { Ok(()) } else { Err(format!("testing value {path} {TEST_FAILED}")) }
}

/// Equality in which 1 equals 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, a)| y.get(k).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(doc: Value, patch: Value) -> Result<Value, Status> {
        let mut doc = doc;
        apply(&mut doc, &patch).map(|()| doc)
    }

    #[test]
    fn operations_apply() {
        let cases = [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                json!({"a": [1, 2, 3]}),
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]})),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1]})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a/b": {"~": 1}}), json!([{"op": "remove", "path": "/a~1b/~0"}]), json!({"a/b": {}})),
            (
                json!({"a": 1, "b": {}}),
                json!([{"op": "move", "from": "/a", "path": "/b/c"}]),
                json!({"b": {"c": 1}}),
            ),
            (
                json!({"a": {"x": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": {"x": 1}, "b": {"x": 1}}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1.0}, {"op": "remove", "path": "/a"}]),
                json!({}),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), json!({"a": 1})),
        ];
        for (doc, patch, want) in cases {
            assert_eq!(run(doc, patch.clone()), Ok(want), "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply_is_422() {
        for patch in [
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "add", "path": "/b/c", "value": 2}]),
            json!([{"op": "jump"}]),
            json!([{"op": "add", "value": 2}]),
            json!([{"op": "add", "path": "/l/5", "value": 2}]),
            json!([{"op": "replace", "path": "/l/x", "value": 2}]),
            json!([null]),
        ] {
            let e = run(json!({"a": 1, "l": []}), patch.clone()).unwrap_err();
            assert_eq!((e.code, e.reason), (422, Reason::Invalid), "{patch}");
            assert_eq!(e.message, "the server rejected our request due to an error in our request");
        }
        let e = run(json!({}), json!({})).unwrap_err();
        assert_eq!(
            e.message,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
    }

    #[test]
    fn patches_cannot_blow_an_object_up() {
        let many: Vec<Value> = (0..=MAX_OPERATIONS).map(|_| json!({"op": "test", "path": ""})).collect();
        assert_eq!(run(json!({}), Value::from(many)).unwrap_err().code, 413);
        let doubling: Vec<Value> =
            (0..60).map(|_| json!({"op": "copy", "from": "", "path": "/a/-"})).collect();
        assert_eq!(run(json!({"a": []}), Value::from(doubling)).unwrap_err().code, 422);
        let copies: Vec<Value> =
            (0..60).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/{i}")})).collect();
        assert_eq!(run(json!({"a": {"x": "y"}}), Value::from(copies)).unwrap_err().code, 422);
        let mut path = String::new();
        let deep: Vec<Value> = (0..MAX_DEPTH + 1)
            .map(|_| {
                path.push_str("/a");
                json!({"op": "add", "path": path, "value": {}})
            })
            .collect();
        assert_eq!(run(json!({}), Value::from(deep)).unwrap_err().code, 422);
    }
}
