//! What a certificate request asks for, and the rules of requests of kubelets (upstream: `pkg/apis/certificates/helpers.go`).
//!
//! Reading does not verify: who signs or stores a request calls [`verify`] too.

use super::{pem, request, signature_error};
use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::x509::X509Name;

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// A subject as Go reads names: known attributes only, in order of their appearance (upstream: `crypto/x509/pkix.Name`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub country: Vec<String>,
    pub organization: Vec<String>,
    pub organizational_unit: Vec<String>,
    pub locality: Vec<String>,
    pub province: Vec<String>,
    pub street_address: Vec<String>,
    pub postal_code: Vec<String>,
    /// The last one given; empty when none is.
    pub common_name: String,
    pub serial_number: String,
}

/// A request for a certificate (PKCS #10).
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The request itself.
    pub der: Vec<u8>,
    pub subject: Subject,
    /// The key to be certified, as a DER `SubjectPublicKeyInfo`.
    pub key: Vec<u8>,
    pub dns_names: Vec<String>,
    pub emails: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
}

impl Asked {
    /// Reads the first block of a PEM text (upstream: `ParseCSR`).
    ///
    /// # Errors
    /// It is no certificate request.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let blocks = pem::blocks(&String::from_utf8_lossy(text));
        let Some(block) = blocks.into_iter().next().filter(|b| b.label == "CERTIFICATE REQUEST") else {
            return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        };
        Self::from_der(block.der)
    }

    /// Reads a request's DER form.
    ///
    /// # Errors
    /// It is no certificate request.
    pub fn from_der(der: Vec<u8>) -> Result<Self, String> {
        let mut out = Self::default();
        {
            let parsed = request(&der).ok_or("x509: malformed certificate request")?;
            let info = &parsed.certification_request_info;
            out.key = info.subject_pki.raw.to_vec();
            out.subject = Subject::of(&info.subject)?;
            out.read_names(&parsed)?;
        }
        out.der = der;
        Ok(out)
    }

    fn read_names(&mut self, parsed: &X509CertificationRequest) -> Result<(), String> {
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(n) => self.dns_names.push((*n).to_owned()),
                    GeneralName::RFC822Name(n) => self.emails.push((*n).to_owned()),
                    GeneralName::URI(n) => self.uris.push((*n).to_owned()),
                    GeneralName::IPAddress(b) => self.addresses.push(address(b)?),
                    GeneralName::Invalid(..) => {
                        return Err("x509: invalid subject alternative names".to_owned());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
        .ok_or_else(|| format!("x509: cannot parse IP address of length {}", bytes.len()))
}

impl Subject {
    fn of(name: &X509Name) -> Result<Self, String> {
        let mut out = Self::default();
        for attribute in name.iter_attributes() {
            let oid = attribute.attr_type().to_id_string();
            let Some(kind) = oid.strip_prefix("2.5.4.") else { continue };
            let value = attribute.as_str();
            let value = value.map_err(|_| "x509: invalid RDNSequence: invalid attribute value")?.to_owned();
            match kind {
                "3" => out.common_name = value,
                "5" => out.serial_number = value,
                "6" => out.country.push(value),
                "7" => out.locality.push(value),
                "8" => out.province.push(value),
                "9" => out.street_address.push(value),
                "10" => out.organization.push(value),
                "11" => out.organizational_unit.push(value),
                "17" => out.postal_code.push(value),
                _ => {}
            }
        }
        Ok(out)
    }
}

/// Verifies that a request was signed by the key that it asks about.
///
/// # Errors
/// Go's words of what is wrong.
pub fn verify(der: &[u8]) -> Result<(), &'static str> {
    let request = request(der).ok_or("x509: malformed certificate request")?;
    signature_error(&request).map_or(Ok(()), Err)
}

/// Why a request is none for a kubelet's serving certificate (upstream: `ValidateKubeletServingCSR`).
///
/// # Errors
/// The first rule that it breaks.
pub fn kubelet_serving(asked: &Asked, usages: &[String]) -> Result<(), String> {
    of_nodes(asked)?;
    if asked.dns_names.is_empty() && asked.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    none(asked.emails.is_empty(), "Email")?;
    none(asked.uris.is_empty(), "URI")?;
    exactly(usages, ["digital signature", "key encipherment", "server auth"])?;
    named(asked)
}

/// Why a request is none for the certificate with which a kubelet calls the API server
/// (upstream: `ValidateKubeletClientCSR`).
///
/// # Errors
/// The first rule that it breaks.
pub fn kubelet_client(asked: &Asked, usages: &[String]) -> Result<(), String> {
    of_nodes(asked)?;
    none(asked.dns_names.is_empty(), "DNS")?;
    none(asked.emails.is_empty(), "Email")?;
    none(asked.addresses.is_empty(), "IP")?;
    none(asked.uris.is_empty(), "URI")?;
    named(asked)?;
    exactly(usages, ["client auth", "digital signature", "key encipherment"])
}

fn of_nodes(asked: &Asked) -> Result<(), String> {
    if asked.subject.organization == [NODES] {
        return Ok(());
    }
    Err("subject organization is not system:nodes".to_owned())
}

fn named(asked: &Asked) -> Result<(), String> {
    if asked.subject.common_name.starts_with(NODE_PREFIX) {
        return Ok(());
    }
    Err("subject common name does not begin with system:node:".to_owned())
}

fn none(empty: bool, what: &str) -> Result<(), String> {
    if empty { Ok(()) } else { Err(format!("{what} subjectAltNames are not allowed")) }
}

/// Keys that are no RSA keys do without encipherment.
fn exactly(usages: &[String], wanted: [&str; 3]) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let all = BTreeSet::from(wanted);
    let fewer: BTreeSet<&str> = wanted.into_iter().filter(|u| *u != "key encipherment").collect();
    if given == all || given == fewer {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Asked {
        let subject = Subject {
            organization: vec![NODES.into()],
            common_name: "system:node:n".into(),
            ..Subject::default()
        };
        Asked { subject, ..Asked::default() }
    }

    fn usages(all: &[&str]) -> Vec<String> {
        all.iter().map(|u| (*u).to_owned()).collect()
    }

    type Change = fn(&mut Asked);

    #[test]
    fn requests_of_kubelets_that_serve() {
        let (with, without) = (
            usages(&["server auth", "digital signature", "key encipherment"]),
            usages(&["digital signature", "server auth"]),
        );
        let cases: [(Change, &str); 6] = [
            (|_| {}, ""),
            (|a| a.subject.organization.push("b".into()), "subject organization is not system:nodes"),
            (|a| a.dns_names.clear(), "DNS or IP subjectAltName is required"),
            (|a| a.emails.push("a@b".into()), "Email subjectAltNames are not allowed"),
            (|a| a.uris.push("a://b".into()), "URI subjectAltNames are not allowed"),
            (|a| a.subject.common_name = "n".into(), "subject common name does not begin with system:node:"),
        ];
        for (change, want) in cases {
            let mut asked = node();
            asked.dns_names.push("n".into());
            change(&mut asked);
            for usages in [&with, &without] {
                assert_eq!(kubelet_serving(&asked, usages).err().unwrap_or_default(), want);
            }
        }
        let mut asked = node();
        asked.dns_names.push("n".into());
        assert_eq!(
            kubelet_serving(&asked, &usages(&["server auth"])).unwrap_err(),
            "usages did not match [digital signature key encipherment server auth]"
        );
    }

    #[test]
    fn requests_of_kubelets_that_call() {
        let good = usages(&["client auth", "digital signature"]);
        let cases: [(Change, &str); 6] = [
            (|_| {}, ""),
            (|a| a.subject.organization.clear(), "subject organization is not system:nodes"),
            (|a| a.dns_names.push("n".into()), "DNS subjectAltNames are not allowed"),
            (|a| a.addresses.push([127, 0, 0, 1].into()), "IP subjectAltNames are not allowed"),
            (|a| a.uris.push("a://b".into()), "URI subjectAltNames are not allowed"),
            (|a| a.subject.common_name = "n".into(), "subject common name does not begin with system:node:"),
        ];
        for (change, want) in cases {
            let mut asked = node();
            change(&mut asked);
            assert_eq!(kubelet_client(&asked, &good).err().unwrap_or_default(), want);
        }
        assert_eq!(
            kubelet_client(&node(), &usages(&["client auth"])).unwrap_err(),
            "usages did not match [client auth digital signature key encipherment]"
        );
    }

    #[test]
    fn what_is_no_request() {
        for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(
                Asked::from_pem(text.as_bytes()).unwrap_err(),
                "PEM block type must be CERTIFICATE REQUEST"
            );
        }
        assert!(Asked::from_der(vec![1]).is_err());
    }
}
