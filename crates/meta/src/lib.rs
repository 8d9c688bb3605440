//! API machinery without I/O: what every kind has in common.
//!
//! Objects travel as [`serde_json::Value`] trees (or their encoded bytes); this crate knows their
//! metadata, their type table ([`schema`]), how they are patched, selected and refused. It never
//! reads a file, opens a socket or asks the time.

pub mod field;
pub mod go;
pub mod gvk;
pub mod names;
pub mod object;
pub mod patch;
pub mod permit;
pub mod proto;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
pub mod yaml;

pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind};
pub use status::{Reason, Status};
