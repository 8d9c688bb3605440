//! Operators (cel-go: `common/stdlib/standard.go`). Those that do not read all their arguments are the evaluator's.

use crate::functions::{Failure, Outcome, Row};
use crate::value::{Key, Value};
use std::cmp::Ordering;
use std::sync::Arc;

pub const ROWS: &[Row] = &[
    Row { name: "_?_:_", run: none, overloads: &[("conditional", "(bool, A, A) -> A")] },
    Row { name: "_&&_", run: none, overloads: &[("logical_and", "(bool, bool) -> bool")] },
    Row { name: "_||_", run: none, overloads: &[("logical_or", "(bool, bool) -> bool")] },
    Row { name: "!_", run: not, overloads: &[("logical_not", "(bool) -> bool")] },
    Row { name: "@not_strictly_false", run: none, overloads: &[("not_strictly_false", "(bool) -> bool")] },
    Row { name: "_==_", run: equals, overloads: &[("equals", "(A, A) -> bool")] },
    Row { name: "_!=_", run: differs, overloads: &[("not_equals", "(A, A) -> bool")] },
    Row {
        name: "_+_",
        run: add,
        overloads: &[
            ("add_bytes", "(bytes, bytes) -> bytes"),
            ("add_double", "(double, double) -> double"),
            ("add_duration_duration", "(duration, duration) -> duration"),
            ("add_duration_timestamp", "(duration, timestamp) -> timestamp"),
            ("add_timestamp_duration", "(timestamp, duration) -> timestamp"),
            ("add_int64", "(int, int) -> int"),
            ("add_list", "(list(A), list(A)) -> list(A)"),
            ("add_string", "(string, string) -> string"),
            ("add_uint64", "(uint, uint) -> uint"),
        ],
    },
    Row {
        name: "_-_",
        run: subtract,
        overloads: &[
            ("subtract_double", "(double, double) -> double"),
            ("subtract_duration_duration", "(duration, duration) -> duration"),
            ("subtract_int64", "(int, int) -> int"),
            ("subtract_timestamp_duration", "(timestamp, duration) -> timestamp"),
            ("subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration"),
            ("subtract_uint64", "(uint, uint) -> uint"),
        ],
    },
    Row {
        name: "_*_",
        run: multiply,
        overloads: &[
            ("multiply_double", "(double, double) -> double"),
            ("multiply_int64", "(int, int) -> int"),
            ("multiply_uint64", "(uint, uint) -> uint"),
        ],
    },
    Row {
        name: "_/_",
        run: divide,
        overloads: &[
            ("divide_double", "(double, double) -> double"),
            ("divide_int64", "(int, int) -> int"),
            ("divide_uint64", "(uint, uint) -> uint"),
        ],
    },
    Row {
        name: "_%_",
        run: modulo,
        overloads: &[("modulo_int64", "(int, int) -> int"), ("modulo_uint64", "(uint, uint) -> uint")],
    },
    Row {
        name: "-_",
        run: negate,
        overloads: &[("negate_double", "(double) -> double"), ("negate_int64", "(int) -> int")],
    },
    Row { name: "_<_", run: less, overloads: LESS },
    Row { name: "_<=_", run: less_or_equal, overloads: LESS_EQUALS },
    Row { name: "_>_", run: greater, overloads: GREATER },
    Row { name: "_>=_", run: greater_or_equal, overloads: GREATER_EQUALS },
    Row {
        name: "_[_]",
        run: index,
        overloads: &[
            ("index_list", "(list(A), int) -> A"),
            ("index_map", "(map(A, B), A) -> B"),
            ("optional_list_index_int", "(optional(list(V)), int) -> optional(V)"),
            ("optional_map_index_value", "(optional(map(K, V)), K) -> optional(V)"),
        ],
    },
    Row {
        name: "@in",
        run: contained,
        overloads: &[("in_list", "(A, list(A)) -> bool"), ("in_map", "(A, map(A, B)) -> bool")],
    },
    Row {
        name: "size",
        run: size,
        overloads: &[
            ("size_bytes", "(bytes) -> int"),
            ("bytes_size", "bytes.() -> int"),
            ("size_list", "(list(A)) -> int"),
            ("list_size", "list(A).() -> int"),
            ("size_map", "(map(A, B)) -> int"),
            ("map_size", "map(A, B).() -> int"),
            ("size_string", "(string) -> int"),
            ("string_size", "string.() -> int"),
        ],
    },
    Row {
        name: "cel.@mapInsert",
        run: insert,
        overloads: &[
            ("@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)"),
            ("@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)"),
        ],
    },
];

macro_rules! order {
    ($name:ident, $id:literal) => {
        const $name: &[(&str, &str)] = &[
            (concat!($id, "_bool"), "(bool, bool) -> bool"),
            (concat!($id, "_int64"), "(int, int) -> bool"),
            (concat!($id, "_int64_double"), "(int, double) -> bool"),
            (concat!($id, "_int64_uint64"), "(int, uint) -> bool"),
            (concat!($id, "_uint64"), "(uint, uint) -> bool"),
            (concat!($id, "_uint64_double"), "(uint, double) -> bool"),
            (concat!($id, "_uint64_int64"), "(uint, int) -> bool"),
            (concat!($id, "_double"), "(double, double) -> bool"),
            (concat!($id, "_double_int64"), "(double, int) -> bool"),
            (concat!($id, "_double_uint64"), "(double, uint) -> bool"),
            (concat!($id, "_string"), "(string, string) -> bool"),
            (concat!($id, "_bytes"), "(bytes, bytes) -> bool"),
            (concat!($id, "_timestamp"), "(timestamp, timestamp) -> bool"),
            (concat!($id, "_duration"), "(duration, duration) -> bool"),
        ];
    };
}
order!(LESS, "less");
order!(LESS_EQUALS, "less_equals");
order!(GREATER, "greater");
order!(GREATER_EQUALS, "greater_equals");

fn none(_: &[Value]) -> Outcome {
    Err(Failure::NoOverload)
}

fn not(args: &[Value]) -> Outcome {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => none(args),
    }
}

fn equals(args: &[Value]) -> Outcome {
    match args {
        [a, b] => Ok(Value::Bool(a.equals(b))),
        _ => none(args),
    }
}

fn differs(args: &[Value]) -> Outcome {
    match args {
        [a, b] => Ok(Value::Bool(!a.equals(b))),
        _ => none(args),
    }
}

const INT: &str = "integer overflow";
const UINT: &str = "unsigned integer overflow";
const TIME: &str = "timestamp overflow";
const DURATION: &str = "duration overflow";

/// A number, or the failure that it is too large.
fn or<T>(made: Option<T>, as_value: fn(T) -> Value, why: &str) -> Outcome {
    made.map(as_value).ok_or_else(|| why.into())
}

fn add(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(a), Value::Int(b)] => or(a.checked_add(*b), Value::Int, INT),
        [Value::Uint(a), Value::Uint(b)] => or(a.checked_add(*b), Value::Uint, UINT),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => Ok(Value::String([&**a, &**b].concat().into())),
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([&**a, &**b].concat().into())),
        [Value::List(a), Value::List(b)] => Ok(Value::list(a.iter().chain(b.iter()).cloned().collect())),
        [Value::Duration(a), Value::Duration(b)] => or(a.checked_add(*b), Value::Duration, DURATION),
        [Value::Timestamp(t), Value::Duration(d)] | [Value::Duration(d), Value::Timestamp(t)] => {
            or(t.checked_add(*d).ok(), Value::Timestamp, TIME)
        }
        _ => none(args),
    }
}

fn subtract(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(a), Value::Int(b)] => or(a.checked_sub(*b), Value::Int, INT),
        [Value::Uint(a), Value::Uint(b)] => or(a.checked_sub(*b), Value::Uint, UINT),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => or(a.checked_sub(*b), Value::Duration, DURATION),
        [Value::Timestamp(t), Value::Duration(d)] => or(t.checked_sub(*d).ok(), Value::Timestamp, TIME),
        [Value::Timestamp(a), Value::Timestamp(b)] => Ok(Value::Duration(a.duration_since(*b))),
        _ => none(args),
    }
}

fn multiply(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(a), Value::Int(b)] => or(a.checked_mul(*b), Value::Int, INT),
        [Value::Uint(a), Value::Uint(b)] => or(a.checked_mul(*b), Value::Uint, UINT),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => none(args),
    }
}

fn divide(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err("division by zero".into()),
        [Value::Int(a), Value::Int(b)] => or(a.checked_div(*b), Value::Int, INT),
        [Value::Uint(a), Value::Uint(b)] => or(a.checked_div(*b), Value::Uint, UINT),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => none(args),
    }
}

fn modulo(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err("modulus by zero".into()),
        [Value::Int(a), Value::Int(b)] => or(a.checked_rem(*b), Value::Int, INT),
        [Value::Uint(a), Value::Uint(b)] => or(a.checked_rem(*b), Value::Uint, UINT),
        _ => none(args),
    }
}

fn negate(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(a)] => or(a.checked_neg(), Value::Int, INT),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        _ => none(args),
    }
}

fn ordered(args: &[Value], holds: fn(Ordering) -> bool) -> Outcome {
    match args {
        [Value::Double(d), _] | [_, Value::Double(d)] if d.is_nan() => {
            Err("NaN values cannot be ordered".into())
        }
        [a, b] => a.compare(b).map(|o| Value::Bool(holds(o))).ok_or(Failure::NoOverload),
        _ => none(args),
    }
}

fn less(args: &[Value]) -> Outcome {
    ordered(args, Ordering::is_lt)
}

fn less_or_equal(args: &[Value]) -> Outcome {
    ordered(args, Ordering::is_le)
}

fn greater(args: &[Value]) -> Outcome {
    ordered(args, Ordering::is_gt)
}

fn greater_or_equal(args: &[Value]) -> Outcome {
    ordered(args, Ordering::is_ge)
}

/// The place in a list that a number names.
fn place(v: &Value) -> Option<i64> {
    match v {
        Value::Int(i) => Some(*i),
        Value::Uint(u) => i64::try_from(*u).ok(),
        #[allow(clippy::cast_possible_truncation)] // whole and small
        Value::Double(d) if d.fract() == 0.0 && d.abs() < 1e15 => Some(*d as i64),
        _ => None,
    }
}

/// What is at a place; `Ok(None)` when nothing is.
pub fn found(of: &Value, at: &Value) -> Result<Option<Value>, Failure> {
    match of {
        Value::List(list) => {
            let i = place(at)
                .ok_or_else(|| format!("unsupported index type '{}' in list", at.type_of().runtime_name()))?;
            Ok(usize::try_from(i).ok().and_then(|i| list.get(i)).cloned())
        }
        Value::Map(_) => match at {
            Value::Double(_) => Ok(of.entry(at)),
            _ if Key::of(at).is_none() => {
                Err(format!("unsupported key type: {}", at.type_of().runtime_name()).into())
            }
            _ => Ok(of.entry(at)),
        },
        Value::Object(_) => Ok(of.field(&at.to_string())),
        _ => Err(Failure::NoOverload),
    }
}

fn index(args: &[Value]) -> Outcome {
    match args {
        [Value::Optional(None), _] => Ok(Value::Optional(None)),
        [Value::Optional(Some(of)), at] => Ok(Value::Optional(found(of, at)?.map(Arc::new))),
        [of, at] => found(of, at)?.ok_or_else(|| match of {
            Value::List(_) => Failure::Other(format!("index out of bounds: {at}")),
            _ => Failure::Other(format!("no such key: {at}")),
        }),
        _ => none(args),
    }
}

fn contained(args: &[Value]) -> Outcome {
    match args {
        [v, Value::List(list)] => Ok(Value::Bool(list.iter().any(|x| x.equals(v)))),
        [v, map @ Value::Map(_)] => Ok(Value::Bool(map.entry(v).is_some())),
        _ => none(args),
    }
}

fn size(args: &[Value]) -> Outcome {
    match args {
        [v @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(v.size()).unwrap_or(i64::MAX)))
        }
        _ => none(args),
    }
}

fn insert(args: &[Value]) -> Outcome {
    let (Value::Map(map), added) = (match args {
        [map, key, value] => (map, vec![(key.clone(), value.clone())]),
        [map, Value::Map(more)] => (map, more.iter().map(|(k, v)| (k.value(), v.clone())).collect()),
        _ => return none(args),
    }) else {
        return none(args);
    };
    let mut out = (**map).clone();
    for (key, value) in added {
        let key = Key::of(&key).ok_or_else(|| format!("unsupported key type: {}", key.type_of()))?;
        if out.contains_key(&key) {
            return Err(format!("insert failed: key '{}' already exists", key.value()).into());
        }
        out.insert(key, value);
    }
    Ok(Value::Map(Arc::new(out)))
}
