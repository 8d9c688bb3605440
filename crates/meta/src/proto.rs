//! Kubernetes protobuf by the type table: wire bytes to the same tree that JSON gives, and back
//! (upstream: apimachinery `pkg/runtime/serializer/protobuf`).
//!
//! Unknown fields are skipped, as protobuf demands; sizes and nesting are bounded by the body and by [`DEPTH_MAX`].

mod encode;

pub use encode::{
    bytes_field, bytes_field_head, bytes_field_len, double_field, encode, encode_about, envelope,
    open_envelope, varint_field,
};

use crate::schema::{Field, Schema, Ty, TypeDef};
use crate::time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What every protobuf body begins with.
pub const MAGIC: &[u8] = b"k8s\0";
/// Messages inside messages; deeper ones are refused.
const DEPTH_MAX: usize = 100;

/// An object with the type that its envelope names.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

fn bad(what: &str) -> String {
    format!("proto: {what}")
}

/// Opens the envelope (`runtime.Unknown`).
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, String> {
    if bytes.is_empty() {
        return Err("empty data".to_owned());
    }
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    if body.is_empty() {
        return Err("empty body".to_owned());
    }
    let mut out = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for field in Reader(body) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Reader(meta) {
                    match field? {
                        (1, Wire::Bytes(v)) => out.api_version = text(v)?,
                        (2, Wire::Bytes(v)) => out.kind = text(v)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => out.raw = raw,
            _ => {}
        }
    }
    Ok(out)
}

/// Reads a message of a type.
pub fn decode(schema: &Schema, ty: &str, bytes: &[u8]) -> Result<Value, String> {
    message(schema, ty, bytes, 0)
}

/// A value as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut out = 0u64;
        for i in 0..10 {
            let (&b, rest) = self.0.split_first().ok_or_else(|| bad("unexpected EOF"))?;
            self.0 = rest;
            out |= u64::from(b & 0x7f) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(bad("integer overflow"))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(|| bad("unexpected EOF"))?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), String> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| bad("illegal tag"))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let n = usize::try_from(self.varint()?).map_err(|_| bad("illegal length"))?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default())),
            other => return Err(bad(&format!("illegal wireType {other}"))),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("a string is not UTF-8"))
}

/// Go types of lists that are messages of their own on the wire, with the list in field 1
/// (upstream: `metav1.Verbs`, `authenticationv1.ExtraValue`).
fn is_wrapped(go: &str) -> bool {
    ["v1.Verbs", "v1.ExtraValue", "v1.AttestationValue"].iter().any(|t| go.ends_with(t))
}

fn message(schema: &Schema, ty: &str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    let def = schema.types.get(ty).ok_or_else(|| bad(&format!("no type {ty}")))?;
    let mut out = Map::new();
    level(schema, def, &[], bytes, &mut out, depth)?;
    Ok(Value::Object(out))
}

/// Reads the fields that lie in the embedded structs of those numbers.
fn level(
    schema: &Schema,
    def: &TypeDef,
    embed: &[u32],
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(bad("too deep"));
    }
    for field in Reader(bytes) {
        let (number, wire) = field?;
        // Type and version travel in the envelope.
        let is_own = |f: &Field| f.proto == number && f.embed_proto == embed && f.embed != "TypeMeta";
        let own = def.fields.iter().find(|(_, f)| is_own(f));
        if let Some((name, f)) = own {
            insert(schema, out, name, f, wire, depth)?;
            continue;
        }
        let Wire::Bytes(inner) = wire else { continue };
        let below =
            |f: &&Field| f.embed_proto.strip_prefix(embed).is_some_and(|rest| rest.first() == Some(&number));
        if def.fields.values().find(below).is_some() {
            level(schema, def, &[embed, &[number]].concat(), inner, out, depth + 1)?;
        }
    }
    Ok(())
}

fn insert(
    schema: &Schema,
    out: &mut Map<String, Value>,
    name: &str,
    f: &Field,
    wire: Wire,
    depth: usize,
) -> Result<(), String> {
    let go = f.go.as_str();
    match &f.ty {
        Ty::List(_) if is_wrapped(go) => {
            out.insert(name.to_owned(), scalar(schema, &f.ty, go, wire, depth)?);
        }
        Ty::List(item) => {
            let list = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Some(list) = list.as_array_mut() else { return Ok(()) };
            // Numbers may come packed into one value.
            if let (Wire::Bytes(packed), Ty::Int32 | Ty::Int64 | Ty::Bool) = (&wire, &**item) {
                let mut reader = Reader(packed);
                while !reader.0.is_empty() {
                    let n = reader.varint()?;
                    list.push(scalar(schema, item, go, Wire::Varint(n), depth)?);
                }
                return Ok(());
            }
            list.push(scalar(schema, item, go, wire, depth)?);
        }
        Ty::Map(value_type) => {
            let Wire::Bytes(entry) = wire else { return Err(bad("a map entry is no message")) };
            let (mut key, mut value) = (String::new(), None);
            for field in Reader(entry) {
                match field? {
                    (1, Wire::Bytes(k)) => key = text(k)?,
                    (2, v) => value = Some(scalar(schema, value_type, go, v, depth)?),
                    _ => {}
                }
            }
            let value = match value {
                Some(value) => value,
                None => schema.zero(value_type),
            };
            let map = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
        }
        ty => {
            out.insert(name.to_owned(), scalar(schema, ty, go, wire, depth)?);
        }
    }
    Ok(())
}

fn scalar(schema: &Schema, ty: &Ty, go: &str, wire: Wire, depth: usize) -> Result<Value, String> {
    Ok(match (ty, wire) {
        (Ty::String, Wire::Bytes(b)) => text(b)?.into(),
        (Ty::Bytes, Wire::Bytes(b)) => STANDARD.encode(b).into(),
        (Ty::Bool, Wire::Varint(n)) => (n != 0).into(),
        (Ty::Int32, Wire::Varint(n)) => (n as i32).into(),
        (Ty::Int64, Wire::Varint(n)) => (n as i64).into(),
        (Ty::Double, Wire::Fixed64(n)) => f64::from_bits(n).into(),
        (Ty::Double, Wire::Fixed32(n)) => f64::from(f32::from_bits(n)).into(),
        (Ty::Time, Wire::Bytes(b)) => moment(b)?.map_or(Value::Null, |t| time::rfc3339(t).into()),
        (Ty::MicroTime, Wire::Bytes(b)) => moment(b)?.map_or(Value::Null, |t| time::rfc3339_micro(t).into()),
        (Ty::Duration, Wire::Bytes(b)) => {
            let nanos = number(b, 1)?.unwrap_or(0) as i64;
            format!("{}ns", nanos).into()
        }
        (Ty::IntOrString, Wire::Bytes(b)) => {
            let mut out = Value::from(0);
            let is_text = number(b, 1)?.unwrap_or(0) != 0;
            for field in Reader(b) {
                match field? {
                    (2, Wire::Varint(n)) if !is_text => out = (n as i32).into(),
                    (3, Wire::Bytes(s)) if is_text => out = text(s)?.into(),
                    _ => {}
                }
            }
            if is_text && !out.is_string() { "".into() } else { out }
        }
        (Ty::Quantity, Wire::Bytes(b)) => {
            bytes_of(b, 1)?.map_or_else(|| Ok("0".into()), |s| text(s).map(Value::from))?
        }
        (Ty::Any, Wire::Bytes(b)) if go.starts_with("v1.JSONSchema") => {
            json_schema_union(schema, go, b, depth)?
        }
        (Ty::Any, Wire::Bytes(b)) => match bytes_of(b, 1)? {
            Some(raw) => serde_json::from_slice(raw).map_err(|e| bad(&e.to_string()))?,
            None => Value::Null,
        },
        (Ty::List(item), Wire::Bytes(b)) if is_wrapped(go) => {
            let mut all = Vec::new();
            for field in Reader(b) {
                if let (1, wire) = field? {
                    all.push(scalar(schema, item, "", wire, depth)?);
                }
            }
            Value::Array(all)
        }
        (Ty::Ref(name), Wire::Bytes(b)) => message(schema, name, b, depth + 1)?,
        (ty, _) => return Err(bad(&format!("wrong wireType for field of type {}", ty.go()))),
    })
}

/// The unions of JSON schema: a schema, or a bool, a list of schemas, a list of names.
fn json_schema_union(schema: &Schema, go: &str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    let read = |b: &[u8]| message(schema, encode::JSON_SCHEMA, b, depth + 1);
    if go == "v1.JSONSchemaPropsOrBool" {
        return match bytes_of(bytes, 2)? {
            Some(b) => read(b),
            None => Ok((number(bytes, 1)?.unwrap_or(0) != 0).into()),
        };
    }
    if let Some(b) = bytes_of(bytes, 1)? {
        return read(b);
    }
    let mut all = Vec::new();
    for field in Reader(bytes) {
        match field? {
            (2, Wire::Bytes(b)) if go == "v1.JSONSchemaDependencies" => all.push(text(b)?.into()),
            (2, Wire::Bytes(b)) => all.push(read(b)?),
            _ => {}
        }
    }
    Ok(Value::Array(all))
}

/// A numeric field of a small message.
fn number(bytes: &[u8], wanted: u32) -> Result<Option<u64>, String> {
    for field in Reader(bytes) {
        if let (n, Wire::Varint(v)) = field?
            && n == wanted
        {
            return Ok(Some(v));
        }
    }
    Ok(None)
}

fn bytes_of(bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>, String> {
    for field in Reader(bytes) {
        if let (n, Wire::Bytes(v)) = field?
            && n == wanted
        {
            return Ok(Some(v));
        }
    }
    Ok(None)
}

/// Seconds and nanoseconds; an empty message is no time.
fn moment(bytes: &[u8]) -> Result<Option<jiff::Timestamp>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let seconds = number(bytes, 1)?.unwrap_or(0) as i64;
    let nanos = number(bytes, 2)?.unwrap_or(0) as i32;
    // Go's zero time stands for none.
    Ok(jiff::Timestamp::new(seconds, nanos).ok().filter(|t| !time::is_zero(*t)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        let field = |ty, proto| Field { proto, ..Field::of(ty) };
        let embedded =
            |ty, proto| Field { proto, embed: "VolumeSource".into(), embed_proto: vec![2], ..Field::of(ty) };
        let mut schema = Schema::default();
        let fields = [
            ("name".to_owned(), field(Ty::String, 1)),
            ("data".to_owned(), field(Ty::Map(Box::new(Ty::String)), 3)),
            ("ports".to_owned(), field(Ty::List(Box::new(Ty::Int32)), 4)),
            ("secret".to_owned(), embedded(Ty::String, 6)),
        ];
        schema
            .types
            .insert("T".into(), TypeDef { fields: fields.into(), go_name: "T".into(), ..TypeDef::default() });
        schema
    }

    #[test]
    fn messages_maps_lists_and_embedded_structs() {
        let bytes = [
            &b"\x0a\x01n"[..],             // name
            b"\x1a\x06\x0a\x01k\x12\x01v", // data
            b"\x20\x05\x22\x02\x06\x07",   // ports, one alone and two packed
            b"\x12\x03\x32\x01s",          // VolumeSource.secret
            b"\x98\x06\x01",               // an unknown field
        ]
        .concat();
        let v = decode(&schema(), "T", &bytes).expect("read");
        assert_eq!(v, json!({"name": "n", "data": {"k": "v"}, "ports": [5, 6, 7], "secret": "s"}));
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        for bytes in [&b"\x0a\xff"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x08\x01"]
        {
            assert!(decode(&schema(), "T", bytes).is_err(), "{bytes:?}");
        }
        assert!(open(b"{}").is_err());
    }

    #[test]
    fn the_envelope_names_the_type() {
        let bytes = b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07Service\x12\x02\x08\x01";
        let e = open(bytes).expect("opened");
        assert_eq!((e.api_version.as_str(), e.kind.as_str(), e.raw), ("v1", "Service", &b"\x08\x01"[..]));
    }
}
