//! Tables and metadata-only views of objects (upstream: `pkg/printers`, apiserver `handlers/response.go`).

use jiff::Timestamp;
use kinds::{Cell, Column, KindDef};
use meta::status::Result;
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
