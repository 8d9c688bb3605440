//! Who is calling: a component in this process, a certificate, a token, or nobody in particular.

use crate::chain::Connection;
use crate::server::Server;
use auth::authenticate::Outcome;
use auth::identity::Identity;
use http::HeaderMap;
use meta::status::{Result, Status};
use std::sync::Arc;
use tracing::debug;

/// The caller's identity. A credential that is not accepted is refused, never taken for none.
pub fn identify(server: &Server, from: &Connection, headers: &HeaderMap) -> Result<Arc<Identity>> {
    if let Some(identity) = &from.identity {
        return Ok(identity.clone());
    }
    let header = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let now = server.clock.now();
    match server.authenticator.authenticate(from.certificate.as_deref(), header, now) {
        Outcome::Known(identity) => Ok(Arc::new(identity)),
        // Anonymous callers get what RBAC grants to system:unauthenticated: health and version.
        Outcome::Anonymous => Ok(Arc::new(Identity::anonymous())),
        Outcome::Refused(why) => {
            debug!(peer = %from.peer, %why, "authentication failed");
            Err(Status::unauthorized())
        }
    }
}
