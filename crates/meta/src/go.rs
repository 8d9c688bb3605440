//! Values as Go prints them, where upstream's messages have them.

use serde_json::{Map, Value};

/// As `%v` does.
pub fn text(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(entries) => list(entries),
        Value::Object(members) => map(members),
        Value::Number(n) => number(n),
        other => other.to_string(),
    }
}

/// As `%s` does, which is made for texts.
pub fn as_text(v: &Value) -> String {
    match v {
        Value::Null => "%!s(<nil>)".to_owned(),
        Value::Bool(b) => format!("%!s(bool={b})"),
        Value::Number(n) if n.is_i64() => format!("%!s(int64={n})"),
        Value::Number(n) => format!("%!s(float64={})", number(n)),
        other => text(other),
    }
}

/// A number; what is no 64-bit integer is a float.
fn number(n: &serde_json::Number) -> String {
    let Some(value) = n.as_f64().filter(|_| !n.is_i64()) else { return n.to_string() };
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // what `%g` writes out
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// [`text`] of a list.
pub fn list(entries: &[Value]) -> String {
    format!("[{}]", entries.iter().map(text).collect::<Vec<_>>().join(" "))
}

/// [`text`] of a map.
pub fn map(members: &Map<String, Value>) -> String {
    format!("map[{}]", sorted(members, |k, v| format!("{k}:{}", text(v))).join(" "))
}

/// JSON that can stand in HTML, as Go's encoder writes it.
pub fn json(v: &Value) -> String {
    let mut out = String::new();
    for c in v.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// As `%#v` does.
pub fn syntax(v: &Value) -> String {
    match v {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(s) => crate::field::quoted(s),
        Value::Array(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let members = sorted(map, |k, v| format!("{}:{}", crate::field::quoted(k), syntax(v)));
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        Value::Number(n) => number(n),
        other => other.to_string(),
    }
}

fn sorted(map: &Map<String, Value>, shown: impl Fn(&str, &Value) -> String) -> Vec<String> {
    let mut members: Vec<(&String, &Value)> = map.iter().collect();
    members.sort_by_key(|(k, _)| *k);
    members.into_iter().map(|(k, v)| shown(k, v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_printed() {
        assert_eq!(text(&json!([1, 1.5, 18_446_744_073_709_551_615_u64])), "[1 1.5 1.8446744073709552e+19]");
        assert_eq!(as_text(&json!(5)), "%!s(int64=5)");
    }

    #[test]
    fn values_are_printed() {
        let v = json!({"b": [1, null, "x"], "a": {}});
        assert_eq!(text(&v), "map[a:map[] b:[1 <nil> x]]");
        assert_eq!(
            syntax(&v),
            "map[string]interface {}{\"a\":map[string]interface {}{}, \"b\":[]interface {}{1, interface {}(nil), \"x\"}}"
        );
    }
}
