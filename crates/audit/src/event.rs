//! The event as it is written, in upstream's field order and number formats.

use bytes::Bytes;
use jiff::Timestamp;
use memchr::{memchr, memchr3};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

/// How much of a request is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// Who, as events show users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseStatus {
    /// Always an empty object on the wire.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<RawJson>>,
    #[serde(default)]
    pub code: u16,
}

/// The object of a request or an answer. Nothing of it is copied: an answer is the bytes that are sent, and a list is its
/// items' stored bytes.
#[derive(Clone, Debug)]
pub enum Content {
    Whole(Bytes),
    Parts(Arc<dyn Parts>),
}

/// An answer's JSON, told part by part. A part ends where a value ends, so that no character is cut in two.
pub trait Parts: Send + Sync + std::fmt::Debug {
    /// # Errors
    /// What `sink` fails with.
    fn each(
        &self,
        omit_managed_fields: bool,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()>;
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        let text = |a: &Self| {
            let mut out = Vec::new();
            a.each(false, &mut |part| out.write_all(part)).map(|()| out).ok()
        };
        text(self) == text(other)
    }
}

impl Content {
    fn each(
        &self,
        omit_managed_fields: bool,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::Parts(parts) => parts.each(omit_managed_fields, sink),
            Self::Whole(bytes) => sink(bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(d)?;
        Ok(Self::Whole(String::from(Box::<str>::from(raw)).into()))
    }
}

/// JSON kept as its text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(pub Box<RawValue>);

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl RawJson {
    /// Takes over JSON text; `None` when it is not valid.
    pub fn new(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(Self)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationMetadata {
    pub impersonation_constraint: String,
}

/// `audit.k8s.io/v1` Event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub api_version: String,
    pub level: Level,
    #[serde(rename = "auditID")]
    pub audit_id: String,
    pub stage: Stage,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub verb: String,
    pub user: User,
    #[serde(default)]
    pub impersonated_user: Option<User>,
    #[serde(default)]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", default)]
    pub source_ips: Vec<String>,
    #[serde(default)]
    pub user_agent: String,
    #[serde(default)]
    pub object_ref: Option<ObjectRef>,
    #[serde(default)]
    pub response_status: Option<ResponseStatus>,
    #[serde(default)]
    pub request_object: Option<Content>,
    #[serde(default)]
    pub response_object: Option<Content>,
    /// An answer that comes in parts is written without its managed fields.
    #[serde(skip)]
    pub omit_managed_fields: bool,
    #[serde(with = "micro_time")]
    pub request_received_timestamp: Timestamp,
    #[serde(with = "micro_time")]
    pub stage_timestamp: Timestamp,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// What [`Request`] writes, escaped, once nothing of it changes any more.
    #[serde(skip)]
    pub(crate) settled: Option<Bytes>,
}

/// About how long an event is without its objects.
const OTHER_BYTES: usize = 1024;

/// What an event begins with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: Stage,
}

/// What stands behind the stage: all that is known of a request before it is answered.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: &'a User,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: &'a Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: &'a Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[_]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: &'a Option<ObjectRef>,
}

/// What stands behind the objects in an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tail<'a> {
    #[serde(with = "micro_time")]
    request_received_timestamp: Timestamp,
    #[serde(with = "micro_time")]
    stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// Appends the members of a struct behind others: `{"a":1` becomes `{"a":1,"b":2}`.
fn append(out: &mut Vec<u8>, members: &impl Serialize) -> io::Result<()> {
    let at = out.len();
    serde_json::to_writer(&mut *out, members)?;
    out[at] = b',';
    Ok(())
}

impl Event {
    /// Nothing changes any more of what is known before the answer: it is written once for all lines.
    fn settle(&mut self) -> Bytes {
        if let Some(settled) = &self.settled {
            return settled.clone();
        }
        let mut out = Vec::with_capacity(OTHER_BYTES);
        // Writing into memory cannot fail.
        let _ = self.append_request(&mut out);
        self.settled.insert(escaped(out).into()).clone()
    }

    /// What a commit carries of the event: it can be read, but is not escaped as lines are.
    pub(crate) fn core(&mut self) -> Vec<u8> {
        let request = self.settle();
        let mut out = Vec::with_capacity(OTHER_BYTES + whole_bytes(&self.request_object));
        // Writing into memory cannot fail.
        let _ = self.write_core(&request, &mut out);
        out
    }

    fn write_core(&self, request: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(b"{\"event\":");
        self.append_head(out)?;
        out.extend_from_slice(request);
        if let Some(object) = &self.request_object {
            out.extend_from_slice(b",\"requestObject\":");
            object.each(false, &mut |part| out.write_all(part))?;
        }
        self.append_tail(out)?;
        out.push(b'}');
        Ok(())
    }

    /// From the opening brace on, without a closing one.
    fn append_head(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let head = Head {
            kind: &self.kind,
            api_version: &self.api_version,
            level: self.level,
            audit_id: &self.audit_id,
            stage: self.stage,
        };
        serde_json::to_writer(&mut *out, &head)?;
        out.pop();
        Ok(())
    }

    /// Behind what was begun, without its closing brace.
    fn append_request(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let request = Request {
            request_uri: &self.request_uri,
            verb: &self.verb,
            user: &self.user,
            impersonated_user: &self.impersonated_user,
            authentication_metadata: &self.authentication_metadata,
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: &self.object_ref,
        };
        append(out, &request)?;
        out.pop();
        Ok(())
    }

    /// What stands behind the objects, with the closing brace.
    fn append_tail(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let tail = Tail {
            request_received_timestamp: self.request_received_timestamp,
            stage_timestamp: self.stage_timestamp,
            annotations: &self.annotations,
        };
        append(out, &tail)
    }

    /// The event as one line of JSON, without the newline, escaped as Go escapes (`&`, `<`, `>` and line separators).
    pub fn to_line(&self) -> Vec<u8> {
        let objects = whole_bytes(&self.request_object) + whole_bytes(&self.response_object);
        let mut out = Vec::with_capacity(OTHER_BYTES + objects);
        // Writing into memory cannot fail.
        let _ = self.write_line(&mut out);
        out
    }

    /// As [`Event::to_line`], without holding an object that comes in parts.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        let mut text = Vec::with_capacity(OTHER_BYTES);
        self.append_head(&mut text)?;
        match &self.settled {
            Some(request) => {
                write_escaped(out, &text)?;
                out.write_all(request)?;
                text.clear();
            }
            None => self.append_request(&mut text)?,
        }
        if let Some(status) = &self.response_status {
            text.extend_from_slice(b",\"responseStatus\":");
            serde_json::to_writer(&mut text, status)?;
        }
        write_escaped(out, &text)?;
        if let Some(object) = &self.request_object {
            out.write_all(b",\"requestObject\":")?;
            object.each(false, &mut |part| write_escaped(out, part))?;
        }
        if let Some(object) = &self.response_object {
            out.write_all(b",\"responseObject\":")?;
            object.each(self.omit_managed_fields, &mut |part| write_escaped(out, part))?;
        }
        text.clear();
        self.append_tail(&mut text)?;
        write_escaped(out, &text)
    }
}

fn whole_bytes(object: &Option<Content>) -> usize {
    match object {
        Some(Content::Whole(bytes)) => bytes.len(),
        _ => 0,
    }
}

/// JSON as [`write_escaped`] writes it.
fn escaped(json: Vec<u8>) -> Vec<u8> {
    if memchr3(b'&', b'<', b'>', &json).is_none() && memchr(0xe2, &json).is_none() {
        return json;
    }
    let mut out = Vec::with_capacity(json.len() + json.len() / 8);
    // Writing into memory cannot fail.
    let _ = write_escaped(&mut out, &json);
    out
}

/// Go's `json.HTMLEscape`. In valid JSON these bytes stand inside strings only.
fn write_escaped(out: &mut impl Write, json: &[u8]) -> io::Result<()> {
    let (mut done, mut ascii) = (0, None);
    while done < json.len() {
        // Looked for once, however many bytes of the other sort come before it.
        let next = *ascii
            .get_or_insert_with(|| memchr3(b'&', b'<', b'>', &json[done..]).map_or(json.len(), |i| done + i));
        let at = memchr(0xe2, &json[done..next]).map_or(next, |i| done + i);
        out.write_all(&json[done..at])?;
        let (written, length): (&[u8], usize) = match &json[at..] {
            [b'&', ..] => (b"\\u0026", 1),
            [b'<', ..] => (b"\\u003c", 1),
            [b'>', ..] => (b"\\u003e", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            [other, ..] => (std::slice::from_ref(other), 1),
            [] => return Ok(()),
        };
        out.write_all(written)?;
        done = at + length;
        if at == next {
            ascii = None;
        }
    }
    Ok(())
}

/// JSON without what stands between its tokens (Go: `json.Compact`). What is not valid stays invalid.
pub fn compact(json: &[u8]) -> Vec<u8> {
    let (mut out, mut within, mut escaped) = (Vec::with_capacity(json.len()), false, false);
    for &b in json {
        if within {
            within = escaped || b != b'"';
            escaped = !escaped && b == b'\\';
        } else if matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
            continue;
        } else {
            within = b == b'"';
        }
        out.push(b);
    }
    out
}

/// An object's JSON without managed fields, also those of a list's items and a table's rows.
pub(crate) fn without_managed_fields(json: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(json) {
        Ok(mut v) => {
            strip_managed_fields(&mut v);
            serde_json::to_vec(&v).unwrap_or_default()
        }
        Err(_) => json.to_vec(),
    }
}

/// Drops managedFields of an object, of a list's items and of a table's rows.
pub fn strip_managed_fields(v: &mut Value) {
    meta::object::at(v, &["metadata", "managedFields"])
        .is_some()
        .then(|| meta::object::remove_meta(v, "managedFields"));
    for list in ["items", "rows"] {
        for item in v.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            strip_managed_fields(item);
            if let Some(object) = item.get_mut("object") {
                strip_managed_fields(object);
            }
        }
    }
}

/// RFC 3339 with exactly six decimals.
mod micro_time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(t: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&meta::time::rfc3339_micro(*t))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        // A zero time is null on the wire.
        let text = Option::<String>::deserialize(d)?;
        text.map_or(Ok(Timestamp::UNIX_EPOCH), |t| t.parse().map_err(serde::de::Error::custom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn go_escapes() {
        let mut out = Vec::new();
        write_escaped(&mut out, "{\"a\":\"<&>\u{2028}\u{2030}\"}".as_bytes()).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "{\"a\":\"\\u003c\\u0026\\u003e\\u2028\u{2030}\"}");
    }

    #[test]
    fn what_stands_between_tokens_goes() {
        let json = b" {\n \"a b\": [1, \"\\\"  \\\\\" ,\r\n\ttrue ] } ";
        assert_eq!(String::from_utf8_lossy(&compact(json)), "{\"a b\":[1,\"\\\"  \\\\\",true]}");
    }

    #[test]
    fn managed_fields_go() {
        let mut v = json!({"metadata": {"managedFields": []}, "items": [{"metadata": {"managedFields": [], "name": "a"}}]});
        strip_managed_fields(&mut v);
        assert_eq!(v, json!({"metadata": {}, "items": [{"metadata": {"name": "a"}}]}));
    }

    #[derive(Debug)]
    struct Two;

    impl Parts for Two {
        fn each(&self, _: bool, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
            sink(b"{\"items\":[{\"a\":\"<\"}")?;
            sink(b",{}]}")
        }
    }

    #[test]
    fn an_answer_in_parts_stands_where_a_whole_one_stands() {
        let json = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "i", "stage": "ResponseComplete",
            "requestURI": "/", "verb": "list", "user": {}, "responseObject": {"items": [{"a": "<"}, {}]},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z", "stageTimestamp": "2026-01-01T00:00:00.000000Z",
            "annotations": {"a": "b"}
        });
        let whole: Event = serde_json::from_value(json.clone()).expect("an event");
        let parts = Event { response_object: Some(Content::Parts(Arc::new(Two))), ..whole.clone() };
        assert_eq!(parts, whole);
        let line = String::from_utf8(parts.to_line()).expect("text");
        assert!(
            line.contains(r#""responseObject":{"items":[{"a":"\u003c"},{}]},"requestReceivedTimestamp""#),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), json);
        assert_eq!(whole.to_line(), parts.to_line());
    }
}
