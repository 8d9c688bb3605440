//! The node agent: runs the pods that are bound to its node and reports what became of them.
//!
//! [`agent::NodeAgent::start`] is the entry. Each pod has a task ([`pod::worker`]) around a pure plan ([`pod::plan`]);
//! containers belong to shims of the [`runtime`] and outlive the agent. Evictions under pressure are not done: pressure
//! is reported as node conditions only.

pub mod agent;
pub mod api;
pub mod backoff;
pub mod config;
pub mod context;
pub mod image_pull;
pub mod image_store;
pub mod lease;
pub mod logs;
pub mod machine;
pub mod net;
pub mod node_status;
pub mod paths;
pub mod pod;
pub mod ports;
pub mod probe;
pub mod runtime;
pub mod server;
#[cfg(test)]
mod testing;
pub mod volumes;
