//! What a call costs at least and at most (upstream: apiserver `pkg/cel/library/cost.go#EstimateCallCost`, cel-go
//! `checker/cost.go#functionCost`, `ext/{lists,sets}.go`).
//!
//! Invariant: a definition that was accepted once is accepted with the same estimates for ever; no number here may change.

use crate::ast::{Expr, Kind};
use crate::cost::{
    CallEstimate, CostEstimate, Coster, LIST, Node, REGEX_FACTOR, STRING_FACTOR, STRUCT, Size,
};
use crate::library::format::PATTERN_LEN_MAX;
use crate::runtime_cost::AUTHORIZATION;
use crate::types::Type;
use crate::value::Value;

const ONE: CostEstimate = CostEstimate::fixed(1);
/// Addresses have 4 or 16 bytes.
const ADDRESS: Size = Size { min: 4, max: 16 };

fn cost(cost: CostEstimate) -> Option<CallEstimate> {
    Some(CallEstimate { cost, result: None })
}

fn sized(cost: CostEstimate, size: Size) -> Option<CallEstimate> {
    Some(CallEstimate { cost, result: Some(size) })
}

/// The size of a node, or any.
fn size(c: &Coster<'_>, node: &Node<'_>) -> Size {
    node.size.or_else(|| c.size_at(&node.path)).unwrap_or(Size::UNKNOWN)
}

/// The node that stands for the elements of a list.
fn elements<'a>(list: &Node<'a>) -> Option<Node<'a>> {
    let ty = match &list.ty {
        Type::List(items) => (**items).clone(),
        Type::Map(keys, _) => (**keys).clone(),
        Type::Opaque(_, params) => params.first()?.clone(),
        _ => return None,
    };
    let mut path = list.path.clone();
    if !path.is_empty() {
        path.push("@items".to_owned());
    }
    Some(Node { path, ty, expr: None, size: None })
}

/// What Kubernetes' and the extensions' functions cost; `None` for those of the language itself.
pub(crate) fn of_call<'a>(
    c: &Coster<'_>,
    function: &str,
    overload: &str,
    target: Option<&Node<'a>>,
    args: &[Node<'a>],
) -> Option<CallEstimate> {
    let of = |node: &Node<'_>| size(c, node);
    let walk = |node: &Node<'_>| size(c, node).scale(STRING_FACTOR);
    match (function, target, args) {
        ("check", ..) => cost(CostEstimate::fixed(AUTHORIZATION)),
        (
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery",
            ..,
        ) => cost(ONE),
        ("fieldSelector" | "labelSelector", _, [selector]) => {
            let n = of(selector);
            #[allow(clippy::cast_precision_loss)] // two small constants
            let requirements = n.scale(0.5).scale((LIST + STRUCT) as f64);
            cost(CostEstimate::fixed(LIST).add(n.scale(STRING_FACTOR)).add(requirements))
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes", Some(target), _) => {
            match elements(target) {
                Some(element) => {
                    let mut each = ONE;
                    if matches!(element.ty, Type::String | Type::Bytes) {
                        each = each.add(walk(&element));
                    }
                    cost(of(target).multiply(each))
                }
                None if function == "includes" => cost(of(target)),
                None => cost(walk(target)),
            }
        }
        ("ip", ..) if overload == "cidr_ip" => cost(ONE),
        (
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver",
            _,
            [text, ..],
        ) => cost(walk(text)),
        ("ip.isCanonical", _, [text, ..]) => cost(of(text).scale(2.0 * STRING_FACTOR)),
        ("containsIP", _, [other, ..]) => {
            let compare = ADDRESS.add(ADDRESS).scale(STRING_FACTOR);
            cost(if overload == "cidr_contains_ip_string" { compare.add(walk(other)) } else { compare })
        }
        ("containsCIDR", _, [other, ..]) => {
            let compare =
                ADDRESS.add(ADDRESS).scale(STRING_FACTOR).add(ADDRESS.scale(STRING_FACTOR)).add(ONE);
            cost(if overload == "cidr_contains_cidr_string" { compare.add(walk(other)) } else { compare })
        }
        ("validate", _, [text, ..]) => {
            #[allow(clippy::cast_precision_loss)] // a small constant
            let pattern = PATTERN_LEN_MAX as f64 * REGEX_FACTOR;
            cost(walk(text).scale(pattern))
        }
        ("_==_", _, [a, b]) if a.ty == b.ty => opaque_equality(a, b),
        _ => of_text(c, function, target, args).or_else(|| of_extension(c, function, target, args)),
    }
}

/// What functions on texts cost, that Kubernetes estimates itself.
fn of_text<'a>(
    c: &Coster<'_>,
    function: &str,
    target: Option<&Node<'a>>,
    args: &[Node<'a>],
) -> Option<CallEstimate> {
    let of = |node: &Node<'_>| size(c, node);
    let walk = |node: &Node<'_>| size(c, node).scale(STRING_FACTOR);
    match (function, target, args) {
        ("url" | "jsonpatch.escapeKey", _, [text]) => sized(walk(text), of(text)),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
            sized(walk(target), of(target))
        }
        ("replace", Some(target), [old, new, ..]) => {
            let n = of(target);
            sized(n.scale(2.0 * STRING_FACTOR), replaced(n, of(old), of(new)))
        }
        ("split", Some(target), _) => {
            let n = of(target);
            let max = args.get(1).and_then(|a| literal(a.expr)).unwrap_or(n.max);
            sized(n.scale(2.0 * STRING_FACTOR), Size { min: 0, max })
        }
        ("join", Some(target), _) => {
            let list = of(target);
            let mut n = elements(target).map_or(Size::fixed(0), |e| list.multiply(of(&e)));
            if let Some(separator) = args.first() {
                let between = Size { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                n = n.add(of(separator).multiply(between));
            }
            sized(n.scale(STRING_FACTOR), n)
        }
        ("find" | "findAll", Some(target), [pattern, ..]) => {
            let n = of(target);
            let made = n.add(Size::fixed(1)).scale(STRING_FACTOR).multiply(of(pattern).scale(REGEX_FACTOR));
            sized(made, Size { min: 0, max: n.max })
        }
        _ => None,
    }
}

fn opaque_equality(a: &Node<'_>, b: &Node<'_>) -> Option<CallEstimate> {
    /// Names of formats are short (upstream: `MaxFormatSize`).
    const FORMAT_LEN_MAX: u64 = 64;
    let Type::Opaque(name, params) = &a.ty else { return None };
    if !params.is_empty() {
        return None;
    }
    match &**name {
        "kubernetes.NamedFormat" => cost(CostEstimate { min: 1, max: FORMAT_LEN_MAX }.scale(STRING_FACTOR)),
        "kubernetes.URL" => {
            let n = a.size.and(b.size).unwrap_or(Size::fixed(1));
            cost(CostEstimate { min: 1, max: n.max }.scale(STRING_FACTOR))
        }
        _ => cost(ONE),
    }
}

/// The size of a text after replacements (upstream: the case `replace`).
fn replaced(n: Size, old: Size, new: Size) -> Size {
    let parts = |n: u64, of: u64| n.div_ceil(of.max(1));
    let (most, kept_max) = if old.min == 0 {
        (n.max.saturating_add(1), n.max)
    } else if new.max <= old.min {
        (0, n.max)
    } else {
        (parts(n.max, old.min), 0)
    };
    let (fewest, kept_min) = if old.max == 0 {
        (n.min.saturating_add(1), n.min)
    } else if old.max <= new.min {
        (0, n.min)
    } else {
        (parts(n.min, old.max), 0)
    };
    Size { min: fewest, max: most }.multiply(new).add(Size { min: kept_min, max: kept_max })
}

/// A whole number that is written there.
fn literal(e: Option<&Expr>) -> Option<u64> {
    match e.map(|e| &e.kind) {
        Some(Kind::Literal(Value::Int(i))) => Some(u64::try_from(*i).unwrap_or(0)),
        _ => None,
    }
}

fn of_extension(
    c: &Coster<'_>,
    function: &str,
    target: Option<&Node<'_>>,
    args: &[Node<'_>],
) -> Option<CallEstimate> {
    let of = |node: &Node<'_>| size(c, node);
    // A list of so many elements is made.
    let makes = |factor: f64, n: Size| sized(n.scale(factor).add(ONE).add(CostEstimate::fixed(LIST)), n);
    let sorts = |list: &Node<'_>| {
        let texts = matches!(&list.ty, Type::List(items) if matches!(**items, Type::String | Type::Bytes));
        let n = of(list);
        makes(if texts { 2.0 + STRING_FACTOR } else { 2.0 }, n.multiply(n))
    };
    match (function, target, args) {
        ("sets.contains" | "sets.intersects", _, [a, b]) => cost(of(a).multiply(of(b)).add(ONE)),
        ("sets.equivalent", _, [a, b]) => cost(of(a).multiply(of(b)).scale(2.0).add(ONE)),
        ("slice", Some(target), [start, end]) => {
            let (start, end) =
                (literal(start.expr).unwrap_or(0), literal(end.expr).unwrap_or(of(target).max));
            makes(1.0, Size::fixed(end.saturating_sub(start)))
        }
        ("lists.range", None, [n]) => makes(1.0, Size::fixed(literal(n.expr).unwrap_or(u64::MAX))),
        ("reverse", Some(target), []) => makes(1.0, of(target)),
        ("flatten", Some(target), _) => {
            #[allow(clippy::cast_precision_loss)] // an estimate
            let depth = args.first().map_or(1.0, |d| literal(d.expr).unwrap_or(u64::MAX) as f64);
            makes(depth, of(target))
        }
        ("distinct", Some(target), []) => {
            let n = of(target);
            makes(2.0, n.multiply(n))
        }
        ("sort", Some(target), []) => sorts(target),
        ("@sortByAssociatedKeys", Some(_), [keys]) => sorts(keys),
        _ => None,
    }
}

/// What functions of the language cost. All that is not named takes the same time for all values.
pub(crate) fn of_overload(overload: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> CallEstimate {
    let of = |node: &Node<'_>| node.size.unwrap_or(Size::UNKNOWN);
    let made = match (overload, target, args) {
        ("string_format", Some(target), _) => cost(of(target).scale(STRING_FACTOR)),
        ("string_to_bytes", _, [text]) => {
            let n = of(text);
            sized(n.scale(STRING_FACTOR), Size { min: n.min, max: n.max.saturating_mul(4) })
        }
        ("bytes_to_string", _, [bytes]) => {
            let n = of(bytes);
            sized(n.scale(STRING_FACTOR), Size { min: n.min / 4, max: n.max })
        }
        ("strings_quote", _, [text]) => {
            let n = of(text);
            let size = Size { min: n.min.saturating_add(2), max: n.max.saturating_mul(2).saturating_add(2) };
            sized(n.scale(STRING_FACTOR), size)
        }
        ("starts_with_string" | "ends_with_string", _, [text]) => cost(of(text).scale(STRING_FACTOR)),
        ("in_list", _, [_, list]) => cost(of(list)),
        ("matches_string", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
            let text = of(text).add(Size::fixed(1)).scale(STRING_FACTOR);
            cost(text.multiply(of(pattern).scale(REGEX_FACTOR)))
        }
        ("contains_string", Some(text), [part]) => {
            cost(of(text).scale(STRING_FACTOR).multiply(of(part).scale(STRING_FACTOR)))
        }
        (
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals",
            _,
            [a, b],
        ) => {
            let max = of(a).max.min(of(b).max);
            cost(CostEstimate { min: u64::from(max > 0), max }.scale(STRING_FACTOR))
        }
        _ => None,
    };
    made.unwrap_or(CallEstimate { cost: ONE, result: None })
}
