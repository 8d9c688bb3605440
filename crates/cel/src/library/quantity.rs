//! Amounts of resources (upstream: apiserver `pkg/cel/library/quantity.go`).

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;
use meta::quantity::{Format, Quantity};
use std::cmp::Ordering;
use std::sync::Arc;

pub const ROWS: &[Row] = &[
    Row {
        name: "quantity",
        run: to_quantity,
        overloads: &[("string_to_quantity", "(string) -> kubernetes.Quantity")],
    },
    Row { name: "isQuantity", run: is_quantity, overloads: &[("is_quantity_string", "(string) -> bool")] },
    Row {
        name: "sign",
        run: |a| of(a, |q| Ok(Value::Int(q.sign().into()))),
        overloads: &[("quantity_sign", "kubernetes.Quantity.() -> int")],
    },
    Row {
        name: "isInteger",
        run: |a| of(a, |q| Ok(Value::Bool(q.as_i64().is_some()))),
        overloads: &[("quantity_is_integer", "kubernetes.Quantity.() -> bool")],
    },
    Row {
        name: "asInteger",
        run: |a| {
            of(a, |q| q.as_i64().map(Value::Int).ok_or_else(|| "cannot convert value to integer".into()))
        },
        overloads: &[("quantity_get_int", "kubernetes.Quantity.() -> int")],
    },
    Row {
        name: "asApproximateFloat",
        run: |a| of(a, |q| Ok(Value::Double(q.as_f64()))),
        overloads: &[("quantity_get_float", "kubernetes.Quantity.() -> double")],
    },
    Row {
        name: "isGreaterThan",
        run: |a| ordered(a, |o| Value::Bool(o.is_gt())),
        overloads: &[("quantity_is_greater_than", "kubernetes.Quantity.(kubernetes.Quantity) -> bool")],
    },
    Row {
        name: "isLessThan",
        run: |a| ordered(a, |o| Value::Bool(o.is_lt())),
        overloads: &[("quantity_is_less_than", "kubernetes.Quantity.(kubernetes.Quantity) -> bool")],
    },
    Row {
        name: "compareTo",
        run: |a| ordered(a, |o| Value::Int(o as i64)),
        overloads: &[("quantity_compare_to", "kubernetes.Quantity.(kubernetes.Quantity) -> int")],
    },
    Row {
        name: "add",
        run: |a| changed(a, Quantity::add),
        overloads: &[
            ("quantity_add", "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity"),
            ("quantity_add_int", "kubernetes.Quantity.(int) -> kubernetes.Quantity"),
        ],
    },
    Row {
        name: "sub",
        run: |a| changed(a, Quantity::sub),
        overloads: &[
            ("quantity_sub", "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity"),
            ("quantity_sub_int", "kubernetes.Quantity.(int) -> kubernetes.Quantity"),
        ],
    },
];

fn to_quantity(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => Quantity::parse(s)
            .map(|q| Value::Quantity(Arc::new(q)))
            .map_err(|e| Failure::Other(e.to_string())),
        _ => Err(Failure::NoOverload),
    }
}

fn is_quantity(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => Ok(Value::Bool(Quantity::parse(s).is_ok())),
        _ => Err(Failure::NoOverload),
    }
}

fn of(args: &[Value], f: fn(&Quantity) -> Outcome) -> Outcome {
    match args {
        [Value::Quantity(q)] => f(q),
        _ => Err(Failure::NoOverload),
    }
}

fn ordered(args: &[Value], f: fn(Ordering) -> Value) -> Outcome {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(f(a.cmp(b))),
        _ => Err(Failure::NoOverload),
    }
}

fn changed(args: &[Value], f: fn(&mut Quantity, &Quantity)) -> Outcome {
    let (a, b) = match args {
        [Value::Quantity(a), Value::Quantity(b)] => (a, (**b).clone()),
        [Value::Quantity(a), Value::Int(b)] => (a, Quantity::new(*b, Format::DecimalSi)),
        _ => return Err(Failure::NoOverload),
    };
    let mut out = (**a).clone();
    f(&mut out, &b);
    Ok(Value::Quantity(Arc::new(out)))
}
