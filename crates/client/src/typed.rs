//! [`Client`]: typed requests over an [`Api`], as that transport's identity.
//!
//! Every failure is a [`Status`]: the server's own, or 503 `ServiceUnavailable` when no answer came.

use crate::api::{Api, Body};
use crate::dynamic::{ApiResource, Dynamic};
use crate::kind::{Kind, path_of, push_query};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use meta::status::Result;
use meta::{Reason, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};

/// Time for a whole answer that is no watch (the server's own limit is 60 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
/// Largest answer that is read into memory, in bytes.
const MAX_RESPONSE_BYTES: usize = 512 << 20;

/// What a list returns and from where on.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// Most objects in one answer.
    pub limit: Option<u32>,
    pub continue_token: Option<String>,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
}

impl ListOptions {
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: Some(selector.into()), ..Self::default() }
    }

    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: Some(selector.into()), ..Self::default() }
    }

    pub(crate) fn write(&self, uri: &mut String) {
        let limit = self.limit.map(|l| l.to_string());
        let all = [
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("limit", &limit),
            ("continue", &self.continue_token),
            ("resourceVersion", &self.resource_version),
            ("resourceVersionMatch", &self.resource_version_match),
        ];
        for (key, value) in all {
            if let Some(v) = value.as_deref().filter(|v| !v.is_empty()) {
                push_query(uri, key, v);
            }
        }
    }
}

/// One answer to a list.
#[derive(Clone, Debug, Default)]
pub struct List<K> {
    pub items: Vec<K>,
    pub resource_version: String,
    /// Where the next page begins; `None` on the last.
    pub continue_token: Option<String>,
}

#[derive(Deserialize)]
struct RawList<K> {
    #[serde(default)]
    metadata: RawListMeta,
    // Go encodes a nil slice as null
    #[serde(default = "none")]
    items: Option<Vec<K>>,
}

fn none<K>() -> Option<Vec<K>> {
    None
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
}

/// A change to part of an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
    /// Server-side apply; fields of other managers are taken over.
    Apply { manager: &'static str, object: Value },
}

impl Patch {
    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Self::Json(v) => ("application/json-patch+json", v),
            Self::Merge(v) => ("application/merge-patch+json", v),
            Self::Strategic(v) => ("application/strategic-merge-patch+json", v),
            Self::Apply { object, .. } => ("application/apply-patch+yaml", object),
        }
    }
}

/// Typed requests as one identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    api: Arc<dyn Api>,
}

impl Client {
    pub fn new(api: Arc<dyn Api>) -> Self {
        Self { api }
    }

    /// The transport below.
    pub fn api(&self) -> &Arc<dyn Api> {
        &self.api
    }

    /// Requests on plain trees of one resource.
    pub fn dynamic(&self, resource: &ApiResource) -> Dynamic {
        Dynamic::new(self.clone(), resource.clone())
    }

    pub async fn get<K: Kind>(&self, ns: &str, name: &str) -> Result<K> {
        self.json(Method::GET, &path_of::<K>(ns, require(name)?, ""), None).await
    }

    /// One page: follow [`List::continue_token`] when a limit was given. `ns` of `None` means all namespaces.
    pub async fn list<K: Kind>(&self, ns: Option<&str>, options: &ListOptions) -> Result<List<K>> {
        let mut uri = path_of::<K>(ns.unwrap_or(""), "", "");
        options.write(&mut uri);
        self.list_at(&uri, None).await
    }

    /// Creates in the object's own namespace.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K> {
        let body = encode(object)?;
        self.json(Method::POST, &path_of::<K>(object.namespace(), "", ""), Some(body)).await
    }

    /// Creates a subresource such as `binding` or `token`; the body and answer are of any type.
    pub async fn create_subresource<K: Kind>(
        &self,
        ns: &str,
        name: &str,
        sub: &str,
        body: &Value,
    ) -> Result<Value> {
        self.json(Method::POST, &path_of::<K>(ns, require(name)?, sub), Some(encode(body)?)).await
    }

    pub async fn update<K: Kind>(&self, object: &K) -> Result<K> {
        self.put(object, "").await
    }

    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K> {
        self.put(object, "status").await
    }

    /// Updates a subresource with the object as its body.
    pub async fn update_subresource<K: Kind>(&self, object: &K, subresource: &str) -> Result<K> {
        self.put(object, subresource).await
    }

    async fn put<K: Kind>(&self, object: &K, sub: &str) -> Result<K> {
        let body = encode(object)?;
        self.json(Method::PUT, &path_of::<K>(object.namespace(), require(object.name())?, sub), Some(body))
            .await
    }

    pub async fn patch<K: Kind>(
        &self,
        ns: &str,
        name: &str,
        subresource: Option<&str>,
        patch: Patch,
    ) -> Result<K> {
        let uri = path_of::<K>(ns, require(name)?, subresource.unwrap_or(""));
        self.patch_at(&uri, &patch).await
    }

    /// Deletes; the answer (the object or a Status) is not looked at.
    pub async fn delete<K: Kind>(&self, ns: &str, name: &str, options: &DeleteOptions) -> Result<()> {
        self.delete_at(&path_of::<K>(ns, require(name)?, ""), options).await
    }

    /// Any request with a JSON body and answer. An empty answer is `Null`.
    pub async fn raw(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = body.map(encode).transpose()?;
        let answer = self.exchange(method, path, bytes, "application/json", None).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        decode(&answer)
    }

    /// Starts a request whose answer is a stream, such as a watch or a log. Only the wait for its head is bounded.
    pub async fn stream(&self, uri: &str, accept: Option<&str>) -> Result<Body> {
        let response = self.head(Method::GET, uri, None, "application/json", accept).await?;
        let code = response.status().as_u16();
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let body = tokio::time::timeout(REQUEST_TIMEOUT, collect(response.into_body()))
            .await
            .unwrap_or_default_body();
        Err(failure(code, &body))
    }

    pub(crate) async fn list_at<K: DeserializeOwned>(
        &self,
        uri: &str,
        accept: Option<&str>,
    ) -> Result<List<K>> {
        let answer = self.exchange(Method::GET, uri, None, "application/json", accept).await?;
        let raw: RawList<K> = decode(&answer)?;
        let token = Some(raw.metadata.continue_token).filter(|t| !t.is_empty());
        let items = raw.items.unwrap_or_default();
        Ok(List { items, resource_version: raw.metadata.resource_version, continue_token: token })
    }

    pub(crate) async fn patch_at<T: DeserializeOwned>(&self, uri: &str, patch: &Patch) -> Result<T> {
        let (kind, body) = patch.parts();
        let mut uri = uri.to_owned();
        if let Patch::Apply { manager, .. } = patch {
            push_query(&mut uri, "fieldManager", manager);
            push_query(&mut uri, "force", "true");
        }
        let answer = self.exchange(Method::PATCH, &uri, Some(encode(body)?), kind, None).await?;
        decode(&answer)
    }

    pub(crate) async fn delete_at(&self, uri: &str, options: &DeleteOptions) -> Result<()> {
        let mut options = options.clone();
        options.api_version = Some("v1".into());
        options.kind = Some("DeleteOptions".into());
        let body = encode(&options)?;
        self.exchange(Method::DELETE, uri, Some(body), "application/json", None).await.map(drop)
    }

    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: Option<Bytes>,
    ) -> Result<T> {
        let answer = self.exchange(method, uri, body, "application/json", None).await?;
        decode(&answer)
    }

    async fn exchange(
        &self,
        method: Method,
        uri: &str,
        body: Option<Bytes>,
        content_type: &str,
        accept: Option<&str>,
    ) -> Result<Bytes> {
        let whole = async {
            let response = self.head(method, uri, body, content_type, accept).await?;
            let (head, body) = response.into_parts();
            let bytes = collect(body).await?;
            if head.status.is_success() { Ok(bytes) } else { Err(failure(head.status.as_u16(), &bytes)) }
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, whole).await {
            Ok(result) => result,
            Err(_) => Err(no_answer(uri, "no answer in time")),
        }
    }

    async fn head(
        &self,
        method: Method,
        uri: &str,
        body: Option<Bytes>,
        content_type: &str,
        accept: Option<&str>,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(uri);
        request = request.header(header::ACCEPT, accept.unwrap_or("application/json"));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body.unwrap_or_default()).map_err(|e| no_answer(uri, e))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.api.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(no_answer(uri, base::error::chain(e.as_ref()))),
            Err(_) => Err(no_answer(uri, "no answer in time")),
        }
    }
}

/// Reads a timed-out error body as empty: the code alone says what happened.
trait OrEmpty {
    fn unwrap_or_default_body(self) -> Bytes;
}

impl OrEmpty for std::result::Result<Result<Bytes>, tokio::time::error::Elapsed> {
    fn unwrap_or_default_body(self) -> Bytes {
        self.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// A name is needed where an empty one would mean the whole collection.
pub(crate) fn require(name: &str) -> Result<&str> {
    if name.is_empty() { Err(Status::bad_request("resource name may not be empty")) } else { Ok(name) }
}

pub(crate) fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Status::internal(format!("unreadable answer of the server: {e}")))
}

fn failure(code: u16, body: &[u8]) -> Status {
    let mut status = Status::from_body(code, body);
    if status.code == 0 {
        status.code = code;
    }
    // a proxy or a plain-text refusal has no Status: the code says what it is (upstream: NewGenericServerResponse)
    if status.reason == Reason::Unknown {
        if code == 503 {
            status.message = "the server is currently unable to handle the request".to_owned();
        }
        status.reason = match code {
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            409 => Reason::Conflict,
            410 => Reason::Gone,
            429 => Reason::TooManyRequests,
            503 => Reason::ServiceUnavailable,
            504 => Reason::Timeout,
            _ => Reason::Unknown,
        };
    }
    status
}

fn no_answer(uri: &str, why: impl std::fmt::Display) -> Status {
    let path = uri.split('?').next().unwrap_or(uri);
    Status::unavailable(format!("request for {path}: {why}"))
}

async fn collect(mut body: Body) -> Result<Bytes> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            Status::unavailable(format!("reading an answer: {}", base::error::chain(e.as_ref())))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if out.len() + data.len() > MAX_RESPONSE_BYTES {
            return Err(Status::too_large(format!("answer longer than {MAX_RESPONSE_BYTES} bytes")));
        }
        out.extend_from_slice(&data);
    }
    Ok(out.freeze())
}
