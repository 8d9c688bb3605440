//! An answer's bytes in the format that the client takes: JSON as it is stored, or made from it.

use crate::encoded::Encoded;
use crate::negotiate::Format;
use bytes::Bytes;
use kinds::KindDef;
use meta::schema::Schema;
use meta::status::{Result, Status};
use serde_json::Value;

/// Marks CBOR (RFC 8949, 3.4.6), as upstream's encoder does.
pub const CBOR_MARK: &[u8] = &[0xd9, 0xd9, 0xf7];
/// Major types of CBOR.
pub const CBOR_ARRAY: u8 = 4;
pub const CBOR_MAP: u8 = 5;

/// Where types that all groups share are in the type table.
pub const META: &str = "io.k8s.apimachinery.pkg.apis.meta";
pub const PARTIAL: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata";

/// JSON bytes in a format; `None` when the type has no such form (custom resources have no protobuf).
pub fn encode(format: Format, json: &Bytes) -> Result<Option<Bytes>> {
    let read = || serde_json::from_slice::<Value>(json).map_err(Status::internal);
    Ok(match format {
        Format::Json => Some(json.clone()),
        Format::Yaml => Some(meta::yaml::to_string(&read()?).into()),
        Format::Cbor => Some(cbor(&read()?)?.into()),
        Format::Protobuf => protobuf(&read()?)?.map(Bytes::from),
    })
}

pub fn cbor(value: &Value) -> Result<Vec<u8>> {
    let mut out = CBOR_MARK.to_vec();
    ciborium::into_writer(value, &mut out).map_err(Status::internal)?;
    Ok(out)
}

/// The head of an array or a map of so many entries (RFC 8949, 3).
pub fn cbor_header(out: &mut Vec<u8>, major: u8, length: u64) {
    let (major, bytes) = (major << 5, length.to_be_bytes());
    match length {
        0..24 => out.push(major | bytes[7]),
        24..0x100 => out.extend_from_slice(&[major | 24, bytes[7]]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Reads CBOR. Upstream's clients write texts as byte strings, which are texts here too.
///
/// # Errors
/// It is no CBOR, nests too deeply, or is nothing that JSON could say.
pub fn from_cbor(bytes: &[u8]) -> std::result::Result<Value, String> {
    let value: ciborium::Value = ciborium::from_reader(bytes).map_err(|e| e.to_string())?;
    tree(value)
}

/// Depth is bounded by the reader.
fn tree(value: ciborium::Value) -> std::result::Result<Value, String> {
    use ciborium::Value as C;
    Ok(match value {
        C::Null => Value::Null,
        C::Bool(b) => b.into(),
        C::Float(f) => f.into(),
        C::Text(s) => s.into(),
        C::Bytes(b) => String::from_utf8(b).map_err(|_| "cbor: a byte string is not UTF-8")?.into(),
        C::Integer(i) => {
            let n = i128::from(i);
            match (i64::try_from(n), u64::try_from(n)) {
                (Ok(n), _) => n.into(),
                (_, Ok(n)) => n.into(),
                _ => return Err(format!("cbor: {n} is out of range")),
            }
        }
        C::Tag(_, inner) => tree(*inner)?,
        C::Array(all) => Value::Array(all.into_iter().map(tree).collect::<std::result::Result<_, _>>()?),
        C::Map(all) => {
            let mut map = serde_json::Map::new();
            for (key, value) in all {
                let Value::String(key) = tree(key)? else { return Err("cbor: a key is no text".into()) };
                if map.insert(key.clone(), tree(value)?).is_some() {
                    return Err(format!("cbor: found duplicate map key {key:?}"));
                }
            }
            Value::Object(map)
        }
        _ => return Err("cbor: a value of an unknown type".into()),
    })
}

/// An object in its protobuf envelope.
pub fn protobuf(value: &Value) -> Result<Option<Vec<u8>>> {
    let text = |f: &str| value[f].as_str().unwrap_or("");
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let schema = kinds::schema::schema();
    let Some(ty) = definition(schema, api_version, kind) else { return Ok(None) };
    let raw = meta::proto::encode(schema, &ty, value).map_err(Status::internal)?;
    Ok(Some(meta::proto::envelope(api_version, kind, &raw)))
}

/// A stored object of a row in its protobuf envelope; `None` when the row has no such form.
pub fn stored_protobuf(kind: &KindDef, object: &Bytes, encoded: &Encoded) -> Result<Option<Vec<u8>>> {
    if !has_message(kind) {
        return Ok(None);
    }
    let message = encoded.message(&kind.schema, object)?;
    Ok(Some(meta::proto::envelope(&kind.api_version(), &kind.kind, &message)))
}

/// Makes what [`stored_protobuf`] will look for, of an object that is at hand as a tree too.
pub fn keep_message(kind: &KindDef, object: &Bytes, tree: &Value, encoded: &Encoded) -> Result<()> {
    if has_message(kind) {
        encoded.make_of(&kind.schema, object, tree)?;
    }
    Ok(())
}

fn has_message(kind: &KindDef) -> bool {
    kind.custom.is_none() && kinds::schema::schema().types.contains_key(&*kind.schema)
}

/// The definition of a kind in the type table.
pub fn definition(schema: &Schema, api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let package = match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        "meta.k8s.io" => META.to_owned(),
        group if group.contains('.') && !group.ends_with(".k8s.io") => return None,
        group => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    };
    let own = format!("{package}.{version}.{kind}");
    // What all groups share is in the core version or in each; its beta has the same form.
    let shared = || format!("{META}.v1.{kind}");
    [own, shared()].into_iter().find(|name| schema.types.contains_key(name))
}

/// One event of a watch about a stored object of a row.
pub fn stored_event(
    format: Format,
    name: &str,
    kind: &KindDef,
    object: &Bytes,
    encoded: &Encoded,
    out: &mut bytes::BytesMut,
) -> Result<()> {
    if format != Format::Protobuf {
        return watch_event(format, name, object, out);
    }
    match stored_protobuf(kind, object, encoded)? {
        Some(inner) => protobuf_event(name, &inner, out),
        None => return Err(Status::not_acceptable(crate::negotiate::OBJECT_TYPES)),
    }
    Ok(())
}

fn protobuf_event(name: &str, object: &[u8], out: &mut bytes::BytesMut) {
    let (mut raw, mut event) = (Vec::with_capacity(object.len() + 8), Vec::with_capacity(object.len() + 32));
    meta::proto::bytes_field(&mut raw, 1, object);
    meta::proto::bytes_field(&mut event, 1, name.as_bytes());
    meta::proto::bytes_field(&mut event, 2, &raw);
    out.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&event);
}

/// One event of a watch, framed for its format.
pub fn watch_event(format: Format, kind: &str, object: &Bytes, out: &mut bytes::BytesMut) -> Result<()> {
    match format {
        Format::Json | Format::Yaml => {
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            out.extend_from_slice(object);
            out.extend_from_slice(b"}\n");
        }
        Format::Cbor => {
            let object: Value = serde_json::from_slice(object).map_err(Status::internal)?;
            out.extend_from_slice(&cbor(&serde_json::json!({"type": kind, "object": object}))?);
        }
        Format::Protobuf => {
            let object: Value = serde_json::from_slice(object).map_err(Status::internal)?;
            let Some(inner) = protobuf(&object)? else {
                return Err(Status::not_acceptable(crate::negotiate::OBJECT_TYPES));
            };
            protobuf_event(kind, &inner, out);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every kind's sample survives the way through protobuf.
    #[test]
    fn every_kind_has_a_protobuf_form() {
        let schema = kinds::schema::schema();
        for row in kinds::table() {
            let sample: Value = meta::yaml::parse_yaml(row.sample.as_bytes(), 1 << 20).expect(&row.kind).0;
            let typed = row.retype(sample).expect(&row.kind);
            let bytes = protobuf(&typed).expect("encodes").unwrap_or_else(|| panic!("{} has none", row.kind));
            let envelope = meta::proto::open(&bytes).expect("opens");
            let ty = definition(schema, &row.api_version(), &row.kind).expect("is known");
            assert_eq!(ty, row.schema);
            let mut back = meta::proto::decode(schema, &ty, envelope.raw).expect("decodes");
            back["apiVersion"] = envelope.api_version.into();
            back["kind"] = envelope.kind.into();
            assert_eq!(row.retype(back).expect(&row.kind), typed, "{}", row.kind);
        }
    }

    #[test]
    fn custom_kinds_have_none() {
        assert_eq!(protobuf(&json!({"apiVersion": "x.example/v1", "kind": "Pod"})), Ok(None));
        assert!(definition(kinds::schema::schema(), "v1", "Status").is_some());
    }

    #[test]
    fn cbor_is_marked() {
        let bytes = cbor(&json!({"a": [1, "x", null]})).expect("encodes");
        assert!(bytes.starts_with(CBOR_MARK));
        assert_eq!(from_cbor(&bytes), Ok(json!({"a": [1, "x", null]})));
        assert_eq!(from_cbor(b"\xa1\x41a\x20"), Ok(json!({"a": -1})));
        assert!(from_cbor(b"\xa2\x61a\x01\x61a\x02").is_err() && from_cbor(&[0x81; 5000]).is_err());
    }
}
