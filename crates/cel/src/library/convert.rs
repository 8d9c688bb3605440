//! Conversions between types (cel-go: `common/types/{int,uint,double,string}.go#ConvertToType`).

use super::time;
use crate::functions::{Failure, Outcome, Row};
use crate::types::Type;
use crate::value::Value;

pub const ROWS: &[Row] = &[
    Row { name: "type", run: type_of, overloads: &[("type", "(A) -> type(A)")] },
    Row { name: "dyn", run: same, overloads: &[("to_dyn", "(A) -> dyn")] },
    Row {
        name: "bool",
        run: to_bool,
        overloads: &[("bool_to_bool", "(bool) -> bool"), ("string_to_bool", "(string) -> bool")],
    },
    Row {
        name: "bytes",
        run: to_bytes,
        overloads: &[("bytes_to_bytes", "(bytes) -> bytes"), ("string_to_bytes", "(string) -> bytes")],
    },
    Row {
        name: "double",
        run: to_double,
        overloads: &[
            ("double_to_double", "(double) -> double"),
            ("int64_to_double", "(int) -> double"),
            ("string_to_double", "(string) -> double"),
            ("uint64_to_double", "(uint) -> double"),
        ],
    },
    Row {
        name: "int",
        run: to_int,
        overloads: &[
            ("int64_to_int64", "(int) -> int"),
            ("double_to_int64", "(double) -> int"),
            ("duration_to_int64", "(duration) -> int"),
            ("string_to_int64", "(string) -> int"),
            ("timestamp_to_int64", "(timestamp) -> int"),
            ("uint64_to_int64", "(uint) -> int"),
        ],
    },
    Row {
        name: "uint",
        run: to_uint,
        overloads: &[
            ("uint64_to_uint64", "(uint) -> uint"),
            ("double_to_uint64", "(double) -> uint"),
            ("int64_to_uint64", "(int) -> uint"),
            ("string_to_uint64", "(string) -> uint"),
        ],
    },
    Row {
        name: "string",
        run: to_string,
        overloads: &[
            ("string_to_string", "(string) -> string"),
            ("bool_to_string", "(bool) -> string"),
            ("bytes_to_string", "(bytes) -> string"),
            ("double_to_string", "(double) -> string"),
            ("duration_to_string", "(duration) -> string"),
            ("int64_to_string", "(int) -> string"),
            ("timestamp_to_string", "(timestamp) -> string"),
            ("uint64_to_string", "(uint) -> string"),
            ("ip_to_string", "(net.IP) -> string"),
            ("cidr_to_string", "(net.CIDR) -> string"),
        ],
    },
    Row {
        name: "timestamp",
        run: to_timestamp,
        overloads: &[
            ("timestamp_to_timestamp", "(timestamp) -> timestamp"),
            ("int64_to_timestamp", "(int) -> timestamp"),
            ("string_to_timestamp", "(string) -> timestamp"),
        ],
    },
    Row {
        name: "duration",
        run: to_duration,
        overloads: &[
            ("duration_to_duration", "(duration) -> duration"),
            ("string_to_duration", "(string) -> duration"),
        ],
    },
];

fn same(args: &[Value]) -> Outcome {
    args.first().cloned().ok_or(Failure::NoOverload)
}

fn type_of(args: &[Value]) -> Outcome {
    let v = args.first().ok_or(Failure::NoOverload)?;
    Ok(Value::Type(match v {
        Value::Type(_) => Type::Type(None),
        other => other.type_of(),
    }))
}

fn to_bool(args: &[Value]) -> Outcome {
    match args {
        [Value::Bool(_)] => same(args),
        [Value::String(s)] => match &**s {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(syntax("ParseBool", s)),
        },
        _ => Err(Failure::NoOverload),
    }
}

fn syntax(function: &str, text: &str) -> Failure {
    format!("strconv.{function}: parsing {text:?}: invalid syntax").into()
}

fn to_bytes(args: &[Value]) -> Outcome {
    match args {
        [Value::Bytes(_)] => same(args),
        [Value::String(s)] => Ok(Value::Bytes(s.as_bytes().into())),
        _ => Err(Failure::NoOverload),
    }
}

#[allow(clippy::cast_precision_loss)] // as the language has it
fn to_double(args: &[Value]) -> Outcome {
    match args {
        [Value::Double(_)] => same(args),
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        [Value::String(s)] => s.parse().map(Value::Double).map_err(|_| syntax("ParseFloat", s)),
        _ => Err(Failure::NoOverload),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // the range is checked
fn to_int(args: &[Value]) -> Outcome {
    match args {
        [Value::Int(_)] => same(args),
        [Value::Uint(u)] => i64::try_from(*u).map(Value::Int).map_err(|_| "integer overflow".into()),
        [Value::Double(d)] if d.is_finite() && *d > i64::MIN as f64 && *d < i64::MAX as f64 => {
            Ok(Value::Int(*d as i64))
        }
        [Value::Double(_)] => Err("integer overflow".into()),
        [Value::String(s)] => s.parse().map(Value::Int).map_err(|_| syntax("ParseInt", s)),
        [Value::Timestamp(t)] => Ok(Value::Int(t.as_second())),
        [Value::Duration(d)] => {
            i64::try_from(d.as_nanos()).map(Value::Int).map_err(|_| "integer overflow".into())
        }
        _ => Err(Failure::NoOverload),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // the range is checked
fn to_uint(args: &[Value]) -> Outcome {
    match args {
        [Value::Uint(_)] => same(args),
        [Value::Int(i)] => u64::try_from(*i).map(Value::Uint).map_err(|_| "unsigned integer overflow".into()),
        [Value::Double(d)] if *d >= 0.0 && *d < u64::MAX as f64 => Ok(Value::Uint(*d as u64)),
        [Value::Double(_)] => Err("unsigned integer overflow".into()),
        [Value::String(s)] => s.parse().map(Value::Uint).map_err(|_| syntax("ParseUint", s)),
        _ => Err(Failure::NoOverload),
    }
}

fn to_string(args: &[Value]) -> Outcome {
    let text = match args {
        [Value::String(_)] => return same(args),
        [Value::Bytes(b)] => {
            std::str::from_utf8(b).map_err(|_| "invalid UTF-8 in bytes, cannot convert to string")?.to_owned()
        }
        [
            v @ (Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::Timestamp(_)
            | Value::Duration(_)),
        ] => v.to_string(),
        [Value::Ip(ip)] => ip.to_string(),
        [Value::Cidr(cidr)] => cidr.to_string(),
        _ => return Err(Failure::NoOverload),
    };
    Ok(Value::String(text.into()))
}

/// A number as Go prints it with `%g`: the fewest digits, with an exponent below 1e-4 and from 1e21.
pub fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = digits.bytes().filter(u8::is_ascii_digit).count();
    // With the fewest digits the decision is made as if there were six, unless there are more.
    let precision = if count > 6 { i32::try_from(count).unwrap_or(21).min(21) } else { 6 };
    let limit = if exponent >= precision && exponent < 21 && count > 6 { 21 } else { precision };
    if exponent < -4 || exponent >= limit {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    } else {
        format!("{d}")
    }
}

fn to_timestamp(args: &[Value]) -> Outcome {
    match args {
        [Value::Timestamp(_)] => same(args),
        [Value::Int(i)] => {
            jiff::Timestamp::from_second(*i).map(Value::Timestamp).map_err(|_| "timestamp overflow".into())
        }
        [Value::String(s)] => time::timestamp(s).map(Value::Timestamp).map_err(Failure::Other),
        _ => Err(Failure::NoOverload),
    }
}

fn to_duration(args: &[Value]) -> Outcome {
    match args {
        [Value::Duration(_)] => same(args),
        [Value::String(s)] => time::duration(s).map(Value::Duration).map_err(Failure::Other),
        _ => Err(Failure::NoOverload),
    }
}

#[cfg(test)]
mod tests {
    use super::double_text;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (d, text) in [
            (-12300.0, "-12300"),
            (1e6, "1e+06"),
            (100_000.0, "100000"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e21, "1e+21"),
            (0.0, "0"),
        ] {
            assert_eq!(double_text(d), text);
        }
    }
}
