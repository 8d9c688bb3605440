//! Tokens of identity providers (upstream: apiserver `plugin/pkg/authenticator/token/oidc/oidc.go`, and the library
//! go-oidc below it).
//!
//! Invariants: nothing of a token is used before its signature was checked but its issuer, which says who is asked for
//! keys; only the algorithms of the configuration count, whatever a token says of itself.

pub mod config;
mod keys;

use super::{Known, TokenSource};
use crate::identity::{CREDENTIAL_ID, Identity};
use crate::remote::Fetch;
use crate::text::quoted;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::{Mapping, Provider};
use jiff::{SignedDuration, Timestamp};
pub use jsonwebtoken::Algorithm;
use keys::Keys;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Longer tokens are nobody's.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// How far a provider's clock may be ahead (upstream: go-oidc `verify.go#Verify`).
const NOT_BEFORE_LEEWAY: SignedDuration = SignedDuration::from_secs(300);

type Claims = Map<String, Value>;

/// All identity providers.
pub struct Oidc {
    providers: Vec<One>,
    /// The API server's own audiences, which these tokens are good for.
    audiences: Vec<String>,
}

struct One {
    config: Provider,
    keys: Keys,
}

impl Oidc {
    /// Providers with what reads their documents. Nothing is read before the first token of a provider.
    pub fn new(providers: Vec<(Provider, Arc<dyn Fetch>)>, audiences: Vec<String>) -> Self {
        let one = |(config, fetch): (Provider, Arc<dyn Fetch>)| {
            let keys = Keys::new(&config.url, config.discovery_url.as_deref(), fetch);
            One { config, keys }
        };
        Self { providers: providers.into_iter().map(one).collect(), audiences }
    }
}

#[async_trait]
impl TokenSource for Oidc {
    async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Option<Known>, String> {
        let Some((issuer, claims)) = unverified(token) else { return Ok(None) };
        let Some(one) = self.providers.iter().find(|p| p.config.url == issuer) else { return Ok(None) };
        let matched: Vec<String> = self.audiences.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if matched.is_empty() && !self.audiences.is_empty() {
            return Ok(None);
        }
        one.check(&claims, now).map_err(|e| format!("oidc: verify token: {e}"))?;
        one.check_signature(token, now).await.map_err(|e| format!("oidc: verify token: {e}"))?;
        let identity = one.identity(&claims).map_err(|e| format!("oidc: {e}"))?;
        Ok(Some(Known {
            identity: Arc::new(identity.authenticated()),
            audiences: matched,
            ..Known::default()
        }))
    }
}

/// The issuer and the claims that a token says it has. Not to be trusted before the signature was checked.
fn unverified(token: &str) -> Option<(String, Claims)> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let issuer = match claims.get("iss")?.as_str()? {
        // Google's older tokens name it without a scheme.
        "accounts.google.com" => "https://accounts.google.com",
        other => other,
    };
    Some((issuer.to_owned(), claims))
}

fn seconds(claims: &Claims, name: &str) -> Result<Option<Timestamp>, String> {
    let Some(value) = claims.get(name).filter(|v| !v.is_null()) else { return Ok(None) };
    let whole = value.as_i64().or_else(|| value.as_f64().map(|f| f as i64));
    let time = whole.and_then(|s| Timestamp::from_second(s).ok());
    time.map(Some).ok_or_else(|| format!("oidc: failed to unmarshal claims: {name} is not a time"))
}

impl One {
    /// Audience and times.
    fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), String> {
        let given: Vec<String> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(list) => super::list(list),
            None => Vec::new(),
        };
        let wanted = &self.config.audiences;
        if !given.iter().any(|a| wanted.contains(a)) {
            return Err(match wanted.as_slice() {
                [one] => format!("oidc: expected audience {one:?} got {}", quoted(&given)),
                many => format!("oidc: expected audience in {} got {}", quoted(many), quoted(&given)),
            });
        }
        let end = seconds(claims, "exp")?.unwrap_or(Timestamp::MIN);
        if end < now {
            return Err(format!("oidc: token is expired (Token Expiry: {end})"));
        }
        match seconds(claims, "nbf")? {
            Some(from) if now.saturating_add(NOT_BEFORE_LEEWAY).unwrap_or(now) < from => {
                Err(format!("oidc: current time {now} before the nbf (not before) time: {from}"))
            }
            _ => Ok(()),
        }
    }

    async fn check_signature(&self, token: &str, now: Timestamp) -> Result<(), String> {
        let malformed = |e: jsonwebtoken::errors::Error| format!("oidc: malformed jwt: {e}");
        let header = jsonwebtoken::decode_header(token).map_err(malformed)?;
        let allowed = &self.config.algorithms;
        if !allowed.contains(&header.alg) {
            let names: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
            let given = format!("{:?}", header.alg);
            return Err(format!(
                "oidc: id token signed with unsupported algorithm, expected {} got {given:?}",
                quoted(&names)
            ));
        }
        let named = header.kid.as_deref().unwrap_or("");
        let good = self.keys.verify(token, named, header.alg, now).await;
        good.map_err(|e| format!("failed to verify signature: {e}"))
    }

    fn identity(&self, claims: &Claims) -> Result<Identity, String> {
        let name = self.username(claims)?;
        let groups = self.groups(claims)?;
        let uid = match &self.config.uid {
            Some(claim) => {
                text(claims, claim).map_err(|e| format!("parse uid claim {claim:?}: {e}"))?.to_owned()
            }
            None => String::new(),
        };
        let jti = claims.get("jti").and_then(Value::as_str).filter(|j| !j.is_empty());
        let extra =
            jti.map(|jti| (CREDENTIAL_ID.to_owned(), vec![format!("JTI={jti}")])).into_iter().collect();
        for (claim, wanted) in &self.config.required {
            if !present(claims, claim) {
                return Err(format!("required claim {claim} not present in ID token"));
            }
            let given = text(claims, claim).map_err(|e| format!("parse claim {claim}: {e}"))?;
            if given != wanted {
                return Err(format!(
                    "required claim {claim} value does not match. Got = {given}, want = {wanted}"
                ));
            }
        }
        Ok(Identity { name, uid, groups, extra })
    }

    fn username(&self, claims: &Claims) -> Result<String, String> {
        let Mapping { claim, prefix } = &self.config.username;
        let name = text(claims, claim).map_err(|e| format!("parse username claims {claim:?}: {e}"))?;
        if claim == "email" && present(claims, "email_verified") {
            match &claims["email_verified"] {
                Value::Bool(true) => {}
                Value::Bool(false) => return Err("email not verified".to_owned()),
                other => return Err(format!("parse 'email_verified' claim: {other} is no boolean")),
            }
        }
        Ok(format!("{prefix}{name}"))
    }

    fn groups(&self, claims: &Claims) -> Result<Vec<String>, String> {
        let Some(Mapping { claim, prefix }) = &self.config.groups else { return Ok(Vec::new()) };
        let groups = match claims.get(claim) {
            None if claims.get("_claim_names").is_some_and(|n| n.get(claim).is_some()) => {
                return Err(format!(
                    "could not expand distributed claims: the claim {claim:?} is at another server, which is not \
                     supported"
                ));
            }
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => super::list(&claims[claim]),
            Some(_) => {
                return Err(format!(
                    "parse groups claim {claim:?}: it is neither a string nor an array of strings"
                ));
            }
        };
        Ok(groups.into_iter().map(|g| format!("{prefix}{g}")).collect())
    }
}

fn present(claims: &Claims, name: &str) -> bool {
    claims.get(name).is_some_and(|v| !v.is_null())
}

fn text<'a>(claims: &'a Claims, name: &str) -> Result<&'a str, String> {
    match claims.get(name) {
        None => Err("claim not present".to_owned()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err("the claim is no string".to_owned()),
    }
}

/// The algorithm of a name, one of those that upstream allows (upstream: `oidc.go#allowedSigningAlgs`).
///
/// # Errors
/// Upstream's text.
pub fn algorithm(name: &str) -> Result<Algorithm, String> {
    Ok(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        other => return Err(format!("oidc: unsupported signing alg: {other:?}")),
    })
}

#[cfg(test)]
mod tests;
