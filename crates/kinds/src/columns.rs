//! Printer columns that many kinds share (upstream: `pkg/printers/internalversion/printers.go`).

use crate::def::{Cell, Column};
use jiff::Timestamp;
use meta::object;
use serde_json::Value;
use std::borrow::Cow;

/// A column shown always; cells come from a function of the object.
pub const fn column(name: &'static str, ty: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name: Cow::Borrowed(name),
        ty,
        format: "",
        description: Cow::Borrowed(""),
        priority: 0,
        cell: Cell::Fn(cell),
    }
}

/// A column of the wide table.
pub const fn wide(name: &'static str, ty: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name: Cow::Borrowed(name),
        ty,
        format: "",
        description: Cow::Borrowed(""),
        priority: 1,
        cell: Cell::Fn(cell),
    }
}

pub const NAME: Column = Column {
    name: Cow::Borrowed("Name"),
    ty: "string",
    format: "name",
    description: Cow::Borrowed(""),
    priority: 0,
    cell: Cell::Fn(|obj, _| object::name(obj).into()),
};

/// Time since creation, as a short text.
pub const AGE: Column =
    column("Age", "string", |obj, now| age(object::meta_str(obj, "creationTimestamp"), now).into());

/// The column of kinds that have no own columns.
pub const CREATED_AT: Column = Column {
    name: Cow::Borrowed("Created At"),
    ty: "date",
    format: "",
    description: Cow::Borrowed(""),
    priority: 0,
    cell: Cell::Fn(|obj, _| object::meta_str(obj, "creationTimestamp").into()),
};

/// The age of a timestamp text, `<unknown>` when it is none.
pub fn age(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => meta::time::human_duration(now.duration_since(then)),
        Err(_) => "<unknown>".to_owned(),
    }
}
