//! What a verb answers, and how it becomes an HTTP response: one place decides format, view and status.

use crate::codec;
use crate::negotiate::{Accepted, Format, OBJECT_TYPES, View};
use crate::table;
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
}

/// A response and, when asked for, the object in it as JSON.
pub struct Rendered {
    pub response: Response<Body>,
    pub object: Option<Bytes>,
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
                let mut rendered = encoded(code, bytes, how)?;
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
    let how = Rendering {
        accepted: Accepted { format, view: View::Object, or_json: true },
        include_object: "",
        now: Timestamp::UNIX_EPOCH,
        keep,
    };
    let mut rendered = encoded(status.code, bytes.clone(), &how)
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
fn encoded(code: u16, json: Bytes, how: &Rendering) -> Result<Rendered> {
    let object = how.keep.then(|| json.clone());
    let format = how.accepted.format;
    let (format, body) = match codec::encode(format, &json)? {
        Some(body) => (format, body),
        None if how.accepted.or_json => (Format::Json, json),
        None => return Err(Status::not_acceptable(OBJECT_TYPES)),
    };
    Ok(Rendered { response: response(code, format.content_type(), full(body)), object, status: None })
}

fn object(code: u16, kind: Option<Arc<KindDef>>, bytes: Bytes, how: &Rendering) -> Result<Rendered> {
    let Some(kind) = kind else { return encoded(code, bytes, how) };
    match how.accepted.view {
        View::Object => encoded(code, bytes, how),
        View::Table => {
            let obj: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
            let metadata = match meta::object::resource_version(&obj) {
                "" => json!({}),
                revision => json!({ "resourceVersion": revision }),
            };
            let value = table::table(&kind, &[obj], metadata, how.include_object, how.now)?;
            encoded(code, json_bytes(&value)?, how)
        }
        View::Partial => {
            let mut obj: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
            encoded(code, json_bytes(&table::partial(&mut obj))?, how)
        }
    }
}

fn list(kind: &Arc<KindDef>, listed: Listed, how: &Rendering) -> Result<Rendered> {
    let metadata = list_metadata(&listed);
    if how.accepted.view == View::Object && how.accepted.format == Format::Json && !how.keep {
        let body = streaming(stream::iter(ListPieces::new(kind.clone(), &metadata, listed.items)));
        return Ok(plain(response(200, "application/json", body)));
    }
    if how.accepted.view == View::Object
        && how.accepted.format == Format::Protobuf
        && !how.keep
        && let Some(pieces) = codec::protobuf_list(kind, &metadata, &listed.items)?
    {
        let body = streaming(stream::iter(pieces.into_iter().map(Ok)));
        return Ok(plain(response(200, how.accepted.format.content_type(), body)));
    }
    let items: Vec<Value> = listed
        .items
        .iter()
        .map(|b| serde_json::from_slice(b).map_err(Status::internal))
        .collect::<Result<_>>()?;
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
    encoded(200, json_bytes(&value)?, how)
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

/// A list's JSON, piece by piece, from the stored bytes of its items.
struct ListPieces {
    kind: Arc<KindDef>,
    head: Option<Bytes>,
    items: std::vec::IntoIter<Bytes>,
    first: bool,
    done: bool,
}

impl ListPieces {
    fn new(kind: Arc<KindDef>, metadata: &Value, items: Vec<Bytes>) -> Self {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            kind.list_kind(),
            kind.api_version()
        );
        Self { kind, head: Some(head.into()), items: items.into_iter(), first: true, done: false }
    }
}

impl Iterator for ListPieces {
    type Item = std::result::Result<Bytes, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(LIST_CHUNK_BYTES + 4096);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
        }
        while out.len() < LIST_CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}\n");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.put_u8(b',');
            }
            // Items of custom kinds keep their type, as upstream's unstructured lists do.
            if self.kind.custom.is_some() {
                out.extend_from_slice(&item);
                continue;
            }
            out.put_u8(b'{');
            out.extend_from_slice(&item_slice(&self.kind, &item));
        }
        Some(Ok(out.freeze()))
    }
}

/// An object in the wire encoding of its row.
pub fn object_bytes(kind: &KindDef, obj: &Value) -> Bytes {
    reencode(kind, obj).into()
}
