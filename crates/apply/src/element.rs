//! One step of a field path: a field, a list entry by keys, a set member or an index.
//!
//! Elements have upstream's total order, so sets made of them are written in upstream's order.

use meta::field::quoted;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// One step from a value to a value inside it (upstream: structured-merge-diff `fieldpath/element.go#PathElement`).
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of an object.
    Field(String),
    /// The entry of a list whose key fields have these values; sorted by name.
    Key(Vec<(String, Value)>),
    /// The member of a set.
    Value(Value),
    /// The entry at a place of an atomic list; only ever read, never made by a merge.
    Index(i64),
}

impl Element {
    /// A field by name.
    pub fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    /// The text of FieldsV1: `f:name`, `k:{"name":"a"}`, `v:"a"`, `i:0`.
    pub fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let text = fields
                    .iter()
                    .map(|(name, value)| format!("{}:{value}", Value::String(name.clone())))
                    .collect::<Vec<_>>();
                format!("k:{{{}}}", text.join(","))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(at) => format!("i:{at}"),
        }
    }

    /// Reads the text of FieldsV1; `Ok(None)` for a kind of element that is not known, which readers skip.
    ///
    /// # Errors
    /// The text is no element.
    pub fn decode(text: &str) -> Result<Option<Self>, String> {
        let bytes = text.as_bytes();
        if bytes.len() < 2 {
            return Err("key must be 2 characters long:".to_owned());
        }
        if bytes[1] != b':' {
            return Err(format!("missing colon: {text}"));
        }
        let rest = text.get(2..).unwrap_or_default();
        Ok(Some(match bytes[0] {
            b'f' => Self::Field(rest.to_owned()),
            b'v' => Self::Value(serde_json::from_str(rest).map_err(|e| e.to_string())?),
            b'k' => {
                let map: serde_json::Map<String, Value> =
                    serde_json::from_str(rest).map_err(|e| e.to_string())?;
                let mut fields: Vec<_> = map.into_iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Self::Key(fields)
            }
            b'i' => {
                Self::Index(rest.parse().map_err(|_| {
                    format!("strconv.Atoi: parsing {rest}: invalid syntax", rest = quoted(rest))
                })?)
            }
            _ => return Ok(None),
        }))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((an, av), (bn, bv)) in a.iter().zip(b) {
                    let order = an.cmp(bn).then_with(|| compare_values(av, bv));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                let text: Vec<_> = fields.iter().map(|(n, v)| format!("{n}={}", shown(v))).collect();
                write!(f, "[{}]", text.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", shown(value)),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// A value in a path (upstream: structured-merge-diff `value/value.go#ToString`).
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => meta::field::quoted(text),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k}={}", shown(v))).collect(),
        other if other.is_number() => meta::go::text(other),
        other => other.to_string(),
    }
}

/// The total order of values (upstream: structured-merge-diff `value/value.go#CompareUsing`): numbers, texts, booleans,
/// lists, objects, null; numbers by size whatever their type.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x
                .as_f64()
                .unwrap_or_default()
                .partial_cmp(&y.as_f64().unwrap_or_default())
                .unwrap_or(Ordering::Equal),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            for (x, y) in x.iter().zip(y) {
                let order = compare_values(x, y);
                if order != Ordering::Equal {
                    return order;
                }
            }
            x.len().cmp(&y.len())
        }
        (Value::Object(x), Value::Object(y)) => {
            for ((xn, xv), (yn, yv)) in x.iter().zip(y) {
                let order = xn.cmp(yn).then_with(|| compare_values(xv, yv));
                if order != Ordering::Equal {
                    return order;
                }
            }
            x.len().cmp(&y.len())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn rank(v: &Value) -> u8 {
    match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}
