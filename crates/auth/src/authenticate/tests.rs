//! Each way of authentication, and all in their order.

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

/// Runs a future to its end.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

fn with_header(a: &Authenticator, authorization: &str) -> Outcome {
    let c = Credentials { authorization: Some(authorization), path: "/healthz", ..Credentials::default() };
    wait(a.authenticate(&c, now()))
}

fn name(o: &Outcome) -> &str {
    match o {
        Outcome::Known(k) => &k.identity.name,
        Outcome::Refused(refusal) => &refusal.why,
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
    let at = |path: &str| wait(a.authenticate(&Credentials { path, ..Credentials::default() }, now()));
    assert_eq!(name(&at("/livez")), "system:anonymous");
    for path in ["/api", "/livez/", "/livez/etcd", "/"] {
        assert!(matches!(at(path), Outcome::Refused(_)), "{path}");
    }
    let garbage = Credentials { certificate: Some(b"x"), path: "/livez", ..Credentials::default() };
    assert!(matches!(wait(a.authenticate(&garbage, now())), Outcome::Refused(_)));
    let saved = Credentials { authorization: Some("Bearer secret"), ..garbage };
    assert_eq!(name(&wait(a.authenticate(&saved, now()))), "alice");
}

#[test]
fn tokens_in_websocket_protocols() {
    let (a, _) = authenticator();
    let token = URL_SAFE_NO_PAD.encode("secret");
    let ask = |protocols: &str| {
        let c = Credentials { protocols: Some(protocols), path: "/healthz", ..Credentials::default() };
        name(&wait(a.authenticate(&c, now()))).to_owned()
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
        wait(a.token(&token, &audiences, at)).expect("good");
        assert_eq!(objects.0.load(Ordering::SeqCst), looked_up);
    }
    assert!(
        wait(a.token(&token, &["other".to_owned()], now())).is_err(),
        "another audience is another question"
    );
}

#[test]
fn token_reviews() {
    let (a, _) = authenticator();
    let review =
        |spec: Value| wait(a.token_review(&json!({"spec": spec}), now())).map(|r| r["status"].clone());
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
    assert_eq!(review(json!({"token": "wrong"})), Ok(json!({"user": {}, "error": "invalid bearer token"})));
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
        let Outcome::Known(known) = wait(a.authenticate(&c, now())) else { panic!("refused") };
        assert_eq!(
            (known.identity.name.as_str(), &known.identity.groups[..]),
            ("carol", &["system:authenticated".into()][..])
        );
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_credentials_never_panic(
        text in "\\PC{0,60}",
        jwt in "[A-Za-z0-9_.-]{0,80}",
        der in proptest::collection::vec(0u8..=255, 0..80),
    ) {
        let (a, _) = authenticator();
        for t in [&text, &jwt] {
            let header = format!("Bearer {t}");
            let c = Credentials {
                certificate: Some(&der),
                authorization: Some(&header),
                protocols: Some(t),
                path: "/",
                ..Credentials::default()
            };
            proptest::prop_assert!(matches!(wait(a.authenticate(&c, now())), Outcome::Refused(_)));
            let _ = parse_tokens(t);
        }
    }
}

/// Knows the token `theirs` and fails for `broken`.
struct Theirs;

#[async_trait]
impl TokenSource for Theirs {
    async fn token(
        &self,
        token: &str,
        audiences: &[String],
        _: Timestamp,
    ) -> std::result::Result<Option<Known>, String> {
        let identity = Arc::new(Identity::new("theirs", &[]).authenticated());
        match token {
            "theirs" => Ok(Some(Known { identity, audiences: audiences.to_vec(), ..Known::default() })),
            "broken" => Err("the server is down".to_owned()),
            _ => Ok(None),
        }
    }
}

#[test]
fn others_are_asked_after_the_own_tokens() {
    let (a, _) = authenticator();
    let a = a.with_sources(vec![Arc::new(Theirs)]);
    assert_eq!(name(&with_header(&a, "Bearer theirs")), "theirs");
    assert_eq!(name(&with_header(&a, "Bearer secret")), "alice");
    assert_eq!(name(&with_header(&a, "Bearer other")), "invalid bearer token");
    assert_eq!(name(&with_header(&a, "Bearer broken")), "[invalid bearer token, the server is down]");
}

#[test]
fn a_proxy_speaks_for_users_and_its_certificate_is_nobodys() {
    use front_proxy::tests::{authority, front, headers};
    let (proxies, cluster) = (authority("proxies"), authority("cluster"));
    let (a, _) = authenticator();
    let a = a.with_proxy(front(&proxies, &cluster, &["proxy"]));
    let spoken = headers(&[("x-remote-user", "bob"), ("x-remote-group", "dev")]);
    let silent = HeaderMap::new();
    let ask = |der: &[u8], h: &HeaderMap| {
        let c = Credentials {
            certificate: Some(der),
            headers: Some(h),
            path: "/livez",
            ..Credentials::default()
        };
        match wait(a.authenticate(&c, now())) {
            Outcome::Known(known) => known.identity.name.clone(),
            Outcome::Refused(_) => "refused".to_owned(),
        }
    };
    let (proxy, person) = (proxies.leaf("proxy"), cluster.leaf("carol"));
    assert_eq!(ask(&proxy, &spoken), "bob");
    assert_eq!(ask(&person, &spoken), "carol", "a user's own certificate does not speak for others");
    assert_eq!(ask(&proxies.leaf("mallory"), &spoken), "refused");
    assert_eq!(ask(&proxy, &silent), "refused", "the proxy is no user itself");
}
