//! Tables and metadata-only views of objects (upstream: `pkg/printers`, apiserver `handlers/response.go`).

use jiff::Timestamp;
use kinds::{Cell, Column, KindDef};
use serde_json::{Value, json};

static DEFAULT: [Column; 2] = [kinds::columns::NAME, kinds::columns::CREATED_AT];

/// How a kind's objects are shown as rows.
pub struct TableView<'a> {
    columns: &'a [Column],
    /// The version of tables and metadata.
    version: &'static str,
    include: &'a str,
    now: Timestamp,
}

impl<'a> TableView<'a> {
    pub fn new(kind: &'a KindDef, version: &'static str, include: &'a str, now: Timestamp) -> Self {
        let columns = match kind.printer_columns() {
            [] => &DEFAULT,
            own => own,
        };
        Self { columns, version, include, now }
    }

    pub fn definitions(&self) -> Value {
        let of = |c: &Column| {
            json!({
                "name": c.name, "type": c.ty, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        };
        self.columns.iter().map(of).collect()
    }

    pub fn row(&self, mut obj: Value) -> Value {
        let cells: Vec<Value> = self.columns.iter().map(|c| cell(c, &obj, self.now)).collect();
        // Clients of watches look for the end of the initial events in it.
        let marked = obj["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true";
        let object = match self.include {
            "Object" => obj,
            "None" if !marked => Value::Null,
            _ => partial(&mut obj, self.version),
        };
        json!({"cells": cells, "object": object})
    }

    /// The table of one object. Without `headers` it follows one that had them.
    pub fn of(&self, obj: Value, headers: bool) -> Value {
        let definitions = if headers { self.definitions() } else { Value::Null };
        let metadata = json!({"resourceVersion": meta::object::resource_version(&obj)});
        json!({
            "kind": "Table", "apiVersion": self.version, "metadata": metadata,
            "columnDefinitions": definitions, "rows": [self.row(obj)],
        })
    }
}

fn cell(column: &Column, obj: &Value, now: Timestamp) -> Value {
    match &column.cell {
        Cell::Fn(f) => f(obj, now),
        Cell::Shared(f) => f(obj, now),
    }
}

/// The metadata of an object, as `PartialObjectMetadata`. Takes the metadata out of `obj`.
pub fn partial(obj: &mut Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": obj["metadata"].take()})
}
