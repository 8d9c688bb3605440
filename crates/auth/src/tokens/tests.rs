//! Tokens: claims, bound objects, forged and expired ones.

use super::*;
use rcgen::PKCS_ECDSA_P256_SHA256;
use std::collections::HashMap;

/// Live objects by `resource/name`; absent ones do not exist.
struct World(HashMap<&'static str, Live>);

impl World {
    fn new() -> Self {
        let live = |uid: &str| Live { uid: uid.into(), deleted: None };
        let all = ["serviceaccounts/robot", "pods/web", "secrets/s", "nodes/n1"];
        Self(all.into_iter().map(|k| (k, live(&format!("{k}-uid")))).collect())
    }

    fn get(&self, resource: &str, name: &str) -> Option<Live> {
        self.0.get(format!("{resource}/{name}").as_str()).cloned()
    }
}

impl Objects for World {
    fn service_account(&self, namespace: &str, name: &str) -> Option<Live> {
        if namespace == "default" { self.get("serviceaccounts", name) } else { None }
    }
    fn pod(&self, _: &str, name: &str) -> Option<Live> {
        self.get("pods", name)
    }
    fn secret(&self, _: &str, name: &str) -> Option<Live> {
        self.get("secrets", name)
    }
    fn node(&self, name: &str) -> Option<Live> {
        self.get("nodes", name)
    }
}

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn signer() -> Signer {
    Signer::new(ISSUER, &key()).expect("a signer")
}

fn named(resource: &str, name: &str) -> Ref {
    Ref { name: name.into(), uid: format!("{resource}/{name}-uid") }
}

fn bound() -> Bound {
    Bound {
        namespace: "default".into(),
        serviceaccount: named("serviceaccounts", "robot"),
        ..Bound::default()
    }
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("a time")
}

fn api() -> Vec<String> {
    vec!["api".to_owned()]
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn verify(s: &Signer, token: &str, at: Timestamp) -> Result<Verified, Rejected> {
    s.verify(token, &api(), &api(), &World::new(), at)
}

fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

/// A token with any claims, signed with the key given.
fn forge(key: &KeyPair, header: &Header, claims: &Value) -> String {
    let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("a key");
    jsonwebtoken::encode(header, claims, &encoding).expect("signed")
}

#[test]
fn claims_have_upstreams_form() {
    let s = signer();
    let b = Bound {
        pod: Some(named("pods", "web")),
        node: Some(named("nodes", "n1")),
        warnafter: Some(7),
        ..bound()
    };
    let t = s.issue(b, &api(), 600, now()).expect("issued");
    let header = jsonwebtoken::decode_header(&t.token).expect("a header");
    assert_eq!((header.alg, header.kid.as_deref(), header.typ), (Algorithm::ES256, Some(s.key_id()), None));
    let jti = t.credential_id.strip_prefix("JTI=").expect("an id");
    let at = now().as_second();
    assert_eq!(
        payload(&t.token),
        json!({"aud": ["api"], "exp": at + 600, "iat": at, "nbf": at, "iss": ISSUER, "jti": jti,
            "sub": "system:serviceaccount:default:robot", "kubernetes.io": {"namespace": "default",
            "node": {"name": "n1", "uid": "nodes/n1-uid"}, "pod": {"name": "web", "uid": "pods/web-uid"},
            "serviceaccount": {"name": "robot", "uid": "serviceaccounts/robot-uid"}, "warnafter": 7}})
    );
}

#[test]
fn a_token_tells_account_pod_and_node() {
    let s = signer();
    let b = Bound { pod: Some(named("pods", "web")), node: Some(named("nodes", "gone")), ..bound() };
    let t = s.issue(b, &api(), 600, now()).expect("issued");
    let v = verify(&s, &t.token, now()).expect("verified");
    assert_eq!(v.identity.name, "system:serviceaccount:default:robot");
    assert_eq!(v.identity.uid, "serviceaccounts/robot-uid");
    assert_eq!(v.identity.groups, ["system:serviceaccounts", "system:serviceaccounts:default"]);
    let extra: Vec<(&str, &str)> =
        v.identity.extra.iter().map(|(k, v)| (k.as_str(), v[0].as_str())).collect();
    assert_eq!(
        extra,
        [
            (CREDENTIAL_ID, t.credential_id.as_str()),
            (NODE_NAME, "gone"),
            (NODE_UID, "nodes/gone-uid"),
            (POD_NAME, "web"),
            (POD_UID, "pods/web-uid")
        ]
    );
    assert_eq!((v.audiences, v.expires), (api(), later(600)));
}

#[test]
fn times_have_a_minute_of_leeway() {
    let s = signer();
    let t = s.issue(bound(), &api(), 600, now()).expect("issued").token;
    for (at, want) in [
        (-60, None),
        (-61, Some("service account token is not valid yet")),
        (660, None),
        (661, Some("service account token has expired")),
    ] {
        let got = verify(&s, &t, later(at)).err().map(|e| e.to_string());
        assert_eq!(got.as_deref(), want, "{at}");
    }
    let stale =
        s.issue(Bound { warnafter: Some(now().as_second()), ..bound() }, &api(), 600, now()).expect("issued");
    assert!(verify(&s, &stale.token, now()).expect("good").annotations.is_empty());
    assert_eq!(
        verify(&s, &stale.token, later(9)).expect("good").annotations,
        [(
            "authentication.k8s.io/stale-token",
            "subject: system:serviceaccount:default:robot, seconds after warning threshold: 9".to_owned()
        )]
    );
}

#[test]
fn audiences_must_meet() {
    let s = signer();
    let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let t = s.issue(bound(), &list(&["vault", "api"]), 600, now()).expect("issued").token;
    let v = |wanted: &[&str]| s.verify(&t, &list(wanted), &api(), &World::new(), now()).map(|v| v.audiences);
    assert_eq!(v(&["api", "vault", "x"]), Ok(list(&["vault", "api"])));
    assert_eq!(v(&["vault"]), Ok(list(&["vault"])));
    assert_eq!(
        v(&["x"]),
        Err(bad("token audiences [\"vault\" \"api\"] is invalid for the target audiences [\"x\"]"))
    );
    let none = s.issue(bound(), &[], 600, now()).expect("issued").token;
    let got = verify(&s, &none, now()).expect("the API server's by default");
    assert_eq!(
        got.annotations,
        [("authentication.k8s.io/legacy-token", "system:serviceaccount:default:robot".to_owned())]
    );
}

#[test]
fn bound_objects_must_still_be_the_same() {
    let s = signer();
    let with = |edit: fn(&mut Bound)| {
        let mut b = bound();
        edit(&mut b);
        s.issue(b, &api(), 600, now()).expect("issued").token
    };
    let why = |world: &World, edit: fn(&mut Bound)| {
        s.verify(&with(edit), &api(), &api(), world, now()).err().map_or("ok".to_owned(), |e| e.to_string())
    };
    let w = World::new();
    assert_eq!(why(&w, |b| b.node = Some(named("nodes", "n1"))), "ok");
    assert_eq!(why(&w, |b| b.secret = Some(named("secrets", "s"))), "ok");
    let lost = "service account token has been invalidated";
    assert_eq!(why(&w, |b| b.node = Some(named("nodes", "x"))), lost);
    assert_eq!(why(&w, |b| b.pod = Some(named("pods", "x"))), lost);
    assert_eq!(why(&w, |b| b.secret = Some(named("secrets", "x"))), lost);
    assert_eq!(
        why(&w, |b| b.pod = Some(Ref { name: "web".into(), uid: "old".into() })),
        "pod UID (pods/web-uid) does not match service account pod ref claim (old)"
    );
    assert_eq!(
        why(&w, |b| b.serviceaccount.uid = "old".into()),
        "service account UID (serviceaccounts/robot-uid) does not match claim (old)"
    );
    assert_eq!(why(&w, |b| b.namespace = "other".into()), "serviceaccounts \"robot\" not found");
    // What is being deleted counts for a minute more.
    let mut w = World::new();
    for (ago, want) in [(60, "ok"), (61, lost)] {
        w.0.insert("pods/web", Live { uid: "pods/web-uid".into(), deleted: Some(later(-ago)) });
        assert_eq!(why(&w, |b| b.pod = Some(named("pods", "web"))), want);
    }
    w.0.insert(
        "serviceaccounts/robot",
        Live { uid: "serviceaccounts/robot-uid".into(), deleted: Some(later(-61)) },
    );
    assert_eq!(why(&w, |_| ()), "service account default/robot has been deleted");
}

#[test]
fn forged_and_odd_tokens_are_refused() {
    let key = key();
    let s = Signer::new(ISSUER, &key).expect("a signer");
    let good = s.issue(bound(), &api(), 600, now()).expect("issued").token;
    let claims = payload(&good);
    let es256 = |kid: Option<&str>| Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) };
    assert!(
        verify(&s, &forge(&key, &es256(None), &claims), now()).is_ok(),
        "a token without a key id is tried"
    );
    assert_eq!(
        verify(&s, &forge(&key, &es256(Some("other")), &claims), now()),
        Err(bad("invalid signature, no keys found"))
    );
    assert!(matches!(verify(&s, &forge(&self::key(), &es256(None), &claims), now()), Err(Rejected::Bad(_))));
    let foreign = json!({"iss": "https://elsewhere", "aud": ["api"]});
    assert_eq!(verify(&s, &forge(&key, &es256(None), &foreign), now()), Err(Rejected::Unknown));
    let parts: Vec<&str> = good.split('.').collect();
    let header = |h: &str| URL_SAFE_NO_PAD.encode(h);
    // Another algorithm named over our own signature, none at all, and the public key as an HMAC secret.
    for alg in ["none", "RS256", "HS256", "ES384", "EdDSA", "es256"] {
        let head = header(&format!("{{\"alg\":\"{alg}\"}}"));
        for signature in [parts[2], ""] {
            let token = format!("{head}.{}.{signature}", parts[1]);
            assert!(verify(&s, &token, now()).is_err(), "{alg}");
        }
    }
    let secret = EncodingKey::from_secret(s.keys[0].point.0.as_bytes());
    let hmac = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).expect("signed");
    assert!(verify(&s, &hmac, now()).is_err());
    // One changed bit anywhere in the payload.
    let mut raw = URL_SAFE_NO_PAD.decode(parts[1]).expect("base64");
    let i = raw.windows(5).position(|w| w == b"robot").expect("the account");
    raw[i] ^= 1;
    assert!(
        verify(&s, &format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(raw), parts[2]), now()).is_err()
    );
    let ours = URL_SAFE_NO_PAD.encode(format!("{{\"iss\":\"{ISSUER}\"}}"));
    for nonsense in [
        "",
        ".",
        "..",
        "a.b.c",
        "{}",
        &format!(".{ours}."),
        &format!("a.{ours}.c"),
        &format!("{good}.x"),
        &"x".repeat(20_000),
    ] {
        assert!(verify(&s, nonsense, now()).is_err(), "{nonsense:.40}");
    }
    let mut huge = claims.clone();
    huge["pad"] = "x".repeat(20_000).into();
    assert_eq!(verify(&s, &forge(&key, &es256(None), &huge), now()), Err(Rejected::Unknown));
    for (field, value) in [
        ("exp", json!(now().as_second() - 61)),
        ("exp", json!("soon")),
        ("iat", json!(now().as_second() + 61)),
        ("nbf", json!(i64::MAX)),
        ("aud", json!(7)),
        ("kubernetes.io", json!({"namespace": "default"})),
        ("kubernetes.io", Value::Null),
    ] {
        let mut c = claims.clone();
        c[field] = value.clone();
        assert!(verify(&s, &forge(&key, &es256(None), &c), now()).is_err(), "{field} {value}");
    }
    let mut c = claims;
    c["aud"] = json!("api");
    c["exp"] = json!(now().as_second() as f64 + 0.5);
    assert!(
        verify(&s, &forge(&key, &es256(None), &c), now()).is_ok(),
        "one audience as text, times with fractions"
    );
}

#[test]
fn keys_rotate_and_are_published() {
    let (old, new) = (key(), key());
    let before = Signer::new(ISSUER, &old).expect("a signer");
    let after = Signer::new(ISSUER, &new).expect("a signer").accepting(&old).expect("two keys");
    let t = before.issue(bound(), &api(), 600, now()).expect("issued").token;
    assert!(verify(&after, &t, now()).is_ok());
    assert!(verify(&Signer::new(ISSUER, &new).expect("a signer"), &t, now()).is_err());
    let jwks = after.jwks();
    let ids: Vec<&str> =
        jwks["keys"].as_array().expect("keys").iter().filter_map(|k| k["kid"].as_str()).collect();
    assert_eq!(ids, [after.key_id(), before.key_id()]);
    assert_eq!(before.key_id().len(), 43);
    // What others read from the set verifies our tokens.
    let k = &jwks["keys"][1];
    let decoding = DecodingKey::from_ec_components(k["x"].as_str().expect("x"), k["y"].as_str().expect("y"))
        .expect("a key");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.set_audience(&["api"]);
    assert!(jsonwebtoken::decode::<Value>(&t, &decoding, &validation).is_ok());
    assert_eq!(
        after.openid_configuration("https://a/openid/v1/jwks")["jwks_uri"],
        "https://a/openid/v1/jwks"
    );
    let wrong = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    assert!(Signer::new(ISSUER, &wrong).is_err());
}

mod requests {
    use super::*;
    use meta::object;

    fn account() -> Value {
        json!({"metadata": {"name": "robot", "namespace": "default", "uid": "serviceaccounts/robot-uid"}})
    }

    fn get(resource: &str, name: &str) -> Option<Value> {
        let spec =
            json!({"serviceAccountName": if name == "web" { "robot" } else { "other" }, "nodeName": "n1"});
        let known = ["pods/web", "pods/alien", "nodes/n1", "secrets/s"]
            .contains(&format!("{resource}/{name}").as_str());
        known.then(
            || json!({"metadata": {"name": name, "uid": format!("{resource}/{name}-uid")}, "spec": spec}),
        )
    }

    fn ask(spec: Value, max_seconds: i64) -> Result<super::super::request::Answer, meta::Status> {
        let (account, own) = (account(), api());
        let r = TokenRequest {
            namespace: "default",
            account: &account,
            own_audiences: &own,
            max_seconds,
            extend: true,
            now: now(),
        };
        let completed = r.complete(&json!({"spec": spec}))?;
        token_request(&signer(), &r, completed, &get)
    }

    fn refused(spec: Value) -> (u16, String) {
        let e = ask(spec, 0).expect_err("refused");
        (e.code, e.message)
    }

    #[test]
    fn defaults_and_binding() {
        let a = ask(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web"}}), 0)
            .expect("made");
        assert_eq!(a.object["spec"]["audiences"], json!(["api"]));
        assert_eq!(a.object["spec"]["expirationSeconds"], 3600);
        assert_eq!(object::name(&a.object), "robot");
        assert_eq!(a.object["status"]["expirationTimestamp"], "2026-01-02T04:04:05Z");
        let k = &payload(&a.issued.token)["kubernetes.io"];
        assert_eq!((&k["pod"]["name"], &k["node"]["uid"]), (&json!("web"), &json!("nodes/n1-uid")));
    }

    #[test]
    fn mounted_tokens_live_longer_than_told() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "web"});
        let a = ask(json!({"expirationSeconds": 3607, "boundObjectRef": pod}), 0).expect("made");
        assert_eq!(a.object["status"]["expirationTimestamp"], "2026-01-02T04:04:12Z");
        assert_eq!(a.issued.expires, later(EXTENDED_SECONDS));
        assert_eq!(payload(&a.issued.token)["kubernetes.io"]["warnafter"], later(3607).as_second());
        let a = ask(json!({"expirationSeconds": 3607, "audiences": ["vault"], "boundObjectRef": pod}), 0)
            .expect("made");
        assert_eq!(a.issued.expires, later(3607));
        let a = ask(json!({"expirationSeconds": 9000}), 1000).expect("made");
        assert_eq!(a.warnings, ["requested expiration of 9000 seconds shortened to 1000 seconds"]);
        assert_eq!(a.issued.expires, later(1000));
    }

    #[test]
    fn what_cannot_be_asked() {
        let to = |kind: &str, version: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": version, "name": name, "uid": uid}});
        assert_eq!(refused(json!({"expirationSeconds": 599})).0, 422);
        assert_eq!(refused(json!({"expirationSeconds": (1i64 << 32) + 1})).0, 422);
        assert_eq!(refused(to("Pod", "v1", "lost", "")), (404, "pods \"lost\" not found".into()));
        assert_eq!(
            refused(to("Pod", "v1", "alien", "")),
            (400, "cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name.".into())
        );
        assert_eq!(refused(to("Secret", "v1", "s", "old")).0, 409);
        assert_eq!(
            refused(to("Deployment", "apps/v1", "d", "")),
            (400, "cannot bind token to object of type apps/v1, Kind=Deployment".into())
        );
        let (account, own) = (account(), api());
        let r = TokenRequest {
            namespace: "default",
            account: &account,
            own_audiences: &own,
            max_seconds: 0,
            extend: true,
            now: now(),
        };
        assert_eq!(r.complete(&json!({"metadata": {"name": "x"}})).expect_err("refused").code, 422);
        assert_eq!(r.complete(&json!({"metadata": {"uid": "x"}})).expect_err("refused").code, 409);
    }
}
