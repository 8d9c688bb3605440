//! The scheduler: finds a node for every pod that has none.
//!
//! [`decide`] is pure: a [`Snapshot`](snapshot::Snapshot) and a pod in, a node or the reasons against each out. [`queue`]
//! says which pod is next; [`run`] carries events in and bindings out. Plugins are rows of [`filters`] and [`scores`],
//! named and ordered as upstream's.

pub mod decide;
pub mod filters;
pub mod pod;
pub mod queue;
pub mod resources;
pub mod run;
pub mod scores;
pub mod select;
pub mod snapshot;

pub use decide::{Decision, Rejection, decide};
pub use run::{Handle, start};

/// The name by which pods ask for this scheduler.
pub const NAME: &str = "default-scheduler";
