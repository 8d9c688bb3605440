//! Values of expressions: what they are, when they are equal, which is larger, and their form in JSON
//! (cel-go: `common/types`).

use crate::library::{cidr::Cidr, format::Format, url::Url};
use crate::types::Type;
use base64::Engine as _;
use meta::quantity::Quantity;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Deepest nesting of a value that is compared or written; what is below is refused.
const DEPTH_MAX: usize = 256;

/// An object of the program that an expression may call (cel-go: `ref.Val` of an extension).
pub trait HostObject: fmt::Debug + Send + Sync {
    /// The name of its type.
    fn type_name(&self) -> &str;

    /// Calls a function on it.
    ///
    /// # Errors
    /// What the expression fails with.
    fn call(&self, function: &str, args: &[Value]) -> Result<Value, String>;
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    Timestamp(jiff::Timestamp),
    Duration(jiff::SignedDuration),
    List(Arc<Vec<Value>>),
    Map(Arc<BTreeMap<Key, Value>>),
    /// An object that an expression made.
    Object(Arc<Object>),
    Optional(Option<Arc<Value>>),
    Type(Type),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Arc<Url>),
    Quantity(Arc<Quantity>),
    Semver(Arc<semver::Version>),
    Format(&'static Format),
    Host(Arc<dyn HostObject>),
}

/// The key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

/// `Name{field: value}`
#[derive(Debug)]
pub struct Object {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value>,
}

impl Key {
    pub fn value(&self) -> Value {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Uint(u) => Value::Uint(*u),
            Self::String(s) => Value::String(s.clone()),
        }
    }

    /// `None` for what cannot be a key.
    pub fn of(v: &Value) -> Option<Self> {
        Some(match v {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Uint(u) => Self::Uint(*u),
            Value::String(s) => Self::String(s.clone()),
            _ => return None,
        })
    }
}

impl Value {
    /// A map of texts to values.
    pub fn map(entries: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self::Map(Arc::new(entries.into_iter().map(|(k, v)| (Key::String(k.into()), v)).collect()))
    }

    pub fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    /// A value without a schema. Whole numbers become `int`, objects maps.
    pub fn from_json(v: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match v {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i),
                (None, Some(u)) => Self::Uint(u),
                _ => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Self::String(s.as_str().into()),
            Json::Array(list) => Self::list(list.iter().map(Self::from_json).collect()),
            Json::Object(map) => Self::Map(Arc::new(
                map.iter().map(|(k, v)| (Key::String(k.as_str().into()), Self::from_json(v))).collect(),
            )),
        }
    }

    /// # Errors
    /// The value has no form in JSON.
    pub fn to_json(&self) -> Result<serde_json::Value, String> {
        self.json(0)
    }

    fn json(&self, depth: usize) -> Result<serde_json::Value, String> {
        use serde_json::Value as Json;
        if depth > DEPTH_MAX {
            return Err("the value is nested too deeply".to_owned());
        }
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(d) => serde_json::Number::from_f64(*d)
                .map(Json::Number)
                .ok_or_else(|| format!("unsupported number: {d}"))?,
            Self::String(s) => (&**s).into(),
            Self::Bytes(b) => base64::engine::general_purpose::STANDARD.encode(b).into(),
            Self::Timestamp(t) => t.to_string().into(),
            Self::Duration(d) => crate::library::time::seconds_text(*d).into(),
            Self::List(list) => {
                Json::Array(list.iter().map(|v| v.json(depth + 1)).collect::<Result<_, _>>()?)
            }
            Self::Map(map) => {
                let mut out = serde_json::Map::new();
                for (k, v) in map.iter() {
                    let Key::String(k) = k else {
                        return Err(format!(
                            "map key {} is of type {}, not string",
                            k.value(),
                            k.value().type_of()
                        ));
                    };
                    out.insert(k.to_string(), v.json(depth + 1)?);
                }
                Json::Object(out)
            }
            Self::Object(o) => {
                let mut out = serde_json::Map::new();
                for (k, v) in &o.fields {
                    out.insert(k.to_string(), v.json(depth + 1)?);
                }
                Json::Object(out)
            }
            other => return Err(format!("unable to convert {} to JSON", other.type_of())),
        })
    }

    /// The type as `type(x)` tells it; what a list or map holds is not told.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Duration(_) => Type::Duration,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Object(o) => Type::Object(o.name.clone()),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Type(_) => Type::Type(None),
            Self::Ip(_) => Type::opaque("net.IP"),
            Self::Cidr(_) => Type::opaque("net.CIDR"),
            Self::Url(_) => Type::opaque("kubernetes.URL"),
            Self::Quantity(_) => Type::opaque("kubernetes.Quantity"),
            Self::Semver(_) => Type::opaque("kubernetes.Semver"),
            Self::Format(_) => Type::opaque("kubernetes.NamedFormat"),
            Self::Host(h) => Type::opaque(h.type_name()),
        }
    }

    /// A field of an object that an expression made; `None` when it is not set.
    pub fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::Object(o) => o.fields.get(name).cloned(),
            _ => None,
        }
    }

    /// What a map holds under a key. Numbers of all types find each other.
    pub fn entry(&self, key: &Self) -> Option<Self> {
        let Self::Map(map) = self else { return None };
        let found = |k: Key| map.get(&k).cloned();
        match key {
            Self::Int(i) => found(Key::Int(*i)).or_else(|| found(Key::Uint(u64::try_from(*i).ok()?))),
            Self::Uint(u) => found(Key::Uint(*u)).or_else(|| found(Key::Int(i64::try_from(*u).ok()?))),
            Self::Double(d) => {
                let whole = whole(*d)?;
                self.entry(&Self::Int(whole))
            }
            other => found(Key::of(other)?),
        }
    }

    /// Whether the names of the types in an object that an expression made are those of the fields that they stand in
    /// (upstream: apiserver `pkg/cel/mutation/dynamic#CheckTypeNamesMatchFieldPathNames`).
    ///
    /// # Errors
    /// All that are not, a line each.
    pub fn check_type_names(&self) -> Result<(), String> {
        let Self::Object(o) = self else { return Ok(()) };
        let mut errors = Vec::new();
        type_names(self, &o.name, 0, &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }

    /// The equality of the language: numbers of all types are compared by value, values of other types are not equal.
    pub fn equals(&self, other: &Self) -> bool {
        self.equals_at(other, 0)
    }

    fn equals_at(&self, other: &Self, depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return false;
        }
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
            ) => self.compare(other) == Some(Ordering::Equal),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals_at(b, depth + 1))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(k, v)| other.entry(&k.value()).is_some_and(|w| v.equals_at(&w, depth + 1)))
            }
            (Self::Object(a), Self::Object(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields
                        .iter()
                        .all(|(k, v)| b.fields.get(k).is_some_and(|w| v.equals_at(w, depth + 1)))
            }
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals_at(b, depth + 1),
                _ => false,
            },
            (Self::Type(a), Self::Type(b)) => a.runtime_name() == b.runtime_name(),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Host(a), Self::Host(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The order of two values; `None` when there is none, as for values of different types.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => double_and_whole(*a, i128::from(*b)),
            (Self::Double(a), Self::Uint(b)) => double_and_whole(*a, i128::from(*b)),
            (Self::Int(_) | Self::Uint(_), Self::Double(_)) => other.compare(self).map(Ordering::reverse),
            (Self::String(a), Self::String(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Characters of a text, bytes, elements or entries; 1 of all else.
    pub fn size(&self) -> u64 {
        let n = match self {
            Self::String(s) => s.chars().count(),
            Self::Bytes(b) => b.len(),
            Self::List(l) => l.len(),
            Self::Map(m) => m.len(),
            Self::Optional(Some(v)) => return v.size(),
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(c) => c.bytes(),
            _ => 1,
        };
        n as u64
    }

    /// Nothing: empty, zero or false (cel-go: `traits.Zeroer`).
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Null | Self::Optional(None) => true,
            Self::Bool(b) => !b,
            Self::Int(i) => *i == 0,
            Self::Uint(u) => *u == 0,
            Self::Double(d) => *d == 0.0,
            Self::String(s) => s.is_empty(),
            Self::Bytes(b) => b.is_empty(),
            Self::List(l) => l.is_empty(),
            Self::Map(m) => m.is_empty(),
            Self::Object(o) => o.fields.is_empty(),
            Self::Duration(d) => d.is_zero(),
            Self::Optional(Some(v)) => v.is_zero(),
            _ => false,
        }
    }
}

/// The whole number that a double is.
#[allow(clippy::cast_possible_truncation)] // the range is checked
fn whole(d: f64) -> Option<i64> {
    (d.fract() == 0.0 && d.abs() < 9.2e18).then_some(d as i64)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // beyond the range of i64 and u64 the order is clear
fn double_and_whole(d: f64, n: i128) -> Option<Ordering> {
    if d.is_nan() {
        return None;
    }
    if d.abs() >= 1e30 {
        return Some(if d > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let floor = d.floor();
    Some((floor as i128).cmp(&n).then(if d > floor { Ordering::Greater } else { Ordering::Equal }))
}

fn type_names(v: &Value, expected: &str, depth: usize, errors: &mut Vec<String>) {
    if depth > DEPTH_MAX {
        return;
    }
    match v {
        Value::Object(o) => {
            if &*o.name != expected {
                errors.push(format!(
                    "unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type",
                    &*o.name
                ));
            }
            for (field, v) in &o.fields {
                type_names(v, &format!("{expected}.{field}"), depth + 1, errors);
            }
        }
        Value::List(list) => list.iter().for_each(|v| type_names(v, expected, depth + 1, errors)),
        Value::Map(map) => map.values().for_each(|v| type_names(v, expected, depth + 1, errors)),
        _ => {}
    }
}

/// For messages: texts without quotes.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Uint(u) => write!(f, "{u}"),
            Self::Double(d) => f.write_str(&crate::library::convert::double_text(*d)),
            Self::String(s) => f.write_str(s),
            Self::Timestamp(t) => write!(f, "{t}"),
            Self::Duration(d) => f.write_str(&crate::library::time::seconds_text(*d)),
            Self::Type(t) => f.write_str(t.runtime_name()),
            other => write!(f, "{}", other.type_of()),
        }
    }
}
