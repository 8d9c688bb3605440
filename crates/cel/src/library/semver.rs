//! Versions (upstream: apiserver `pkg/cel/library/semverlib.go` version 1).

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;
use semver::Version;
use std::cmp::Ordering;
use std::sync::Arc;

pub const ROWS: &[Row] = &[
    Row {
        name: "semver",
        run: to_semver,
        overloads: &[
            ("string_to_semver", "(string) -> kubernetes.Semver"),
            ("string_bool_to_semver", "(string, bool) -> kubernetes.Semver"),
        ],
    },
    Row {
        name: "isSemver",
        run: is_semver,
        overloads: &[
            ("is_semver_string", "(string) -> bool"),
            ("is_semver_string_bool", "(string, bool) -> bool"),
        ],
    },
    Row {
        name: "isGreaterThan",
        run: |a| ordered(a, |o| Value::Bool(o.is_gt())),
        overloads: &[("semver_is_greater_than", "kubernetes.Semver.(kubernetes.Semver) -> bool")],
    },
    Row {
        name: "isLessThan",
        run: |a| ordered(a, |o| Value::Bool(o.is_lt())),
        overloads: &[("semver_is_less_than", "kubernetes.Semver.(kubernetes.Semver) -> bool")],
    },
    Row {
        name: "compareTo",
        run: |a| ordered(a, |o| Value::Int(o as i64)),
        overloads: &[("semver_compare_to", "kubernetes.Semver.(kubernetes.Semver) -> int")],
    },
    Row {
        name: "major",
        run: |a| part(a, |v| v.major),
        overloads: &[("semver_major", "kubernetes.Semver.() -> int")],
    },
    Row {
        name: "minor",
        run: |a| part(a, |v| v.minor),
        overloads: &[("semver_minor", "kubernetes.Semver.() -> int")],
    },
    Row {
        name: "patch",
        run: |a| part(a, |v| v.patch),
        overloads: &[("semver_patch", "kubernetes.Semver.() -> int")],
    },
];

/// The text without `v` and leading zeros, with all three numbers (upstream: `normalizeAndParse`).
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers
        .splitn(3, '.')
        .map(|p| match p.trim_start_matches('0') {
            "" if !p.is_empty() => "0",
            p => p,
        })
        .collect();
    if rest.is_empty() {
        parts.resize(parts.len().max(3), "0");
    }
    format!("{}{rest}", parts.join("."))
}

fn parse(text: &str, normalize: bool) -> Result<Version, String> {
    let normalized = if normalize { normalized(text) } else { text.to_owned() };
    Version::parse(&normalized).map_err(|e| e.to_string())
}

fn read(args: &[Value]) -> Result<Result<Version, String>, Failure> {
    match args {
        [Value::String(s)] => Ok(parse(s, false)),
        [Value::String(s), Value::Bool(normalize)] => Ok(parse(s, *normalize)),
        _ => Err(Failure::NoOverload),
    }
}

fn to_semver(args: &[Value]) -> Outcome {
    read(args)?.map(|v| Value::Semver(Arc::new(v))).map_err(Failure::Other)
}

fn is_semver(args: &[Value]) -> Outcome {
    Ok(Value::Bool(read(args)?.is_ok()))
}

fn ordered(args: &[Value], f: fn(Ordering) -> Value) -> Outcome {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(f(a.cmp_precedence(b))),
        _ => Err(Failure::NoOverload),
    }
}

fn part(args: &[Value], f: fn(&Version) -> u64) -> Outcome {
    match args {
        [Value::Semver(v)] => Ok(Value::Int(i64::try_from(f(v)).unwrap_or(i64::MAX))),
        _ => Err(Failure::NoOverload),
    }
}
