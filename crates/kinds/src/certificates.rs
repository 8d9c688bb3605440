//! The group `certificates.k8s.io` (upstream: `pkg/apis/certificates`).
//!
//! Requests are signed by the key that they ask about; a request whose signature does not verify is refused.

pub mod asked;
mod chain;
pub mod csr;
pub(crate) mod pem;
pub mod pod_certificate;
pub mod trust_bundle;

use crate::def::{KindDef, Scope};
use crate::helpers;
use meta::field::{Error, ErrorList, Path, quoted};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

fn row(kind: &'static str, plural: &'static str, singular: &'static str, schema: &'static str) -> KindDef {
    KindDef {
        group: "certificates.k8s.io".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: singular.into(),
        scope: Scope::Cluster,
        schema: schema.into(),
        storage: plural.into(),
        ..KindDef::BASE
    }
}

/// The bytes of a `[]byte` field; empty when absent or no base64 (which decoding has refused before).
fn bytes(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

/// When the first certificate of a PEM text ends, as seconds since the epoch; `None` when there is none.
pub fn end_of(text: &[u8]) -> Option<i64> {
    let blocks = pem::blocks(&String::from_utf8_lossy(text));
    let certificate = chain::certificate(&blocks.first()?.der)?.validity().not_after.timestamp();
    Some(certificate)
}

/// Whether bytes are a certificate.
pub(crate) fn is_certificate(der: &[u8]) -> bool {
    chain::certificate(der).is_some()
}

/// A request from its DER form, nothing after it.
fn request(der: &[u8]) -> Option<X509CertificationRequest<'_>> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Some(request),
        _ => None,
    }
}

/// What is wrong with a request's own signature, in Go's words.
fn signature_error(request: &X509CertificationRequest) -> Option<&'static str> {
    let failed = match request.verify_signature() {
        Ok(()) => return None,
        Err(X509Error::SignatureUnsupportedAlgorithm) => {
            return Some("x509: cannot verify signature: algorithm unimplemented");
        }
        Err(_) => request.certification_request_info.subject_pki.parsed(),
    };
    Some(match failed {
        Ok(PublicKey::RSA(_)) => "crypto/rsa: verification error",
        Ok(PublicKey::EC(_)) => "x509: ECDSA verification failure",
        _ => "x509: Ed25519 verification failure",
    })
}

/// The kind of a public key as the checks of pod certificates tell them apart.
enum Key {
    Ed25519,
    /// The curve's name where it is none of the three that are allowed.
    Ec(Option<String>),
    /// Bits of the modulus.
    Rsa(usize),
    Other,
}

fn key(info: &SubjectPublicKeyInfo) -> Key {
    const ED25519: &str = "1.3.101.112";
    const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
    if info.algorithm.algorithm.to_id_string() == ED25519 {
        return Key::Ed25519;
    }
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => Key::Rsa(rsa.key_size()),
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
            match curve.as_str() {
                c if CURVES.contains(&c) => Key::Ec(None),
                "1.3.132.0.33" => Key::Ec(Some("P-224".to_owned())),
                _ => Key::Other,
            }
        }
        _ => Key::Other,
    }
}

/// Whether a signer is one of the project's own (upstream: `IsKubernetesSignerName`).
pub fn is_kubernetes_signer(name: &str) -> bool {
    let host = name.split('/').next().unwrap_or("");
    host == "kubernetes.io" || host.ends_with(".kubernetes.io")
}

/// Upstream: `ValidateSignerName`.
pub fn signer_name(name: &str, path: &Path, errors: &mut ErrorList) {
    const SIGNER_BYTES_MAX: usize = 253 + 1 + 253 + 63 + 1;
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let (domain, rest) = match name.split_once('/') {
        Some((domain, rest)) if !rest.contains('/') => (domain, rest),
        _ => {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(Error::invalid(path, name, detail));
            return;
        }
    };
    if domain.len() > helpers::DNS_SUBDOMAIN_MAX {
        errors.push(Error::too_long(path, helpers::DNS_SUBDOMAIN_MAX));
    }
    labels(domain, |l| helpers::dns_label_errors(l, false), path, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, domain, detail));
    }
    labels(rest, |l| helpers::dns_subdomain_errors(l, false), path, errors);
    if name.len() > SIGNER_BYTES_MAX {
        errors.push(Error::too_long(path, SIGNER_BYTES_MAX));
    }
}

/// The errors of the first bad label.
fn labels(whole: &str, check: impl Fn(&str) -> Vec<String>, path: &Path, errors: &mut ErrorList) {
    for label in whole.split('.') {
        let messages = check(label);
        if !messages.is_empty() {
            for message in messages {
                let detail = format!("validating label {label}: {message}", label = quoted(label));
                errors.push(Error::invalid(path, whole, detail));
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests;
