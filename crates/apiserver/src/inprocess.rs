//! The API for components in this process: the whole chain, no socket.

use crate::chain::{self, Connection};
use crate::server::Server;
use async_trait::async_trait;
use auth::identity::Identity;
use bytes::Bytes;
use client::{Api, Body, BoxError};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A component's own way in, under its own identity.
pub struct InProcess {
    server: Arc<Server>,
    connection: Arc<Connection>,
    user_agent: http::HeaderValue,
}

impl InProcess {
    /// `component` goes into the user agent.
    pub fn new(server: Arc<Server>, identity: Identity, component: &str) -> Arc<Self> {
        let peer = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
        let connection = Arc::new(Connection {
            peer,
            certificate: None,
            chain: Vec::new(),
            identity: Some(Arc::new(identity)),
            cut: tokio_util::sync::CancellationToken::new(),
        });
        let agent = format!("taffrail/{} {component}", env!("CARGO_PKG_VERSION"));
        let user_agent = agent.parse().unwrap_or_else(|_| http::HeaderValue::from_static("taffrail"));
        Arc::new(Self { server, connection, user_agent })
    }
}

#[async_trait]
impl Api for InProcess {
    async fn send(&self, mut request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError> {
        request.headers_mut().entry(http::header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        Ok(chain::serve_local(self.server.clone(), self.connection.clone(), request).await)
    }
}
