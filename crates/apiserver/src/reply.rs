//! What a verb answers, and how it becomes an HTTP response: one place decides format, view and status.

use crate::codec;
use crate::encoded::Encoded;
use crate::negotiate::{Accepted, Format, OBJECT_TYPES, View};
use crate::table;
use audit::event::{Answer, Parts};
use bytes::{BufMut, Bytes, BytesMut};
use client::{Body, BoxError};
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::Timestamp;
use kinds::KindDef;
use meta::status::{Result, Status};
use registry::{Listed, item_slice, reencode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::{fmt, io};

/// A list is sent in pieces of about this size, so that its length never shows in memory.
const LIST_CHUNK_BYTES: usize = 64 << 10;

/// The answer of a verb.
pub enum Reply {
    /// One object, as JSON bytes; a row when it can be shown as a table.
    Object {
        code: u16,
        kind: Option<Arc<KindDef>>,
        bytes: Bytes,
    },
    List {
        kind: Arc<KindDef>,
        listed: Listed,
    },
    /// A document that has no other views (discovery, reviews).
    Document {
        code: u16,
        value: Value,
    },
    Text {
        code: u16,
        content_type: &'static str,
        body: Bytes,
    },
    Stream {
        content_type: &'static str,
        body: Body,
    },
    /// A response made elsewhere (proxied, upgraded).
    Raw(Response<Body>),
}

/// How to render, beyond what the client accepts.
pub struct Rendering<'a> {
    pub accepted: Accepted,
    /// The `includeObject` parameter of tables: `None`, `Metadata` (default) or `Object`.
    pub include_object: &'a str,
    pub now: Timestamp,
    /// Keep the response object for the audit record.
    pub keep: bool,
    /// Forms of stored objects.
    pub encoded: &'a Encoded,
}

/// A response and, when asked for, the object in it as JSON.
pub struct Rendered {
    pub response: Response<Body>,
    pub object: Option<Answer>,
    /// The answer, when it is a Status object.
    pub status: Option<Value>,
}

impl Reply {
    pub fn render(self, how: &Rendering) -> Result<Rendered> {
        match self {
            Self::Object { code, kind, bytes } => object(code, kind, bytes, how),
            Self::List { kind, listed } => list(&kind, listed, how),
            Self::Document { code, value } => {
                let bytes = Bytes::from(serde_json::to_vec(&value).map_err(Status::internal)?);
                let mut rendered = encoded(code, bytes, how.accepted, how.keep)?;
                rendered.status = (value["kind"] == "Status").then_some(value);
                Ok(rendered)
            }
            Self::Text { code, content_type, body } => Ok(plain(response(code, content_type, full(body)))),
            Self::Stream { content_type, body } => Ok(plain(response(200, content_type, body))),
            Self::Raw(response) => Ok(plain(response)),
        }
    }
}

/// A refusal as a response, in the client's format.
pub fn refusal(status: &Status, format: Format, keep: bool) -> Rendered {
    let bytes = Bytes::from(serde_json::to_vec(status).unwrap_or_default());
    let accepted = Accepted { format, view: View::Object, or_json: true };
    let mut rendered = encoded(status.code, bytes.clone(), accepted, keep)
        .unwrap_or_else(|_| plain(response(status.code, "application/json", full(bytes))));
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        rendered.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    rendered
}

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body from a stream of pieces.
pub fn streaming<S>(pieces: S) -> Body
where
    S: futures::Stream<Item = std::result::Result<Bytes, BoxError>> + Send + 'static,
{
    use futures::TryStreamExt as _;
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

pub fn response(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut r = Response::new(body);
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !content_type.is_empty() {
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    r.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

fn plain(response: Response<Body>) -> Rendered {
    Rendered { response, object: None, status: None }
}

/// JSON bytes in the client's format.
fn encoded(code: u16, json: Bytes, accepted: Accepted, keep: bool) -> Result<Rendered> {
    let object = keep.then(|| Answer::Whole(json.clone()));
    let format = accepted.format;
    let (format, body) = match codec::encode(format, &json)? {
        Some(body) => (format, body),
        None if accepted.or_json => (Format::Json, json),
        None => return Err(Status::not_acceptable(OBJECT_TYPES)),
    };
    Ok(Rendered { response: response(code, format.content_type(), full(body)), object, status: None })
}

fn object(code: u16, kind: Option<Arc<KindDef>>, bytes: Bytes, how: &Rendering) -> Result<Rendered> {
    let Some(kind) = kind else { return encoded(code, bytes, how.accepted, how.keep) };
    match how.accepted.view {
        View::Object if how.accepted.format == Format::Protobuf => {
            let Some(body) = codec::stored_protobuf(&kind, &bytes, how.encoded)? else {
                return encoded(code, bytes, how.accepted, how.keep);
            };
            let response = response(code, Format::Protobuf.content_type(), full(body.into()));
            Ok(Rendered { response, object: how.keep.then_some(Answer::Whole(bytes)), status: None })
        }
        View::Object => encoded(code, bytes, how.accepted, how.keep),
        View::Table => {
            let obj: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
            let metadata = json!({"resourceVersion": meta::object::resource_version(&obj)});
            let value = table::table(&kind, &[obj], metadata, how.include_object, how.now)?;
            encoded(code, json_bytes(&value)?, how.accepted, how.keep)
        }
        View::Partial => encoded(code, table::partial_bytes(&bytes)?, how.accepted, how.keep),
    }
}

fn list(kind: &Arc<KindDef>, listed: Listed, how: &Rendering) -> Result<Rendered> {
    let metadata = list_metadata(&listed);
    if how.accepted.view == View::Object {
        let list = Arc::new(ListJson::new(kind.clone(), &metadata, listed.items));
        if let Some(body) = list_body(&list, &metadata, how)? {
            let object = how.keep.then(|| Answer::Parts(list));
            let response = response(200, how.accepted.format.content_type(), body);
            return Ok(Rendered { response, object, status: None });
        }
        return list_tree(kind, &list.items, metadata, how);
    }
    list_tree(kind, &listed.items, metadata, how)
}

/// A list's body in a form that is sent piece by piece.
fn list_body(list: &Arc<ListJson>, metadata: &Value, how: &Rendering) -> Result<Option<Body>> {
    match how.accepted.format {
        Format::Json => Ok(Some(streaming(stream::iter(ListPieces::new(list.clone()))))),
        Format::Protobuf => {
            let list = codec::protobuf_list(&list.kind, metadata, &list.items, how.encoded)?;
            let pieces = list.map(|(head, messages)| protobuf_pieces(head, messages.into_iter()));
            Ok(pieces.map(|pieces| streaming(stream::iter(pieces))))
        }
        _ => Ok(None),
    }
}

/// A list in a form that is made from its tree.
fn list_tree(kind: &Arc<KindDef>, items: &[Bytes], metadata: Value, how: &Rendering) -> Result<Rendered> {
    let items: Vec<Value> =
        items.iter().map(|b| serde_json::from_slice(b).map_err(Status::internal)).collect::<Result<_>>()?;
    let value = match how.accepted.view {
        View::Table => table::table(kind, &items, metadata, how.include_object, how.now)?,
        View::Partial => {
            let items: Vec<Value> = items.into_iter().map(|mut i| table::partial(&mut i)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        View::Object => {
            let strip = |mut i: Value| {
                if let Some(map) = i.as_object_mut().filter(|_| kind.custom.is_none()) {
                    map.remove("kind");
                    map.remove("apiVersion");
                }
                i
            };
            let items: Vec<Value> = items.into_iter().map(strip).collect();
            json!({"kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": metadata, "items": items})
        }
    };
    encoded(200, json_bytes(&value)?, how.accepted, how.keep)
}

fn json_bytes(value: &Value) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)
}

fn list_metadata(listed: &Listed) -> Value {
    let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(next) = &listed.next {
        metadata["continue"] = next.encode().into();
        if let Some(remaining) = listed.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    metadata
}

/// A list as JSON: what stands before its items, and their stored bytes.
struct ListJson {
    kind: Arc<KindDef>,
    head: Bytes,
    items: Vec<Bytes>,
}

const LIST_END: &[u8] = b"]}\n";

impl ListJson {
    fn new(kind: Arc<KindDef>, metadata: &Value, items: Vec<Bytes>) -> Self {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            kind.list_kind(),
            kind.api_version()
        );
        Self { kind, head: head.into(), items }
    }

    /// What is sent of an item: a brace that it may lack, and the rest.
    fn item(&self, item: &Bytes) -> (&'static [u8], Bytes) {
        // Items of custom kinds keep their type, as upstream's unstructured lists do.
        match self.kind.custom {
            Some(_) => (b"", item.clone()),
            None => (b"{", item_slice(&self.kind, item)),
        }
    }
}

impl Parts for ListJson {
    fn each(
        &self,
        omit_managed_fields: bool,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        sink(&self.head)?;
        for (i, item) in self.items.iter().enumerate() {
            let (brace, rest) = self.item(item);
            if i > 0 {
                sink(b",")?;
            }
            if omit_managed_fields {
                let mut item: Value = serde_json::from_slice(&[brace, &rest].concat())?;
                audit::event::strip_managed_fields(&mut item);
                sink(&serde_json::to_vec(&item)?)?;
            } else {
                sink(brace)?;
                sink(&rest)?;
            }
        }
        sink(LIST_END.trim_ascii_end())
    }
}

impl fmt::Debug for ListJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} items", self.kind.list_kind(), self.items.len())
    }
}

/// A list's JSON in pieces of [`LIST_CHUNK_BYTES`].
struct ListPieces {
    list: Arc<ListJson>,
    next: usize,
    done: bool,
}

impl ListPieces {
    fn new(list: Arc<ListJson>) -> Self {
        Self { list, next: 0, done: false }
    }
}

impl Iterator for ListPieces {
    type Item = std::result::Result<Bytes, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(LIST_CHUNK_BYTES + 4096);
        if self.next == 0 {
            out.extend_from_slice(&self.list.head);
        }
        while out.len() < LIST_CHUNK_BYTES {
            let Some(item) = self.list.items.get(self.next) else {
                out.extend_from_slice(LIST_END);
                self.done = true;
                break;
            };
            if self.next > 0 {
                out.put_u8(b',');
            }
            let (brace, rest) = self.list.item(item);
            out.extend_from_slice(brace);
            out.extend_from_slice(&rest);
            self.next += 1;
        }
        Some(Ok(out.freeze()))
    }
}

/// A list's protobuf in pieces of [`LIST_CHUNK_BYTES`].
fn protobuf_pieces(
    head: Vec<u8>,
    mut messages: impl Iterator<Item = Bytes> + Send + 'static,
) -> impl Iterator<Item = std::result::Result<Bytes, BoxError>> + Send + 'static {
    let mut head = Some(head);
    std::iter::from_fn(move || {
        let mut out = head.take().unwrap_or_default();
        while out.len() < LIST_CHUNK_BYTES {
            let Some(message) = messages.next() else { break };
            meta::proto::bytes_field(&mut out, codec::ITEMS_FIELD, &message);
        }
        (!out.is_empty()).then(|| Ok(out.into()))
    })
}

/// An object in the wire encoding of its row.
pub fn object_bytes(kind: &KindDef, obj: &Value) -> Bytes {
    reencode(kind, obj).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(items: usize) -> (Arc<KindDef>, Listed) {
        let kind = kinds::table().into_iter().find(|k| k.kind == "ConfigMap").expect("a row");
        let item = |i| {
            let obj = json!({"metadata": {"name": format!("c-{i}"), "managedFields": [{"manager": "m"}]}, "data": {"a": "<"}});
            object_bytes(&kind, &obj)
        };
        let items = (0..items).map(item).collect();
        (kind, Listed { items, revision: 7, next: None, remaining: None })
    }

    async fn sent(format: Format, items: usize) -> (Bytes, Answer) {
        let (kind, listed) = listed(items);
        let how = Rendering {
            accepted: Accepted { format, view: View::Object, or_json: true },
            include_object: "",
            now: Timestamp::UNIX_EPOCH,
            keep: true,
            encoded: &Encoded::default(),
        };
        let rendered = list(&kind, listed, &how).expect("rendered");
        let body = rendered.response.into_body().collect().await.expect("read").to_bytes();
        (body, rendered.object.expect("kept"))
    }

    fn recorded(answer: &Answer, omit_managed_fields: bool) -> Value {
        let Answer::Parts(parts) = answer else { panic!("a list is recorded in parts") };
        let mut text = Vec::new();
        let mut sink = |part: &[u8]| io::Write::write_all(&mut text, part);
        parts.each(omit_managed_fields, &mut sink).expect("told");
        serde_json::from_slice(&text).expect("JSON")
    }

    #[tokio::test]
    async fn the_record_of_a_list_is_what_was_sent() {
        // More than one piece.
        let (body, answer) = sent(Format::Json, 1000).await;
        let mut list: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1000));
        assert_eq!(recorded(&answer, false), list);
        audit::event::strip_managed_fields(&mut list);
        assert_eq!(recorded(&answer, true), list);
        assert_eq!(sent(Format::Json, 0).await.0.last(), Some(&b'\n'));
    }

    #[tokio::test]
    async fn a_protobuf_list_is_as_long_as_it_says() {
        let (body, answer) = sent(Format::Protobuf, 1000).await;
        let envelope = meta::proto::open(&body).expect("opens");
        assert_eq!((envelope.kind.as_str(), envelope.raw.len() + 4 < body.len()), ("ConfigMapList", true));
        let list =
            meta::proto::decode(kinds::schema::schema(), "io.k8s.api.core.v1.ConfigMapList", envelope.raw);
        let list = list.expect("decodes");
        assert_eq!(list["items"][999]["metadata"]["name"], "c-999");
        assert_eq!(recorded(&answer, false)["items"][999]["metadata"]["name"], "c-999");
    }
}
