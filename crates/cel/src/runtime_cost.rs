//! What a call cost (upstream: apiserver `pkg/cel/library/cost.go#CallCost`, cel-go `interpreter/runtimecost.go#costCall`).

use crate::cost::{LIST, REGEX_FACTOR, STRING_FACTOR, STRUCT, scaled};
use crate::library::format;
use crate::value::Value;

/// A check of the authorizer costs so much that an expression can make two.
pub const AUTHORIZATION: u64 = 350_000;

/// The cost of a call; `overload` is empty when several are possible. A call that failed is counted as if it had made
/// nothing.
pub fn of_call(function: &str, overload: &str, args: &[Value], made: Option<&Value>) -> u64 {
    #[allow(clippy::cast_precision_loss)] // two small constants
    const REQUIREMENT: f64 = (LIST + STRUCT) as f64;
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    let walk = |i: usize| scaled(size(i), STRING_FACTOR);
    let walk_twice = |n: u64| scaled(n, 2.0 * STRING_FACTOR);
    match function {
        "check" => AUTHORIZATION,
        "fieldSelector" | "labelSelector" => LIST + walk(1) + scaled(scaled(size(1), 0.5), REQUIREMENT),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            args.first().map_or(0, |v| traversal(v, 0))
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => walk(0),
        "ip" if overload == "cidr_ip" => 1,
        "ip" => walk(0),
        "ip.isCanonical" | "replace" | "split" => walk_twice(size(0)),
        "join" => walk_twice(made.map_or(1, Value::size)),
        "find" | "findAll" | "matches" => {
            scaled(size(0).saturating_add(1), STRING_FACTOR).saturating_mul(scaled(size(1), REGEX_FACTOR))
        }
        "containsIP" => walk_twice(size(0)) + if overload == "cidr_contains_ip_string" { walk(1) } else { 0 },
        "containsCIDR" => {
            walk_twice(size(0))
                + walk(0)
                + 1
                + if overload == "cidr_contains_cidr_string" { walk(1) } else { 0 }
        }
        "validate" => {
            let pattern = if let Some(Value::Format(f)) = args.first() {
                f.pattern_len
            } else {
                format::PATTERN_LEN_MAX
            };
            scaled(size(1).saturating_add(1), STRING_FACTOR).saturating_mul(scaled(pattern, REGEX_FACTOR))
        }
        "_==_" if args.first().is_some_and(is_opaque) => 1,
        "_==_" | "_!=_" => scaled(size(0).min(size(1)), STRING_FACTOR),
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)).saturating_add(1),
        "sets.equivalent" => size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1),
        "slice" | "lists.range" | "reverse" => made.map_or(1, Value::size) + 1 + LIST,
        "flatten" => {
            let depth = if let Some(Value::Int(depth)) = args.get(1) {
                u64::try_from(*depth).unwrap_or(1)
            } else {
                1
            };
            size(0).saturating_mul(depth).saturating_add(1 + LIST)
        }
        "distinct" | "sort" => self_compare(args.first()),
        "@sortByAssociatedKeys" => self_compare(args.get(1)),
        _ => of_overload(overload, args),
    }
}

fn of_overload(overload: &str, args: &[Value]) -> u64 {
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    match overload {
        "starts_with_string" | "ends_with_string" => scaled(size(1), STRING_FACTOR),
        "string_to_bytes" | "bytes_to_string" | "strings_quote" | "string_format" => {
            scaled(size(0), STRING_FACTOR)
        }
        "in_list" => size(1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes" => scaled(size(0).min(size(1)), STRING_FACTOR),
        "add_string" | "add_bytes" => scaled(size(0).saturating_add(size(1)), STRING_FACTOR),
        "contains_string" => scaled(size(0), STRING_FACTOR).saturating_mul(scaled(size(1), STRING_FACTOR)),
        _ => 1,
    }
}

fn is_opaque(v: &Value) -> bool {
    matches!(
        v,
        Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(_)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Host(_)
    )
}

fn self_compare(list: Option<&Value>) -> u64 {
    let Some(Value::List(list)) = list else { return 1 };
    let texts = matches!(list.first(), Some(Value::String(_) | Value::Bytes(_)));
    let factor = if texts { 2.0 + STRING_FACTOR } else { 2.0 };
    let n = list.len() as u64;
    scaled(n.saturating_mul(n), factor).saturating_add(1 + LIST)
}

/// Deepest nesting that is counted.
const DEPTH_MAX: usize = 256;

/// The cost of walking a value.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // rounded down, as upstream does
fn traversal(v: &Value, depth: usize) -> u64 {
    let text = |n: usize| (n as f64 * STRING_FACTOR) as u64;
    match v {
        _ if depth > DEPTH_MAX => 1,
        Value::String(s) => text(s.len()),
        Value::Bytes(b) => text(b.len()),
        Value::List(list) => list.iter().map(|v| traversal(v, depth + 1)).sum(),
        Value::Map(map) => {
            map.iter().map(|(k, v)| traversal(&k.value(), depth + 1) + traversal(v, depth + 1)).sum()
        }
        _ => 1,
    }
}
