//! Lists and sets (cel-go: `ext/lists.go` version 3, `ext/sets.go`; upstream: apiserver `pkg/cel/library/lists.go`).

use crate::functions::{Failure, Outcome, Row};
use crate::library::operators;
use crate::value::Value;
use std::cmp::Ordering;

/// The longest list that `lists.range` makes: one that could be walked within the cost of a call.
const RANGE_MAX: i64 = 1_000_000;
/// Deepest nesting that `flatten` undoes.
const DEPTH_MAX: i64 = 64;

pub const ROWS: &[Row] = &[
    Row {
        name: "isSorted",
        run: is_sorted,
        overloads: &[("list_{C}_is_sorted_bool", "list({C}).() -> bool")],
    },
    Row { name: "sum", run: sum, overloads: &[("list_{S}_sum_{S}", "list({S}).() -> {S}")] },
    Row {
        name: "max",
        run: |a| best(a, "max", Ordering::Less),
        overloads: &[("list_{C}_max_{C}", "list({C}).() -> {C}")],
    },
    Row {
        name: "min",
        run: |a| best(a, "min", Ordering::Greater),
        overloads: &[("list_{C}_min_{C}", "list({C}).() -> {C}")],
    },
    Row {
        name: "indexOf",
        run: |a| index_of(a, false),
        overloads: &[("list_a_index_of_int", "list(A).(A) -> int")],
    },
    Row {
        name: "lastIndexOf",
        run: |a| index_of(a, true),
        overloads: &[("list_a_last_index_of_int", "list(A).(A) -> int")],
    },
    Row { name: "includes", run: includes, overloads: &[("list_includes_dyn_dyn", "dyn.(dyn) -> bool")] },
    Row { name: "slice", run: slice, overloads: &[("list_slice", "list(T).(int, int) -> list(T)")] },
    Row {
        name: "flatten",
        run: flatten,
        overloads: &[
            ("list_flatten", "list(list(T)).() -> list(T)"),
            ("list_flatten_int", "list(dyn).(int) -> list(dyn)"),
        ],
    },
    Row { name: "sort", run: sort, overloads: &[("list_{C}_sort", "list({C}).() -> list({C})")] },
    Row {
        name: "@sortByAssociatedKeys",
        run: sort_by,
        overloads: &[("list_{C}_sortByAssociatedKeys", "list(T).(list({C})) -> list(T)")],
    },
    Row { name: "lists.range", run: range, overloads: &[("lists_range", "(int) -> list(int)")] },
    Row { name: "reverse", run: reverse, overloads: &[("list_reverse", "list(T).() -> list(T)")] },
    Row { name: "distinct", run: distinct, overloads: &[("list_distinct", "list(T).() -> list(T)")] },
    Row {
        name: "sets.contains",
        run: |a| sets(a, contains),
        overloads: &[("list_sets_contains_list", "(list(T), list(T)) -> bool")],
    },
    Row {
        name: "sets.equivalent",
        run: |a| sets(a, |x, y| contains(x, y) && contains(y, x)),
        overloads: &[("list_sets_equivalent_list", "(list(T), list(T)) -> bool")],
    },
    Row {
        name: "sets.intersects",
        run: |a| sets(a, |x, y| x.iter().any(|v| y.iter().any(|w| w.equals(v)))),
        overloads: &[("list_sets_intersects_list", "(list(T), list(T)) -> bool")],
    },
];

fn is_sorted(args: &[Value]) -> Outcome {
    let [Value::List(list)] = args else { return Err(Failure::NoOverload) };
    for pair in list.windows(2) {
        if pair[0].compare(&pair[1]).ok_or(Failure::NoOverload)?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum(args: &[Value]) -> Outcome {
    let [Value::List(list)] = args else { return Err(Failure::NoOverload) };
    let mut values = list.iter();
    // The sum of nothing is a whole number: what the list would hold is not known here.
    let Some(first) = values.next() else { return Ok(Value::Int(0)) };
    let add = operators::ROWS.iter().find(|r| r.name == "_+_").ok_or(Failure::NoOverload)?.run;
    values.try_fold(first.clone(), |total, v| add(&[total, v.clone()]))
}

fn best(args: &[Value], name: &str, worse: Ordering) -> Outcome {
    let [Value::List(list)] = args else { return Err(Failure::NoOverload) };
    let mut best: Option<&Value> = None;
    for v in list.iter() {
        match best {
            Some(b) if b.compare(v).ok_or(Failure::NoOverload)? != worse => {}
            _ => best = Some(v),
        }
    }
    best.cloned().ok_or_else(|| format!("{name} called on empty list").into())
}

fn index_of(args: &[Value], last: bool) -> Outcome {
    let [Value::List(list), wanted] = args else { return Err(Failure::NoOverload) };
    let found = if last {
        list.iter().rposition(|v| v.equals(wanted))
    } else {
        list.iter().position(|v| v.equals(wanted))
    };
    Ok(Value::Int(found.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1)))
}

fn includes(args: &[Value]) -> Outcome {
    match args {
        [Value::List(list), wanted] => Ok(Value::Bool(list.iter().any(|v| v.equals(wanted)))),
        [one, wanted] => Ok(Value::Bool(one.equals(wanted))),
        _ => Err(Failure::NoOverload),
    }
}

fn slice(args: &[Value]) -> Outcome {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return Err(Failure::NoOverload);
    };
    let refuse = |why: String| Err(Failure::Other(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return refuse("negative indexes not supported".to_owned());
    };
    if from > to {
        return refuse("start index must be less than or equal to end index".to_owned());
    }
    match list.get(from..to) {
        Some(part) => Ok(Value::list(part.to_vec())),
        None => refuse(format!("list is length {}", list.len())),
    }
}

fn flatten(args: &[Value]) -> Outcome {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(_), Value::Int(depth)] if *depth < 0 => return Err("level must be non-negative".into()),
        [Value::List(list), Value::Int(depth)] => (list, (*depth).min(DEPTH_MAX)),
        _ => return Err(Failure::NoOverload),
    };
    let mut out = Vec::new();
    flat(list, depth, &mut out);
    Ok(Value::list(out))
}

fn flat(list: &[Value], depth: i64, out: &mut Vec<Value>) {
    for v in list {
        match v {
            Value::List(inner) if depth > 0 => flat(inner, depth - 1, out),
            other => out.push(other.clone()),
        }
    }
}

fn sort(args: &[Value]) -> Outcome {
    match args {
        [list @ Value::List(_)] => sort_by(&[list.clone(), list.clone()]),
        _ => Err(Failure::NoOverload),
    }
}

fn sort_by(args: &[Value]) -> Outcome {
    let [Value::List(list), Value::List(keys)] = args else { return Err(Failure::NoOverload) };
    if list.len() != keys.len() {
        return Err(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )
        .into());
    }
    if let Some(first) = keys.first() {
        if first.compare(first).is_none() {
            return Err("list elements must be comparable".into());
        }
        if keys.iter().any(|k| k.type_of() != first.type_of()) {
            return Err("list elements must have the same type".into());
        }
    }
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::list(order.into_iter().map(|i| list[i].clone()).collect()))
}

fn range(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(n)] if *n < 0 => Err(format!("lists.range: size must be non-negative, got {n}").into()),
        [Value::Int(n)] if *n > RANGE_MAX => {
            Err(format!("lists.range: size {n} exceeds maximum allowed ({RANGE_MAX})").into())
        }
        [Value::Int(n)] => Ok(Value::list((0..*n).map(Value::Int).collect())),
        _ => Err(Failure::NoOverload),
    }
}

fn reverse(args: &[Value]) -> Outcome {
    match args {
        [Value::List(list)] => Ok(Value::list(list.iter().rev().cloned().collect())),
        _ => Err(Failure::NoOverload),
    }
}

fn distinct(args: &[Value]) -> Outcome {
    let [Value::List(list)] = args else { return Err(Failure::NoOverload) };
    let mut out: Vec<Value> = Vec::new();
    for v in list.iter() {
        if !out.iter().any(|o| o.equals(v)) {
            out.push(v.clone());
        }
    }
    Ok(Value::list(out))
}

fn sets(args: &[Value], holds: fn(&[Value], &[Value]) -> bool) -> Outcome {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(holds(a, b))),
        _ => Err(Failure::NoOverload),
    }
}

fn contains(all: &[Value], some: &[Value]) -> bool {
    some.iter().all(|v| all.iter().any(|w| w.equals(v)))
}
