//! Certificates that are asked for: what is in them, how long they live, what is refused.

use super::*;
use crate::pki::Pki;
use base::clock::ManualClock;
use rcgen::{CertificateParams, DnType, SanType};
use std::sync::Arc;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const NOW: &str = "2026-01-02T03:04:05Z";

fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

fn authority() -> (tempfile::TempDir, Pki, Authority) {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(dir.path(), Arc::new(ManualClock::new(now()))).expect("made");
    let authority = pki.authority().expect("there");
    (dir, pki, authority)
}

fn asked() -> Asked {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "tester & co");
    params.distinguished_name.push(DnType::OrganizationName, "g");
    params.subject_alt_names = vec![
        SanType::IpAddress([10, 0, 0, 1].into()),
        SanType::DnsName("a.example.com".try_into().expect("a name")),
    ];
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("signed");
    Asked::from_pem(request.pem().expect("PEM").as_bytes()).expect("read")
}

fn usages(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

#[test]
fn what_was_asked_for_is_signed() {
    let (_dir, pki, authority) = authority();
    let mut asked = asked();
    asked.subject.organization = usages(&["system:z", "b", "ä"]);
    let names =
        usages(&["client auth", "digital signature", "key encipherment", "s/mime", "email protection"]);
    let pem = authority.sign(&asked, &names, SignedDuration::from_hours(1), now()).expect("signed");
    let der = der(&pem);
    let (rest, made) = X509Certificate::from_der(&der).expect("a certificate");
    assert!(rest.is_empty());
    let ca = pki.ca_der().expect("there");
    let (_, ca) = X509Certificate::from_der(&ca).expect("a certificate");
    made.verify_signature(Some(ca.public_key())).expect("signed by the authority");
    assert_eq!(made.issuer().as_raw(), ca.subject().as_raw());
    assert_eq!(made.public_key().raw, asked.key);
    assert_eq!(made.subject().to_string(), "O=b + O=ä + O=system:z, CN=tester & co");
    let usage = made.key_usage().expect("one").expect("there");
    assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
    assert_eq!(usage.value.flags, 0b101);
    let extended = made.extended_key_usage().expect("one").expect("there").value;
    assert!(extended.client_auth && extended.email_protection && !extended.server_auth && !extended.any);
    let basic = made.basic_constraints().expect("one").expect("there");
    assert!(basic.critical && !basic.value.ca);
    let names = made.subject_alternative_name().expect("one").expect("there");
    let names: Vec<String> = names.value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(made.extensions().len(), 5);
}

#[test]
fn how_long_certificates_live() {
    let (_dir, _pki, authority) = authority();
    let asked = asked();
    let end = |lifetime: SignedDuration, now: Timestamp| {
        let pem = authority.sign(&asked, &usages(&["client auth"]), lifetime, now)?;
        let der = der(&pem);
        let (_, made) = X509Certificate::from_der(&der).expect("a certificate");
        let at = |t: i64| Timestamp::from_second(t).expect("a time").to_string();
        let v = made.validity();
        Ok::<_, String>((at(v.not_before.timestamp()), at(v.not_after.timestamp())))
    };
    let want = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
    let begin = "2026-01-02T02:59:05Z";
    assert_eq!(end(SignedDuration::from_hours(1), now()), want(begin, "2026-01-02T04:04:05Z"));
    assert_eq!(end(SignedDuration::from_hours(8), now()), want(begin, "2026-01-02T10:59:05Z"));
    let ca_end = authority.not_after.to_string();
    assert_eq!(end(SignedDuration::from_hours(24 * 36_500), now()), want(begin, &ca_end));
    let late = authority.not_after;
    assert!(
        end(SignedDuration::from_hours(1), late).unwrap_err().starts_with("refusing to sign a certificate")
    );
    let later = late + SignedDuration::from_mins(5);
    assert!(end(SignedDuration::from_hours(1), later).unwrap_err().starts_with("the signer has expired"));
}

#[test]
fn what_is_not_signed() {
    let (_dir, _pki, authority) = authority();
    let hour = SignedDuration::from_hours(1);
    let mut asked = asked();
    assert_eq!(
        authority.sign(&asked, &usages(&["client auth", "fly", "swim"]), hour, now()).unwrap_err(),
        "unrecognized usage values: [\"fly\" \"swim\"]"
    );
    let last = asked.der.len() - 1;
    asked.der[last] ^= 1;
    let error = authority.sign(&asked, &usages(&["client auth"]), hour, now()).unwrap_err();
    assert!(error.starts_with("unable to verify certificate request signature: "), "{error}");
}

#[test]
fn an_authority_has_its_own_key() {
    let (_dir, pki, _) = authority();
    let other = KeyPair::generate().expect("a key").serialize_pem();
    assert!(Authority::from_pem(pki.ca_pem(), &other).is_err());
    assert!(Authority::from_pem("", &other).is_err());
}
