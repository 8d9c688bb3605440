//! Objects as upstream's internal types write them for people: Go's names, all fields, nulls.
//!
//! Upstream shows differences of such texts in errors of fields that cannot change. The types of `schema/internal.txt` are
//! those of `k8s.io/kubernetes/pkg/apis/core/types.go`: a type, and below it a field a line with its name in Go, its name in
//! JSON and what it holds (`*` a pointer, `[]` a list), or `+` and a type whose fields are the type's own.

use crate::diff;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Depth of nesting beyond which nothing is written.
const DEPTH_MAX: usize = 32;

static TYPES: LazyLock<HashMap<&str, Vec<Line>>> =
    LazyLock::new(|| read(include_str!("../schema/internal.txt")));

#[derive(Clone, Copy)]
enum Line {
    Field { go: &'static str, json: &'static str, holds: &'static str },
    Embeds(&'static str),
}

fn read(text: &'static str) -> HashMap<&'static str, Vec<Line>> {
    let mut types: HashMap<&str, Vec<Line>> = HashMap::new();
    let mut of = "";
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name] => {
                of = name;
                types.insert(name, Vec::new());
            }
            ["+", ty] => types.entry(of).or_default().push(Line::Embeds(ty)),
            [go, json, holds] => types.entry(of).or_default().push(Line::Field { go, json, holds }),
            _ => {}
        }
    }
    types
}

/// A value as an error shows it.
pub fn shown(ty: &str, v: &Value) -> Value {
    value(ty, v, 0)
}

/// How two values of an internal type differ.
pub fn difference(ty: &str, old: &Value, new: &Value) -> String {
    diff::unified(&text(ty, old), &text(ty, new))
}

/// A value of an internal type, on lines.
pub fn text(ty: &str, v: &Value) -> String {
    let mut out = String::new();
    write_as(ty, v, 0, &mut out);
    out
}

fn value(holds: &str, v: &Value, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    if let Some(inner) = holds.strip_prefix("[]") {
        let list = v.as_array().map(|l| l.iter().map(|v| value(inner, v, depth + 1)).collect());
        return list.map_or(Value::Null, Value::Array);
    }
    if let Some(inner) = holds.strip_prefix('*') {
        return if v.is_null() { Value::Null } else { value(inner, v, depth + 1) };
    }
    match holds {
        "string" if v.is_null() => "".into(),
        "int" | "port" if v.is_null() => 0.into(),
        "bool" if v.is_null() => false.into(),
        "quantity" if v.is_null() => "0".into(),
        holds => match TYPES.get(holds) {
            Some(lines) => {
                let mut map = Map::new();
                fields(lines, v, depth, &mut map);
                map.into()
            }
            None => v.clone(),
        },
    }
}

fn fields(lines: &[Line], v: &Value, depth: usize, out: &mut Map<String, Value>) {
    if depth > DEPTH_MAX {
        return;
    }
    for line in lines {
        match line {
            Line::Field { go, json, holds } => {
                out.insert((*go).to_owned(), value(holds, &v[*json], depth + 1));
            }
            // the metadata of templates is written as it is in JSON
            Line::Embeds("metav1.ObjectMeta") => {
                let meta = v["metadata"].as_object().into_iter().flatten();
                out.extend(meta.map(|(k, v)| (k.clone(), v.clone())));
            }
            Line::Embeds(ty) => {
                fields(TYPES.get(ty).map(Vec::as_slice).unwrap_or_default(), v, depth + 1, out)
            }
        }
    }
}

/// A value in the order of its type's fields, with an indentation of one, as Go's encoder writes it.
fn write_as(holds: &str, v: &Value, depth: usize, out: &mut String) {
    if depth > DEPTH_MAX {
        return out.push_str("null");
    }
    if let Some(inner) = holds.strip_prefix("[]") {
        return match v.as_array() {
            Some(list) => write_list(list, inner, depth, out),
            None => out.push_str("null"),
        };
    }
    if let Some(inner) = holds.strip_prefix('*') {
        return if v.is_null() { out.push_str("null") } else { write_as(inner, v, depth, out) };
    }
    let mut members = Vec::new();
    match (TYPES.get(holds), v) {
        (Some(lines), v) => flattened(lines, v, 0, &mut members),
        (None, Value::Array(list)) => return write_list(list, "any", depth, out),
        (None, Value::Object(map)) => members.extend(map.iter().map(|(k, v)| (k.as_str(), "any", v))),
        (None, _) => {
            return match value(holds, v, depth) {
                Value::String(text) => out.push_str(&quoted(&text)),
                other => out.push_str(&other.to_string()),
            };
        }
    }
    let lines = members.into_iter().map(|(key, holds, v)| {
        let mut line = format!("{}: ", quoted(key));
        write_as(holds, v, depth + 1, &mut line);
        line
    });
    enclosed(('{', '}'), &lines.collect::<Vec<_>>(), depth, out);
}

fn write_list(list: &[Value], inner: &str, depth: usize, out: &mut String) {
    let lines = list.iter().map(|v| {
        let mut line = String::new();
        write_as(inner, v, depth + 1, &mut line);
        line
    });
    enclosed(('[', ']'), &lines.collect::<Vec<_>>(), depth, out);
}

/// The fields a type shows, with those of the types it embeds.
fn flattened<'a>(
    lines: &'a [Line],
    v: &'a Value,
    depth: usize,
    out: &mut Vec<(&'a str, &'static str, &'a Value)>,
) {
    for line in lines {
        match line {
            Line::Field { go, json, holds } => out.push((go, holds, &v[*json])),
            // the metadata of templates is written as it is in JSON
            Line::Embeds("metav1.ObjectMeta") => {
                let meta = v["metadata"].as_object().into_iter().flatten();
                out.extend(meta.map(|(k, v)| (k.as_str(), "any", v)));
            }
            Line::Embeds(ty) if depth < DEPTH_MAX => {
                let inner = TYPES.get(ty).map(Vec::as_slice).unwrap_or_default();
                flattened(inner, v, depth + 1, out);
            }
            Line::Embeds(_) => {}
        }
    }
}

fn enclosed((open, close): (char, char), lines: &[String], depth: usize, out: &mut String) {
    out.push(open);
    for (i, line) in lines.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        out.push_str(&format!("{comma}\n{}{line}", " ".repeat(depth + 1)));
    }
    if !lines.is_empty() {
        out.push_str(&format!("\n{}", " ".repeat(depth)));
    }
    out.push(close);
}

/// Go hides what could end a script.
fn quoted(text: &str) -> String {
    let text = Value::from(text).to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use serde_json::json;

    #[test]
    fn all_fields_of_the_published_types_are_there() {
        let pairs = [
            ("PodSpec", "io.k8s.api.core.v1.PodSpec"),
            ("Container", "io.k8s.api.core.v1.Container"),
            ("EphemeralContainer", "io.k8s.api.core.v1.EphemeralContainer"),
            ("Volume", "io.k8s.api.core.v1.Volume"),
            ("PersistentVolumeClaimSpec", "io.k8s.api.core.v1.PersistentVolumeClaimSpec"),
        ];
        for (internal, published) in pairs {
            let mut own = Vec::new();
            names(internal, &mut own);
            for field in schema().types[published].fields.keys() {
                assert!(own.contains(&field.as_str()), "{internal}.{field}");
            }
        }
    }

    fn names(ty: &str, out: &mut Vec<&'static str>) {
        for line in &TYPES[ty] {
            match line {
                Line::Field { json, .. } => out.push(json),
                Line::Embeds(ty) => names(ty, out),
            }
        }
    }

    #[test]
    fn all_fields_are_written() {
        let text = text("Toleration", &json!({"key": "<a>", "tolerationSeconds": 5}));
        assert_eq!(
            text,
            "{\n \"Key\": \"\\u003ca\\u003e\",\n \"Operator\": \"\",\n \"Value\": \"\",\n \"Effect\": \"\",\n \"TolerationSeconds\": 5\n}"
        );
        let probe = super::text("Probe", &json!({"exec": {"command": ["a"]}}));
        assert!(
            probe.starts_with("{\n \"Exec\": {\n  \"Command\": [\n   \"a\"\n  ]\n },\n \"HTTPGet\": null,"),
            "{probe}"
        );
        assert_eq!(difference("Toleration", &json!({}), &json!({})), "");
    }
}
