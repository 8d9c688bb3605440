//! A certificate authority that answers certificate requests (upstream: `pkg/controller/certificates/authority`).
//!
//! Invariant: what is signed was asked for by the holder of its key, is no authority, and ends with the authority at the
//! latest.

mod der;

use crate::pki::PkiError;
use jiff::{SignedDuration, Timestamp};
use kinds::certificates::asked::{Asked, verify};
use rcgen::{KeyPair, SigningKey as _};
use ring::rand::SecureRandom as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::collections::BTreeSet;
use std::fmt;
use x509_parser::extensions::ParsedExtension;

/// How far certificates begin before now, for clocks that are behind. Less than any lifetime that can be asked for.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates that live less long end as late as was asked; those that live longer by [`BACKDATE`] earlier.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// Random bytes of a serial number.
const SERIAL_BYTES: usize = 16;

/// Usages that are bits of the extension `keyUsage`, with their place in it.
const KEY_USAGES: [(&str, u8); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// Usages of the extension `extKeyUsage`, in the order in which they are written.
const EXTENDED_USAGES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// An authority with its key.
pub struct Authority {
    key: KeyPair,
    /// The authority's name, DER.
    subject: Vec<u8>,
    /// Empty when its certificate names none.
    key_id: Vec<u8>,
    not_after: Timestamp,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// What the extensions of a certificate say of its use.
struct Usages {
    /// Bit `n` of `keyUsage` is bit `n` here.
    bits: u16,
    /// Object identifiers, in order.
    extended: Vec<&'static [u64]>,
}

impl Authority {
    /// An authority from its certificate and key, both PEM.
    ///
    /// # Errors
    /// They cannot be read, do not belong together, or the key is of a kind that does not sign here.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let failed = |why: String| PkiError::Crypto { what: "use the signing authority", why };
        let key = KeyPair::from_pem(key).map_err(|e| failed(e.to_string()))?;
        if der::algorithm(&key).is_none() {
            return Err(failed("its key is neither RSA, ECDSA P-256 or P-384, nor Ed25519".to_owned()));
        }
        let der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| failed(e.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| failed(e.to_string()))?;
        if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key).as_slice() {
            return Err(failed("the certificate does not belong to the key".to_owned()));
        }
        let key_id = parsed.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let end = parsed.validity().not_after.timestamp();
        let not_after = Timestamp::from_second(end).map_err(|e| failed(e.to_string()))?;
        let subject = parsed.subject().as_raw().to_vec();
        Ok(Self { key, subject, key_id: key_id.unwrap_or_default(), not_after })
    }

    /// The certificate that was asked for, as PEM: subject and names of the request, the usages given, nothing else
    /// (upstream: `CertificateAuthority.Sign`, `PermissiveSigningPolicy`).
    ///
    /// # Errors
    /// The request is not signed by its key, a usage is unknown, or the authority has ended.
    pub fn sign(
        &self,
        asked: &Asked,
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String> {
        verify(&asked.der).map_err(|e| format!("unable to verify certificate request signature: {e}"))?;
        let usages = Usages::of(usages)?;
        let (begin, end) = self.times(lifetime, now)?;
        let mut serial = [0u8; SERIAL_BYTES];
        let filled = ring::rand::SystemRandom::new().fill(&mut serial);
        filled.map_err(|_| {
            format!("unable to generate a serial number for {}: no random bytes", asked.subject.common_name)
        })?;
        let failed = |why: String| format!("failed to sign certificate: {why}");
        let Some(algorithm) = der::algorithm(&self.key) else {
            return Err(failed("unsupported key".to_owned()));
        };
        let subject = der::subject(&asked.subject);
        let mut key_id = self.key_id.as_slice();
        if subject == self.subject {
            key_id = &[]; // its own issuer names no other key
        }
        let extensions = der::extensions(asked, &usages, key_id).map_err(failed)?;
        let body = der::body(&der::Body {
            serial: &serial,
            algorithm: &algorithm,
            issuer: &self.subject,
            begin,
            end,
            subject: &subject,
            key: &asked.key,
            extensions: &extensions,
        });
        let signature = self.key.sign(&body).map_err(|e| failed(e.to_string()))?;
        Ok(der::pem(&der::certificate(&body, &algorithm, &signature)))
    }

    fn times(&self, lifetime: SignedDuration, now: Timestamp) -> Result<(Timestamp, Timestamp), String> {
        let begin = now.saturating_sub(BACKDATE).unwrap_or(now);
        let after = if lifetime < SHORT { lifetime } else { lifetime - BACKDATE };
        let end = now.saturating_add(after).unwrap_or(now).min(self.not_after);
        if begin >= self.not_after {
            return Err(format!("the signer has expired: NotAfter={}", self.not_after));
        }
        if now >= self.not_after {
            let end = self.not_after;
            return Err(format!("refusing to sign a certificate that expired in the past: NotAfter={end}"));
        }
        Ok((begin, end))
    }
}

impl Usages {
    /// Upstream: `keyUsagesFromStrings`.
    fn of(names: &[String]) -> Result<Self, String> {
        let (mut bits, mut extended, mut unknown) = (0, BTreeSet::new(), Vec::new());
        for name in names {
            let key = KEY_USAGES.iter().find(|(n, _)| n == name);
            let more = EXTENDED_USAGES.iter().position(|(n, _)| n == name);
            match (key, more) {
                (Some((_, bit)), _) => bits |= 1 << bit,
                (_, Some(i)) => drop(extended.insert(i)),
                _ => unknown.push(format!("{name:?}")),
            }
        }
        if !unknown.is_empty() {
            return Err(format!("unrecognized usage values: [{}]", unknown.join(" ")));
        }
        let mut extended: Vec<_> = extended.into_iter().map(|i| EXTENDED_USAGES[i].1).collect();
        extended.dedup(); // two names of one usage stand side by side
        Ok(Self { bits, extended })
    }
}

#[cfg(test)]
mod tests;
