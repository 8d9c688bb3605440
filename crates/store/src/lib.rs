//! Durable, revisioned key-value store with watch: the cluster's one source of truth.
//!
//! The store knows keys, bytes and revisions, nothing of kinds. Invariants:
//! a commit is acknowledged and becomes visible only after it is on disk; revisions grow by one per commit that
//! changes a key; watchers see every change after their start once, in revision order, or are told that it was
//! compacted away; an audit record rides in the commit of the change that it describes.

mod api;

pub use api::*;
