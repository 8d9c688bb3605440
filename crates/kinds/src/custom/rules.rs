//! Rules in CEL, `x-kubernetes-validations` (upstream: apiextensions `pkg/apiserver/schema/cel`).
//!
//! Rules are compiled once per schema; a schema without rules costs nothing.

mod check;
mod compile;
mod cost;
mod message;
mod value;

pub use check::{Outcome, Validator};
pub(super) use cost::{Node, TotalCost};

/// What one rule may cost at run time (upstream: `PerCallLimit`).
const CALL_COST_MAX: u64 = 1_000_000;
/// What all rules together may cost for one object (upstream: `RuntimeCELCostBudget`).
pub const OBJECT_COST_MAX: u64 = 10_000_000;
/// The longest message that an expression may make, in bytes (upstream: `MaxEvaluatedMessageExpressionSizeBytes`).
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

#[cfg(test)]
mod tests;
