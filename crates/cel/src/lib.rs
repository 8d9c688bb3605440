//! CEL, the expression language, as Kubernetes 1.37 has it: parser, checker, evaluation, costs
//! (upstream: `cel-go` with apiserver `pkg/cel`; the functions are those of `environment/base.go` at version 1.37).
//!
//! Invariant: an expression that compiles ends, within a cost that is bounded before it runs and counted while it does.

mod ast;
mod check;
mod cost;
mod env;
mod error;
mod estimate;
mod functions;
mod lexer;
mod library;
mod literals;
mod macros;
mod parse;
mod program;
mod runtime_cost;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use cost::{CostEstimate, Sizes};
pub use env::{Env, ObjectType};
pub use error::CompileError;
pub use program::{Activation, Budget, EvalError, Program};
pub use types::Type;
pub use value::{HostObject, Key, Object, Value};
