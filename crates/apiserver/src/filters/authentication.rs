//! Who is calling: a component in this process, a certificate, a token, or nobody in particular.

use crate::chain::Connection;
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
    match server.authenticator.authenticate(&credentials, server.clock.now()).await {
        Outcome::Known(known) => {
            server.authenticator.clear(headers);
            Ok(known)
        }
        Outcome::Refused(refusal) => {
            debug!(peer = %from.peer, why = %refusal.why, "authentication failed");
            Err(refusal)
        }
    }
}
