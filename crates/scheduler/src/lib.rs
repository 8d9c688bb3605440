//! The scheduler: finds a node for every pod that asks for `default-scheduler`.
//!
//! [`decide`] is pure: a [`Snapshot`] of nodes and a pod in, a node or the reasons out. Filters, scores, weights and
//! texts are upstream's defaults. [`start`] runs it: one task owns queue and cache, only bindings run beside it. A pod
//! that was given a node counts there at once, so no decision is made on room that is already promised.
//!
//! Not here: preemption, volumes, dynamic resources, pod groups, extenders and profiles.

mod cache;
mod decide;
mod filter;
mod message;
mod pod;
mod queue;
mod resources;
mod run;
mod score;
mod selector;
mod snapshot;
mod taint;

pub use decide::{Decision, Preemption, decide};
pub use pod::{PodInfo, Surroundings};
pub use resources::{Requests, Resources};
pub use run::start;
pub use snapshot::{NodeInfo, Snapshot};
