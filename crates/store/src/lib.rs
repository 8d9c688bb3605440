//! Durable, revisioned key-value store with watch: the cluster's one source of truth.
//!
//! The store knows keys, bytes and revisions, nothing of kinds. It keeps them itself ([`Embedded`]) or in real etcd
//! ([`Etcd`]). Invariants:
//! a commit is acknowledged and becomes visible only after it is on disk; revisions grow with every commit that
//! changes a key (by one, unless others write to the same etcd); watchers see every change after their start once, in
//! revision order, or are told that it was compacted away; an audit record rides in the commit of the change that it
//! describes; values under sealed prefixes are plain only in memory.

mod api;
pub mod disk;
mod embedded;
mod history;
mod item;
mod queue;
mod recover;
mod remote;
pub mod seal;
mod slot;
mod snapshot;
mod state;
#[cfg(any(test, feature = "testing"))]
pub mod suite;
#[cfg(test)]
mod tests;
pub mod tools;
mod tree;
mod view;
mod wal;

pub use ::etcd::{ConfigError as EtcdConfigError, EtcdConfig};
pub use api::*;
pub use embedded::{Embedded, Fatal, Options};
pub use recover::{OpenError, Recovery};
pub use remote::{Etcd, EtcdError, EtcdOptions, Mark};
pub use seal::{Seal, SealError};
pub use slot::block_on;
