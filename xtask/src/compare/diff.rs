//! Differences of two JSON documents.

use super::Finding;
use serde_json::Value;
use std::collections::BTreeMap;

/// What names the members of a list, first that all have.
const NAMES: [&str; 6] = ["name", "groupVersion", "version", "resource", "type", "field"];
/// Depth of nesting beyond which documents are compared as wholes.
const DEPTH_MAX: usize = 64;
/// Length of a value in a finding.
const SHOWN_MAX: usize = 300;

/// Compares a document; `place` is its name.
pub fn documents(place: &str, real: &Value, ours: &Value, out: &mut Vec<Finding>) {
    compare(&mut Place { of: place, path: String::new() }, real, ours, 0, out);
}

struct Place<'a> {
    of: &'a str,
    path: String,
}

impl Place<'_> {
    fn within(&mut self, step: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        then(self);
        self.path.truncate(length);
    }

    fn finding(&self, text: String) -> Finding {
        Finding { place: format!("{}: {}", self.of, self.path), text }
    }
}

fn compare(place: &mut Place<'_>, real: &Value, ours: &Value, depth: usize, out: &mut Vec<Finding>) {
    if real == ours {
        return;
    }
    match (real, ours) {
        (Value::Object(a), Value::Object(b)) if depth < DEPTH_MAX => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                place.within(key, |p| optional(p, a.get(key), b.get(key), depth, out));
            }
        }
        (Value::Array(a), Value::Array(b)) if depth < DEPTH_MAX => {
            if let (Some(a), Some(b)) = (named(a), named(b)) {
                for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                    let both = (a.get(key).copied(), b.get(key).copied());
                    place.within(&format!("[{key}]"), |p| optional(p, both.0, both.1, depth, out));
                }
                if a.len() == b.len() && a.keys().eq(b.keys()) && order(real) != order(ours) {
                    let text = format!("order: {} != {}", shown(&order(real)), shown(&order(ours)));
                    out.push(place.finding(text));
                }
            } else {
                for i in 0..a.len().max(b.len()) {
                    place.within(&format!("[{i}]"), |p| optional(p, a.get(i), b.get(i), depth, out));
                }
            }
        }
        _ => out.push(place.finding(format!("{} != {}", shown(real), shown(ours)))),
    }
}

fn optional(
    place: &mut Place<'_>,
    real: Option<&Value>,
    ours: Option<&Value>,
    depth: usize,
    out: &mut Vec<Finding>,
) {
    match (real, ours) {
        (Some(a), Some(b)) => compare(place, a, b, depth + 1, out),
        (Some(a), None) => out.push(place.finding(format!("only real: {}", shown(a)))),
        (None, Some(b)) => out.push(place.finding(format!("only ours: {}", shown(b)))),
        (None, None) => {}
    }
}

/// Members by name, when each has its own.
fn named(list: &[Value]) -> Option<BTreeMap<String, &Value>> {
    let field = NAMES.iter().find(|n| list.iter().all(|v| v[**n].is_string()))?;
    let all: BTreeMap<_, _> = list.iter().map(|v| (v[*field].as_str().unwrap_or("").to_owned(), v)).collect();
    (all.len() == list.len()).then_some(all)
}

fn order(list: &Value) -> Value {
    let Some(list) = list.as_array() else { return Value::Null };
    let field = NAMES.iter().find(|n| list.iter().all(|v| v[**n].is_string()));
    field.map(|f| list.iter().map(|v| v[*f].clone()).collect()).unwrap_or_default()
}

fn shown(v: &Value) -> String {
    let text = v.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_compared_by_name() {
        let mut out = Vec::new();
        let real = json!({"a": 1, "list": [{"name": "x", "v": 1}, {"name": "y"}]});
        let ours = json!({"b": 2, "list": [{"name": "y"}, {"name": "x", "v": 2}]});
        documents("d", &real, &ours, &mut out);
        let texts: Vec<_> = out.iter().map(|f| format!("{} {}", f.place, f.text)).collect();
        let order = r#"d: list order: ["x","y"] != ["y","x"]"#;
        assert_eq!(texts, ["d: a only real: 1", "d: list[x].v 1 != 2", order, "d: b only ours: 2"]);
    }
}
