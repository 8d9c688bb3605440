//! IP addresses and ranges in fields: upstream's parsing, which is laxer than the standard's, with its errors and
//! warnings (upstream: apimachinery `pkg/util/validation/ip.go`, `k8s.io/utils/net`).
//!
//! An address is kept in its canonical family: an IPv4 address written as IPv6 is IPv4.

mod cidr;

pub use cidr::Cidr;

use meta::field::{Error, ErrorList, Path, quoted};
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr};

/// An address, leading zeros in IPv4 allowed and read as decimal (upstream: `ParseIPSloppy`).
pub fn parse(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let part = part.trim_start_matches('0');
        *octet = if part.is_empty() { 0 } else { part.parse().ok()? };
    }
    parts.next().is_none().then_some(IpAddr::V4(octets.into()))
}

/// A range, with the same laxity (upstream: `ParseCIDRSloppy`).
pub fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = text.split_once('/')?;
    let ip = parse(address)?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = bits.trim_start_matches('0');
    let bits: u8 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let written_as_v6 = address.contains(':');
    if bits > if written_as_v6 { 128 } else { 32 } {
        return None;
    }
    match ip {
        IpAddr::V4(v4) if written_as_v6 && bits < 96 => {
            Some(Cidr { ip: IpAddr::V6(v4.to_ipv6_mapped()), bits })
        }
        IpAddr::V4(_) if written_as_v6 => Some(Cidr { ip, bits: bits - 96 }),
        _ => Some(Cidr { ip, bits }),
    }
}

fn is_mapped(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_ipv4_mapped().is_some())
}

/// Checks an address of an old field; values in `allowed` (those of the old object) pass
/// (upstream: `IsValidIPForLegacyField`).
pub fn legacy(value: &str, at: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if !allowed.contains(&value) {
        checked(value, at, errors);
    }
}

fn checked(value: &str, at: &Path, errors: &mut ErrorList) -> Option<IpAddr> {
    let Some(ip) = parse(value) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(Error::invalid(at, value, detail));
        return None;
    };
    if value.parse::<IpAddr>().is_err() {
        errors.push(Error::invalid(at, value, "must not have leading 0s"));
    } else if is_mapped(value) {
        errors.push(Error::invalid(at, value, "must not be an IPv4-mapped IPv6 address"));
    } else {
        return Some(ip);
    }
    None
}

/// Checks an address that must be canonical (upstream: `IsValidIP`).
pub fn strict(value: &str, at: &Path, errors: &mut ErrorList) {
    if let Some(ip) = checked(value, at, errors)
        && ip.to_string() != value
    {
        errors.push(Error::invalid(at, value, format!("must be in canonical form (\"{ip}\")")));
    }
}

/// Warnings of an address that was checked with [`legacy`] (upstream: `GetWarningsForIP`).
pub fn warnings(value: &str, at: &Path) -> Option<String> {
    let ip = parse(value)?;
    match value.parse::<IpAddr>() {
        Ok(exact) if !is_mapped(value) => (exact.is_ipv6() && exact.to_string() != value).then(|| {
            format!(
                "{at}: IPv6 address {value} should be in RFC 5952 canonical format (\"{exact}\")",
                value = quoted(value)
            )
        }),
        _ => Some(format!(
            "{at}: non-standard IP address {value} is invalid: use \"{ip}\"",
            value = quoted(value)
        )),
    }
}

/// Whether the text is what the standard allows: no leading zeros in address or length.
fn exact_cidr(value: &str) -> bool {
    let Some((address, bits)) = value.split_once('/') else { return false };
    address.parse::<IpAddr>().is_ok() && (bits == "0" || !bits.starts_with('0'))
}

fn checked_cidr(value: &str, at: &Path, errors: &mut ErrorList) -> Option<Cidr> {
    let Some(cidr) = parse_cidr(value) else {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(Error::invalid(at, value, detail));
        return None;
    };
    if !exact_cidr(value) {
        errors.push(Error::invalid(at, value, "must not have leading 0s in IP or prefix length"));
    } else if value.split_once('/').is_some_and(|(a, _)| is_mapped(a)) {
        errors.push(Error::invalid(at, value, "must not have an IPv4-mapped IPv6 address"));
    } else if cidr.ip != cidr.network() {
        errors.push(Error::invalid(at, value, "must not have bits set beyond the prefix length"));
    } else {
        return Some(cidr);
    }
    None
}

/// Checks a range of an old field (upstream: `IsValidCIDRForLegacyField`).
pub fn legacy_cidr(value: &str, at: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if !allowed.contains(&value) {
        checked_cidr(value, at, errors);
    }
}

/// Checks a range that must be canonical (upstream: `IsValidCIDR`).
pub fn strict_cidr(value: &str, at: &Path, errors: &mut ErrorList) {
    if let Some(cidr) = checked_cidr(value, at, errors)
        && cidr.to_string() != value
    {
        errors.push(Error::invalid(at, value, format!("must be in canonical form (\"{cidr}\")")));
    }
}

/// Checks an address with the length of its network (upstream: `IsValidInterfaceAddress`).
pub fn interface_address(value: &str, at: &Path, errors: &mut ErrorList) {
    let Some(cidr) = parse_cidr(value) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errors.push(Error::invalid(at, value, detail));
        return;
    };
    let canonical = format!("{}/{}", cidr.ip, cidr.bits);
    if value != canonical {
        errors.push(Error::invalid(at, value, format!("must be in canonical form (\"{canonical}\")")));
    }
}

/// Warnings of a range that was checked with [`legacy_cidr`] (upstream: `GetWarningsForCIDR`).
pub fn cidr_warnings(value: &str, at: &Path) -> Vec<String> {
    let Some(cidr) = parse_cidr(value) else { return Vec::new() };
    let mut out = Vec::new();
    if cidr.ip != cidr.network() {
        let all = if cidr.ip.is_ipv4() { 32 } else { 128 };
        out.push(format!(
            "{at}: CIDR value {value} is ambiguous in this context (should be \"{cidr}\" or \"{}/{all}\"?)",
            cidr.ip,
            value = quoted(value)
        ));
    }
    if !exact_cidr(value) || value.split_once('/').is_some_and(|(a, _)| is_mapped(a)) {
        out.push(format!(
            "{at}: non-standard CIDR value {value} is invalid: use \"{cidr}\"",
            value = quoted(value)
        ));
    }
    if out.is_empty() && cidr.ip.is_ipv6() && cidr.to_string() != value {
        out.push(format!(
            "{at}: IPv6 CIDR value {value} should be in RFC 5952 canonical format (\"{cidr}\")",
            value = quoted(value)
        ));
    }
    out
}

/// Addresses that would let an endpoint be the node itself (upstream: `ValidateEndpointIP`).
pub fn endpoint(value: &str, at: &Path, errors: &mut ErrorList) {
    let Some(ip) = parse(value) else {
        errors.push(Error::invalid(at, value, "must be a valid IP address"));
        return;
    };
    if ip.is_unspecified() {
        errors.push(Error::invalid(at, value, format!("may not be unspecified ({value})")));
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            (v6.is_unicast_link_local(), octets[0] == 0xff && octets[1] & 0x0f == 2)
        }
    };
    let details = [
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    errors.extend(details.iter().filter(|d| d.0).map(|d| Error::invalid(at, Value::from(value), d.1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(check: impl Fn(&mut ErrorList)) -> Vec<String> {
        let mut errors = Vec::new();
        check(&mut errors);
        errors.iter().map(|e| e.detail.clone()).collect()
    }

    #[test]
    fn addresses() {
        let at = Path::new("ip");
        let one = |s: &str| texts(|e| strict(s, &at, e));
        assert!(one("1.2.3.4").is_empty() && one("2001:db8::1").is_empty());
        assert_eq!(one("1.2.3"), ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]);
        assert_eq!(one("1.2.3.04"), ["must not have leading 0s"]);
        assert_eq!(one("::ffff:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(one("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert!(texts(|e| legacy("2001:DB8::1", &at, &[], e)).is_empty());
        assert!(texts(|e| legacy("1.2.3.04", &at, &["1.2.3.04"], e)).is_empty());
        assert_eq!(
            warnings("192.012.2.2", &at).as_deref(),
            Some("ip: non-standard IP address \"192.012.2.2\" is invalid: use \"192.12.2.2\"")
        );
        assert_eq!(
            warnings("2001:db8:0:0::2", &at).as_deref(),
            Some(
                "ip: IPv6 address \"2001:db8:0:0::2\" should be in RFC 5952 canonical format (\"2001:db8::2\")"
            )
        );
        assert_eq!(warnings("10.0.0.1", &at), None);
    }

    #[test]
    fn ranges() {
        let at = Path::new("cidr");
        let one = |s: &str| texts(|e| strict_cidr(s, &at, e));
        assert!(one("10.0.0.0/8").is_empty() && one("::/0").is_empty() && one("0.0.0.0/0").is_empty());
        assert_eq!(one("10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(one("10.0.0.0/08"), ["must not have leading 0s in IP or prefix length"]);
        assert_eq!(one("::ffff:10.0.0.0/104"), ["must not have an IPv4-mapped IPv6 address"]);
        assert_eq!(one("10.0.0.0/33").len(), 1);
        assert_eq!(one("2001:db8:0::/64"), ["must be in canonical form (\"2001:db8::/64\")"]);
        assert_eq!(
            cidr_warnings("192.168.12.34/24", &at),
            [
                "cidr: CIDR value \"192.168.12.34/24\" is ambiguous in this context (should be \"192.168.12.0/24\" or \"192.168.12.34/32\"?)"
            ]
        );
        assert!(texts(|e| interface_address("10.9.8.7/24", &at, e)).is_empty());
        assert_eq!(
            texts(|e| interface_address("10.9.8.007/24", &at, e)),
            ["must be in canonical form (\"10.9.8.7/24\")"]
        );
        let net = parse_cidr("10.1.0.0/16").unwrap();
        assert!(net.contains("10.1.2.3".parse().unwrap()) && !net.contains("10.2.0.0".parse().unwrap()));
    }
}
