//! Service account tokens: signed, bound to objects, verified against them
//! (upstream: `pkg/serviceaccount/{claims,jwt}.go`).

use crate::identity::{CREDENTIAL_ID, Identity};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Longer tokens are no tokens of ours.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Looks up the objects that a token may be bound to.
pub trait Objects {
    /// The uid of a service account, pod or secret in a namespace, or of a node (empty namespace); `None` when absent.
    /// Pods that are being deleted for longer than a minute count as absent.
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String>;
}

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bound {
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
    nbf: i64,
    sub: String,
}

/// Why a token is not accepted; for the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// Signs and verifies tokens of one issuer.
pub struct Signer {
    issuer: String,
    key_id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// x and y of the public point, base64url.
    point: (String, String),
}

/// A token just made.
#[derive(Clone, Debug)]
pub struct Issued {
    pub token: String,
    pub expires: Timestamp,
    /// The credential id: `JTI=…`.
    pub credential_id: String,
}

impl Signer {
    pub fn new(issuer: &str, key: &KeyPair) -> Result<Self, Rejected> {
        let raw = key.public_key_raw();
        // An uncompressed point: 4, x, y.
        let (x, y) = match raw {
            [4, rest @ ..] if rest.len() == 64 => rest.split_at(32),
            _ => return Err(Rejected("the service account key is not an ECDSA P-256 key".into())),
        };
        let point = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let bad = |e: jsonwebtoken::errors::Error| Rejected(e.to_string());
        let decoding = DecodingKey::from_ec_components(&point.0, &point.1).map_err(bad)?;
        let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(bad)?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
        Ok(Self { issuer: issuer.to_owned(), key_id, encoding, decoding, point })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Makes a token for an account, bound as given.
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
        let claims = Claims {
            aud: audiences.to_vec(),
            exp: issued.saturating_add(seconds),
            iat: issued,
            iss: self.issuer.clone(),
            jti,
            nbf: issued,
            sub: crate::identity::service_account_name(&bound.namespace, &bound.serviceaccount.name),
            kubernetes: bound,
        };
        let header = Header { kid: Some(self.key_id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding)
            .map_err(|e| Rejected(format!("sign a token: {e}")))?;
        let expires = Timestamp::from_second(claims.exp).unwrap_or(now);
        Ok(Issued { token, expires, credential_id })
    }

    /// Whether a text looks like a token of this issuer (so that other authenticators need not try it).
    pub fn is_ours(&self, token: &str) -> bool {
        let claims = token.split('.').nth(1).and_then(|c| URL_SAFE_NO_PAD.decode(c).ok());
        let value = claims.and_then(|c| serde_json::from_slice::<Value>(&c).ok());
        value.is_some_and(|v| v["iss"] == self.issuer.as_str())
    }

    /// Verifies a token for one of the audiences and against the objects it is bound to.
    /// Returns the account's identity and the audiences that matched.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Objects,
        now: Timestamp,
    ) -> Result<(Identity, Vec<String>), Rejected> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Rejected("the token is too long".into()));
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // Time and audience are checked below, against the clock and the list given.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        let data = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map_err(|e| Rejected(format!("invalid bearer token: {e}")))?;
        let claims = data.claims;
        if now.as_second() >= claims.exp {
            return Err(Rejected("service account token has expired".into()));
        }
        if now.as_second() < claims.nbf {
            return Err(Rejected("service account token is not valid yet".into()));
        }
        let matched: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if matched.is_empty() {
            return Err(Rejected(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                claims.aud
            )));
        }
        let identity = check_bound(&claims, objects)?;
        Ok((identity, matched))
    }

    /// `/.well-known/openid-configuration` (upstream: `openidmetadata.go`).
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer, "jwks_uri": jwks_uri, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": self.point.0, "y": self.point.1,
        }]})
    }
}

/// Every object that the token names must still be the same one.
fn check_bound(claims: &Claims, objects: &dyn Objects) -> Result<Identity, Rejected> {
    let k = &claims.kubernetes;
    let same = |resource: &str, namespace: &str, r: &Ref| {
        let found = objects.uid(resource, namespace, &r.name);
        if found.as_deref() == Some(r.uid.as_str()) {
            return Ok(());
        }
        Err(Rejected(format!(
            "the token's {resource} {}/{} does not exist or is another one",
            namespace, r.name
        )))
    };
    same("serviceaccounts", &k.namespace, &k.serviceaccount)?;
    let mut id = Identity::service_account(&k.namespace, &k.serviceaccount.name);
    if claims.sub != id.name {
        return Err(Rejected("the token's subject is not its account".into()));
    }
    id.uid.clone_from(&k.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        id.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    if let Some(secret) = &k.secret {
        same("secrets", &k.namespace, secret)?;
    }
    if let Some(pod) = &k.pod {
        same("pods", &k.namespace, pod)?;
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &k.node {
        // A node named beside a pod is information; alone it is what the token is bound to.
        if k.pod.is_none() {
            same("nodes", "", node)?;
        }
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    if !claims.jti.is_empty() {
        id.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={}", claims.jti)]);
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PKCS_ECDSA_P256_SHA256;

    struct Fixed;
    impl Objects for Fixed {
        fn uid(&self, resource: &str, _: &str, name: &str) -> Option<String> {
            (name != "gone").then(|| format!("{resource}-uid"))
        }
    }

    fn signer() -> Signer {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Signer::new("https://kubernetes.default.svc", &key).expect("a signer")
    }

    fn bound(pod: Option<&str>) -> Bound {
        let r = |resource: &str, name: &str| Ref { name: name.into(), uid: format!("{resource}-uid") };
        Bound {
            namespace: "default".into(),
            serviceaccount: r("serviceaccounts", "robot"),
            pod: pod.map(|p| r("pods", p)),
            ..Bound::default()
        }
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    #[test]
    fn a_token_is_good_for_its_time_audience_and_objects() {
        let s = signer();
        let aud = vec!["api".to_owned()];
        let t = s.issue(bound(Some("web")), &aud, 600, now()).expect("issued");
        let (id, _) = s.verify(&t.token, &aud, &Fixed, now()).expect("verified");
        assert_eq!(id.name, "system:serviceaccount:default:robot");
        assert_eq!(id.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(id.extra[CREDENTIAL_ID], [t.credential_id.as_str()]);
        assert!(s.verify(&t.token, &["other".to_owned()], &Fixed, now()).is_err());
        let later = now() + jiff::SignedDuration::from_secs(601);
        assert!(s.verify(&t.token, &aud, &Fixed, later).is_err());
        let gone = s.issue(bound(Some("gone")), &aud, 600, now()).expect("issued");
        assert!(s.verify(&gone.token, &aud, &Fixed, now()).is_err());
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (s, other) = (signer(), signer());
        let aud = vec!["api".to_owned()];
        let foreign = other.issue(bound(None), &aud, 600, now()).expect("issued");
        assert!(s.verify(&foreign.token, &aud, &Fixed, now()).is_err());
        let good = s.issue(bound(None), &aud, 600, now()).expect("issued").token;
        let mut parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
        parts[0] = &none;
        parts[2] = "";
        assert!(s.verify(&parts.join("."), &aud, &Fixed, now()).is_err());
        for nonsense in ["", ".", "a.b.c", &"x".repeat(20_000)] {
            assert!(s.verify(nonsense, &aud, &Fixed, now()).is_err());
        }
    }
}
