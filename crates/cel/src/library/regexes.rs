//! Regular expressions (cel-go: `matches`; upstream: apiserver `pkg/cel/library/regex.go`).
//!
//! The engine runs in time linear to the text, as Go's does.

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;
use regex::Regex;

/// The largest program that a pattern may become, in bytes.
const PROGRAM_MAX: usize = 4 << 20;

pub const ROWS: &[Row] = &[
    Row {
        name: "matches",
        run: matches,
        overloads: &[("matches", "(string, string) -> bool"), ("matches_string", "string.(string) -> bool")],
    },
    Row { name: "find", run: find, overloads: &[("string_find_string", "string.(string) -> string")] },
    Row {
        name: "findAll",
        run: find_all,
        overloads: &[
            ("string_find_all_string", "string.(string) -> list(string)"),
            ("string_find_all_string_int", "string.(string, int) -> list(string)"),
        ],
    },
];

/// # Errors
/// The pattern is none.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(pattern)
        .size_limit(PROGRAM_MAX)
        .build()
        .map_err(|e| format!("error parsing regexp: {}", e.to_string().lines().last().unwrap_or_default()))
}

/// A call with a pattern that was compiled before.
pub fn with(function: &str, regex: &Regex, args: &[Value]) -> Outcome {
    match (function, args) {
        ("matches", [Value::String(s), _]) => Ok(Value::Bool(regex.is_match(s))),
        ("find", [Value::String(s), _]) => {
            Ok(Value::String(regex.find(s).map(|m| m.as_str()).unwrap_or_default().into()))
        }
        ("findAll", [Value::String(s), _]) => Ok(all(regex, s, -1)),
        ("findAll", [Value::String(s), _, Value::Int(n)]) => Ok(all(regex, s, *n)),
        _ => Err(Failure::NoOverload),
    }
}

fn all(regex: &Regex, s: &str, limit: i64) -> Value {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Value::list(regex.find_iter(s).take(limit).map(|m| Value::String(m.as_str().into())).collect())
}

fn run(function: &str, args: &[Value], illegal: &str) -> Outcome {
    match args {
        [Value::String(_), Value::String(pattern), ..] => {
            with(function, &compile(pattern).map_err(|e| format!("{illegal}{e}"))?, args)
        }
        _ => Err(Failure::NoOverload),
    }
}

fn matches(args: &[Value]) -> Outcome {
    run("matches", args, "")
}

fn find(args: &[Value]) -> Outcome {
    run("find", args, "Illegal regex: ")
}

fn find_all(args: &[Value]) -> Outcome {
    run("findAll", args, "Illegal regex: ")
}
