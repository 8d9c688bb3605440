//! Numbers: ranges, bounds and multiples, with Go's way of writing them (upstream: kube-openapi
//! `validate/{validator,values}.go#numberValidator`).

use super::report::{Code, Failure, Found};
use crate::custom::structural::Structural;
use serde_json::{Number, Value};

/// The OpenAPI type and format that Go sees in a value.
pub(super) fn go_type(v: &Value) -> (&'static str, &'static str) {
    match v {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(n) if n.as_i64().is_some() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
    }
}

/// Upstream: `swag.IsFloat64AJSONInteger`.
pub(super) fn is_integral(f: f64) -> bool {
    const SAFE: f64 = 9_007_199_254_740_991.0;
    if !f.is_finite() || f.abs() > SAFE {
        return false;
    }
    let whole = f.trunc();
    let diff = (f - whole).abs();
    f == whole || diff < 1e-9 * f.abs().max(whole.abs())
}

/// A value as errors show it: whole floats without their point.
pub(super) fn shown(v: &Value) -> Value {
    match v {
        Value::Number(n) if n.as_i64().is_none() => match n.as_f64() {
            Some(f) if f.fract() == 0.0 && f.abs() < 1e15 => Value::from(f as i64),
            _ => v.clone(),
        },
        other => other.clone(),
    }
}

/// Go's `%v` of a float.
fn go_float(f: f64) -> String {
    if f != 0.0 && !(1e-4..1e21).contains(&f.abs()) {
        let text = format!("{f:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{f}")
}

pub(super) fn check(n: &Number, s: &Structural, path: &str) -> Found {
    let mut out = Found::default();
    let values = &s.values;
    let float = n.as_f64().unwrap_or(0.0);
    if let Some(why) = out_of_range(n.as_i64(), float, s, "Checked", path) {
        out.add(why);
    }
    // A bound that the type cannot have is compared as a float.
    let bound = |limit: f64, what: &str| -> (Option<Failure>, Option<i64>) {
        let bad = out_of_range(None, limit, s, what, path);
        let whole = if bad.is_none() { n.as_i64() } else { None };
        (bad, whole)
    };
    if let Some(factor) = values.multiple_of {
        let (bad, whole) = bound(factor, "MultipleOf");
        out.errors.extend(bad);
        if let Some(f) = multiple(whole, float, factor, n, path) {
            out.add(f);
        }
    }
    if let Some(min) = values.minimum {
        let (bad, whole) = bound(min, "Minimum boundary");
        out.errors.extend(bad);
        let below = match whole {
            Some(i) => i < min as i64 || (values.exclusive_minimum && i == min as i64),
            None => float < min || (values.exclusive_minimum && float == min),
        };
        if below {
            let text = if values.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            out.add(bounded(n, whole, min, text, path));
        }
    }
    if let Some(max) = values.maximum {
        let (bad, whole) = bound(max, "Maximum boundary");
        out.errors.extend(bad);
        let above = match whole {
            Some(i) => i > max as i64 || (values.exclusive_maximum && i == max as i64),
            None => float > max || (values.exclusive_maximum && float == max),
        };
        if above {
            let text = if values.exclusive_maximum { "less than" } else { "less than or equal to" };
            out.add(bounded(n, whole, max, text, path));
        }
    }
    out.matches += 1;
    out
}

fn bounded(n: &Number, whole: Option<i64>, limit: f64, text: &str, path: &str) -> Failure {
    let limit = if whole.is_some() { (limit as i64).to_string() } else { go_float(limit) };
    let message = format!("{path} in body should be {text} {limit}");
    Failure::limit(Code::Invalid, path, Value::Number(n.clone()), 0, message)
}

fn multiple(whole: Option<i64>, float: f64, factor: f64, n: &Number, path: &str) -> Option<Failure> {
    let fits = match whole {
        _ if factor <= 0.0 || (whole.is_some() && factor as i64 <= 0) => {
            let message =
                format!("factor MultipleOf declared for {path} must be positive: {}", go_float(factor));
            return Some(Failure::limit(Code::Invalid, path, factor.into(), 0, message));
        }
        Some(i) => i % (factor as i64) == 0,
        None if factor < 1.0 => is_integral(1.0 / factor * float),
        None => is_integral(float / factor),
    };
    let message = format!("{path} in body should be a multiple of {}", go_float(factor));
    (!fits).then(|| Failure::limit(Code::Invalid, path, Value::Number(n.clone()), 0, message))
}

/// Upstream: `IsValueValidAgainstRange`.
fn out_of_range(whole: Option<i64>, float: f64, s: &Structural, what: &str, path: &str) -> Option<Failure> {
    let ty = if s.int_or_string { "" } else { s.ty.as_str() };
    let format = s.checked_format();
    let exact = whole.or_else(|| {
        let fits = float.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&float);
        fits.then_some(float as i64)
    });
    let ok = match (ty, format) {
        ("integer", "int32") => exact.is_some_and(|i| i32::try_from(i).is_ok()),
        ("integer", _) => exact.is_some(),
        ("number", "float") => float.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    if ok {
        return None;
    }
    Some(Failure::other(if format.is_empty() {
        format!("{what} value must be of type {ty} (default format) in {path}")
    } else {
        format!("{what} value must be of type {ty} with format {format} in {path}")
    }))
}
