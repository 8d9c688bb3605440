//! Tokens of a provider in this process.

use super::config::{Flags, from_flags};
use super::*;
use jsonwebtoken::{EncodingKey, Header};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;
use std::collections::HashMap;

const ISSUER: &str = "https://issuer.example";

struct Site {
    documents: Mutex<HashMap<String, Value>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Fetch for Site {
    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        self.asked.lock().push(url.to_owned());
        let found = self.documents.lock().get(url).map(|v| v.to_string().into_bytes());
        found.ok_or_else(|| format!("404 {url}"))
    }
}

struct Signing {
    key: KeyPair,
    id: &'static str,
}

impl Signing {
    fn new(id: &'static str) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"), id }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.key.public_key_raw()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id, "x": x, "y": y})
    }

    fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).expect("a key");
        jsonwebtoken::encode(&header, claims, &key).expect("signed")
    }
}

fn site(keys: &[&Signing]) -> Arc<Site> {
    let keys: Vec<Value> = keys.iter().map(|k| k.jwk()).chain([json!({"kty": "new"})]).collect();
    let documents = [
        (
            format!("{ISSUER}/.well-known/openid-configuration"),
            json!({"issuer": ISSUER, "jwks_uri": "https://k/keys"}),
        ),
        ("https://k/keys".to_owned(), json!({"keys": keys})),
    ];
    Arc::new(Site { documents: Mutex::new(documents.into()), asked: Mutex::default() })
}

fn provider(more: impl FnOnce(&mut Flags)) -> Provider {
    let mut flags = Flags {
        issuer_url: ISSUER.into(),
        client_id: "client".into(),
        username_claim: "sub".into(),
        algorithms: vec![Algorithm::ES256],
        ..Flags::default()
    };
    more(&mut flags);
    from_flags(flags, &[]).expect("a provider")
}

fn oidc(provider: Provider, site: &Arc<Site>) -> Oidc {
    Oidc::new(vec![(provider, site.clone() as Arc<dyn Fetch>)], vec!["api".into()])
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("a time")
}

fn claims(more: Value) -> Value {
    let mut out = json!({"iss": ISSUER, "aud": "client", "sub": "jane", "exp": now().as_second() + 60});
    for (key, value) in more.as_object().expect("an object") {
        out[key] = value.clone();
    }
    out
}

fn ask_at(o: &Oidc, token: &str, at: Timestamp) -> Result<Option<Known>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(o.token(token, &["api".to_owned()], at))
}

fn ask(o: &Oidc, token: &str) -> Result<Identity, String> {
    let known = ask_at(o, token, now())?.ok_or("not known")?;
    assert_eq!(known.audiences, ["api"]);
    Ok((*known.identity).clone())
}

#[test]
fn claims_become_users() {
    let key = Signing::new("k1");
    let site = site(&[&key]);
    let plain = oidc(provider(|_| {}), &site);
    let user = ask(&plain, &key.token(&claims(json!({"jti": "7"})))).expect("known");
    assert_eq!(
        (user.name.as_str(), user.groups.as_slice()),
        ("https://issuer.example#jane", &["system:authenticated".to_owned()][..])
    );
    assert_eq!(user.extra_value(CREDENTIAL_ID), "JTI=7");
    let more = oidc(
        provider(|f| {
            f.username_claim = "email".into();
            f.groups_claim = "groups".into();
            f.groups_prefix = "oidc:".into();
            f.required = [("hd".to_owned(), "example.com".to_owned())].into();
        }),
        &site,
    );
    let good = json!({"email": "j@e", "email_verified": true, "groups": ["a", "b"], "hd": "example.com"});
    let user = ask(&more, &key.token(&claims(good.clone()))).expect("known");
    assert_eq!(
        (user.name.as_str(), &user.groups[..2]),
        ("j@e", &["oidc:a".to_owned(), "oidc:b".to_owned()][..])
    );
    for (field, value, want) in [
        ("email_verified", json!(false), "oidc: email not verified"),
        ("email", Value::Null, "oidc: parse username claims \"email\": the claim is no string"),
        ("groups", json!(7), "oidc: parse groups claim \"groups\""),
        ("hd", json!("x"), "oidc: required claim hd value does not match. Got = x, want = example.com"),
        ("hd", Value::Null, "oidc: required claim hd not present in ID token"),
    ] {
        let mut changed = good.clone();
        changed[field] = value;
        let why = ask(&more, &key.token(&claims(changed))).expect_err(field);
        assert!(why.starts_with(want), "{why}");
    }
    let mut one = good;
    one["groups"] = json!("only");
    assert_eq!(ask(&more, &key.token(&claims(one))).expect("known").groups[0], "oidc:only");
}

#[test]
fn bad_tokens_are_refused_and_others_are_not_ours() {
    let (key, other) = (Signing::new("k1"), Signing::new("k1"));
    let o = oidc(provider(|_| {}), &site(&[&key]));
    for (more, want) in [
        (json!({"aud": "x"}), "oidc: verify token: oidc: expected audience \"client\" got [\"x\"]"),
        (
            json!({"exp": now().as_second() - 1}),
            "oidc: verify token: oidc: token is expired (Token Expiry: 2026-01-02T03:04:04Z)",
        ),
        (json!({"exp": null}), "oidc: verify token: oidc: token is expired"),
        (json!({"nbf": now().as_second() + 301}), "oidc: verify token: oidc: current time"),
    ] {
        let why = ask(&o, &key.token(&claims(more))).expect_err("refused");
        assert!(why.starts_with(want), "{why}");
    }
    assert!(ask(&o, &key.token(&claims(json!({"nbf": now().as_second() + 299})))).is_ok());
    let forged = ask(&o, &other.token(&claims(json!({})))).expect_err("refused");
    assert_eq!(forged, "oidc: verify token: failed to verify signature: failed to verify id token signature");
    let hmac = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims(json!({})),
        &EncodingKey::from_secret(b"x"),
    );
    let why = ask(&o, &hmac.expect("signed")).expect_err("refused");
    assert!(why.contains("unsupported algorithm, expected [\"ES256\"] got \"HS256\""), "{why}");
    for token in ["", "a.b", "a.b.c", &key.token(&json!({"iss": "https://other"})), &key.token(&json!({}))] {
        assert_eq!(ask_at(&o, token, now()), Ok(None), "{token}");
    }
}

#[test]
fn keys_are_read_when_needed_and_not_too_often() {
    let (old, new) = (Signing::new("old"), Signing::new("new"));
    let site = site(&[&old]);
    let o = oidc(provider(|_| {}), &site);
    let documents = std::mem::take(&mut *site.documents.lock());
    let token = old.token(&claims(json!({})));
    let at = |s: i64| now() + SignedDuration::from_secs(s);
    let why = ask_at(&o, &token, at(0)).expect_err("no provider");
    assert!(why.contains("oidc: authenticator not initialized: 404"), "{why}");
    *site.documents.lock() = documents;
    assert!(ask_at(&o, &token, at(9)).is_err(), "asked again at once");
    assert!(ask_at(&o, &token, at(10)).is_ok());
    assert!(ask_at(&o, &token, at(11)).is_ok());
    assert_eq!(site.asked.lock().len(), 3, "{:?}", site.asked.lock());
    let rotated = new.token(&claims(json!({})));
    assert!(ask_at(&o, &rotated, at(12)).is_err());
    site.documents.lock().insert("https://k/keys".into(), json!({"keys": [new.jwk()]}));
    assert!(ask_at(&o, &rotated, at(12)).is_err(), "asked again at once");
    assert!(ask_at(&o, &rotated, at(13)).is_ok());
    assert!(ask_at(&o, &token, at(20)).is_err(), "the old key is gone");
}

fn parsed(jwt: &str) -> Result<config::Configured, String> {
    let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{jwt}");
    config::parse(&text, &[Algorithm::RS256], &["https://own".to_owned()])
}

#[test]
fn structured_configuration() {
    let c = parsed(
        "jwt:\n- issuer: {url: 'https://a', discoveryURL: 'https://b/x', audiences: [one, two], audienceMatchPolicy: MatchAny}\n  claimMappings:\n    username: {claim: sub, prefix: ''}\n    groups: {claim: g, prefix: 'x:'}\n    uid: {claim: u}\n  claimValidationRules: [{claim: hd, requiredValue: d}]\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n",
    )
    .expect("read");
    let p = &c.providers[0];
    assert_eq!(
        (p.url.as_str(), p.discovery_url.as_deref(), p.audiences.len()),
        ("https://a", Some("https://b/x"), 2)
    );
    assert_eq!(p.username, Mapping { claim: "sub".into(), prefix: String::new() });
    assert_eq!(p.groups, Some(Mapping { claim: "g".into(), prefix: "x:".into() }));
    assert_eq!((p.uid.as_deref(), p.required.get("hd").map(String::as_str)), (Some("u"), Some("d")));
    assert_eq!(c.anonymous, Some(Some(["/livez".to_owned()].into())));
    assert_eq!(
        parsed("anonymous: {enabled: false}\n").expect("read").anonymous,
        Some(Some(Default::default()))
    );
    assert_eq!(parsed("").expect("read").anonymous, None);
}

#[test]
fn mistakes_are_told_and_expressions_refused() {
    let name = "claimMappings: {username: {claim: sub, prefix: ''}}";
    for (issuer, rest, want) in [
        ("{}", name, "jwt[0].issuer.url: Required value"),
        ("{url: 'http://a', audiences: [x]}", name, "URL scheme must be https"),
        ("{url: 'https://u@a?q#f', audiences: [x]}", name, "URL must not contain a username or password"),
        (
            "{url: 'https://own', audiences: [x]}",
            name,
            "URL must not overlap with disallowed issuers: [https://own]",
        ),
        ("{url: 'https://a'}", name, "at least one jwt[0].issuer.audiences is required"),
        ("{url: 'https://a', audiences: [x, z]}", name, "must be MatchAny for multiple audiences"),
        (
            "{url: 'https://a', audiences: [x], certificateAuthority: x}",
            name,
            "certificateAuthority: Invalid value",
        ),
        (
            "{url: 'https://a', audiences: [x]}",
            "",
            "jwt[0].claimMappings.username: Required value: claim or expression is required",
        ),
        (
            "{url: 'https://a', audiences: [x]}",
            "claimMappings: {username: {claim: sub}}",
            "prefix is required when claim is set",
        ),
        (
            "{url: 'https://a', audiences: [x]}",
            "claimMappings: {username: {expression: claims.sub}}",
            "jwt[0].claimMappings.username.expression: Invalid value: \"claims.sub\": CEL expressions are not supported yet",
        ),
        (
            "{url: 'https://a', audiences: [x]}",
            "claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: a/b}]}",
            "extra: Forbidden: CEL",
        ),
        (
            "{url: 'https://a', audiences: [x]}",
            "claimMappings: {username: {claim: sub, prefix: ''}}\n  userValidationRules: [{expression: x}]",
            "userValidationRules: Forbidden: CEL",
        ),
        (
            "{url: 'https://a', audiences: [x]}",
            "claimMappings: {username: {claim: sub, prefix: ''}}\n  claimValidationRules: [{expression: x}]",
            "claimValidationRules[0].expression: Invalid value: \"x\": CEL",
        ),
    ] {
        let rest = if rest.is_empty() { String::new() } else { format!("  {rest}\n") };
        let why = parsed(&format!("jwt:\n- issuer: {issuer}\n{rest}")).expect_err(want);
        assert!(why.contains(want), "{why}");
    }
    assert!(parsed("jwt: [{issuer: {uri: x}}]\n").expect_err("refused").contains("uri"));
    assert!(config::parse("kind: X", &[], &[]).is_err());
    let why = from_flags(Flags { issuer_url: ISSUER.into(), ..Flags::default() }, &[]).expect_err("refused");
    assert!(why.contains("must be specified together"));
}
