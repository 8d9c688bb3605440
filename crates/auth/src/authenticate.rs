//! From a credential to an identity (upstream: `pkg/kubeapiserver/authenticator/config.go`).
//!
//! Invariant: a request with a credential that is not good is refused, never taken for an anonymous one.

mod cache;
mod certificate;
mod token_file;

pub use certificate::from_certificate;
pub use token_file::{parse_tokens, token_file};

use crate::identity::Identity;
use crate::text::aggregate;
use crate::tokens::{Objects, Rejected, Signer};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cache::Cache;
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
}

/// Who presents what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Known(Known),
    /// 401; the reason is for the log and for TokenReviews, never for the client.
    Refused(String),
}

/// What a request shows of its sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// The client's certificate (DER), whose chain TLS has checked.
    pub certificate: Option<&'a [u8]>,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `Sec-WebSocket-Protocol` header of an upgrade to WebSocket.
    pub protocols: Option<&'a str>,
    /// The request's path, which anonymous requests are judged by.
    pub path: &'a str,
}

/// All ways of authentication, in upstream's order: certificate, token file, service account, anonymous.
pub struct Authenticator {
    tokens: HashMap<String, Arc<Identity>>,
    service_accounts: Arc<Signer>,
    audiences: Vec<String>,
    objects: Arc<dyn Objects + Send + Sync>,
    anonymous_paths: Option<HashSet<String>>,
    cache: Cache,
    certificates: Cache,
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
            cache: Cache::default(),
            certificates: Cache::default(),
        }
    }

    /// The API server's own audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub fn signer(&self) -> &Arc<Signer> {
        &self.service_accounts
    }

    /// Decides who sent a request.
    pub fn authenticate(&self, c: &Credentials<'_>, now: Timestamp) -> Outcome {
        let mut errors = Vec::new();
        match c.certificate.map(|der| self.certificate(der, now)) {
            Some(Ok(Some(known))) => return Outcome::Known(known),
            Some(Err(e)) => errors.push(e),
            Some(Ok(None)) | None => {}
        }
        let in_protocol = c.protocols.and_then(token_in_protocols);
        if let Some(token) = c.authorization.and_then(bearer).or(in_protocol.as_deref()) {
            match self.token(token, &self.audiences, now) {
                Ok(known) => return Outcome::Known(known),
                Err(why) => errors.push(why),
            }
        }
        if !errors.is_empty() {
            return Outcome::Refused(aggregate(&errors));
        }
        if self.anonymous_paths.as_ref().is_none_or(|paths| paths.contains(c.path)) {
            let identity = Arc::new(Identity::anonymous());
            return Outcome::Known(Known {
                identity,
                audiences: self.audiences.clone(),
                annotations: Vec::new(),
            });
        }
        Outcome::Refused("no credential was given".to_owned())
    }

    /// Decides whose a bearer token is, for some audiences.
    ///
    /// # Errors
    /// The text that a TokenReview shows.
    pub fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> std::result::Result<Known, String> {
        if let Some(identity) = self.tokens.get(token) {
            // A static token is good for the API server's audiences, all of them.
            let audiences: Vec<String> =
                self.audiences.iter().filter(|a| audiences.contains(a)).cloned().collect();
            if !audiences.is_empty() || self.audiences.is_empty() {
                return Ok(Known { identity: identity.clone(), audiences, annotations: Vec::new() });
            }
            return Err(Rejected::Unknown.to_string());
        }
        let key = Cache::key(token.as_bytes(), audiences);
        if let Some(known) = self.cache.get(&key, now) {
            return Ok(known);
        }
        let verified = self
            .service_accounts
            .verify(token, audiences, &self.audiences, &*self.objects, now)
            .map_err(|e| match e {
            Rejected::Unknown => e.to_string(),
            // Upstream asks its loopback token's authenticator too, which does not know the token either.
            Rejected::Bad(why) => format!("[invalid bearer token, {why}]"),
        })?;
        let known = Known {
            identity: Arc::new(verified.identity.authenticated()),
            audiences: verified.audiences,
            annotations: verified.annotations,
        };
        self.cache.put(key, known.clone(), verified.expires, now);
        Ok(known)
    }

    /// Answers a TokenReview (upstream: `pkg/registry/authentication/tokenreview/storage.go`).
    ///
    /// # Errors
    /// 400 when there is no token.
    pub fn token_review(&self, review: &Value, now: Timestamp) -> Result<Value> {
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
        let decided = bearer(&header).map(|t| self.token(t, &audiences, now));
        let mut out = review.clone();
        out["status"] = match decided {
            None => json!({"user": {}}),
            Some(Err(why)) => json!({"user": {}, "error": why}),
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

    fn certificate(&self, der: &[u8], now: Timestamp) -> std::result::Result<Option<Known>, String> {
        let key = Cache::key(der, &[]);
        if let Some(known) = self.certificates.get(&key, now) {
            return Ok(Some(known));
        }
        let Some((identity, until)) = from_certificate(der, now)? else { return Ok(None) };
        let identity = Arc::new(identity.authenticated());
        let known = Known { identity, audiences: self.audiences.clone(), annotations: Vec::new() };
        self.certificates.put(key, known.clone(), until, now);
        Ok(Some(known))
    }
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
mod tests {
    use super::*;
    use crate::tokens::{Bound, Live, Ref};
    use jiff::SignedDuration;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Every object exists; counts how often it is asked.
    #[derive(Default)]
    struct All(AtomicUsize);

    impl Objects for All {
        fn service_account(&self, _: &str, _: &str) -> Option<Live> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Some(Live { uid: "u".into(), deleted: None })
        }
        fn pod(&self, _: &str, _: &str) -> Option<Live> {
            None
        }
        fn secret(&self, _: &str, _: &str) -> Option<Live> {
            None
        }
        fn node(&self, _: &str) -> Option<Live> {
            None
        }
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    fn authenticator() -> (Authenticator, Arc<All>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let signer = Arc::new(Signer::new("https://issuer", &key).expect("a signer"));
        let tokens = parse_tokens("secret,alice,1,dev").expect("tokens");
        let objects = Arc::new(All::default());
        let paths = Some(["/livez", "/readyz", "/healthz"].map(str::to_owned).into());
        (Authenticator::new(tokens, signer, vec!["api".into()], objects.clone(), paths), objects)
    }

    fn issue(a: &Authenticator, audience: &str) -> String {
        let account = Ref { name: "sa".into(), uid: "u".into() };
        let bound = Bound { namespace: "ns".into(), serviceaccount: account, ..Bound::default() };
        a.signer().issue(bound, &[audience.to_owned()], 600, now()).expect("issued").token
    }

    fn with_header(a: &Authenticator, authorization: &str) -> Outcome {
        a.authenticate(
            &Credentials { authorization: Some(authorization), path: "/healthz", ..Credentials::default() },
            now(),
        )
    }

    fn name(o: &Outcome) -> &str {
        match o {
            Outcome::Known(k) => &k.identity.name,
            Outcome::Refused(why) => why,
        }
    }

    #[test]
    fn bearer_headers() {
        for (header, want) in [
            ("Bearer abc", Some("abc")),
            ("  bearer abc  ", Some("abc")),
            ("Bearer abc def", Some("abc")),
            ("Bearer  abc", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic abc", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), want, "{header}");
        }
    }

    #[test]
    fn each_credential_and_none() {
        let (a, _) = authenticator();
        let alice = with_header(&a, "Bearer secret");
        let Outcome::Known(known) = &alice else { panic!("refused") };
        assert_eq!(
            (known.identity.name.as_str(), &known.identity.groups[..]),
            ("alice", &["dev".into(), "system:authenticated".into()][..])
        );
        let account = with_header(&a, &format!("Bearer {}", issue(&a, "api")));
        assert_eq!(name(&account), "system:serviceaccount:ns:sa");
        // A bad credential is not none: even where anonymous requests pass.
        assert_eq!(name(&with_header(&a, "Bearer wrong")), "invalid bearer token");
        assert_eq!(
            name(&with_header(&a, &format!("Bearer {}", issue(&a, "vault")))),
            "[invalid bearer token, token audiences [\"vault\"] is invalid for the target audiences [\"api\"]]"
        );
        assert_eq!(name(&with_header(&a, "Basic x")), "system:anonymous");
        let at = |path: &str| a.authenticate(&Credentials { path, ..Credentials::default() }, now());
        assert_eq!(name(&at("/livez")), "system:anonymous");
        for path in ["/api", "/livez/", "/livez/etcd", "/"] {
            assert!(matches!(at(path), Outcome::Refused(_)), "{path}");
        }
        let garbage = Credentials { certificate: Some(b"x"), path: "/livez", ..Credentials::default() };
        assert!(matches!(a.authenticate(&garbage, now()), Outcome::Refused(_)));
        let saved = Credentials { authorization: Some("Bearer secret"), ..garbage };
        assert_eq!(name(&a.authenticate(&saved, now())), "alice");
    }

    #[test]
    fn tokens_in_websocket_protocols() {
        let (a, _) = authenticator();
        let token = URL_SAFE_NO_PAD.encode("secret");
        let ask = |protocols: &str| {
            let c = Credentials { protocols: Some(protocols), path: "/healthz", ..Credentials::default() };
            name(&a.authenticate(&c, now())).to_owned()
        };
        assert_eq!(ask(&format!("{PROTOCOL_PREFIX}{token}, v4.channel.k8s.io")), "alice");
        assert_eq!(ask(&format!("{PROTOCOL_PREFIX}{token}")), "system:anonymous");
        assert_eq!(ask(&format!("v4.channel.k8s.io, {PROTOCOL_PREFIX}!")), "system:anonymous");
        assert_eq!(ask("v4.channel.k8s.io"), "system:anonymous");
    }

    #[test]
    fn good_tokens_are_looked_up_once_in_a_while() {
        let (a, objects) = authenticator();
        let token = issue(&a, "api");
        let audiences = ["api".to_owned()];
        for (after, looked_up) in [(0, 1), (9, 1), (10, 2)] {
            let at = now() + SignedDuration::from_secs(after);
            a.token(&token, &audiences, at).expect("good");
            assert_eq!(objects.0.load(Ordering::SeqCst), looked_up);
        }
        assert!(
            a.token(&token, &["other".to_owned()], now()).is_err(),
            "another audience is another question"
        );
    }

    #[test]
    fn token_reviews() {
        let (a, _) = authenticator();
        let review = |spec: Value| a.token_review(&json!({"spec": spec}), now()).map(|r| r["status"].clone());
        assert_eq!(
            review(json!({"token": "secret"})),
            Ok(json!({"authenticated": true, "audiences": ["api"],
                "user": {"username": "alice", "uid": "1", "groups": ["dev", "system:authenticated"]}}))
        );
        let vault = issue(&a, "vault");
        assert_eq!(
            review(json!({"token": vault, "audiences": ["vault", "x"]})).expect("answered")["audiences"],
            json!(["vault"])
        );
        let status = review(json!({"token": vault})).expect("answered");
        assert!(status["error"].as_str().is_some_and(|e| e.contains("token audiences")), "{status}");
        assert_eq!(status.get("authenticated"), None);
        assert_eq!(
            review(json!({"token": "wrong"})),
            Ok(json!({"user": {}, "error": "invalid bearer token"}))
        );
        assert_eq!(
            review(json!({"token": "secret", "audiences": ["x"]})),
            Ok(json!({"user": {}, "error": "invalid bearer token"}))
        );
        assert_eq!(review(json!({})).expect_err("refused").code, 400);
    }

    #[test]
    fn certificates_come_before_tokens() {
        let (a, _) = authenticator();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "carol");
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("a certificate").der().to_vec();
        let c = Credentials {
            certificate: Some(&der),
            authorization: Some("Bearer secret"),
            ..Credentials::default()
        };
        for _ in 0..2 {
            let Outcome::Known(known) = a.authenticate(&c, now()) else { panic!("refused") };
            assert_eq!(
                (known.identity.name.as_str(), &known.identity.groups[..]),
                ("carol", &["system:authenticated".into()][..])
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_credentials_never_panic(text in "\\PC{0,60}", jwt in "[A-Za-z0-9_.-]{0,80}", der in proptest::collection::vec(0u8..=255, 0..80)) {
            let (a, _) = authenticator();
            for t in [&text, &jwt] {
                let header = format!("Bearer {t}");
                let c = Credentials { certificate: Some(&der), authorization: Some(&header), protocols: Some(t), path: "/" };
                proptest::prop_assert!(matches!(a.authenticate(&c, now()), Outcome::Refused(_)));
                let _ = parse_tokens(t);
            }
        }
    }
}
