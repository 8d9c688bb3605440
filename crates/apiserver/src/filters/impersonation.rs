//! Acting as somebody else (upstream: apiserver `pkg/endpoints/filters/impersonation`).

use super::authorization::attributes;
use crate::filters::audit::AuditScope;
use crate::request_info::RequestInfo;
use crate::server::Server;
use auth::identity::Identity;
use auth::impersonate;
use http::HeaderMap;
use meta::status::Result;
use std::sync::Arc;

/// The identity that the rest of the request has. The headers that ask for another go no further.
pub async fn resolve(
    server: &Server,
    info: &RequestInfo,
    headers: &mut HeaderMap,
    user: Arc<Identity>,
    scope: &AuditScope,
) -> Result<Arc<Identity>> {
    let Some(wanted) = impersonate::wanted(headers)? else { return Ok(user) };
    let attributes = attributes(info, &user);
    let decided =
        server.authorizer.settle(|z| impersonate::resolve(&wanted, &attributes, &|a| z.authorize(a)));
    let found = decided.await?;
    scope.impersonated(&found.identity, &found.constraint);
    impersonate::clear(headers);
    Ok(Arc::new(found.identity))
}
