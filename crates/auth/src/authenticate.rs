//! From a credential to an identity (upstream: `pkg/kubeapiserver/authenticator/config.go`).
//!
//! Invariant: a request with a credential that is not good is refused, never taken for an anonymous one.

pub(crate) mod cache;
mod certificate;
mod front_proxy;
pub mod oidc;
mod token_file;
mod webhook;

pub use certificate::from_certificate;
pub use front_proxy::FrontProxy;
pub use token_file::{parse_tokens, token_file};
pub use webhook::WebhookTokens;

use crate::identity::Identity;
use crate::text::aggregate;
use crate::tokens::{Objects, Rejected, Signer};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cache::Cache;
use http::HeaderMap;
use jiff::Timestamp;
use meta::status::{Result, Status};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The WebSocket subprotocol that carries a bearer token, for browsers, which cannot set headers.
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Somebody whose credential is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub identity: Arc<Identity>,
    /// The audiences asked for that the credential is good for.
    pub audiences: Vec<String>,
    /// Audit annotations of requests with this credential.
    pub annotations: Vec<(&'static str, String)>,
    /// Told to the client with every answer.
    pub warnings: Vec<&'static str>,
}

/// Why somebody is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// For the log and for TokenReviews, never for the client.
    pub why: String,
    /// Audit annotations of the refused request.
    pub annotations: Vec<(&'static str, String)>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, annotations: Vec::new() }
    }
}

/// Who presents what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Known(Known),
    /// 401.
    Refused(Refusal),
}

/// What a request shows of its sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// The client's certificate (DER), whose chain TLS has checked.
    pub certificate: Option<&'a [u8]>,
    /// The certificates that the client sent with it.
    pub chain: &'a [Vec<u8>],
    /// What a proxy in front may have written.
    pub headers: Option<&'a HeaderMap>,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `Sec-WebSocket-Protocol` header of an upgrade to WebSocket.
    pub protocols: Option<&'a str>,
    /// The request's path, which anonymous requests are judged by.
    pub path: &'a str,
}

/// Somebody else who knows tokens: identity providers, a webhook.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// Whose a token is, for some audiences; `None` when it is not one of those known here.
    ///
    /// # Errors
    /// It should be known here and is not good, or nobody could be asked.
    async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> std::result::Result<Option<Known>, String>;
}

/// All ways of authentication, in upstream's order: proxy in front, certificate, token file, service account, other
/// sources of tokens, anonymous.
pub struct Authenticator {
    tokens: HashMap<String, Arc<Identity>>,
    service_accounts: Arc<Signer>,
    audiences: Vec<String>,
    objects: Arc<dyn Objects + Send + Sync>,
    anonymous_paths: Option<HashSet<String>>,
    sources: Vec<Arc<dyn TokenSource>>,
    proxy: Option<FrontProxy>,
    cache: Cache<Known>,
    certificates: Cache<Known>,
}

impl Authenticator {
    /// `tokens` are those of a token file; `audiences` are the API server's own; `anonymous_paths` are the only ones
    /// that need no credential, `None` for all: then it is for RBAC to say what nobody in particular may.
    pub fn new(
        tokens: HashMap<String, Identity>,
        service_accounts: Arc<Signer>,
        audiences: Vec<String>,
        objects: Arc<dyn Objects + Send + Sync>,
        anonymous_paths: Option<HashSet<String>>,
    ) -> Self {
        let tokens = tokens.into_iter().map(|(t, id)| (t, Arc::new(id.authenticated()))).collect();
        Self {
            tokens,
            service_accounts,
            audiences,
            objects,
            anonymous_paths,
            sources: Vec::new(),
            proxy: None,
            cache: Cache::default(),
            certificates: Cache::default(),
        }
    }

    /// With others who know tokens, asked in order after the own ones.
    #[must_use]
    pub fn with_sources(mut self, sources: Vec<Arc<dyn TokenSource>>) -> Self {
        self.sources = sources;
        self
    }

    /// With a proxy in front that may say who is asking.
    #[must_use]
    pub fn with_proxy(mut self, proxy: FrontProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Takes away what a request showed of its sender, once that is known.
    pub fn clear(&self, headers: &mut HeaderMap) {
        front_proxy::clear(self.proxy.as_ref(), headers);
    }

    /// The API server's own audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub fn signer(&self) -> &Arc<Signer> {
        &self.service_accounts
    }

    /// Decides who sent a request.
    pub async fn authenticate(&self, c: &Credentials<'_>, now: Timestamp) -> Outcome {
        let (mut errors, mut annotations) = (Vec::new(), Vec::new());
        match self.spoken_for(c, now) {
            Ok(Some(known)) => return Outcome::Known(known),
            Err(e) => errors.push(e),
            Ok(None) => {}
        }
        match c.certificate.map(|der| self.certificate(der, c.chain, now)) {
            Some(Ok(Some(known))) => return Outcome::Known(known),
            Some(Err(e)) => errors.push(e),
            Some(Ok(None)) | None => {}
        }
        let in_protocol = c.protocols.and_then(token_in_protocols);
        if let Some(token) = c.authorization.and_then(bearer).or(in_protocol.as_deref()) {
            match self.token(token, &self.audiences, now).await {
                Ok(known) => return Outcome::Known(known),
                Err(refusal) => {
                    errors.push(refusal.why);
                    annotations = refusal.annotations;
                }
            }
        }
        if !errors.is_empty() {
            return Outcome::Refused(Refusal { why: aggregate(&errors), annotations });
        }
        if self.anonymous_paths.as_ref().is_none_or(|paths| paths.contains(c.path)) {
            let identity = Arc::new(Identity::anonymous());
            return Outcome::Known(Known { identity, audiences: self.audiences.clone(), ..Known::default() });
        }
        Outcome::Refused("no credential was given".to_owned().into())
    }

    /// Decides whose a bearer token is, for some audiences.
    ///
    /// # Errors
    /// The text that a TokenReview shows.
    pub async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> std::result::Result<Known, Refusal> {
        if let Some(identity) = self.tokens.get(token) {
            // A static token is good for the API server's audiences, all of them.
            let audiences: Vec<String> =
                self.audiences.iter().filter(|a| audiences.contains(a)).cloned().collect();
            if !audiences.is_empty() || self.audiences.is_empty() {
                return Ok(Known { identity: identity.clone(), audiences, ..Known::default() });
            }
            return Err(Rejected::Unknown.to_string().into());
        }
        let key = Cache::<Known>::key(token.as_bytes(), audiences);
        if let Some(known) = self.cache.get(&key, now) {
            return Ok(known);
        }
        let (mut errors, mut annotations) = (Vec::new(), Vec::new());
        match self.service_accounts.verify(token, audiences, &self.audiences, &*self.objects, now) {
            Ok(verified) => {
                let known = Known {
                    identity: Arc::new(verified.identity.authenticated()),
                    audiences: verified.audiences,
                    annotations: verified.annotations,
                    warnings: verified.warnings,
                };
                self.cache.put(key, known.clone(), cache::SECONDS, verified.expires, now);
                return Ok(known);
            }
            Err(Rejected::Unknown) => {}
            Err(Rejected::Bad(why)) => errors.push(why),
            Err(Rejected::Invalidated { why, secret }) => {
                errors.push(why);
                annotations.push(("authentication.k8s.io/legacy-token-invalidated", secret));
            }
        }
        for source in &self.sources {
            match source.token(token, audiences, now).await {
                Ok(Some(known)) => {
                    self.cache.put(key, known.clone(), cache::SECONDS, Timestamp::MAX, now);
                    return Ok(known);
                }
                Ok(None) => {}
                Err(why) => errors.push(why),
            }
        }
        // Upstream asks its loopback token's authenticator too, which does not know the token either.
        errors.insert(0, Rejected::Unknown.to_string());
        Err(Refusal { why: aggregate(&errors), annotations })
    }

    /// Answers a TokenReview (upstream: `pkg/registry/authentication/tokenreview/storage.go`).
    ///
    /// # Errors
    /// 400 when there is no token.
    pub async fn token_review(&self, review: &Value, now: Timestamp) -> Result<Value> {
        let spec = &review["spec"];
        let token = spec["token"].as_str().unwrap_or("");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked = spec["audiences"].as_array().into_iter().flatten();
        let mut audiences: Vec<String> = asked.filter_map(Value::as_str).map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        // The token goes through a header, as it would in a request.
        let header = format!("Bearer {token}");
        let decided = match bearer(&header) {
            Some(token) => Some(self.token(token, &audiences, now).await),
            None => None,
        };
        let mut out = review.clone();
        out["status"] = match decided {
            None => json!({"user": {}}),
            Some(Err(refusal)) => json!({"user": {}, "error": refusal.why}),
            Some(Ok(known)) => {
                let mut status = json!({"authenticated": true, "user": known.identity.to_value()});
                if !known.audiences.is_empty() {
                    status["audiences"] = json!(known.audiences);
                }
                status
            }
        };
        Ok(out)
    }

    /// The user whom a proxy in front speaks for.
    fn spoken_for(&self, c: &Credentials<'_>, now: Timestamp) -> std::result::Result<Option<Known>, String> {
        let (Some(proxy), Some(leaf), Some(headers)) = (&self.proxy, c.certificate, c.headers) else {
            return Ok(None);
        };
        let user = proxy.user(leaf, c.chain, headers, now)?;
        Ok(user.map(|identity| Known {
            identity: Arc::new(identity.authenticated()),
            audiences: self.audiences.clone(),
            ..Known::default()
        }))
    }

    fn certificate(
        &self,
        der: &[u8],
        chain: &[Vec<u8>],
        now: Timestamp,
    ) -> std::result::Result<Option<Known>, String> {
        let key = Cache::<Known>::key(der, &[]);
        if let Some(known) = self.certificates.get(&key, now) {
            return Ok(Some(known));
        }
        let Some((identity, until)) = from_certificate(der, now)? else { return Ok(None) };
        if let Some(proxy) = &self.proxy {
            proxy.is_client(der, chain, now)?;
        }
        let identity = Arc::new(identity.authenticated());
        let known = Known { identity, audiences: self.audiences.clone(), ..Known::default() };
        self.certificates.put(key, known.clone(), cache::SECONDS, until, now);
        Ok(Some(known))
    }
}

/// A list of texts; what is none is left out.
fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The token of an `Authorization` header, when it is one (upstream: `bearertoken.go`).
pub fn bearer(header: &str) -> Option<&str> {
    let mut parts = header.trim().splitn(3, ' ');
    let (scheme, token) = (parts.next()?, parts.next()?);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The bearer token among WebSocket subprotocols; one token beside another protocol
/// (upstream: apiserver `pkg/authentication/request/websocket/protocol.go`).
fn token_in_protocols(header: &str) -> Option<String> {
    let mut tokens = header.split(',').filter_map(|p| p.trim().strip_prefix(PROTOCOL_PREFIX));
    let (Some(token), None) = (tokens.next(), tokens.next()) else { return None };
    let others = header.split(',').any(|p| !p.trim().starts_with(PROTOCOL_PREFIX));
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    (others && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;
