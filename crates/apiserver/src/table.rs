//! Tables and metadata-only views of objects (upstream: `pkg/printers`, apiserver `handlers/response.go`).

use bytes::Bytes;
use jiff::Timestamp;
use kinds::{Cell, Column, KindDef};
use meta::status::{Result, Status};
use serde::Deserialize;
use serde_json::value::RawValue;
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

    /// Whether a table without objects has no list of rows at all: that of kinds without a printer of their own (upstream:
    /// `rest.defaultTableConvertor`, which appends to a list that is nil).
    pub fn rows_are_nil(kind: &KindDef) -> bool {
        let own = kind.columns;
        !kind.is_custom() && (own.is_empty() || own.iter().any(|c| c.name == DEFAULT[1].name))
    }

    pub fn definitions(&self) -> Value {
        let of = |c: &Column| {
            json!({
                "name": c.name, "type": c.ty, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        };
        self.columns.iter().filter(|c| !c.name.is_empty()).map(of).collect()
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
        let metadata = match meta::object::resource_version(&obj) {
            // What was only tried has none.
            "" => json!({}),
            revision => json!({"resourceVersion": revision}),
        };
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

/// As [`partial`], of a stored object: its metadata is taken over as it stands.
///
/// # Errors
/// The bytes are no object's.
pub fn partial_bytes(object: &[u8], version: &str) -> Result<Bytes> {
    #[derive(Deserialize)]
    struct Stored<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let stored: Stored<'_> = serde_json::from_slice(object).map_err(Status::internal)?;
    let head = ["{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"", version, "\",\"metadata\":"];
    Ok([head[0], head[1], head[2], stored.metadata.get(), "}"].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(kind: &str, group: &str, obj: Value) -> Value {
        let row = kinds::KINDS.iter().map(|row| row()).find(|r| r.kind == kind && r.group == group);
        TableView::new(&row.expect("a row"), "meta.k8s.io/v1", "None", Timestamp::UNIX_EPOCH).of(obj, true)
    }

    #[test]
    fn events_are_shown_alike_in_both_groups() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m"});
        let new = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "m"});
        let shown = table("Event", "", core);
        assert_eq!(shown, table("Event", "events.k8s.io", new));
        let cells = json!(["<unknown>", "", "", "pod/p", "", "", "m", "<unknown>", 1, "e"]);
        assert_eq!(shown["rows"][0]["cells"], cells);
    }

    #[test]
    fn a_cell_may_have_no_column() {
        let address = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "name": "x"}}});
        let shown = table("IPAddress", "networking.k8s.io", address);
        assert_eq!(shown["columnDefinitions"].as_array().map(Vec::len), Some(2));
        assert_eq!(shown["rows"][0]["cells"], json!(["10.0.0.1", "services/x", "<unknown>"]));
    }

    #[test]
    fn the_metadata_of_stored_bytes_is_that_of_the_object() {
        let stored =
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":"}"},"name":"n"},"spec":{}}"#;
        let mut obj: Value = serde_json::from_str(stored).expect("JSON");
        let version = "meta.k8s.io/v1";
        let bytes = partial_bytes(stored.as_bytes(), version).expect("made");
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), partial(&mut obj, version));
        assert!(partial_bytes(b"{}", version).is_err());
    }
}
