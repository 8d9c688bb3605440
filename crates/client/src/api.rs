//! The transport: an HTTP request in, a response with a streaming body out.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use std::error::Error;

pub type BoxError = Box<dyn Error + Send + Sync>;

/// A response body; a watch is a body that does not end.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Sends requests to an API server as one fixed identity.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// The URI is a path and query (`/api/v1/pods?watch=1`). An error means that no response was received.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError>;
}
