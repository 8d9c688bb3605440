//! Writing Kubernetes protobuf by the type table: the tree that JSON gives to wire bytes.
//!
//! Only what the tree has is written: absent fields are Go's zero values to every reader.

use super::{DEPTH_MAX, MAGIC, is_wrapped};
use crate::quantity::Quantity;
use crate::schema::{Field, Schema, Ty, TypeDef};
use crate::time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Two numbers of seven bits a byte.
const HEAD_BYTES_MAX: usize = 20;

/// The envelope (`runtime.Unknown`) around a message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = open_envelope(api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out
}

/// What stands before a message of that many bytes, when it is written piece by piece.
pub fn open_envelope(api_version: &str, kind: &str, raw_bytes: usize) -> Vec<u8> {
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    bytes_field(&mut meta, 1, api_version.as_bytes());
    bytes_field(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(meta.len() + 24);
    out.extend_from_slice(MAGIC);
    bytes_field(&mut out, 1, &meta);
    varint(&mut out, 2 << 3 | 2);
    varint(&mut out, raw_bytes as u64);
    out
}

/// A message of a type.
///
/// # Errors
/// The tree does not fit the type, which objects that were decoded always do.
pub fn encode(schema: &Schema, ty: &str, value: &Value) -> Result<Vec<u8>, String> {
    encode_about(schema, ty, value, 512)
}

/// As [`encode`], of a message of about so many bytes.
///
/// # Errors
/// As [`encode`]'s.
pub fn encode_about(schema: &Schema, ty: &str, value: &Value, bytes: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(bytes);
    message(schema, ty, value, &mut out, 0)?;
    Ok(out)
}

/// A field whose value is bytes: a text, a message.
pub fn bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    bytes_field_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

/// What stands before the bytes of [`bytes_field`].
pub fn bytes_field_head(out: &mut Vec<u8>, number: u32, bytes: usize) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, bytes as u64);
}

/// As [`bytes_field`], of what `write` appends: its length is known only then, and goes before it.
fn nested(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    let begin = out.len();
    write(out)?;
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    bytes_field_head(&mut head, number, out.len() - begin);
    out.splice(begin..begin, head);
    Ok(())
}

/// Bytes of what [`bytes_field`] writes.
pub fn bytes_field_len(number: u32, bytes: usize) -> usize {
    varint_len(u64::from(number) << 3) + varint_len(bytes as u64) + bytes
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A whole number.
pub fn varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

/// A number with a fraction.
pub fn double_field(out: &mut Vec<u8>, number: u32, value: f64) {
    varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn wrong(ty: &Ty, value: &Value) -> String {
    format!("proto: {value} is no {}", ty.go())
}

fn message(schema: &Schema, ty: &str, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("proto: too deep".into());
    }
    let def = schema.types.get(ty).ok_or_else(|| format!("proto: no type {ty}"))?;
    let map = value.as_object().ok_or_else(|| format!("proto: {value} is no {ty}"))?;
    level(schema, def, &[], map, out, depth)
}

/// Writes the fields that lie in the embedded structs of those numbers, then the structs embedded in there.
fn level(
    schema: &Schema,
    def: &TypeDef,
    embed: &[u32],
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), String> {
    let mut below: Vec<u32> = Vec::new();
    for (name, v) in map {
        let Some(f) = def.fields.get(name).filter(|f| f.proto > 0 && !v.is_null()) else { continue };
        match f.embed_proto.strip_prefix(embed) {
            // Type and version travel in the envelope.
            Some([]) if f.embed != "TypeMeta" => field(schema, f, v, out, depth)?,
            Some([next, ..]) if !below.contains(next) => below.push(*next),
            _ => {}
        }
    }
    for number in below {
        let embed = [embed, &[number]].concat();
        nested(out, number, |out| level(schema, def, &embed, map, out, depth + 1))?;
    }
    Ok(())
}

fn field(schema: &Schema, f: &Field, v: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
    match &f.ty {
        Ty::List(item) if !is_wrapped(&f.go) => {
            for v in v.as_array().ok_or_else(|| wrong(&f.ty, v))? {
                single(schema, item, &f.go, f.proto, v, out, depth)?;
            }
        }
        Ty::Map(inner) => {
            for (key, v) in v.as_object().ok_or_else(|| wrong(&f.ty, v))? {
                nested(out, f.proto, |entry| {
                    bytes_field(entry, 1, key.as_bytes());
                    single(schema, inner, &f.go, 2, v, entry, depth)
                })?;
            }
        }
        ty => single(schema, ty, &f.go, f.proto, v, out, depth)?,
    }
    Ok(())
}

/// One value; `go` is the Go type of its field, which tells the messages apart that are any JSON in the tree.
fn single(
    schema: &Schema,
    ty: &Ty,
    go: &str,
    n: u32,
    v: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), String> {
    let text = || v.as_str().ok_or_else(|| wrong(ty, v));
    match ty {
        Ty::String => bytes_field(out, n, text()?.as_bytes()),
        Ty::Bytes => bytes_field(out, n, &STANDARD.decode(text()?).map_err(|e| format!("proto: {e}"))?),
        Ty::Bool => varint_field(out, n, v.as_bool().ok_or_else(|| wrong(ty, v))?.into()),
        Ty::Int32 | Ty::Int64 => {
            let number = v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)).ok_or_else(|| wrong(ty, v))?;
            varint_field(out, n, number as u64);
        }
        Ty::Double => double_field(out, n, v.as_f64().ok_or_else(|| wrong(ty, v))?),
        Ty::Time | Ty::MicroTime => {
            let t: jiff::Timestamp = text()?.parse().map_err(|e| format!("proto: {e}"))?;
            let mut inner = Vec::with_capacity(16);
            varint_field(&mut inner, 1, t.as_second() as u64);
            varint_field(&mut inner, 2, t.subsec_nanosecond() as u64);
            bytes_field(out, n, &inner);
        }
        Ty::Duration => {
            let d = time::parse_duration(text()?).map_err(|_| wrong(ty, v))?;
            let mut inner = Vec::with_capacity(10);
            varint_field(&mut inner, 1, d.as_nanos() as u64);
            bytes_field(out, n, &inner);
        }
        Ty::IntOrString => {
            let mut inner = Vec::with_capacity(12);
            match v {
                Value::String(s) => {
                    varint_field(&mut inner, 1, 1);
                    bytes_field(&mut inner, 3, s.as_bytes());
                }
                _ => varint_field(&mut inner, 2, v.as_i64().ok_or_else(|| wrong(ty, v))? as u64),
            }
            bytes_field(out, n, &inner);
        }
        Ty::Quantity => {
            // Numbers are quantities too.
            let text = match v {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            let canonical = text.parse::<Quantity>().map_or(text, |q| q.to_string());
            let mut inner = Vec::with_capacity(16);
            bytes_field(&mut inner, 1, canonical.as_bytes());
            bytes_field(out, n, &inner);
        }
        Ty::Any => {
            nested(out, n, |inner| any(schema, go, v, inner, depth))?;
        }
        Ty::Ref(name) => {
            nested(out, n, |inner| message(schema, name, v, inner, depth + 1))?;
        }
        Ty::List(item) if is_wrapped(go) => {
            let all = v.as_array().ok_or_else(|| wrong(ty, v))?;
            nested(out, n, |inner| {
                all.iter().try_for_each(|v| single(schema, item, "", 1, v, inner, depth))
            })?;
        }
        Ty::List(_) | Ty::Map(_) => return Err(wrong(ty, v)),
    }
    Ok(())
}

/// A JSON schema in a custom resource definition.
pub(super) const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// What may be any JSON: the raw bytes, or one of the unions of JSON schema.
fn any(schema: &Schema, go: &str, v: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
    let schema_of = |v: &Value, number: u32, out: &mut Vec<u8>| {
        nested(out, number, |inner| message(schema, JSON_SCHEMA, v, inner, depth + 1))
    };
    match (go, v) {
        ("v1.JSONSchemaPropsOrBool", Value::Bool(allows)) => varint_field(out, 1, (*allows).into()),
        ("v1.JSONSchemaPropsOrBool", _) => {
            varint_field(out, 1, 1);
            schema_of(v, 2, out)?;
        }
        ("v1.JSONSchemaPropsOrArray" | "v1.JSONSchemaDependencies", Value::Array(all)) => {
            for v in all {
                match v {
                    Value::String(s) => bytes_field(out, 2, s.as_bytes()),
                    v => schema_of(v, 2, out)?,
                }
            }
        }
        ("v1.JSONSchemaPropsOrArray" | "v1.JSONSchemaDependencies", _) => schema_of(v, 1, out)?,
        _ => bytes_field(out, 1, &serde_json::to_vec(v).map_err(|e| e.to_string())?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{decode, open};
    use super::*;
    use crate::schema::TypeDef;
    use serde_json::json;

    fn schema() -> Schema {
        let field = |ty, proto| Field { proto, ..Field::of(ty) };
        let fields = [
            ("name", field(Ty::String, 1)),
            ("data", field(Ty::Map(Box::new(Ty::Bytes)), 12)),
            ("ports", field(Ty::List(Box::new(Ty::Int32)), 4)),
            ("port", field(Ty::IntOrString, 5)),
            ("at", field(Ty::Time, 6)),
            ("size", field(Ty::Quantity, 7)),
            ("raw", field(Ty::Any, 8)),
            ("inner", field(Ty::Ref("T".into()), 9)),
            ("deep", Field { proto: 1, embed: "A.B".into(), embed_proto: vec![3, 2], ..Field::of(Ty::Bool) }),
            ("verbs", Field { go: "v1.Verbs".into(), ..field(Ty::List(Box::new(Ty::String)), 10) }),
            (
                "extra",
                Field {
                    go: "map[string]v1.ExtraValue".into(),
                    ..field(Ty::Map(Box::new(Ty::List(Box::new(Ty::String)))), 11)
                },
            ),
            (
                "secret",
                Field {
                    proto: 6,
                    embed: "VolumeSource".into(),
                    embed_proto: vec![2],
                    ..Field::of(Ty::String)
                },
            ),
        ];
        let fields = fields.into_iter().map(|(n, f)| (n.to_owned(), f)).collect();
        let mut schema = Schema::default();
        schema.types.insert("T".into(), TypeDef { fields, go_name: "T".into(), ..TypeDef::default() });
        schema
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({
            "name": "n", "data": {"a": "AAE=", "b": ""}, "ports": [0, -1, 70000], "port": "http",
            "at": "2026-01-02T03:04:05Z", "size": "128Mi", "raw": {"x": [1, null]}, "secret": "s",
            "deep": true, "verbs": ["get", "list"], "extra": {"a": ["x", ""], "b": []},
            "inner": {"port": -3, "name": ""},
        });
        let bytes = encode(&schema(), "T", &value).expect("written");
        assert_eq!(decode(&schema(), "T", &bytes), Ok(value));
    }

    #[test]
    fn the_envelope_opens() {
        let bytes = envelope("apps/v1", "Deployment", b"raw");
        let open = open(&bytes).expect("opens");
        assert_eq!(
            (open.api_version.as_str(), open.kind.as_str(), open.raw),
            ("apps/v1", "Deployment", &b"raw"[..])
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(encode(&schema(), "T", &json!({"ports": "x"})).is_err());
        assert!(encode(&schema(), "Nobody", &json!({})).is_err());
    }
}
