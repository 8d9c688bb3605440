//! The one place that knows how the crate `cel` is spoken to; all other code goes through it.

use base64::Engine as _;
use cel::{Budget, ObjectType, Sizes};
use std::collections::BTreeMap;

pub use cel::{Activation, Env, HostObject, Program, Type, Value};

/// How deep the types of variables are told; deeper ones are decided at run time.
const DEPTH_MAX: usize = 32;

/// Declares a variable.
pub fn variable(env: &mut Env, name: &str, ty: Type) {
    env.variable(name, ty);
}

/// Declares a type of objects with its fields.
pub fn object_type(env: &mut Env, name: &str, fields: BTreeMap<String, Type>) {
    env.object_type(ObjectType { name: name.to_owned(), fields });
}

/// Declares `Object{}` of any form, and `JSONPatch{}`.
pub fn patch_types(env: &mut Env) {
    env.patch_types();
}

/// # Errors
/// Upstream's words, several lines.
pub fn compile(env: &Env, text: &str) -> Result<Program, String> {
    env.compile(text).map_err(|e| e.to_string())
}

/// Whether the program reads a variable.
pub fn reads(program: &Program, variable: &str) -> bool {
    program.references().iter().any(|r| r == variable)
}

struct Limits<'a>(&'a dyn Fn(&[String]) -> Option<u64>);

impl Sizes for Limits<'_> {
    fn max_size(&self, path: &[String]) -> Option<u64> {
        (self.0)(path)
    }
}

/// The most that one evaluation can cost. `sizes` knows the largest size of a value by its path, which begins with a
/// variable; `@items`, `@values` and `@keys` stand for all of a list or map.
pub fn max_cost(program: &Program, sizes: &dyn Fn(&[String]) -> Option<u64>) -> u64 {
    program.cost(&Limits(sizes)).max
}

/// Why an evaluation gave nothing.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    /// It cost more than it may.
    pub over_limit: bool,
}

/// Evaluates a program that may cost `limit`; with what it cost.
pub fn eval(program: &Program, names: &dyn Activation, limit: u64) -> (Result<Value, Failure>, u64) {
    let mut budget = Budget::new(limit);
    let outcome = program
        .eval(names, &mut budget)
        .map_err(|e| Failure { over_limit: e.is_cost_exceeded(), text: e.to_string() });
    (outcome, budget.spent())
}

/// A value without a schema.
pub fn value(v: &serde_json::Value) -> Value {
    Value::from_json(v)
}

pub fn list(items: Vec<Value>) -> Value {
    Value::list(items)
}

/// Of texts to values; also objects, whose keys are their fields.
pub fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::map(entries)
}

pub fn timestamp(at: jiff::Timestamp) -> Value {
    Value::Timestamp(at)
}

pub fn duration(length: jiff::SignedDuration) -> Value {
    Value::Duration(length)
}

/// Bytes in base64; `None` for text that is none.
pub fn bytes(text: &str) -> Option<Value> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    Some(Value::Bytes(bytes.into()))
}

pub fn text(v: &str) -> Value {
    Value::String(v.into())
}

pub fn optional(v: Option<Value>) -> Value {
    Value::Optional(v.map(std::sync::Arc::new))
}

/// The text that the value is.
pub fn as_text(v: &Value) -> Option<String> {
    match v {
        Value::String(s) => Some(s.to_string()),
        _ => None,
    }
}

/// The elements of a list.
pub fn elements(v: &Value) -> Option<Vec<Value>> {
    match v {
        Value::List(items) => Some(items.to_vec()),
        _ => None,
    }
}

/// A field of an object that an expression made; `None` when it is not set.
pub fn field(v: &Value, name: &str) -> Option<Value> {
    v.field(name)
}

/// # Errors
/// The value has no form in JSON.
pub fn json(v: &Value) -> Result<serde_json::Value, String> {
    v.to_json()
}

/// Whether the names of the types in an object that an expression made are those of the fields that they stand in
/// (upstream: `ObjectVal.CheckTypeNamesMatchFieldPathNames`).
///
/// # Errors
/// All that are not, a line each.
pub fn check_type_names(v: &Value) -> Result<(), String> {
    v.check_type_names()
}

/// The name of the value's type, for messages.
pub fn type_name(v: &Value) -> String {
    v.type_of().to_string()
}

/// The type of a variable as others see it: objects are of any type (upstream: `convertCelTypeToDeclType`).
pub(super) fn plain(ty: &Type) -> Type {
    simplified(ty, 0)
}

fn simplified(ty: &Type, depth: usize) -> Type {
    match ty {
        _ if depth > DEPTH_MAX => Type::Dyn,
        Type::List(items) => Type::list(simplified(items, depth + 1)),
        Type::Map(keys, values) => Type::map(simplified(keys, depth + 1), simplified(values, depth + 1)),
        Type::Bool
        | Type::Int
        | Type::Uint
        | Type::Double
        | Type::String
        | Type::Bytes
        | Type::Null
        | Type::Timestamp
        | Type::Duration => ty.clone(),
        _ => Type::Dyn,
    }
}
