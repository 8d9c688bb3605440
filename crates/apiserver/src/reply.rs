//! What a verb answers, and how it becomes an HTTP response: one place decides format, view and status.

mod list;
pub mod wire;

use crate::codec;
use crate::encoded::Encoded;
use crate::negotiate::{Accepted, Encoding, Format, OBJECT_TYPES, View};
use crate::table::{TableView, partial_bytes};
use audit::event::Content;
use bytes::Bytes;
use client::{Body, BoxError};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::Timestamp;
use kinds::KindDef;
use meta::status::{Result, Status};
use registry::{Listed, reencode};
use serde_json::Value;
use std::sync::Arc;

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
    /// A document whose media type says what it is.
    Form {
        content_type: &'static str,
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
    pub encoded: &'a Arc<Encoded>,
}

/// A response and, when asked for, the object in it as JSON.
pub struct Rendered {
    pub response: Response<Body>,
    pub object: Option<Content>,
    /// The answer, when it is a Status object.
    pub status: Option<Value>,
}

impl Reply {
    pub fn render(self, how: &Rendering) -> Result<Rendered> {
        match self {
            Self::Object { code, kind, bytes } => object(code, kind, bytes, how),
            Self::List { kind, listed } => list::render(kind, listed, how),
            Self::Document { code, value } => {
                let bytes = Bytes::from(serde_json::to_vec(&value).map_err(Status::internal)?);
                let mut rendered = encoded(code, bytes, how.accepted, how.keep)?;
                rendered.status = (value["kind"] == "Status").then_some(value);
                Ok(rendered)
            }
            Self::Form { content_type, value } => {
                let encoding = Encoding { format: Format::Json, ..how.accepted.encoding };
                let mut response = wire::whole(200, encoding, json_bytes(&value)?);
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                Ok(plain(response))
            }
            Self::Text { code, content_type, body } => Ok(plain(response(code, content_type, full(body)))),
            Self::Stream { content_type, body } => Ok(plain(response(200, content_type, body))),
            Self::Raw(response) => Ok(plain(response)),
        }
    }
}

/// A refusal as a response, in the client's format.
pub fn refusal(status: &Status, encoding: Encoding, keep: bool) -> Rendered {
    let bytes = Bytes::from(serde_json::to_vec(status).unwrap_or_default());
    let accepted = Accepted { encoding, or_json: true, ..Accepted::default() };
    let mut rendered = encoded(status.code, bytes.clone(), accepted, keep)
        .unwrap_or_else(|_| plain(response(status.code, "application/json", full(bytes))));
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        rendered.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    rendered
}

/// The refusal of a request that could not be put on the record: no object (upstream: `responsewriters.InternalError`).
pub fn unrecorded(uri: &http::Uri) -> Rendered {
    let uri = uri.path_and_query().map_or("", |u| u.as_str());
    let uri = uri.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let text = format!("Internal Server Error: {uri:?}: failed to store audit event\n");
    let mut out = response(500, "text/plain; charset=utf-8", full(text.into()));
    out.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    plain(out)
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

/// A response as it is.
pub fn plain(response: Response<Body>) -> Rendered {
    Rendered { response, object: None, status: None }
}

/// JSON bytes in the client's format.
fn encoded(code: u16, json: Bytes, accepted: Accepted, keep: bool) -> Result<Rendered> {
    let object = keep.then(|| Content::Whole(json.clone()));
    let mut encoding = accepted.encoding;
    let body = match codec::encode(encoding.format, &json)? {
        Some(body) => body,
        None if accepted.or_json => {
            encoding.format = Format::Json;
            json
        }
        None => return Err(Status::not_acceptable(OBJECT_TYPES)),
    };
    Ok(Rendered { response: wire::whole(code, encoding, body), object, status: None })
}

fn object(code: u16, kind: Option<Arc<KindDef>>, bytes: Bytes, how: &Rendering) -> Result<Rendered> {
    let Some(kind) = kind else { return encoded(code, bytes, how.accepted, how.keep) };
    let version = how.accepted.view_version();
    match how.accepted.view {
        View::Object if how.accepted.encoding.format == Format::Protobuf => {
            let Some(body) = codec::stored_protobuf(&kind, &bytes, how.encoded)? else {
                return encoded(code, bytes, how.accepted, how.keep);
            };
            let response = wire::whole(code, how.accepted.encoding, body.into());
            Ok(Rendered { response, object: how.keep.then_some(Content::Whole(bytes)), status: None })
        }
        View::Object => encoded(code, bytes, how.accepted, how.keep),
        View::Table => {
            let obj = serde_json::from_slice(&bytes).map_err(Status::internal)?;
            let shown = TableView::new(&kind, version, how.include_object, how.now).of(obj, true);
            encoded(code, json_bytes(&shown)?, how.accepted, how.keep)
        }
        View::Partial => encoded(code, partial_bytes(&bytes, version)?, how.accepted, how.keep),
        View::PartialList => Err(no_list(&kind)),
    }
}

/// One object was asked for as a list (upstream: `asPartialObjectMetadataList`).
pub fn no_list(kind: &KindDef) -> Status {
    let ty = if kind.is_custom() { "unstructured.Unstructured" } else { &list::go_type(kind) };
    list::not_acceptable(format!(
        "you requested PartialObjectMetadataList, but the requested object is not a list (*{ty})"
    ))
}

fn json_bytes(value: &Value) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)
}

/// An object in the wire encoding of its row.
pub fn object_bytes(kind: &KindDef, obj: &Value) -> Bytes {
    reencode(kind, obj).into()
}
