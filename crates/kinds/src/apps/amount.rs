//! Amounts of pods: a number, or a percentage of all (upstream: `ValidatePositiveIntOrPercent`, `IsNotMoreThan100Percent`).

use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const PERCENT_TEXT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// The number before the sign of a percentage; `None` when it is none.
fn percent(v: &Value) -> Option<i64> {
    let digits = v.as_str()?.strip_suffix('%')?;
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    number.then(|| digits.parse().unwrap_or(i64::MAX))
}

/// What an amount says, without regard to what it is of; 0 when it says nothing.
pub fn value(v: &Value) -> i64 {
    percent(v).or_else(|| v.as_i64()).unwrap_or_else(|| v.as_str().and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// Errors of an amount; an absent one is fine.
pub fn errors(v: &Value, at: &Path, errors: &mut ErrorList) {
    match v {
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            errors.push(Error::invalid(at, n.clone(), "must be greater than or equal to 0"));
        }
        Value::String(s) if percent(v).is_none() => errors.push(Error::invalid(at, s.as_str(), PERCENT_TEXT)),
        _ => {}
    }
}

/// The error of a percentage that is more than all.
pub fn at_most_all(v: &Value, at: &Path, errors: &mut ErrorList) {
    if percent(v).is_some_and(|n| n > 100) {
        errors.push(Error::invalid(at, v.clone(), "must not be greater than 100%"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts() {
        let refused = |v: Value| {
            let mut list = Vec::new();
            errors(&v, &Path::new("a"), &mut list);
            at_most_all(&v, &Path::new("a"), &mut list);
            list.len()
        };
        for good in [json!(null), json!(0), json!(3), json!("0%"), json!("100%")] {
            assert_eq!(refused(good.clone()), 0, "{good}");
        }
        for bad in [json!(-1), json!("3"), json!("%"), json!("-1%"), json!("101%"), json!("+5%")] {
            assert_eq!(refused(bad.clone()), 1, "{bad}");
        }
        assert_eq!([value(&json!("25%")), value(&json!(2)), value(&json!("x"))], [25, 2, 0]);
    }
}
