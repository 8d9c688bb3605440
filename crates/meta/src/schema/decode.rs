//! Reading a tree as a type: the result is what a Go program gives that decodes the JSON into its structs and
//! encodes them again.
//!
//! Unknown fields go (and are named), nulls become zero values, zero values are left out or written as the Go
//! tags say, quantities, times and base64 take their canonical form. Wrong types are errors in the words of
//! Go's decoder (upstream: sigs.k8s.io/json, Go `encoding/json`).

use super::{Field, Schema, Ty, go_kind};
use crate::field::quoted;
use crate::quantity::Quantity;
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// What becomes of unknown and duplicate fields (`fieldValidation` of a request).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strictness {
    /// They are dropped silently.
    Ignore,
    /// They are dropped with a warning.
    Warn,
    /// They make the request fail.
    #[default]
    Strict,
}

/// The tree does not have the type. The text is Go's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError(pub String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
/// Go types of the table that hold a schema or something else.
const SCHEMA_OR_BOOL: &str = ".JSONSchemaPropsOrBool";
const SCHEMA_OR_LIST: &str = ".JSONSchemaPropsOrArray";

/// Most unknown fields that are named (upstream: `saveStrictError`).
const MAX_STRICT: usize = 100;

impl Schema {
    /// Reads a tree as a type of the table; a type that the table lacks leaves the tree as it is.
    ///
    /// The messages (`unknown field "spec.foo"`) come under `Warn` and `Strict`, in the order of the field
    /// names; what to do about them is the caller's. Duplicate fields are known to the parser alone
    /// ([`crate::yaml::parse_json`]).
    ///
    /// # Errors
    /// The first value of a wrong type, such as
    /// `json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string`.
    pub fn decode(
        &self,
        value: Value,
        ty: &str,
        strictness: Strictness,
    ) -> Result<(Value, Vec<String>), DecodeError> {
        let Some(def) = self.types.get(ty) else { return Ok((value, Vec::new())) };
        let mut d = Decoder {
            schema: self,
            tracks: strictness != Strictness::Ignore,
            strict: Vec::new(),
            error: None,
            path: String::new(),
            stack: Vec::new(),
        };
        let out = match value {
            Value::Object(map) => d.object(map, def),
            Value::Null => d.object(Map::new(), def),
            other => {
                let (what, into) = (go_kind(&other), Ty::Ref(ty.to_owned()).go());
                return Err(DecodeError(format!(
                    "json: cannot unmarshal {what} into Go value of type {into}"
                )));
            }
        };
        match d.error {
            Some(fault) => Err(DecodeError(fault.text)),
            None => Ok((Value::Object(out), d.strict)),
        }
    }

    /// The zero value of a type as Go encodes it.
    pub fn zero(&self, ty: &Ty) -> Value {
        match ty {
            Ty::String => "".into(),
            Ty::Bool => false.into(),
            Ty::Int32 | Ty::Int64 | Ty::Double | Ty::IntOrString => 0.into(),
            Ty::Duration => "0s".into(),
            Ty::Quantity => "0".into(),
            Ty::Bytes | Ty::Time | Ty::MicroTime | Ty::Any | Ty::List(_) | Ty::Map(_) => Value::Null,
            Ty::Ref(name) => {
                let mut map = Map::new();
                for (key, f) in
                    self.types.get(name).into_iter().flat_map(|d| &d.fields).filter(|(_, f)| !f.omitempty)
                {
                    map.insert(key.clone(), self.zero_field(f));
                }
                Value::Object(map)
            }
        }
    }

    fn zero_field(&self, field: &Field) -> Value {
        if field.pointer { Value::Null } else { self.zero(&field.ty) }
    }
}

/// An error; one of an own unmarshaler ends Go's decoding at once and so hides those saved before.
struct Fault {
    text: String,
    hard: bool,
}

struct Decoder<'s> {
    schema: &'s Schema,
    /// Whether unknown fields are to be named.
    tracks: bool,
    strict: Vec<String>,
    error: Option<Fault>,
    /// Where we are, with list indices and map keys; kept only when `tracks`.
    path: String,
    /// Where we are in Go's errors: the struct and its field, for each struct above.
    stack: Vec<(&'s str, &'s str, &'s Field)>,
}

impl<'s> Decoder<'s> {
    fn object(&mut self, map: Map<String, Value>, def: &'s super::TypeDef) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in map {
            let Some((name, field)) = def.fields.get_key_value(&key) else {
                self.unknown(&key);
                continue;
            };
            let mark = self.enter(&key);
            self.stack.push((&def.go_name, name, field));
            let read = self.value(value, &field.ty, &field.go);
            self.stack.pop();
            self.path.truncate(mark);
            if let Some(v) = read.filter(|v| field.pointer || !field.omitempty || !is_zero(v)) {
                out.insert(key, v);
            }
        }
        for (key, field) in &def.fields {
            if !field.omitempty && !out.contains_key(key) {
                out.insert(key.clone(), self.schema.zero_field(field));
            }
        }
        out
    }

    /// The value in its canonical form; `None` for null.
    fn value(&mut self, v: Value, ty: &'s Ty, go: &'s str) -> Option<Value> {
        if v.is_null() {
            return None;
        }
        match (ty, v) {
            (Ty::Any, v) if go.ends_with(SCHEMA_OR_BOOL) || go.ends_with(SCHEMA_OR_LIST) => {
                self.subschema(v, go)
            }
            (Ty::Any, v) => Some(v),
            (Ty::String, v @ Value::String(_)) | (Ty::Bool, v @ Value::Bool(_)) => Some(v),
            (Ty::Double, mut v @ Value::Number(_)) => {
                crate::yaml::without_fractions(&mut v);
                Some(v)
            }
            (Ty::Int32 | Ty::Int64, Value::Number(n)) => {
                let fits = n.as_i64().filter(|i| *ty == Ty::Int64 || i32::try_from(*i).is_ok());
                if fits.is_none() {
                    self.wrong(&format!("number {n}"), ty, go);
                }
                fits.map(Value::from)
            }
            (Ty::Bytes, Value::String(s)) => self.bytes(s),
            (Ty::Bytes, Value::Array(list)) => Some(self.byte_list(list)),
            (Ty::Time | Ty::MicroTime, v) => self.time(v, *ty == Ty::MicroTime),
            (Ty::Duration, Value::String(s)) => match time::parse_duration(s.strip_prefix('-').unwrap_or(&s))
            {
                Ok(_) => Some(Value::String(s)),
                Err(e) => self.hard(e),
            },
            (Ty::IntOrString, v) => self.int_or_string(v),
            (Ty::Quantity, v) => self.quantity(v),
            (Ty::Ref(name), Value::Object(map)) => match self.schema.types.get(name) {
                Some(def) => Some(Value::Object(self.object(map, def))),
                None => Some(Value::Object(map)),
            },
            (Ty::List(inner), Value::Array(list)) => Some(self.list(list, inner, go)),
            (Ty::Map(inner), Value::Object(map)) => Some(self.map(map, inner, go)),
            (ty, v) => {
                self.wrong(go_kind(&v), ty, go);
                None
            }
        }
    }

    fn list(&mut self, list: Vec<Value>, inner: &'s Ty, go: &'s str) -> Value {
        let go = go.strip_prefix("[]").unwrap_or("").trim_start_matches('*');
        let mark = self.path.len();
        let mut out = Vec::with_capacity(list.len());
        for (i, item) in list.into_iter().enumerate() {
            if self.tracks {
                self.path.push_str(&format!("[{i}]"));
            }
            let read = self.value(item, inner, go);
            self.path.truncate(mark);
            out.push(read.unwrap_or_else(|| self.schema.zero(inner)));
        }
        Value::Array(out)
    }

    fn map(&mut self, map: Map<String, Value>, inner: &'s Ty, go: &'s str) -> Value {
        let go = go
            .split_once(']')
            .filter(|_| go.starts_with("map["))
            .map_or("", |(_, v)| v)
            .trim_start_matches('*');
        let mut out = Map::new();
        for (key, item) in map {
            let mark = self.enter(&key);
            let read = self.value(item, inner, go);
            self.path.truncate(mark);
            out.insert(key, read.unwrap_or_else(|| self.schema.zero(inner)));
        }
        Value::Object(out)
    }

    /// Bytes as a list of numbers.
    fn byte_list(&mut self, list: Vec<Value>) -> Value {
        let mut bytes = Vec::with_capacity(list.len());
        for item in list {
            match item.as_u64().and_then(|n| u8::try_from(n).ok()) {
                Some(byte) => bytes.push(byte),
                None if item.is_null() => bytes.push(0),
                None => {
                    let what =
                        if item.is_number() { format!("number {item}") } else { go_kind(&item).to_owned() };
                    self.wrong(&what, &Ty::Bytes, "uint8");
                }
            }
        }
        STANDARD.encode(bytes).into()
    }

    fn bytes(&mut self, s: String) -> Option<Value> {
        match base64(&s) {
            Ok(None) => Some(Value::String(s)),
            Ok(Some(canonical)) => Some(Value::String(canonical)),
            Err(why) => {
                self.soft(why);
                None
            }
        }
    }

    fn time(&mut self, v: Value, micro: bool) -> Option<Value> {
        let Value::String(s) = v else { return self.hard_type(go_kind(&v), "string") };
        let parsed = if micro { time::parse_micro(&s) } else { time::parse(&s) };
        match parsed {
            Ok(t) if time::is_zero(t) => None,
            Ok(t) => Some(if micro { time::rfc3339_micro(t) } else { time::rfc3339(t) }.into()),
            Err(e) => self.hard(e),
        }
    }

    fn int_or_string(&mut self, v: Value) -> Option<Value> {
        match v {
            Value::String(_) => Some(v),
            Value::Number(n) => match n.as_i64().filter(|i| i32::try_from(*i).is_ok()) {
                Some(i) => Some(i.into()),
                None => self.hard_type(&format!("number {n}"), "int32"),
            },
            other => self.hard_type(go_kind(&other), "int32"),
        }
    }

    fn quantity(&mut self, v: Value) -> Option<Value> {
        let text = match v {
            Value::String(s) => s,
            other => other.to_string(),
        };
        match Quantity::parse(text.trim()) {
            Ok(q) => Some(q.to_string().into()),
            Err(e) => self.hard(e.to_string()),
        }
    }

    /// A schema in a schema, which reads itself: nothing behind what is wrong in it is read, and what is unknown is not
    /// told (upstream: apiextensions `v1/marshal.go`).
    fn subschema(&mut self, v: Value, go: &str) -> Option<Value> {
        match v {
            Value::Object(map) => {
                let Some(def) = self.schema.types.get(SCHEMA_PROPS) else { return Some(Value::Object(map)) };
                let (tracks, before) = (std::mem::take(&mut self.tracks), self.error.take());
                let read = self.object(map, def);
                self.tracks = tracks;
                match std::mem::replace(&mut self.error, before) {
                    Some(fault) => self.hard(fault.text),
                    None => Some(Value::Object(read)),
                }
            }
            Value::Bool(_) => Some(v),
            _ if go.ends_with(SCHEMA_OR_BOOL) => self.hard("boolean or JSON schema expected".to_owned()),
            v => Some(v),
        }
    }

    /// Extends the path by a key; returns its length before.
    fn enter(&mut self, key: &str) -> usize {
        let mark = self.path.len();
        if self.tracks {
            if mark > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
        }
        mark
    }

    fn unknown(&mut self, key: &str) {
        if self.tracks && self.strict.len() < MAX_STRICT {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.strict.push(format!("unknown field {}", quoted(&format!("{}{dot}{key}", self.path))));
        }
    }

    fn soft(&mut self, text: String) {
        if self.error.is_none() {
            self.error = Some(Fault { text, hard: false });
        }
    }

    fn hard(&mut self, text: String) -> Option<Value> {
        if !self.error.as_ref().is_some_and(|e| e.hard) {
            self.error = Some(Fault { text, hard: true });
        }
        None
    }

    fn hard_type(&mut self, what: &str, into: &str) -> Option<Value> {
        let text = self.type_text(what, into);
        self.hard(text)
    }

    fn wrong(&mut self, what: &str, ty: &Ty, go: &str) {
        let into: Cow<str> = if go.is_empty() { ty.go().into() } else { go.into() };
        let text = self.type_text(what, &into);
        self.soft(text);
    }

    /// Go's `UnmarshalTypeError`.
    fn type_text(&self, what: &str, into: &str) -> String {
        let mut path = String::new();
        for (_, name, field) in &self.stack {
            for part in [field.embed.as_str(), name] {
                if !part.is_empty() {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(part);
                }
            }
        }
        let owner = self.stack.last().map_or("", |(owner, _, _)| owner);
        format!("json: cannot unmarshal {what} into Go struct field {owner}.{path} of type {into}")
    }
}

/// Base64 in canonical form, where the text is not that already. Line breaks within are allowed, as in Go.
pub(super) fn base64(s: &str) -> Result<Option<String>, String> {
    let clean: Cow<str> =
        if s.contains(['\n', '\r']) { s.replace(['\n', '\r'], "").into() } else { Cow::Borrowed(s) };
    match STANDARD.decode(clean.as_bytes()) {
        Ok(bytes) => Ok((clean.len() != s.len()).then(|| STANDARD.encode(bytes))),
        Err(e) => {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => clean.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// What `omitempty` leaves out. Fields that are structs carry the mark only with `omitzero`.
fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
    }
}
