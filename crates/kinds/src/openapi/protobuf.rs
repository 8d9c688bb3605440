//! OpenAPI documents in protobuf, which client-go and what is built on it ask for
//! (upstream: gnostic-models `openapiv2/OpenAPIv2.proto`, `openapiv3/OpenAPIv3.proto`).
//!
//! The messages are two tables in text, a line for each: its name, then `KEY NUMBER TYPE` of its fields, in the order of
//! their numbers. A type is `string`, `bool`, `int`, `number`, `Any` (YAML in a text) or another message; `*` says that
//! there is a list of it. Keys are those of the document, but for
//! - `.`, the value itself, or each of a list;
//! - `*` (all keys), `x-` and `/` (those that begin so) and `000` (codes of answers): a pair of key and value for each.
//!
//! Of a message with `?` the first field counts whose condition holds: the value has a key (`$ref`), has it with a text
//! (`in=body`), is of a type, or is anything (`else`).
//!
//! Invariant: what a table has no field for is left out, as is what is not of its type.

use super::Dialect;
use meta::proto::{bytes_field, double_field, varint_field};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

static V2: LazyLock<Messages> = LazyLock::new(|| Messages::read(include_str!("protobuf/v2.txt")));
static V3: LazyLock<Messages> = LazyLock::new(|| Messages::read(include_str!("protobuf/v3.txt")));

/// A document's message.
pub(super) fn encode(dialect: Dialect, document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let messages: &Messages = match dialect {
        Dialect::V2 => &V2,
        Dialect::V3 => &V3,
    };
    messages.write("Document", document, &mut out);
    out
}

struct Messages(HashMap<&'static str, Message>);

struct Message {
    one_of: bool,
    fields: Vec<Field>,
}

struct Field {
    key: &'static str,
    number: u32,
    ty: &'static str,
    list: bool,
}

impl Messages {
    fn read(table: &'static str) -> Self {
        let mut all = HashMap::new();
        let mut last = "";
        for line in table.lines().filter(|l| !l.starts_with('#')) {
            let fields = match line.strip_prefix("  ") {
                Some(more) => more,
                None => {
                    let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
                    last = name.trim_end_matches('?');
                    all.insert(last, Message { one_of: name.ends_with('?'), fields: Vec::new() });
                    fields
                }
            };
            let Some(message) = all.get_mut(last) else { continue };
            message.fields.extend(fields.split(',').filter_map(Field::read));
        }
        Self(all)
    }

    fn write(&self, ty: &str, value: &Value, out: &mut Vec<u8>) {
        let Some(message) = self.0.get(ty) else { return };
        if message.one_of {
            if let Some(field) = message.fields.iter().find(|f| f.holds(value)) {
                self.field(field.ty, field.number, value, true, out);
            }
            return;
        }
        let none = Map::new();
        let map = value.as_object().unwrap_or(&none);
        for field in &message.fields {
            match field.key {
                "." => match value {
                    Value::Array(all) => {
                        all.iter().for_each(|v| self.field(field.ty, field.number, v, true, out))
                    }
                    one => self.field(field.ty, field.number, one, true, out),
                },
                "*" | "x-" | "/" | "000" => {
                    for (key, value) in map.iter().filter(|(k, _)| message.is_pair(field.key, k)) {
                        let mut pair = Vec::new();
                        bytes_field(&mut pair, 1, key.as_bytes());
                        self.field(field.ty, 2, value, false, &mut pair);
                        bytes_field(out, field.number, &pair);
                    }
                }
                key => match map.get(key) {
                    Some(Value::Array(all)) if field.list => {
                        all.iter().for_each(|v| self.field(field.ty, field.number, v, true, out));
                    }
                    Some(value) if !field.list => self.field(field.ty, field.number, value, false, out),
                    _ => {}
                },
            }
        }
    }

    /// A value; `always` is for one in a list or a choice, of others the zero value is not written.
    fn field(&self, ty: &str, number: u32, value: &Value, always: bool, out: &mut Vec<u8>) {
        match (ty, value) {
            ("string", Value::String(s)) if always || !s.is_empty() => bytes_field(out, number, s.as_bytes()),
            ("string", Value::Number(n)) if n.is_i64() => bytes_field(out, number, n.to_string().as_bytes()),
            ("bool", Value::Bool(b)) if always || *b => varint_field(out, number, (*b).into()),
            ("int", Value::Number(n)) => match n.as_i64() {
                Some(n) if always || n != 0 => varint_field(out, number, n as u64),
                _ => {}
            },
            ("number", Value::Number(n)) => match n.as_f64() {
                Some(n) if always || n != 0.0 => double_field(out, number, n),
                _ => {}
            },
            ("string" | "bool" | "number", _) => {}
            ("Any", value) => {
                let mut any = Vec::new();
                bytes_field(&mut any, 2, meta::yaml::to_string(value).as_bytes());
                bytes_field(out, number, &any);
            }
            (ty, value) => {
                let mut inner = Vec::new();
                self.write(ty, value, &mut inner);
                bytes_field(out, number, &inner);
            }
        }
    }
}

impl Message {
    /// Whether a key is one of those of the fields that stand for several.
    fn is_pair(&self, of: &str, key: &str) -> bool {
        match of {
            "*" => true,
            "000" => {
                let code = key.len() == 3 && key.bytes().all(|b| b.is_ascii_digit() || b == b'X');
                code || key == "default" && self.fields.iter().all(|f| f.key != key)
            }
            prefix => key.starts_with(prefix),
        }
    }
}

impl Field {
    fn read(text: &'static str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (key, number, ty) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        Some(Self { key, number, ty: ty.trim_end_matches('*'), list: ty.ends_with('*') })
    }

    /// Whether this is the field of a choice.
    fn holds(&self, value: &Value) -> bool {
        match self.key {
            "else" => true,
            "bool" => value.is_boolean(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            key => match key.split_once('=') {
                Some((key, text)) => value[key] == text,
                None => value.get(key).is_some(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
