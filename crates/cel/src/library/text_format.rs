//! `"%s: %d".format([a, b])` (cel-go: `ext/formatting.go`).

use super::convert::double_text;
use super::time::seconds_text;
use crate::functions::{Failure, Outcome, Row};
use crate::types::Type;
use crate::value::Value;
use data_encoding::HEXLOWER;

/// Digits after the point when none are asked for.
const PRECISION: usize = 6;
/// The most digits that may be asked for.
const PRECISION_MAX: usize = 1000;
/// Deepest nesting that is written.
const DEPTH_MAX: usize = 64;

pub const ROWS: &[Row] =
    &[Row { name: "format", run: format, overloads: &[("string_format", "string.(list(dyn)) -> string")] }];

fn format(args: &[Value]) -> Outcome {
    let [Value::String(text), Value::List(values)] = args else { return Err(Failure::NoOverload) };
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = text.chars().peekable();
    let mut used = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            let n: usize = digits
                .parse()
                .map_err(|_| format!("error while converting precision to integer: parsing {digits:?}"))?;
            if n > PRECISION_MAX {
                return Err(format!("precision {n} exceeds {PRECISION_MAX}").into());
            }
            precision = Some(n);
        }
        let clause = chars.next().ok_or("unexpected end of string")?;
        let value = values.next().ok_or_else(|| Failure::Other(format!("index {used} out of range")))?;
        used += 1;
        out.push_str(&written(clause, precision.unwrap_or(PRECISION), value)?);
    }
    Ok(Value::String(out.into()))
}

fn refused(what: &str, v: &Value, allowed: &str) -> Failure {
    format!(
        "error during formatting: {what} can only be used on {allowed}, was given {}",
        v.type_of().runtime_name()
    )
    .into()
}

fn written(clause: char, precision: usize, v: &Value) -> Result<String, Failure> {
    Ok(match clause {
        's' => plain(v, 0)?,
        'd' => match v {
            Value::Int(_) | Value::Uint(_) => v.to_string(),
            _ => return Err(refused("decimal clause", v, "integers")),
        },
        'f' => {
            format!("{:.precision$}", double(v).ok_or_else(|| refused("fixed-point clause", v, "doubles"))?)
        }
        'e' => {
            let d = double(v).ok_or_else(|| refused("scientific clause", v, "doubles"))?;
            let text = format!("{d:.precision$e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        'b' => match v {
            Value::Int(i) => signed(*i, |n| format!("{n:b}")),
            Value::Uint(u) => format!("{u:b}"),
            Value::Bool(b) => u8::from(*b).to_string(),
            _ => {
                return Err(refused(
                    "only integers and bools can be formatted as binary; clause",
                    v,
                    "integers and bools",
                ));
            }
        },
        'x' => hex(v)?,
        'X' => hex(v)?.to_uppercase(),
        'o' => match v {
            Value::Int(i) => signed(*i, |n| format!("{n:o}")),
            Value::Uint(u) => format!("{u:o}"),
            _ => return Err(refused("octal clause", v, "integers")),
        },
        other => {
            return Err(format!(
                "could not parse formatting clause: unrecognized formatting clause {:?}",
                other.to_string()
            )
            .into());
        }
    })
}

fn double(v: &Value) -> Option<f64> {
    match v {
        Value::Double(d) => Some(*d),
        Value::String(s) => match &**s {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn signed(i: i64, digits: fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, digits(i.unsigned_abs()))
}

fn hex(v: &Value) -> Result<String, Failure> {
    let of_bytes = |bytes: &[u8]| HEXLOWER.encode(bytes);
    Ok(match v {
        Value::Int(i) => signed(*i, |n| format!("{n:x}")),
        Value::Uint(u) => format!("{u:x}"),
        Value::String(s) => of_bytes(s.as_bytes()),
        Value::Bytes(b) => of_bytes(b),
        _ => return Err(refused("hex clause", v, "integers, byte buffers, and strings")),
    })
}

/// A value as `%s` writes it.
fn plain(v: &Value, depth: usize) -> Result<String, Failure> {
    if depth > DEPTH_MAX {
        return Err("the value is nested too deeply".into());
    }
    Ok(match v {
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::String(_)
        | Value::Timestamp(_) => v.to_string(),
        Value::Type(Type::Null) => "null_type".to_owned(),
        Value::Type(_) | Value::Duration(_) => v.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::List(list) => {
            let items = list.iter().map(|v| literal(v, depth + 1)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (k, v) in map.iter() {
                entries.push((literal(&k.value(), depth + 1)?, literal(v, depth + 1)?));
            }
            entries.sort();
            let entries: Vec<String> = entries.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        _ => {
            return Err(refused(
                "string clause",
                v,
                "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
            ));
        }
    })
}

/// A value within another, as its literal.
fn literal(v: &Value, depth: usize) -> Result<String, Failure> {
    Ok(match v {
        Value::String(s) => format!("{s:?}"),
        Value::Bytes(b) => format!("b{:?}", String::from_utf8_lossy(b)),
        Value::Double(d) if d.is_finite() => format!("{d:.PRECISION$}"),
        Value::Double(d) => format!("{:?}", double_text(*d)),
        Value::Timestamp(t) => format!("timestamp({:?})", t.to_string()),
        Value::Duration(d) => format!("duration({:?})", seconds_text(*d)),
        other => plain(other, depth)?,
    })
}
