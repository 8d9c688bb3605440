//! Bundles of authorities as PEM: joined, each once, without those whose time is over
//! (upstream: `pkg/controlplane/controller/clusterauthenticationtrust#combineCertLists`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Letters on a line of PEM.
const LINE: usize = 64;

/// The certificates of both, those of `first` first.
///
/// # Errors
/// What is given holds something that is no certificate.
pub fn join(first: &str, second: &str, now: Timestamp) -> Result<String, String> {
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for pem in [first, second] {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|e| format!("no certificate: {e}"))?;
            let (_, parsed) =
                x509_parser::parse_x509_certificate(&certificate).map_err(|e| format!("x509: {e}"))?;
            let ended = parsed.validity().not_after.timestamp() < now.as_second();
            if !ended && !all.contains(&certificate) {
                all.push(certificate);
            }
        }
    }
    Ok(all.iter().map(|c| encode(c)).collect())
}

fn encode(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(last_year: i32) -> String {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(last_year, 1, 1);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem()
    }

    #[test]
    fn each_once_and_none_that_is_over() {
        let now = "2026-01-02T03:04:05Z".parse().expect("a time");
        let (a, b, old) = (certificate(2030), certificate(2030), certificate(2025));
        let lines = |s: &str| s.replace("\r\n", "\n");
        let joined = join(&format!("{a}{old}"), &format!("{b}{a}"), now).expect("joined");
        assert_eq!(joined, lines(&format!("{a}{b}")));
        assert_eq!(join(&joined, "", now), Ok(joined.clone()));
        assert_eq!(join("", "", now), Ok(String::new()));
        assert!(join("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", now).is_err());
    }
}
