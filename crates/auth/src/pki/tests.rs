//! Keys and certificates: made, kept, renewed, refused when damaged.

use super::*;
use base::clock::ManualClock;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-01-02T03:04:05Z".parse().expect("a time")))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn keys_are_made_once_and_private() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("pki");
    let pki = Pki::open(&dir, clock()).expect("made");
    let more = ["10.96.0.1".to_owned(), "fd00:0::1".to_owned(), "host".to_owned()];
    let first = pki.apiserver(&more).expect("signed");
    let token_key = pki.service_account_key().expect("made");
    let again = Pki::open(&dir, clock()).expect("opened");
    assert_eq!(again.ca_pem(), pki.ca_pem());
    assert_eq!(again.apiserver(&more).expect("found").certificate_pem, first.certificate_pem);
    assert_eq!(again.service_account_key().expect("found").serialize_pem(), token_key.serialize_pem());
    let fewer = again.apiserver(&more[..1]).expect("signed");
    assert_ne!(fewer.certificate_pem, first.certificate_pem, "other names need another certificate");
    assert_eq!(mode(&dir), 0o700);
    for file in fs::read_dir(&dir).expect("a directory") {
        let file = file.expect("a file").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        assert!(file.extension().is_none_or(|e| e != "tmp"));
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("opened up");
    Pki::open(&dir, clock()).expect("opened");
    assert_eq!(mode(&dir), 0o700);
}

#[test]
fn certificates_are_renewed_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let pki = Pki::open(dir.path(), clock.clone()).expect("made");
    let first = pki.client("admin", "kubernetes-admin", &["system:masters"]).expect("signed");
    let get = || pki.client("admin", "kubernetes-admin", &["system:masters"]).expect("there").certificate_pem;
    clock.advance(DAY * 330);
    assert!(clock_now(&clock) < first.renew_at);
    assert_eq!(get(), first.certificate_pem);
    clock.advance(DAY * 7);
    assert!(clock_now(&clock) > first.renew_at);
    let second = get();
    assert_ne!(second, first.certificate_pem);
    assert_eq!(get(), second);
    // The authority itself cannot be replaced behind everybody's back.
    clock.advance(DAY * 3650);
    assert!(matches!(Pki::open(dir.path(), clock), Err(PkiError::Expired { .. })));
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    base::clock::Clock::now(clock)
}

#[test]
fn damaged_files_are_made_anew_but_a_lost_authority_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |f: &str| dir.path().join(f);
    let pki = Pki::open(dir.path(), clock()).expect("made");
    let get = |user: &str| pki.client("c", user, &[]).expect("there").certificate_pem;
    let first = get("a");
    assert_ne!(get("b"), first, "another user");
    let first = get("a");
    fs::write(at("c.key"), "nonsense").expect("written");
    let second = get("a");
    assert_ne!(second, first, "a damaged key");
    let other = pki.client("d", "a", &[]).expect("signed");
    fs::write(at("c.key"), other.key_pem).expect("written");
    let third = get("a");
    assert_ne!(third, second, "somebody else's key");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let foreign = Pki::open(elsewhere.path(), clock()).expect("made").client("c", "a", &[]).expect("signed");
    fs::write(at("c.key"), foreign.key_pem).expect("written");
    fs::write(at("c.crt"), &foreign.certificate_pem).expect("written");
    assert_ne!(get("a"), foreign.certificate_pem, "another authority's certificate");
    for bad in ["", "../x", ".x", "a/b"] {
        assert!(pki.client(bad, "a", &[]).is_err(), "{bad}");
    }
    assert!(pki.server("s", "s", &["not a name\u{e9}".to_owned()]).is_err());
    fs::copy(elsewhere.path().join("ca.key"), at("ca.key")).expect("copied");
    assert!(Pki::open(dir.path(), clock()).err().is_some_and(|e| e.to_string().contains("does not belong")));
    fs::remove_file(at("ca.key")).expect("removed");
    assert!(matches!(Pki::open(dir.path(), clock()), Err(PkiError::HalfLost { .. })));
    fs::remove_file(at("ca.crt")).expect("removed");
    assert!(Pki::open(dir.path(), clock()).is_ok());
    let (issued, ca) = (at("e.crt"), at("ca.crt"));
    let leaf = |pki: Pki| pki.client("e", "a", &[]).expect("there").certificate_pem;
    leaf(Pki::open(dir.path(), clock()).expect("opened"));
    let kept = fs::read_to_string(&issued).expect("there");
    fs::remove_file(ca).expect("removed");
    assert_eq!(leaf(Pki::open(dir.path(), clock()).expect("made from the key")), kept);
}

#[test]
fn certificates_say_who_and_what_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(dir.path(), clock()).expect("made");
    let node = pki.kubelet_client("n1").expect("signed");
    let id =
        crate::authenticate::from_certificate(&node.certificate_der().expect("DER"), clock_now(&clock()))
            .expect("readable")
            .expect("somebody")
            .0;
    assert_eq!(id.node_name(), Some("n1"));
    assert!(node.key_der().is_ok());
    let serving = pki.kubelet_server("n1", &["10.0.0.1".to_owned(), "fd00::1".to_owned()]).expect("signed");
    // As a TLS peer checks it.
    let der = serving.certificate_der().expect("DER");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca_der().expect("DER")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .expect("a verifier");
    let now = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_767_323_045));
    let check = |name: &str| {
        use rustls::client::danger::ServerCertVerifier as _;
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        verifier.verify_server_cert(&der, &[], &name, &[], now).is_ok()
    };
    assert!(check("n1") && check("10.0.0.1") && check("fd00::1"));
    assert!(!check("n2") && !check("10.0.0.2"));
}

#[test]
fn proxies_in_front_have_an_authority_of_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(dir.path(), clock()).expect("made");
    let leaf = pki.front_proxy_client().expect("signed");
    let again = Pki::open(dir.path(), clock()).expect("opened");
    assert_eq!(again.front_proxy_ca_pem(), pki.front_proxy_ca_pem());
    assert_ne!(again.front_proxy_ca_pem(), again.ca_pem());
    assert_eq!(again.front_proxy_client().expect("found").certificate_pem, leaf.certificate_pem);
    let der = leaf.certificate_der().expect("DER");
    let trusts = |pem: &str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .expect("a verifier");
        let now = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_767_323_045));
        verifier.verify_client_cert(&der, &[], now).is_ok()
    };
    assert!(trusts(pki.front_proxy_ca_pem()));
    assert!(!trusts(pki.ca_pem()), "it is nobody of the cluster's own");
}
