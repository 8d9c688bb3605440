//! Kubernetes audit: events, policy and the log backend, with upstream's exact semantics
//! (upstream: apiserver `pkg/audit`, `pkg/apis/audit`, `plugin/pkg/audit`).
//!
//! Invariants: the first rule that matches decides; an event is a superset of the one of the stage before; what the
//! level does not ask for is not kept, not even for a moment.

pub mod batch;
pub mod context;
pub mod event;
pub mod log;
pub mod policy;
pub mod source;
pub mod truncate;

pub use context::AuditContext;
pub use event::{Event, Level, ObjectRef, Stage};
pub use policy::{Attributes, Policy, RuleDecision};
