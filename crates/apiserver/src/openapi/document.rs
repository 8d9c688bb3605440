//! An OpenAPI document as clients take it: JSON or protobuf, whole or not at all when they have it already
//! (upstream: kube-openapi `pkg/handler`, `pkg/handler3`).
//!
//! Invariant: each form is made once, when it is first asked for; all have the ETag of the JSON, as `Vary` tells them apart.

use crate::negotiate;
use crate::reply::{self, wire};
use bytes::Bytes;
use client::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use kinds::openapi::Dialect;
use std::sync::OnceLock;

/// How long a document that is asked for by its hash may be kept (upstream: a year).
const FRESH: SignedDuration = SignedDuration::from_hours(365 * 24);

pub struct Document {
    dialect: Dialect,
    json: Bytes,
    etag: String,
    made: Timestamp,
    protobuf: OnceLock<Bytes>,
    /// Of the JSON and of the other form.
    compressed: [OnceLock<Bytes>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

impl Document {
    pub fn new(dialect: Dialect, json: Bytes, made: Timestamp) -> Self {
        let etag = etag(&json);
        Self { dialect, json, etag, made, protobuf: OnceLock::new(), compressed: Default::default() }
    }

    /// The path under which a document of the third version is listed, with what changes when the document does.
    pub fn path(&self, key: &str) -> String {
        format!("/openapi/v3/{key}?hash={}", self.etag)
    }

    /// The answer to a request for the document, which has that key; `hash` is what the client thinks that it is.
    pub fn answer(&self, key: &str, hash: &str, headers: &HeaderMap, now: Timestamp) -> Response<Body> {
        let mut out = reply::response(200, "", reply::full(Bytes::new()));
        // Upstream compresses documents of the second version only.
        let is_v2 = self.dialect == Dialect::V2;
        if is_v2 {
            out.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        out.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
        let Some(form) = form(self.dialect, headers) else {
            *out.status_mut() = StatusCode::NOT_ACCEPTABLE;
            return out;
        };
        set(&mut out, header::ETAG, &format!("\"{}\"", self.etag));
        if !hash.is_empty() && hash != self.etag {
            *out.status_mut() = StatusCode::MOVED_PERMANENTLY;
            set(&mut out, header::LOCATION, &self.path(key));
            return out;
        }
        if !hash.is_empty() {
            let expires = jiff::fmt::strtime::format(
                "%a, %d %b %Y %H:%M:%S UTC",
                &(now + FRESH).to_zoned(jiff::tz::TimeZone::UTC),
            );
            set(&mut out, header::CACHE_CONTROL, "public, immutable");
            set(&mut out, header::EXPIRES, &expires.unwrap_or_default());
        }
        if self.is_known(headers) {
            *out.status_mut() = StatusCode::NOT_MODIFIED;
            return out;
        }
        set(&mut out, header::CONTENT_TYPE, content_type(self.dialect, form));
        set(&mut out, header::LAST_MODIFIED, &http_date(self.made));
        let gzip = is_v2 && negotiate::takes_gzip(headers);
        if gzip {
            set(&mut out, header::CONTENT_ENCODING, "gzip");
        }
        *out.body_mut() = reply::full(self.bytes(form, gzip));
        out
    }

    fn bytes(&self, form: Form, gzip: bool) -> Bytes {
        let plain = match form {
            Form::Json => &self.json,
            Form::Protobuf => self.protobuf.get_or_init(|| {
                // What was written a moment ago can be read.
                let document = serde_json::from_slice(&self.json).unwrap_or_default();
                self.dialect.to_protobuf(&document).into()
            }),
        };
        match gzip {
            true => {
                self.compressed[usize::from(form == Form::Protobuf)].get_or_init(|| wire::gzip(plain)).clone()
            }
            false => plain.clone(),
        }
    }

    /// Whether the client has the document (Go: `http.ServeContent`).
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        match (text(header::IF_NONE_MATCH), text(header::IF_MODIFIED_SINCE)) {
            (Some(tags), _) => tags.split(',').map(str::trim).any(|tag| {
                tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == self.etag
            }),
            (None, Some(date)) => {
                let since = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date);
                since.is_ok_and(|since| self.made.as_second() <= since.as_second())
            }
            (None, None) => false,
        }
    }
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn http_date(at: Timestamp) -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

fn etag(json: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA512, json);
    hash.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

fn content_type(dialect: Dialect, form: Form) -> &'static str {
    match (form, dialect) {
        (Form::Json, _) => "application/json",
        (Form::Protobuf, Dialect::V2) => "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        (Form::Protobuf, Dialect::V3) => "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    }
}

/// The first form that the client takes. Protobuf has an old name too, with an `@`, which is the one that client-go
/// asks for.
fn form(dialect: Dialect, headers: &HeaderMap) -> Option<Form> {
    let Some(types) = negotiate::media_types(headers) else { return Some(Form::Json) };
    types.into_iter().find_map(|(ty, subtype)| match (ty, subtype) {
        ("*" | "application", "*" | "json") => Some(Form::Json),
        ("*" | "application", name) => {
            let own = content_type(dialect, Form::Protobuf);
            let wanted = format!("application/{}", name.replace('@', "."));
            (wanted == own).then_some(Form::Protobuf)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

    fn document(dialect: Dialect) -> Document {
        Document::new(
            dialect,
            Bytes::from_static(br#"{"swagger":"2.0","openapi":"3.0.0"}"#),
            Timestamp::UNIX_EPOCH,
        )
    }

    fn headers(all: &[(header::HeaderName, &str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    async fn body(response: Response<Body>) -> Vec<u8> {
        response.into_body().collect().await.expect("a body").to_bytes().to_vec()
    }

    #[tokio::test]
    async fn the_form_is_the_first_one_that_is_there() {
        let (d, now) = (document(Dialect::V2), Timestamp::UNIX_EPOCH);
        let of = |accept: &str| d.answer("", "", &headers(&[(header::ACCEPT, accept)]), now);
        for (accept, wanted) in [
            (PROTOBUF, content_type(Dialect::V2, Form::Protobuf)),
            (
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                content_type(Dialect::V2, Form::Protobuf),
            ),
            (
                "application/com.github.proto-openapi.spec.v3@v1.0+protobuf, application/json",
                "application/json",
            ),
            ("*/*", "application/json"),
        ] {
            let answer = of(accept);
            assert_eq!(answer.headers()[header::CONTENT_TYPE], wanted, "{accept}");
            let vary: Vec<_> = answer.headers().get_all(header::VARY).iter().collect();
            assert_eq!(vary, ["Accept-Encoding", "Accept"]);
        }
        assert_eq!(body(of(PROTOBUF)).await, b"\x0a\x032.0");
        assert_eq!(
            (of("application/yaml").status(), body(of("text/plain")).await),
            (StatusCode::NOT_ACCEPTABLE, vec![])
        );
        let zipped = [(header::ACCEPT, PROTOBUF), (header::ACCEPT_ENCODING, "gzip")];
        let zipped = d.answer("", "", &headers(&zipped), now);
        assert_eq!(
            (zipped.headers()[header::CONTENT_ENCODING].clone(), body(zipped).await),
            (HeaderValue::from_static("gzip"), wire::gzip(b"\x0a\x032.0").to_vec())
        );
    }

    #[test]
    fn who_has_it_is_not_sent_it_again() {
        let (d, now) = (document(Dialect::V3), Timestamp::UNIX_EPOCH);
        let etag = format!("\"{}\"", d.etag);
        let of = |name, value: &str| d.answer("", "", &headers(&[(name, value)]), now).status().as_u16();
        assert_eq!(of(header::IF_NONE_MATCH, &etag), 304);
        assert_eq!(of(header::IF_NONE_MATCH, &format!("\"other\", W/{etag}")), 304);
        assert_eq!(of(header::IF_NONE_MATCH, "\"other\""), 200);
        assert_eq!(of(header::IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT"), 304);
        assert_eq!(of(header::IF_MODIFIED_SINCE, "Wed, 31 Dec 1969 23:59:59 GMT"), 200);
    }

    #[test]
    fn what_is_asked_for_by_its_hash_may_be_kept() {
        let (d, now) = (document(Dialect::V3), Timestamp::UNIX_EPOCH);
        let moved = d.answer("apis/a/v1", "AB", &HeaderMap::new(), now);
        assert_eq!(moved.status(), 301);
        assert_eq!(moved.headers()[header::LOCATION], format!("/openapi/v3/apis/a/v1?hash={}", d.etag));
        let kept = d.answer("apis/a/v1", &d.etag, &HeaderMap::new(), now);
        assert_eq!(kept.headers()[header::CACHE_CONTROL], "public, immutable");
        assert_eq!(kept.headers()[header::EXPIRES], "Fri, 01 Jan 1971 00:00:00 UTC");
        assert_eq!(kept.headers()[header::LAST_MODIFIED], "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
