//! Optional values (cel-go: `cel/library.go#OptionalTypes`). `or` and `orValue` are the evaluator's, which reads their
//! argument only when it is needed.

use crate::functions::{Failure, Outcome, Row};
use crate::library::operators;
use crate::value::Value;
use std::sync::Arc;

pub const ROWS: &[Row] = &[
    Row { name: "optional.of", run: of, overloads: &[("optional_of", "(V) -> optional(V)")] },
    Row {
        name: "optional.ofNonZeroValue",
        run: of_non_zero,
        overloads: &[("optional_ofNonZeroValue", "(V) -> optional(V)")],
    },
    Row {
        name: "optional.none",
        run: |_| Ok(Value::Optional(None)),
        overloads: &[("optional_none", "() -> optional(V)")],
    },
    Row { name: "value", run: value, overloads: &[("optional_value", "optional(V).() -> V")] },
    Row { name: "hasValue", run: has_value, overloads: &[("optional_hasValue", "optional(V).() -> bool")] },
    Row {
        name: "or",
        run: lazy,
        overloads: &[("optional_or_optional", "optional(V).(optional(V)) -> optional(V)")],
    },
    Row { name: "orValue", run: lazy, overloads: &[("optional_orValue_value", "optional(V).(V) -> V")] },
    Row { name: "_?._", run: index, overloads: &[("select_optional_field", "(dyn, string) -> optional(V)")] },
    Row {
        name: "_[?_]",
        run: index,
        overloads: &[
            ("list_optindex_optional_int", "(list(V), int) -> optional(V)"),
            ("optional_list_optindex_optional_int", "(optional(list(V)), int) -> optional(V)"),
            ("map_optindex_optional_value", "(map(K, V), K) -> optional(V)"),
            ("optional_map_optindex_optional_value", "(optional(map(K, V)), K) -> optional(V)"),
        ],
    },
    Row { name: "first", run: |a| end(a, false), overloads: &[("list_first", "list(V).() -> optional(V)")] },
    Row { name: "last", run: |a| end(a, true), overloads: &[("list_last", "list(V).() -> optional(V)")] },
    Row {
        name: "optional.unwrap",
        run: unwrap,
        overloads: &[("optional_unwrap", "(list(optional(V))) -> list(V)")],
    },
    Row {
        name: "unwrapOpt",
        run: unwrap,
        overloads: &[("optional_unwrapOpt", "list(optional(V)).() -> list(V)")],
    },
];

fn lazy(_: &[Value]) -> Outcome {
    Err(Failure::NoOverload)
}

fn some(v: &Value) -> Value {
    Value::Optional(Some(Arc::new(v.clone())))
}

fn of(args: &[Value]) -> Outcome {
    args.first().map(some).ok_or(Failure::NoOverload)
}

fn of_non_zero(args: &[Value]) -> Outcome {
    match args {
        [v] if v.is_zero() => Ok(Value::Optional(None)),
        _ => of(args),
    }
}

fn value(args: &[Value]) -> Outcome {
    match args {
        [Value::Optional(Some(v))] => Ok((**v).clone()),
        [Value::Optional(None)] => Err("optional.none() dereference".into()),
        _ => Err(Failure::NoOverload),
    }
}

fn has_value(args: &[Value]) -> Outcome {
    match args {
        [Value::Optional(v)] => Ok(Value::Bool(v.is_some())),
        _ => Err(Failure::NoOverload),
    }
}

fn index(args: &[Value]) -> Outcome {
    let found = match args {
        [Value::Optional(None), _] => None,
        [Value::Optional(Some(of)), at] => operators::found(of, at)?,
        [of, at] => operators::found(of, at)?,
        _ => return Err(Failure::NoOverload),
    };
    Ok(Value::Optional(found.map(Arc::new)))
}

fn end(args: &[Value], last: bool) -> Outcome {
    match args {
        [Value::List(l)] => {
            let found = if last { l.last() } else { l.first() };
            Ok(found.map_or(Value::Optional(None), some))
        }
        _ => Err(Failure::NoOverload),
    }
}

fn unwrap(args: &[Value]) -> Outcome {
    let [Value::List(list)] = args else { return Err(Failure::NoOverload) };
    let mut out = Vec::new();
    for v in list.iter() {
        match v {
            Value::Optional(Some(v)) => out.push((**v).clone()),
            Value::Optional(None) => {}
            other => return Err(format!("value {other} is not optional").into()),
        }
    }
    Ok(Value::list(out))
}
