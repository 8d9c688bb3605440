//! From the texts of a schema's rules to programs (upstream: `compilation.go`).

use crate::custom::json_path;
use crate::custom::structural::Structural;
use crate::declared::Decl;
use crate::declared::engine::{self, Env, Program, Type};
use crate::validate::text;
use serde_json::Value;
use std::sync::LazyLock;

/// The value that a rule is about, and what it was.
pub(super) const SELF: &str = "self";
pub(super) const OLD_SELF: &str = "oldSelf";
/// Names of types in messages begin with it.
const TYPE_NAME: &str = "selfType";

/// One rule, compiled; without a program and without an error when it is empty.
#[derive(Default)]
pub(super) struct Rule {
    pub program: Option<Program>,
    pub error: Option<String>,
    pub uses_old: bool,
    /// Worst case of one evaluation, in CEL's cost units.
    pub cost: u64,
    pub message: Option<Program>,
    pub message_error: Option<String>,
    pub message_cost: u64,
    /// Where errors are reported, below the value.
    pub field_path: String,
}

static BASE: LazyLock<Env> = LazyLock::new(Env::new);

/// Compiles the rules of one node, whose type is declared.
pub(super) fn compile(rules: &[Value], schema: &Structural, decl: &Decl) -> Vec<Rule> {
    let ty = decl.named(TYPE_NAME);
    let mut env = BASE.clone();
    decl.declare(TYPE_NAME, &mut env);
    engine::variable(&mut env, SELF, ty.clone());
    let (mut plain, mut optional) = (env.clone(), env);
    engine::variable(&mut plain, OLD_SELF, ty.clone());
    engine::variable(&mut optional, OLD_SELF, Type::optional(ty));
    rules
        .iter()
        .map(|rule| {
            let env = if rule["optionalOldSelf"] == true { &optional } else { &plain };
            one(rule, schema, decl, env)
        })
        .collect()
}

fn one(rule: &Value, schema: &Structural, decl: &Decl, env: &Env) -> Rule {
    let cost = |program: &Program| engine::max_cost(program, &|path| decl.max_size(path));
    let mut out = Rule::default();
    let source = text(rule, "rule");
    if source.trim().is_empty() {
        return out;
    }
    let program = match engine::compile(env, source) {
        Ok(program) if *program.output() == Type::Bool => program,
        Ok(_) => {
            out.error = Some("cel expression must evaluate to a bool".to_owned());
            return out;
        }
        Err(why) => {
            out.error = Some(format!("compilation failed: {why}"));
            return out;
        }
    };
    out.uses_old = engine::reads(&program, OLD_SELF);
    out.cost = cost(&program);
    out.program = Some(program);
    let source = text(rule, "messageExpression");
    if !source.is_empty() {
        match engine::compile(env, source) {
            Ok(program) if *program.output() == Type::String => {
                out.message_cost = cost(&program);
                out.message = Some(program);
            }
            Ok(_) => out.message_error = Some("messageExpression must evaluate to a string".to_owned()),
            Err(why) => out.message_error = Some(format!("messageExpression compilation failed: {why}")),
        }
        if out.message_error.is_some() {
            return out;
        }
    }
    let path = text(rule, "fieldPath");
    if !path.is_empty()
        && let Ok((path, _)) = json_path::schema_at(path, schema, true)
    {
        out.field_path = path;
    }
    out
}
