//! [`HttpsApi`]: the API of a server elsewhere, over TLS, with a client certificate or a bearer token.

use crate::api::{Api, Body, BoxError};
use async_trait::async_trait;
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tls::AnyServer;
use tokio::time::Instant;

/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 pings find a dead peer (upstream: `http2.Transport` read idle and ping timeouts).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Unused connections are closed after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// A token file is read again after this (upstream: `transport.cachingTokenSource`).
const TOKEN_PERIOD: Duration = Duration::from_secs(60);

/// Where systems keep the certificates of public authorities (upstream: Go `crypto/x509/root_linux.go`).
const SYSTEM_AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("server {0:?} is no https:// or http:// URL with a host")]
    Server(String),
    #[error("certificate authority of the server: {0}")]
    Authority(String),
    #[error("client certificate: {0}")]
    Certificate(String),
    #[error("TLS settings: {0}")]
    Tls(#[from] rustls::Error),
}

/// What the server is told about who is asking, beside a certificate.
#[derive(Clone, Default)]
pub enum Token {
    #[default]
    None,
    Bearer(String),
    /// Read from a file, again every minute.
    File(PathBuf),
    Basic(String, String),
}

/// Where a server is and how to know each other.
#[derive(Clone, Default)]
pub struct Config {
    /// `https://host:port`, with an optional path in front of all paths.
    pub server: String,
    /// PEM certificates that vouch for the server.
    pub ca_pem: Vec<u8>,
    /// The name that the server's certificate must have, when it is not the host.
    pub tls_server_name: Option<String>,
    /// PEM certificate chain and key of the client.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Token,
    /// `User-Agent`, such as `kubelet/v1.37.2`; empty leaves it to each request.
    pub user_agent: String,
    /// Any server is taken for the right one, whatever its certificate.
    pub insecure: bool,
    pub wire: Wire,
}

/// How requests share connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/2 where the server speaks it: all requests share one connection.
    #[default]
    Any,
    /// HTTP/1.1: a request has its connection to itself while it lasts, so that no slow reader holds up others.
    Http1,
    /// HTTP/1.1, each connection for one request only: it may be handed over to another protocol.
    Http1Once,
}

/// An API server over HTTPS. Keeps its connections.
pub struct HttpsApi {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    user_agent: Option<HeaderValue>,
    token: Token,
    cached: Mutex<Option<(Instant, HeaderValue)>>,
}

impl HttpsApi {
    /// Connects with the first request, not now.
    ///
    /// # Errors
    /// The URL, a certificate or the key is not usable.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let bad = || Error::Server(config.server.clone());
        let uri: Uri = config.server.parse().map_err(|_| bad())?;
        let scheme = uri.scheme().cloned().ok_or_else(bad)?;
        let authority = uri.authority().cloned().ok_or_else(bad)?;
        if scheme != Scheme::HTTPS && scheme != Scheme::HTTP {
            return Err(bad());
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls_config(config)?).https_or_http();
        let tls = match &config.tls_server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone())
                    .map_err(|e| Error::Authority(format!("tls-server-name: {e}")))?;
                tls.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => tls,
        };
        let mut builder = Pool::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .http2_adaptive_window(true);
        let connector = match config.wire {
            Wire::Any => tls.enable_all_versions().wrap_connector(tcp),
            Wire::Http1 => tls.enable_http1().wrap_connector(tcp),
            Wire::Http1Once => {
                builder.pool_max_idle_per_host(0);
                tls.enable_http1().wrap_connector(tcp)
            }
        };
        Ok(Self {
            pool: builder.build(connector),
            scheme,
            authority,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            user_agent: (!config.user_agent.is_empty()).then(|| {
                HeaderValue::from_str(&config.user_agent).unwrap_or(HeaderValue::from_static("taffrail"))
            }),
            token: config.token.clone(),
            cached: Mutex::new(None),
        })
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, BoxError> {
        let sensitive = |text: String| -> Result<HeaderValue, BoxError> {
            let mut v = HeaderValue::from_str(&text)?;
            v.set_sensitive(true);
            Ok(v)
        };
        match &self.token {
            Token::None => Ok(None),
            Token::Bearer(t) => sensitive(format!("Bearer {t}")).map(Some),
            Token::Basic(user, password) => {
                use base64::Engine;
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                sensitive(format!("Basic {pair}")).map(Some)
            }
            Token::File(path) => {
                if let Some((at, v)) = &*self.cached.lock()
                    && at.elapsed() < TOKEN_PERIOD
                {
                    return Ok(Some(v.clone()));
                }
                let text = tokio::fs::read_to_string(path).await;
                let text = text.map_err(|e| format!("token file {}: {e}", path.display()))?;
                let v = sensitive(format!("Bearer {}", text.trim()))?;
                *self.cached.lock() = Some((Instant::now(), v.clone()));
                Ok(Some(v))
            }
        }
    }
}

#[async_trait]
impl Api for HttpsApi {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        head.uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.prefix))
            .build()?;
        if let Some(agent) = &self.user_agent {
            head.headers.entry(header::USER_AGENT).or_insert_with(|| agent.clone());
        }
        if let Some(v) = self.authorization().await? {
            head.headers.insert(header::AUTHORIZATION, v);
        }
        let response = self.pool.request(Request::from_parts(head, Full::new(body))).await?;
        Ok(response.map(|b| b.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }
}

/// PEM certificates of public authorities, where systems keep them; those that cannot be used are left out.
#[must_use]
pub fn system_authorities() -> Option<Vec<u8>> {
    use base64::Engine as _;
    let found = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok())?;
    let usable = |c: &CertificateDer<'static>| RootCertStore::empty().add(c.clone()).is_ok();
    let mut pem = String::new();
    for certificate in CertificateDer::pem_slice_iter(&found).flatten().filter(usable) {
        let text = base64::engine::general_purpose::STANDARD.encode(&certificate);
        pem.push_str(&format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"));
    }
    Some(pem.into_bytes())
}

/// Whether a chain and a key, both PEM, can be shown to a server.
///
/// # Errors
/// They cannot be read, or do not belong together.
pub fn check_identity(pem: &(Vec<u8>, Vec<u8>)) -> Result<(), Error> {
    let (chain, key) = identity(pem)?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(|e| Error::Certificate(e.to_string()))
}

fn identity(
    (cert, key): &(Vec<u8>, Vec<u8>),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| Error::Certificate(e.to_string()))?;
    if chain.is_empty() {
        return Err(Error::Certificate("there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| Error::Certificate(format!("key: {e}")))?;
    Ok((chain, key))
}

fn tls_config(config: &Config) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&config.ca_pem) {
        let cert = cert.map_err(|e| Error::Authority(e.to_string()))?;
        roots.add(cert).map_err(|e| Error::Authority(e.to_string()))?;
    }
    if roots.is_empty() && !config.insecure && config.server.starts_with("https:") {
        return Err(Error::Authority("no certificate given, so no server can be trusted".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match config.insecure {
        // The operator said so (`insecureSkipTLSVerify`).
        true => builder.dangerous().with_custom_certificate_verifier(AnyServer::new(provider)),
        false => builder.with_root_certificates(roots),
    };
    let Some(pem) = &config.identity_pem else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = identity(pem)?;
    builder.with_client_auth_cert(chain, key).map_err(|e| Error::Certificate(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let of = |server: &str| HttpsApi::new(&Config { server: server.into(), ..Config::default() }).err();
        assert!(matches!(of("nowhere"), Some(Error::Server(_))));
        assert!(matches!(of("ftp://x"), Some(Error::Server(_))));
        assert!(matches!(of("https://x"), Some(Error::Authority(_))));
        assert!(of("http://x").is_none());
    }

    #[tokio::test]
    async fn requests_carry_prefix_token_and_agent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}/prefix/", listener.local_addr().unwrap());
        let peer = tokio::spawn(async move {
            let (mut s, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 4096];
            let n = s.read(&mut seen).await.unwrap();
            s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            String::from_utf8_lossy(&seen[..n]).into_owned()
        });
        let config = Config {
            server,
            token: Token::Bearer("abc".into()),
            user_agent: "x/1".into(),
            ..Config::default()
        };
        let client = crate::Client::new(Arc::new(HttpsApi::new(&config).unwrap()));
        let answer = client.raw(http::Method::GET, "/api/v1/pods?limit=1", None).await.unwrap();
        assert_eq!(answer, serde_json::json!({}));
        let seen = peer.await.unwrap().to_lowercase();
        assert!(seen.starts_with("get /prefix/api/v1/pods?limit=1 "), "{seen}");
        assert!(seen.contains("authorization: bearer abc") && seen.contains("user-agent: x/1"), "{seen}");
    }
}
