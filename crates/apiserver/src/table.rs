//! Tables and metadata-only views of objects (upstream: `pkg/printers`, apiserver `handlers/response.go`).

use bytes::Bytes;
use jiff::Timestamp;
use kinds::{Cell, Column, KindDef};
use meta::status::{Result, Status};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The `meta.k8s.io/v1` Table of some objects of one kind.
pub fn table(
    kind: &KindDef,
    items: &[Value],
    metadata: Value,
    include: &str,
    now: Timestamp,
) -> Result<Value> {
    let default = [kinds::columns::NAME, kinds::columns::CREATED_AT];
    let columns: &[Column] = match kind.printer_columns() {
        [] => &default,
        own => own,
    };
    let definitions: Vec<Value> = columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "type": c.ty, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = items
        .iter()
        .map(|obj| {
            let cells: Vec<Value> = columns.iter().map(|c| cell(c, obj, now)).collect();
            let mut row = json!({"cells": cells});
            match include {
                "None" => {}
                "Object" => row["object"] = obj.clone(),
                _ => row["object"] = partial(&mut obj.clone()),
            }
            row
        })
        .collect();
    Ok(json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    }))
}

fn cell(column: &Column, obj: &Value, now: Timestamp) -> Value {
    match &column.cell {
        Cell::Fn(f) => f(obj, now),
        Cell::Shared(f) => f(obj, now),
    }
}

/// The metadata of an object, as `PartialObjectMetadata`. Takes the metadata out of `obj`.
pub fn partial(obj: &mut Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"].take()})
}

/// As [`partial`], of a stored object: its metadata is taken over as it stands.
///
/// # Errors
/// The bytes are no object's.
pub fn partial_bytes(object: &[u8]) -> Result<Bytes> {
    #[derive(Deserialize)]
    struct Stored<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let stored: Stored<'_> = serde_json::from_slice(object).map_err(Status::internal)?;
    let metadata = stored.metadata.get();
    let mut out = Vec::with_capacity(PARTIAL_HEAD.len() + metadata.len() + 1);
    out.extend_from_slice(PARTIAL_HEAD);
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
    Ok(out.into())
}

const PARTIAL_HEAD: &[u8] = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_stored_bytes_is_that_of_the_object() {
        let stored =
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":"}"},"name":"n"},"spec":{}}"#;
        let mut obj: Value = serde_json::from_str(stored).expect("JSON");
        let bytes = partial_bytes(stored.as_bytes()).expect("made");
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), partial(&mut obj));
        assert!(partial_bytes(b"{}").is_err());
    }
}
