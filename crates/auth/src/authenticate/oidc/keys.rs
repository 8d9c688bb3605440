//! The keys of an identity provider: found by its discovery document, read again when a token names an unknown one
//! (upstream: go-oidc `oidc.go#NewProvider`, `jwks.go#RemoteKeySet`).
//!
//! Invariant: however many tokens come, a provider is asked by one at a time and not more often than the pauses say.

use crate::remote::Fetch;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Between two tries to find a provider (upstream: `oidc.go#New`).
const DISCOVERY_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Between two readings of its keys.
const KEYS_PAUSE: SignedDuration = SignedDuration::from_secs(1);
/// Keys of one provider; more are not looked at.
const KEYS_MAX: usize = 256;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// The keys.
pub struct Keys {
    issuer: String,
    discovery: String,
    fetch: Arc<dyn Fetch>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    address: Option<String>,
    keys: Arc<Vec<Jwk>>,
    discovered: Option<Timestamp>,
    read: Option<Timestamp>,
    /// Why the last discovery failed.
    failure: String,
}

impl Keys {
    pub fn new(issuer: &str, discovery: Option<&str>, fetch: Arc<dyn Fetch>) -> Self {
        let well_known = || format!("{}{WELL_KNOWN}", issuer.strip_suffix('/').unwrap_or(issuer));
        let discovery = discovery.map_or_else(well_known, str::to_owned);
        Self { issuer: issuer.to_owned(), discovery, fetch, state: Mutex::default() }
    }

    /// Whether one of the keys signed a token. `named` is the key that the token names, empty for none.
    pub async fn verify(
        &self,
        token: &str,
        named: &str,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let known = state.keys.clone();
        if signed(token, &known, named, algorithm) {
            return Ok(());
        }
        let address = self.discover(&mut state, now).await?;
        if state.read.is_some_and(|at| now < after(at, KEYS_PAUSE)) {
            return Err("failed to verify id token signature".to_owned());
        }
        state.read = Some(now);
        state.keys = self.read(&address).await.map_err(|e| format!("fetching keys {e}"))?;
        let known = state.keys.clone();
        drop(state);
        match signed(token, &known, named, algorithm) {
            true => Ok(()),
            false => Err("failed to verify id token signature".to_owned()),
        }
    }

    async fn discover(&self, state: &mut State, now: Timestamp) -> Result<String, String> {
        if let Some(address) = &state.address {
            return Ok(address.clone());
        }
        if state.discovered.is_none_or(|at| now >= after(at, DISCOVERY_PAUSE)) {
            state.discovered = Some(now);
            match self.document().await {
                Ok(address) => {
                    state.address = Some(address.clone());
                    return Ok(address);
                }
                Err(error) => state.failure = error,
            }
        }
        Err(format!("oidc: authenticator not initialized: {}", state.failure))
    }

    async fn document(&self) -> Result<String, String> {
        let bytes = self.fetch.get(&self.discovery).await?;
        let document: Value = serde_json::from_slice(&bytes)
            .map_err(|e| format!("oidc: failed to decode provider discovery object: {e}"))?;
        let told = document["issuer"].as_str().unwrap_or("");
        if told != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {told:?}",
                self.issuer
            ));
        }
        match document["jwks_uri"].as_str() {
            Some(address) if !address.is_empty() => Ok(address.to_owned()),
            _ => Err("provider did not return JWKS URL".to_owned()),
        }
    }

    async fn read(&self, address: &str) -> Result<Arc<Vec<Jwk>>, String> {
        let bytes = self.fetch.get(address).await?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| format!("oidc: failed to decode keys: {e}"))?;
        // A key of a kind that is not known here does not spoil the others.
        let keys = value["keys"].as_array().into_iter().flatten().take(KEYS_MAX);
        let keys = keys.filter_map(|k| serde_json::from_value(k.clone()).ok()).collect();
        Ok(Arc::new(JwkSet { keys }.keys))
    }
}

fn after(at: Timestamp, pause: SignedDuration) -> Timestamp {
    at.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

fn signed(token: &str, keys: &[Jwk], named: &str, algorithm: Algorithm) -> bool {
    let mut validation = Validation::new(algorithm);
    // Times, audience and issuer were checked before.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.set_required_spec_claims::<&str>(&[]);
    let fits = |k: &&Jwk| named.is_empty() || k.common.key_id.as_deref() == Some(named);
    keys.iter().filter(fits).any(|k| {
        DecodingKey::from_jwk(k)
            .and_then(|key| jsonwebtoken::decode::<Value>(token, &key, &validation))
            .is_ok()
    })
}
