//! Any tree, read by way of serde, noticing duplicate keys and depth.

use super::{MAX_DEPTH, MAX_DUPLICATES};
use crate::field::quoted;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use std::cell::{Cell, RefCell};
use std::fmt;

/// A tree, and whether any key in it came twice.
pub(super) struct Tree {
    pub value: Value,
    pub duplicates: bool,
}

/// The messages about duplicate keys. A second, slower pass, made only when there are any.
pub(super) struct Traced(pub Vec<String>);

/// As [`Tree`], of JSON: numbers stay as they are written, so that types without fractions can refuse them.
pub(super) struct JsonTree(pub Tree);

impl<'de> Deserialize<'de> for JsonTree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let cx = Cx { fractions: true, ..Cx::default() };
        let value = Node { cx: &cx, depth: 0 }.deserialize(d)?;
        Ok(Self(Tree { value, duplicates: cx.duplicates.get() }))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let cx = Cx::default();
        let value = Node { cx: &cx, depth: 0 }.deserialize(d)?;
        Ok(Self { value, duplicates: cx.duplicates.get() })
    }
}

impl<'de> Deserialize<'de> for Traced {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let cx = Cx { trace: Some(RefCell::default()), ..Cx::default() };
        Node { cx: &cx, depth: 0 }.deserialize(d)?;
        Ok(Self(cx.trace.map(|t| t.into_inner().messages).unwrap_or_default()))
    }
}

/// As [`Traced`], of YAML: keys are told with their lines, in one message (upstream: `yaml.UnmarshalStrict`).
pub(super) struct TracedYaml(pub Vec<String>);

impl<'de> Deserialize<'de> for TracedYaml {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let cx = Cx { trace: Some(RefCell::default()), lines: true, ..Cx::default() };
        Node { cx: &cx, depth: 0 }.deserialize(d)?;
        let messages = cx.trace.map(|t| t.into_inner().messages).unwrap_or_default();
        Ok(Self(match messages.is_empty() {
            true => messages,
            false => vec![format!("yaml: unmarshal errors:\n  {}", messages.join("\n  "))],
        }))
    }
}

#[derive(Default)]
struct Cx {
    /// The text is YAML, whose reader tells lines.
    lines: bool,
    /// Whole numbers with a fraction keep it.
    fractions: bool,
    duplicates: Cell<bool>,
    trace: Option<RefCell<Trace>>,
}

#[derive(Default)]
struct Trace {
    path: String,
    messages: Vec<String>,
}

impl Cx {
    /// Extends the path, when traced; returns its length before.
    fn enter(&self, write: impl FnOnce(&mut String)) -> usize {
        let Some(trace) = &self.trace else { return 0 };
        let mut t = trace.borrow_mut();
        let before = t.path.len();
        write(&mut t.path);
        before
    }

    fn leave(&self, before: usize) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().path.truncate(before);
        }
    }

    fn duplicate(&self, key: &str, line: u64) {
        self.duplicates.set(true);
        if let Some(trace) = &self.trace {
            let mut t = trace.borrow_mut();
            let dot = if t.path.is_empty() { "" } else { "." };
            let message = match self.lines {
                true => format!("line {line}: key {key} already set in map", key = quoted(key)),
                false => format!("duplicate field {}", quoted(&format!("{}{dot}{key}", t.path))),
            };
            if t.messages.len() < MAX_DUPLICATES && !t.messages.contains(&message) {
                t.messages.push(message);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    cx: &'a Cx,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Self { cx: self.cx, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        // Go prints whole numbers without a fraction, and so re-reads them as integers where YAML becomes JSON first.
        if !self.cx.fractions && v.fract() == 0.0 && v.abs() < 1e15 {
            return Ok((v as i64).into());
        }
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("json: unsupported value: {v}")))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Vec::new();
        loop {
            let mark = self.cx.enter(|p| p.push_str(&format!("[{}]", out.len())));
            let item = seq.next_element_seed(inner)?;
            self.cx.leave(mark);
            match item {
                Some(v) => out.push(v),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Map::new();
        loop {
            let next = match self.cx.lines {
                true => map.next_key::<Spanned<KeyText>>()?.map(|k| (k.value.0, k.referenced.line())),
                false => map.next_key_seed(Key)?.map(|k| (k, 0)),
            };
            let Some((key, line)) = next else { break };
            if self.cx.trace.is_some() && out.contains_key(&key) {
                self.cx.duplicate(&key, line);
            }
            let mark = self.cx.enter(|p| {
                if !p.is_empty() {
                    p.push('.');
                }
                p.push_str(&key);
            });
            let value = map.next_value_seed(inner)?;
            self.cx.leave(mark);
            if out.insert(key, value).is_some() {
                self.cx.duplicates.set(true);
            }
        }
        Ok(Value::Object(out))
    }
}

/// A key as a type, for readers that tell where it stands.
struct KeyText(String);

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Key.deserialize(d).map(Self)
    }
}

/// A map's key; YAML's scalars become the text that JSON would have.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar as the key of a map")
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }
}
