//! The DER of certificates, as Go's `crypto/x509` writes them.
//!
//! Invariant: texts are checked before they are written; the writer never meets one that it cannot write.

use super::Usages;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kinds::certificates::asked::{Asked, Subject};
use rcgen::KeyPair;
use std::net::IpAddr;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, DERWriterSeq, Tag, construct_der};

/// Characters of a line of PEM.
const PEM_LINE: usize = 64;
/// Years that the short form of times is for.
const UTC_YEARS: std::ops::Range<i16> = 1950..2050;

/// What is signed.
pub(super) struct Body<'a> {
    pub serial: &'a [u8],
    pub algorithm: &'a [u8],
    /// Names, key and extensions are DER.
    pub issuer: &'a [u8],
    pub begin: Timestamp,
    pub end: Timestamp,
    pub subject: &'a [u8],
    pub key: &'a [u8],
    pub extensions: &'a [u8],
}

/// The identifier of the algorithm that a key signs with; `None` for keys that are not for this.
pub(super) fn algorithm(key: &KeyPair) -> Option<Vec<u8>> {
    let (oid, null): (&[u64], bool) = match key.algorithm() {
        a if *a == rcgen::PKCS_ECDSA_P256_SHA256 => (&[1, 2, 840, 10045, 4, 3, 2], false),
        a if *a == rcgen::PKCS_ECDSA_P384_SHA384 => (&[1, 2, 840, 10045, 4, 3, 3], false),
        a if *a == rcgen::PKCS_ED25519 => (&[1, 3, 101, 112], false),
        a if *a == rcgen::PKCS_RSA_SHA256 => (&[1, 2, 840, 113_549, 1, 1, 11], true),
        _ => return None,
    };
    Some(construct_der(|w| {
        w.write_sequence(|w| {
            write_oid(w, oid);
            if null {
                w.next().write_null();
            }
        });
    }))
}

fn write_oid(w: &mut DERWriterSeq<'_>, oid: &[u64]) {
    w.next().write_oid(&ObjectIdentifier::from_slice(oid));
}

/// A name, its attributes in the order of Go's `pkix.Name.ToRDNSequence`.
pub(super) fn subject(subject: &Subject) -> Vec<u8> {
    let one = |s: &String| if s.is_empty() { Vec::new() } else { vec![s.clone()] };
    let parts = [
        (6, subject.country.clone()),
        (10, subject.organization.clone()),
        (11, subject.organizational_unit.clone()),
        (7, subject.locality.clone()),
        (8, subject.province.clone()),
        (9, subject.street_address.clone()),
        (17, subject.postal_code.clone()),
        (3, one(&subject.common_name)),
        (5, one(&subject.serial_number)),
    ];
    construct_der(|w| {
        w.write_sequence(|w| {
            for (kind, values) in parts.iter().filter(|(_, v)| !v.is_empty()) {
                w.next().write_set_of(|w| {
                    for value in values {
                        w.next().write_sequence(|w| {
                            write_oid(w, &[2, 5, 4, *kind]);
                            write_text(w.next(), value);
                        });
                    }
                });
            }
        });
    })
}

fn write_text(w: DERWriter<'_>, text: &str) {
    let printable = |c: char| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c);
    if text.chars().all(printable) {
        w.write_printable_string(text);
    } else {
        w.write_utf8_string(text);
    }
}

/// The extensions: usages, that it is no authority, its issuer's key and its names.
///
/// # Errors
/// A name has characters that certificates cannot have.
pub(super) fn extensions(asked: &Asked, usages: &Usages, key_id: &[u8]) -> Result<Vec<u8>, String> {
    let names = alternative_names(asked)?;
    let anonymous = asked.subject == Subject::default();
    Ok(construct_der(|w| {
        w.write_sequence(|w| {
            if usages.bits != 0 {
                extension(w, &[2, 5, 29, 15], true, &key_usage(usages.bits));
            }
            if !usages.extended.is_empty() {
                let value = construct_der(|w| {
                    w.write_sequence(|w| usages.extended.iter().for_each(|oid| write_oid(w, oid)));
                });
                extension(w, &[2, 5, 29, 37], false, &value);
            }
            extension(w, &[2, 5, 29, 19], true, &construct_der(|w| w.write_sequence(|_| {})));
            if !key_id.is_empty() {
                let value = construct_der(|w| w.write_sequence(|w| tagged(w, 0, key_id)));
                extension(w, &[2, 5, 29, 35], false, &value);
            }
            if let Some(names) = &names {
                extension(w, &[2, 5, 29, 17], anonymous, names);
            }
        });
    }))
}

fn extension(w: &mut DERWriterSeq<'_>, oid: &[u64], critical: bool, value: &[u8]) {
    w.next().write_sequence(|w| {
        write_oid(w, oid);
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(value);
    });
}

/// Bytes under a tag of the context.
fn tagged(w: &mut DERWriterSeq<'_>, tag: u64, value: &[u8]) {
    w.next().write_tagged_implicit(Tag::context(tag), |w| w.write_bytes(value));
}

/// A bit string without the zeros at its end.
fn key_usage(bits: u16) -> Vec<u8> {
    let bytes = bits.reverse_bits().to_be_bytes();
    let length = usize::try_from(u16::BITS - bits.leading_zeros()).unwrap_or(0);
    construct_der(|w| w.write_bitvec_bytes(&bytes[..length.div_ceil(8)], length))
}

fn alternative_names(asked: &Asked) -> Result<Option<Vec<u8>>, String> {
    let texts = [(2, &asked.dns_names), (1, &asked.emails), (6, &asked.uris)];
    if let Some(bad) = texts.iter().flat_map(|(_, t)| t.iter()).find(|t| !t.is_ascii()) {
        return Err(format!("x509: {bad:?} cannot be encoded as an IA5String"));
    }
    if asked.addresses.is_empty() && texts.iter().all(|(_, t)| t.is_empty()) {
        return Ok(None);
    }
    Ok(Some(construct_der(|w| {
        w.write_sequence(|w| {
            asked.dns_names.iter().for_each(|n| tagged(w, 2, n.as_bytes()));
            asked.emails.iter().for_each(|n| tagged(w, 1, n.as_bytes()));
            for address in &asked.addresses {
                match address.to_canonical() {
                    IpAddr::V4(v4) => tagged(w, 7, &v4.octets()),
                    IpAddr::V6(v6) => tagged(w, 7, &v6.octets()),
                }
            }
            asked.uris.iter().for_each(|n| tagged(w, 6, n.as_bytes()));
        });
    })))
}

pub(super) fn body(b: &Body<'_>) -> Vec<u8> {
    const VERSION_3: i64 = 2;
    construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), |w| w.write_i64(VERSION_3));
            w.next().write_bigint_bytes(b.serial, true);
            w.next().write_der(b.algorithm);
            w.next().write_der(b.issuer);
            w.next().write_sequence(|w| {
                write_time(w.next(), b.begin);
                write_time(w.next(), b.end);
            });
            w.next().write_der(b.subject);
            w.next().write_der(b.key);
            w.next().write_tagged(Tag::context(3), |w| w.write_der(b.extensions));
        });
    })
}

fn write_time(w: DERWriter<'_>, time: Timestamp) {
    let (tag, format) = if UTC_YEARS.contains(&time.to_zoned(TimeZone::UTC).year()) {
        (TAG_UTCTIME, "%y%m%d%H%M%SZ")
    } else {
        (TAG_GENERALIZEDTIME, "%Y%m%d%H%M%SZ")
    };
    w.write_tagged_implicit(tag, |w| w.write_bytes(time.strftime(format).to_string().as_bytes()));
}

pub(super) fn certificate(body: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_der(body);
            w.next().write_der(algorithm);
            w.next().write_bitvec_bytes(signature, signature.len() * 8);
        });
    })
}

/// A certificate as a block of PEM.
pub(super) fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(PEM_LINE) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
