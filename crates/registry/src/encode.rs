//! The one encoding of an object: JSON with `kind`, `apiVersion` and `metadata` first, and a place for its revision.
//!
//! Type and version come first so that a list item (which upstream sends without them) is a slice of the same bytes.

use kinds::KindDef;
use serde_json::Value;
use store::Stamped;

/// Encodes an object of a row. The store writes the commit's revision at the stamp, into `metadata.resourceVersion`.
pub fn encode(kind: &KindDef, obj: &Value) -> Stamped {
    after(head(&kind.kind, &kind.api_version()), obj)
}

/// Encodes an object that is in the version in which the row's objects are stored.
pub fn encode_stored(kind: &KindDef, obj: &Value) -> Stamped {
    after(head(&kind.kind, &kind.storage_version()), obj)
}

/// Whether an object's bytes are in the row's own version: they begin as [`encode`] begins them.
pub fn is_own(kind: &KindDef, bytes: &[u8]) -> bool {
    let slash = if kind.group.is_empty() { "" } else { "/" };
    let head = ["{\"kind\":\"", &kind.kind, "\",\"apiVersion\":\"", &kind.group, slash, &kind.version, "\","];
    let mut rest = bytes;
    head.iter().all(|part| match rest.strip_prefix(part.as_bytes()) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// What [`is_own`] looks for, for many objects.
pub fn own_head(kind: &KindDef) -> Vec<u8> {
    head(&kind.kind, &kind.api_version())
}

/// Whether an object's bytes are as [`encode_stored`] begins them today: a definition may have changed the version.
pub fn is_stored_form(kind: &KindDef, bytes: &[u8]) -> bool {
    bytes.starts_with(&head(&kind.kind, &kind.storage_version()))
}

fn after(mut out: Vec<u8>, obj: &Value) -> Stamped {
    let empty = serde_json::Map::new();
    let top = obj.as_object().unwrap_or(&empty);
    out.extend_from_slice(b"\"metadata\":{");
    let mut stamp = None;
    let mut first = true;
    let mut separate = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    let metadata = obj["metadata"].as_object().unwrap_or(&empty);
    // Keys are in sorted order; the revision takes its place among them.
    for (key, value) in metadata.iter().filter(|(k, _)| *k != "resourceVersion") {
        if stamp.is_none() && key.as_str() > "resourceVersion" {
            separate(&mut out);
            stamp = Some(write_revision(&mut out));
        }
        separate(&mut out);
        write_pair(&mut out, key, value);
    }
    let stamp = stamp.unwrap_or_else(|| {
        separate(&mut out);
        write_revision(&mut out)
    });
    out.push(b'}');
    for (key, value) in top.iter().filter(|(k, _)| !matches!(k.as_str(), "kind" | "apiVersion" | "metadata"))
    {
        out.push(b',');
        write_pair(&mut out, key, value);
    }
    out.push(b'}');
    Stamped { bytes: out, stamp: Some(stamp) }
}

/// Encodes an object whose revision is already in it (converted or read objects).
pub fn reencode(kind: &KindDef, obj: &Value) -> Vec<u8> {
    with_revision(encode(kind, obj), obj)
}

/// As [`reencode`], of an object that is in the stored version.
pub fn reencode_stored(kind: &KindDef, obj: &Value) -> Vec<u8> {
    with_revision(encode_stored(kind, obj), obj)
}

fn with_revision(mut stamped: Stamped, obj: &Value) -> Vec<u8> {
    if let Some(at) = stamped.stamp {
        let rv = meta::object::resource_version(obj).bytes();
        stamped.bytes.splice(at..at, rv);
    }
    stamped.bytes
}

/// The bytes of a list item: the object without `kind` and `apiVersion`. `bytes` must come from [`encode`] for the row.
pub fn item_slice<'a>(kind: &KindDef, bytes: &'a [u8]) -> &'a [u8] {
    bytes.get(head_len(kind)..).unwrap_or_default()
}

fn head(kind: &str, api_version: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(api_version.as_bytes());
    out.extend_from_slice(b"\",");
    out
}

/// Length of what [`head`] writes: everything before `"metadata"`.
fn head_len(kind: &KindDef) -> usize {
    let api_version = if kind.group.is_empty() { 0 } else { kind.group.len() + 1 } + kind.version.len();
    "{\"kind\":\"".len() + kind.kind.len() + "\",\"apiVersion\":\"".len() + api_version + "\",".len()
}

fn write_revision(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let at = out.len();
    out.push(b'"');
    at
}

fn write_pair(out: &mut Vec<u8>, key: &str, value: &Value) {
    // Writing JSON into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row() -> KindDef {
        KindDef {
            kind: "Event".into(),
            group: "events.k8s.io".into(),
            plural: "events".into(),
            ..KindDef::BASE
        }
    }

    fn stamped(kind: &KindDef, obj: &Value, revision: &str) -> Vec<u8> {
        let s = encode(kind, obj);
        let mut bytes = s.bytes;
        let at = s.stamp.expect("has a stamp");
        bytes.splice(at..at, revision.bytes());
        bytes
    }

    #[test]
    fn the_revision_lands_in_metadata_and_nowhere_else() {
        let obj = json!({
            "kind": "wrong", "metadata": {"uid": "u", "name": "n", "annotations": {"resourceVersion": ""}},
            "involvedObject": {"resourceVersion": ""}
        });
        let back: Value = serde_json::from_slice(&stamped(&row(), &obj, "42")).expect("valid JSON");
        assert_eq!(back["metadata"]["resourceVersion"], "42");
        assert_eq!(back["metadata"]["annotations"]["resourceVersion"], "");
        assert_eq!(back["involvedObject"]["resourceVersion"], "");
        assert_eq!((&back["kind"], &back["apiVersion"]), (&json!("Event"), &json!("events.k8s.io/v1")));
    }

    #[test]
    fn bytes_of_another_version_are_not_a_rows_own() {
        let mut kind = row();
        let bytes = stamped(&kind, &json!({}), "7");
        assert!(is_own(&kind, &bytes) && !is_own(&kind, b""));
        kind.version = "v2".into();
        assert!(!is_own(&kind, &bytes));
        kind.group = "".into();
        assert!(is_own(&kind, &stamped(&kind, &json!({}), "7")) && !is_own(&kind, &bytes));
    }

    #[test]
    fn empty_metadata_still_gets_its_revision() {
        let back: Value = serde_json::from_slice(&stamped(&row(), &json!({}), "7")).expect("valid JSON");
        assert_eq!(back["metadata"], json!({"resourceVersion": "7"}));
    }

    #[test]
    fn a_list_item_is_the_object_without_its_type() {
        let bytes = stamped(&row(), &json!({"metadata": {"name": "n"}, "note": "x"}), "1");
        let text = format!("{{{}", String::from_utf8_lossy(item_slice(&row(), &bytes)));
        let back: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(back, json!({"metadata": {"name": "n", "resourceVersion": "1"}, "note": "x"}));
    }
}
