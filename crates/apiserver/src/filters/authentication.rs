//! Who is calling: a component in this process, a certificate, a token, or nobody in particular.

use crate::chain::Connection;
use crate::metrics::Authentication;
use crate::server::Server;
use auth::authenticate::{Credentials, Known, Outcome, Refusal};
use http::HeaderMap;
use tracing::debug;

/// The caller. A credential that is not accepted is refused, never taken for none; one that is goes no further.
pub async fn identify(
    server: &Server,
    from: &Connection,
    headers: &mut HeaderMap,
    path: &str,
) -> Result<Known, Refusal> {
    if let Some(identity) = &from.identity {
        return Ok(Known { identity: identity.clone(), ..Known::default() });
    }
    let header = |name| headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    let credentials = Credentials {
        certificate: from.certificate.as_deref(),
        chain: &from.chain,
        headers: Some(headers),
        authorization: header(http::header::AUTHORIZATION),
        protocols: header(http::header::SEC_WEBSOCKET_PROTOCOL),
        path,
    };
    let mut outcome = server.authenticator.authenticate(&credentials, server.clock.now()).await;
    let store = server.registry.store();
    if matches!(outcome, Outcome::Refused(_)) && credentials.authorization.is_some() && store.is_shared() {
        // What the token names may just have been made by another server (upstream: the token getters ask the API for
        // what their listers do not have).
        let before = store.revision();
        if store.reach(None).await.is_ok_and(|now| now > before) {
            outcome = server.authenticator.authenticate(&credentials, server.clock.now()).await;
        }
    }
    match outcome {
        Outcome::Known(known) => {
            server.metrics.authenticated(Authentication::Success);
            server.authenticator.clear(headers);
            Ok(known)
        }
        Outcome::Refused(refusal) => {
            server.metrics.authenticated(Authentication::Error);
            debug!(peer = %from.peer, why = %refusal.why, "authentication failed");
            Err(refusal)
        }
    }
}
