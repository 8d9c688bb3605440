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
    write(&value(ty, v, 0), 0, &mut out);
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

/// JSON with an indentation of one, as Go's encoder writes it.
fn write(v: &Value, depth: usize, out: &mut String) {
    let indent = |n: usize| " ".repeat(n);
    match v {
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, v)) in map.iter().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                out.push_str(&format!("{comma}\n{}{}: ", indent(depth + 1), quoted(key)));
                write(v, depth + 1, out);
            }
            out.push_str(&format!("\n{}}}", indent(depth)));
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('[');
            for (i, v) in list.iter().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                out.push_str(&format!("{comma}\n{}", indent(depth + 1)));
                write(v, depth + 1, out);
            }
            out.push_str(&format!("\n{}]", indent(depth)));
        }
        Value::String(text) => out.push_str(&quoted(text)),
        other => out.push_str(&other.to_string()),
    }
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
