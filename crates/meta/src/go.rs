//! Values as Go prints them, where upstream's messages have them.

use serde_json::{Map, Value};

/// As `%v` does.
pub fn text(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(entries) => list(entries),
        Value::Object(members) => map(members),
        other => other.to_string(),
    }
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
    fn values_are_printed() {
        let v = json!({"b": [1, null, "x"], "a": {}});
        assert_eq!(text(&v), "map[a:map[] b:[1 <nil> x]]");
        assert_eq!(
            syntax(&v),
            "map[string]interface {}{\"a\":map[string]interface {}{}, \"b\":[]interface {}{1, interface {}(nil), \"x\"}}"
        );
    }
}
