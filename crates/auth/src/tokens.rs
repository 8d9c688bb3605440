//! Service account tokens: signed, bound to objects, verified against them
//! (upstream: `pkg/serviceaccount/{claims,jwt,openidmetadata}.go`).
//!
//! Invariants: only ES256 by one of our keys is accepted, whatever a token says of itself; nothing of a token is used
//! before its signature was checked but its issuer and key id.

mod legacy;
mod request;

pub use legacy::{INVALID_SINCE_LABEL, LAST_USED_LABEL, LEGACY_ISSUER, TokenSecret};
pub use request::{Answer, EXTENDED_SECONDS, TokenRequest, token_request};

use crate::identity::{
    CREDENTIAL_ID, Identity, NODE_NAME, NODE_UID, POD_NAME, POD_UID, service_account_name,
};
use crate::text::quoted;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Longer tokens are no tokens of ours.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// How far clocks may differ, and how long objects count after their deletion began (upstream: `jwt.DefaultLeeway`).
const LEEWAY_SECONDS: i64 = 60;
/// Where the OIDC discovery document and the keys are served.
pub const OPENID_CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
pub const JWKS_PATH: &str = "/openid/v1/jwks";

/// An object that a token may be bound to, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub uid: String,
    /// Since when it is being deleted.
    pub deleted: Option<Timestamp>,
}

impl Live {
    /// Reads an object's metadata.
    pub fn of(obj: &Value) -> Self {
        let deleted = meta::time::parse(meta::object::meta_str(obj, "deletionTimestamp")).ok();
        Self { uid: meta::object::uid(obj).to_owned(), deleted }
    }
}

/// Looks up the objects that a token names; `None` when absent.
pub trait Objects {
    fn service_account(&self, namespace: &str, name: &str) -> Option<Live>;
    fn pod(&self, namespace: &str, name: &str) -> Option<Live>;
    fn secret(&self, namespace: &str, name: &str) -> Option<Live>;
    fn node(&self, name: &str) -> Option<Live>;

    /// A Secret that holds a token of its own. Who does not keep Secrets knows no such tokens.
    fn token_secret(&self, _namespace: &str, _name: &str) -> Option<TokenSecret> {
        None
    }

    /// The token of a Secret was shown, and the Secret does not say so yet: `day` is when.
    fn token_used(&self, _namespace: &str, _name: &str, _secret: &TokenSecret, _day: String) {}
}

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ref {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Ref {
    /// Name and uid of an object.
    pub fn of(obj: &Value) -> Self {
        Self { name: meta::object::name(obj).to_owned(), uid: meta::object::uid(obj).to_owned() }
    }
}

/// The claim `kubernetes.io`: whose token it is and what it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    pub serviceaccount: Ref,
    /// Seconds since 1970 after which use of the token is remarked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Claims {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    aud: Vec<String>,
    #[serde(default, deserialize_with = "seconds")]
    exp: Option<i64>,
    #[serde(default, deserialize_with = "seconds")]
    iat: Option<i64>,
    #[serde(default)]
    iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    jti: String,
    #[serde(rename = "kubernetes.io", default)]
    kubernetes: Bound,
    #[serde(default, deserialize_with = "seconds")]
    nbf: Option<i64>,
    #[serde(default)]
    sub: String,
}

/// A JWT's audience may be a text or a list.
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Aud {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<Aud>::deserialize(d)? {
        None => Vec::new(),
        Some(Aud::One(a)) => vec![a],
        Some(Aud::Many(a)) => a,
    })
}

/// A JWT's times may have fractions; those are cut off.
fn seconds<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    let n = Option::<serde_json::Number>::deserialize(d)?;
    Ok(n.and_then(|n| n.as_i64().or_else(|| n.as_f64().map(|f| f as i64))))
}

/// Why a token is not accepted; for the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not a token of ours: another authenticator may know it.
    #[error("invalid bearer token")]
    Unknown,
    /// Ours by its issuer, and not good.
    #[error("{0}")]
    Bad(String),
    /// That of a Secret which is marked as invalid; the Secret is for the audit record.
    #[error("{why}")]
    Invalidated { why: String, secret: String },
}

fn bad(why: impl Into<String>) -> Rejected {
    Rejected::Bad(why.into())
}

/// A token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The account, in the groups of accounts; [`crate::Authenticator`] adds `system:authenticated`.
    pub identity: Identity,
    /// The audiences asked for that the token is meant for.
    pub audiences: Vec<String>,
    /// Until when the token is good.
    pub expires: Timestamp,
    /// Audit annotations of a request with this token.
    pub annotations: Vec<(&'static str, String)>,
    /// Told to the client with every answer.
    pub warnings: Vec<&'static str>,
}

/// A token just made.
#[derive(Clone, Debug)]
pub struct Issued {
    pub token: String,
    /// When the token stops working.
    pub expires: Timestamp,
    /// The credential id, `JTI=…`: the audit annotation `authentication.kubernetes.io/issued-credential-id`.
    pub credential_id: String,
}

/// Signs tokens of one issuer with one key, and verifies those of that and of older keys.
pub struct Signer {
    issuer: String,
    encoding: EncodingKey,
    keys: Vec<PublicKey>,
}

struct PublicKey {
    id: String,
    decoding: DecodingKey,
    /// x and y, base64url.
    point: (String, String),
}

impl PublicKey {
    fn of(key: &KeyPair) -> Result<Self, Rejected> {
        // An uncompressed point: 4, x, y.
        let (x, y) = match key.public_key_raw() {
            [4, rest @ ..] if rest.len() == 64 => rest.split_at(32),
            _ => return Err(bad("the service account key is not an ECDSA P-256 key")),
        };
        let point = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let decoding = DecodingKey::from_ec_components(&point.0, &point.1).map_err(|e| bad(e.to_string()))?;
        Ok(Self { id: key_id(&key.subject_public_key_info()), decoding, point })
    }
}

/// The id of a key: SHA-256 of its DER form, base64url (upstream: `keyIDFromPublicKey`).
pub fn key_id(public_key_der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(public_key_der))
}

impl Signer {
    /// # Errors
    /// The key is not ECDSA P-256.
    pub fn new(issuer: &str, key: &KeyPair) -> Result<Self, Rejected> {
        let keys = vec![PublicKey::of(key)?];
        let encoding =
            EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(|e| bad(e.to_string()))?;
        Ok(Self { issuer: issuer.to_owned(), encoding, keys })
    }

    /// Accepts tokens of a former key too, for a rotation.
    ///
    /// # Errors
    /// The key is not ECDSA P-256.
    pub fn accepting(mut self, former: &KeyPair) -> Result<Self, Rejected> {
        self.keys.push(PublicKey::of(former)?);
        Ok(self)
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The id of the key that signs.
    pub fn key_id(&self) -> &str {
        &self.keys[0].id
    }

    /// Makes a token for an account, bound as given, that is good for `seconds` from now.
    ///
    /// # Errors
    /// Signing failed.
    pub fn issue(
        &self,
        bound: Bound,
        audiences: &[String],
        seconds: i64,
        now: Timestamp,
    ) -> Result<Issued, Rejected> {
        let issued = now.as_second();
        let jti = uuid::Uuid::new_v4().to_string();
        let credential_id = format!("JTI={jti}");
        let end = issued.saturating_add(seconds);
        let claims = Claims {
            aud: audiences.to_vec(),
            exp: Some(end),
            iat: Some(issued),
            iss: self.issuer.clone(),
            jti,
            nbf: Some(issued),
            sub: service_account_name(&bound.namespace, &bound.serviceaccount.name),
            kubernetes: bound,
        };
        let header =
            Header { kid: Some(self.key_id().to_owned()), typ: None, ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding)
            .map_err(|e| bad(format!("sign a token: {e}")))?;
        Ok(Issued { token, expires: Timestamp::from_second(end).unwrap_or(Timestamp::MAX), credential_id })
    }

    /// Verifies a token for one of the audiences and against the objects it is bound to. `own_audiences` are the API
    /// server's, which a token without any audience is meant for.
    ///
    /// # Errors
    /// [`Rejected::Unknown`] when the token is not of this issuer, else what is wrong with it.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        own_audiences: &[String],
        objects: &dyn Objects,
        now: Timestamp,
    ) -> Result<Verified, Rejected> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Rejected::Unknown);
        }
        match named_issuer(token) {
            Some(issuer) if issuer == self.issuer => {}
            Some(issuer) if issuer == LEGACY_ISSUER => {
                return legacy::verify(self, token, audiences, own_audiences, objects, now);
            }
            _ => return Err(Rejected::Unknown),
        }
        let mut claims: Claims = self.signed_claims(token)?;
        if claims.iss != self.issuer {
            return Err(bad(format!("token issuer {:?} is invalid", claims.iss)));
        }
        let mut annotations = Vec::new();
        if claims.aud.is_empty() {
            annotations.push(("authentication.k8s.io/legacy-token", claims.sub.clone()));
            claims.aud = own_audiences.to_vec();
        }
        let matched: Vec<String> = claims.aud.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if matched.is_empty() {
            let (given, wanted) = (quoted(&claims.aud), quoted(audiences));
            return Err(bad(format!("token audiences {given} is invalid for the target audiences {wanted}")));
        }
        check_times(&claims, now)?;
        let identity = check_bound(&claims, objects, now)?;
        if let Some(late) = claims.kubernetes.warnafter.map(|w| now.as_second() - w).filter(|late| *late > 0)
        {
            let note = format!("subject: {}, seconds after warning threshold: {late}", claims.sub);
            annotations.push(("authentication.k8s.io/stale-token", note));
        }
        let expires = claims.exp.and_then(|e| Timestamp::from_second(e).ok()).unwrap_or(Timestamp::MAX);
        Ok(Verified { identity, audiences: matched, expires, annotations, warnings: Vec::new() })
    }

    /// The claims of a token signed by one of our keys.
    fn signed_claims<C: serde::de::DeserializeOwned>(&self, token: &str) -> Result<C, Rejected> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Rejected::Unknown)?;
        let named = header.kid.as_deref().unwrap_or("");
        let mut validation = Validation::new(Algorithm::ES256);
        // Times, audience and issuer are checked against the clock and the lists given.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims::<&str>(&[]);
        let mut error = bad("invalid signature, no keys found");
        for key in self.keys.iter().filter(|k| named.is_empty() || k.id == named) {
            match jsonwebtoken::decode::<C>(token, &key.decoding, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(e) => error = bad(format!("the token cannot be verified: {e}")),
            }
        }
        Err(error)
    }

    /// The OIDC discovery document (upstream: `openIDConfigJSON`).
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer, "jwks_uri": jwks_uri, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The public keys as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        let key = |k: &PublicKey| json!({"use": "sig", "kty": "EC", "kid": k.id, "crv": "P-256", "alg": "ES256", "x": k.point.0, "y": k.point.1});
        json!({"keys": self.keys.iter().map(key).collect::<Vec<_>>()})
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The issuer that a token names, before anything of it was verified (upstream: `hasCorrectIssuer`).
fn named_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    value["iss"].as_str().map(str::to_owned)
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), Rejected> {
    let now = now.as_second();
    if claims.nbf.is_some_and(|t| now + LEEWAY_SECONDS < t) {
        return Err(bad("service account token is not valid yet"));
    }
    if claims.exp.is_some_and(|t| now - LEEWAY_SECONDS > t) {
        return Err(bad("service account token has expired"));
    }
    if claims.iat.is_some_and(|t| now + LEEWAY_SECONDS < t) {
        return Err(bad("service account token is issued in the future"));
    }
    Ok(())
}

/// Every object that the token names must still be the same one (upstream: `claims.go#Validate`).
fn check_bound(claims: &Claims, objects: &dyn Objects, now: Timestamp) -> Result<Identity, Rejected> {
    let k = &claims.kubernetes;
    let (namespace, account) = (&k.namespace, &k.serviceaccount);
    let gone_before = now.saturating_sub(SignedDuration::from_secs(LEEWAY_SECONDS)).unwrap_or(now);
    let is_gone = |l: &Live| l.deleted.is_some_and(|d| d < gone_before);
    let live = objects
        .service_account(namespace, &account.name)
        .ok_or_else(|| bad(format!("serviceaccounts {:?} not found", account.name)))?;
    if live.uid != account.uid {
        return Err(bad(format!(
            "service account UID ({}) does not match claim ({})",
            live.uid, account.uid
        )));
    }
    if is_gone(&live) {
        return Err(bad(format!("service account {namespace}/{} has been deleted", account.name)));
    }
    let same = |live: Option<Live>, wanted: &Ref, what: &str| {
        let live = live.ok_or_else(|| bad("service account token has been invalidated"))?;
        if live.uid != wanted.uid {
            let (now, then) = (&live.uid, &wanted.uid);
            return Err(bad(format!(
                "{what} UID ({now}) does not match service account {what} ref claim ({then})"
            )));
        }
        if is_gone(&live) { Err(bad("service account token has been invalidated")) } else { Ok(()) }
    };
    let mut id = Identity {
        name: service_account_name(namespace, &account.name),
        uid: account.uid.clone(),
        groups: crate::identity::service_account_groups(namespace).to_vec(),
        ..Identity::default()
    };
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            id.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if let Some(secret) = &k.secret {
        same(objects.secret(namespace, &secret.name), secret, "secret")?;
    }
    if let Some(pod) = &k.pod {
        same(objects.pod(namespace, &pod.name), pod, "pod")?;
        extra(POD_NAME, &pod.name);
        extra(POD_UID, &pod.uid);
    }
    if let Some(node) = &k.node {
        // Beside a pod the node is information; alone it is what the token is bound to.
        if k.pod.is_none() {
            same(objects.node(&node.name), node, "node")?;
        }
        extra(NODE_NAME, &node.name);
        extra(NODE_UID, &node.uid);
    }
    if !claims.jti.is_empty() {
        extra(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
