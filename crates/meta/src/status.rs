//! `metav1.Status`: the one error type that a client sees.
//!
//! Constructors give upstream's code, reason, message and details
//! (apimachinery `pkg/api/errors`), so that messages are made in one place.

use crate::field::{self, ErrorList, quoted};
use crate::gvk::{GroupKind, GroupResource};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Machine-readable reason of a failure (upstream: `metav1.StatusReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    #[serde(rename = "")]
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A refused or failed request. Serialises as the `Status` object of the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Details>,
    /// `metadata.continue`: how an expired list can go on.
    pub continue_token: Option<String>,
}

pub type Result<T> = std::result::Result<T, Status>;

impl Status {
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn of(code: u16, reason: Reason, gr: &GroupResource, name: &str, message: String) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: gr.group.clone(),
            kind: gr.resource.clone(),
            ..Details::default()
        };
        Self { code, reason, message, details: Some(details), continue_token: None }
    }

    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::of(404, Reason::NotFound, gr, name, format!("{gr} {} not found", quoted(name)))
    }

    /// 404 for a path that no route serves (`genericregistry` answers this with a plain-text body or this Status).
    pub fn no_such_resource() -> Self {
        Self {
            code: 404,
            reason: Reason::NotFound,
            message: "the server could not find the requested resource".into(),
            details: Some(Details::default()),
            continue_token: None,
        }
    }

    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::of(409, Reason::AlreadyExists, gr, name, format!("{gr} {} already exists", quoted(name)))
    }

    pub fn conflict(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {gr} {}: {why}", quoted(name));
        Self::of(409, Reason::Conflict, gr, name, message)
    }

    /// The conflict of an update whose resourceVersion is not the current one.
    pub fn modified(gr: &GroupResource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(gr, name, why)
    }

    /// 422 with one cause per field error.
    pub fn invalid(gk: &GroupKind, name: &str, errors: &ErrorList) -> Self {
        let causes = errors
            .iter()
            .map(|e| Cause {
                reason: e.kind.reason().into(),
                message: e.body(),
                field: e.field.as_str().into(),
            })
            .collect();
        let details = Details {
            name: name.to_owned(),
            group: gk.group.clone(),
            kind: gk.kind.clone(),
            causes,
            ..Details::default()
        };
        let message = format!("{gk} {} is invalid: {}", quoted(name), field::aggregate(errors));
        Self { code: 422, reason: Reason::Invalid, message, details: Some(details), continue_token: None }
    }

    pub fn forbidden(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{gr} is forbidden: {why}")
        } else {
            format!("{gr} {} is forbidden: {why}", quoted(name))
        };
        Self::of(403, Reason::Forbidden, gr, name, message)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    pub fn internal(cause: impl fmt::Display) -> Self {
        let mut s = Self::new(500, Reason::InternalError, format!("Internal error occurred: {cause}"));
        let causes = vec![Cause { message: cause.to_string(), ..Cause::default() }];
        s.details = Some(Details { causes, ..Details::default() });
        s
    }

    /// 405 for a path that other methods have (upstream: the router's own answer).
    pub fn method_not_allowed() -> Self {
        let text = "the server does not allow this method on the requested resource";
        let status = Self::new(405, Reason::MethodNotAllowed, text);
        Self { details: Some(Details::default()), ..status }
    }

    /// 410: the resourceVersion asked for is older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut s = Self::new(429, Reason::TooManyRequests, message);
        s.details = Some(Details { retry_after_seconds, ..Details::default() });
        s
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, message)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!("only the following media types are accepted: {list}");
        Self::new(406, Reason::NotAcceptable, message)
    }

    /// 406 of the router, for media types that it does not know at all.
    pub fn no_representation(available: &[&str]) -> Self {
        let list = available.join(", ");
        let text = format!("406: Not Acceptable\n\nAvailable representations: {list}");
        let status = Self::new(406, Reason::NotAcceptable, text);
        Self { details: Some(Details::default()), ..status }
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {list}"
        );
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut s = Self::new(504, Reason::Timeout, format!("Timeout: {}", message.into()));
        s.details = Some(Details { retry_after_seconds, ..Details::default() });
        s
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// The wire form.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads a `Status` object; a body that is none becomes an unknown failure with the HTTP code given.
    pub fn from_body(code: u16, body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_else(|_| {
            Self::new(
                code,
                Reason::Unknown,
                String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned(),
            )
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// The wire form of [`Status`]; fields in upstream's order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(default)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    api_version: std::borrow::Cow<'a, str>,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    status: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    message: std::borrow::Cow<'a, str>,
    #[serde(default = "unknown", skip_serializing_if = "is_unknown")]
    reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default)]
    code: u16,
}

fn unknown() -> Reason {
    Reason::Unknown
}

fn is_unknown(r: &Reason) -> bool {
    *r == Reason::Unknown
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        Wire {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: self
                .continue_token
                .iter()
                .map(|c| ("continue".to_owned(), c.as_str().into()))
                .collect(),
            status: "Failure".into(),
            message: self.message.as_str().into(),
            reason: self.reason,
            details: self.details.clone(),
            code: self.code,
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let w = Wire::deserialize(d)?;
        if w.kind != "Status" {
            return Err(serde::de::Error::custom("not a Status"));
        }
        let continue_token = w.metadata.get("continue").and_then(|c| c.as_str()).map(str::to_owned);
        Ok(Self {
            code: w.code,
            reason: w.reason,
            message: w.message.into_owned(),
            details: w.details,
            continue_token,
        })
    }
}
