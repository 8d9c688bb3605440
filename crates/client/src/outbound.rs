//! Calls of the API server to servers that objects name: webhooks, aggregated API servers.
//!
//! Invariant: nothing is sent to a server that did not prove itself by the certificate authority that the object gives
//! (the system's authorities where it gives none), but where the object itself says that any server will do; answers
//! that are read here are read up to a bound.

use crate::api::{Api, Body, BoxError};
use crate::https::{Config, HttpsApi, Token, Wire, system_authorities};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Servers to which connections are kept; with more, all are forgotten and made anew.
const SERVERS_MAX: usize = 256;
/// The largest answer that is read (upstream: webhook and aggregator clients have no bound; ours is the largest object).
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A server that an object names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// `https://host:port`, with an optional path.
    pub url: String,
    /// PEM certificates that vouch for it; empty for the system's.
    pub ca_pem: Vec<u8>,
    /// Where it really is (`host:port`) and the name that its certificate must have, for a Service
    /// (`NAME.NAMESPACE.svc`).
    pub service: Option<(String, String)>,
    /// PEM chain and key with which this server says who it is.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// A bearer token for it.
    pub bearer: Option<String>,
    /// What requests say that they come from, when they do not say it themselves.
    pub user_agent: &'static str,
    /// Whatever its certificate is (`insecureSkipTLSVerify`).
    pub insecure: bool,
    pub wire: Wire,
}

/// PEM chain and key with which this server says who it is to servers that objects name. Whoever holds it sees when it
/// is replaced.
#[derive(Default)]
pub struct Credentials(RwLock<Option<(Vec<u8>, Vec<u8>)>>);

impl Credentials {
    /// # Errors
    /// The chain or the key cannot be read, or they do not belong together.
    pub fn new(pem: (Vec<u8>, Vec<u8>)) -> Result<Self, crate::https::Error> {
        let it = Self::default();
        it.replace(pem)?;
        Ok(it)
    }

    pub fn pem(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.0.read().clone()
    }

    /// Connections that are made from now on show these; says whether they are others than before.
    ///
    /// # Errors
    /// As [`Self::new`]; what was there stays.
    pub fn replace(&self, pem: (Vec<u8>, Vec<u8>)) -> Result<bool, crate::https::Error> {
        if self.0.read().as_ref() == Some(&pem) {
            return Ok(false);
        }
        crate::https::check_identity(&pem)?;
        *self.0.write() = Some(pem);
        Ok(true)
    }
}

/// Finds what is behind a Service's port.
pub trait Resolve: Send + Sync {
    /// An address or name, with its port: `10.96.0.7:443`, `[fd00::7]:443`, `example.com:443`.
    ///
    /// # Errors
    /// Why there is none, as a client is told.
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String>;
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Unusable(#[from] crate::https::Error),
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    #[error("Post {url:?}: {why}")]
    Failed { url: String, why: String },
}

/// Connections to all servers that objects name.
#[derive(Default)]
pub struct Outbound {
    apis: Mutex<HashMap<Server, Arc<HttpsApi>>>,
}

impl Outbound {
    fn api(&self, server: &Server) -> Result<Arc<HttpsApi>, crate::https::Error> {
        if let Some(known) = self.apis.lock().get(server) {
            return Ok(known.clone());
        }
        let (url, name) = match &server.service {
            Some((at, name)) => (format!("https://{at}"), Some(name.clone())),
            None => (server.url.clone(), None),
        };
        let ca_pem = match server.ca_pem.is_empty() && !server.insecure {
            true => system_authorities().unwrap_or_default(),
            false => server.ca_pem.clone(),
        };
        let api = Arc::new(HttpsApi::new(&Config {
            server: url,
            ca_pem,
            tls_server_name: name,
            identity_pem: server.identity_pem.clone(),
            token: server.bearer.clone().map_or(Token::None, Token::Bearer),
            user_agent: server.user_agent.to_owned(),
            insecure: server.insecure,
            wire: server.wire,
        })?);
        let mut apis = self.apis.lock();
        if apis.len() >= SERVERS_MAX {
            apis.clear();
        }
        apis.insert(server.clone(), api.clone());
        Ok(api)
    }

    /// Sends a request whose URI is a path; the answer's body is not read.
    ///
    /// # Errors
    /// The server is not usable, not reachable, or not the one that it should be.
    pub async fn send(&self, server: &Server, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        self.api(server)?.send(request).await
    }

    /// Posts JSON and reads the answer: its code and body. `shown` is the URL that errors name.
    pub async fn post(
        &self,
        server: &Server,
        path: &str,
        shown: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(u16, Bytes), CallError> {
        let failed = |why: String| CallError::Failed { url: shown.to_owned(), why };
        let api = self.api(server)?;
        let request = Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json, */*")
            .body(body)
            .map_err(|e| failed(e.to_string()))?;
        let call = async {
            let response = api.send(request).await.map_err(|e| failed(reason(&*e)))?;
            let code = response.status().as_u16();
            Ok((code, bounded(response.into_body()).await.map_err(failed)?))
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Timeout { url: shown.to_owned() }),
        }
    }
}

/// A body read whole, up to the bound.
///
/// # Errors
/// It broke off, or is longer.
pub async fn bounded(mut body: Body) -> Result<Bytes, String> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| reason(&*e))?;
        if let Some(data) = frame.data_ref() {
            if out.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
            out.extend_from_slice(data);
        }
    }
    Ok(out.freeze())
}

/// Why a server was not reached, as Go's HTTP client tells it; `authority` is where it should be.
#[must_use]
pub fn why(authority: &str, e: &(dyn std::error::Error + 'static)) -> String {
    use std::io::ErrorKind;
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return tls_failure(tls);
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            // an error of the TLS layer comes inside of one
            let inner = io.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            match (inner, io.kind()) {
                (Some(tls), _) => return tls_failure(tls),
                (None, ErrorKind::ConnectionRefused) => {
                    return format!("dial tcp {authority}: connect: connection refused");
                }
                (None, ErrorKind::TimedOut) => return format!("dial tcp {authority}: i/o timeout"),
                (None, ErrorKind::HostUnreachable) => {
                    return format!("dial tcp {authority}: connect: no route to host");
                }
                (None, ErrorKind::NetworkUnreachable) => {
                    return format!("dial tcp {authority}: connect: network is unreachable");
                }
                (None, ErrorKind::UnexpectedEof) => return "EOF".to_owned(),
                _ => {}
            }
        }
        at = e.source();
    }
    reason(e)
}

/// Go's words for what is wrong with a certificate.
fn tls_failure(e: &rustls::Error) -> String {
    use rustls::{CertificateError, Error};
    let x509 = match e {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "certificate signed by unknown authority".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "certificate has expired or is not yet valid".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let names: Vec<&str> = presented
                .iter()
                .map(|p| p.strip_prefix("DnsName(").unwrap_or(p).trim_matches(['"', ')']))
                .collect();
            format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str())
        }
        Error::InvalidCertificate(other) => other.to_string(),
        other => return format!("tls: {other}"),
    };
    format!("tls: failed to verify certificate: x509: {x509}")
}

/// The innermost cause, which says most.
#[must_use]
pub fn reason(e: &(dyn std::error::Error + 'static)) -> String {
    let mut at = e;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("signed");
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    #[test]
    fn credentials_that_do_not_fit_each_other_replace_nothing() {
        let (first, second) = (pair(), pair());
        let shown = Credentials::new(first.clone()).expect("fits");
        assert!(shown.replace((second.0.clone(), first.1.clone())).is_err(), "the key of another");
        assert!(shown.replace((Vec::new(), first.1.clone())).is_err(), "no certificate");
        assert_eq!(shown.pem(), Some(first.clone()));
        assert!(!shown.replace(first).expect("the same"));
        assert!(shown.replace(second.clone()).expect("fits"));
        assert_eq!(shown.pem(), Some(second));
    }
}
