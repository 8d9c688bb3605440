//! The string formats that a custom resource's schema may name (upstream: kube-openapi `validation/strfmt`,
//! apiextensions `validation/formats.go`).
//!
//! A format that is not listed is no check at all.

use crate::custom::patterns;
use regex::Regex;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// Normalised names (without dashes) of the formats of strings.
const STRING_FORMATS: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

fn normalized(format: &str) -> String {
    format.replace('-', "")
}

/// Whether the format is checked for values of the type; other formats are ignored (upstream:
/// `StripUnsupportedFormatsPostProcess`). `ty` is empty for none or more than one.
pub fn is_supported(ty: &str, format: &str) -> bool {
    match ty {
        "" | "string" => STRING_FORMATS.contains(&normalized(format).as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether a text has a string format. Formats of numbers and unknown ones accept any text.
pub fn matches(format: &str, s: &str) -> bool {
    match normalized(format).as_str() {
        "bsonobjectid" => s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_request_uri(s),
        "email" => is_email(s),
        "hostname" => is_hostname(s),
        "ipv4" => sloppy_v4(s).is_some(),
        "ipv6" => s.contains(':') && s.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(s),
        "mac" => is_mac(s),
        "uuid" => is_uuid(s, None),
        "uuid3" => is_uuid(s, Some('3')),
        "uuid4" => is_uuid(s, Some('4')),
        "uuid5" => is_uuid(s, Some('5')),
        "isbn" => is_isbn10(s) || is_isbn13(s),
        "isbn10" => is_isbn10(s),
        "isbn13" => is_isbn13(s),
        "creditcard" => is_credit_card(s),
        "ssn" => SSN.as_ref().is_some_and(|r| r.is_match(s)),
        "hexcolor" => {
            let digits = s.strip_prefix('#').unwrap_or(s);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "rgbcolor" => RGB.as_ref().is_some_and(|r| r.is_match(s)),
        "byte" => BASE64.as_ref().is_some_and(|r| r.is_match(s)),
        "date" => is_date(s),
        "duration" => is_duration(s),
        "datetime" => is_date_time(s),
        "k8sshortname" => crate::helpers::dns_label_errors(s, false).is_empty(),
        "k8slongname" => crate::helpers::dns_subdomain_errors(s, false).is_empty(),
        _ => true,
    }
}

static SSN: LazyLock<Option<Regex>> =
    LazyLock::new(|| patterns::compile("^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$").ok());
static RGB: LazyLock<Option<Regex>> = LazyLock::new(|| {
    const N: &str = "(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])";
    patterns::compile(&format!(r"^rgb\(\s*{N}\s*,\s*{N}\s*,\s*{N}\s*\)$")).ok()
});
static BASE64: LazyLock<Option<Regex>> = LazyLock::new(|| {
    const TAIL: &str = "(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})";
    patterns::compile(&format!("^(?:[A-Za-z0-9+/]{{4}})*{TAIL}$")).ok()
});
static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| patterns::compile(r"^\p{L}$").ok());
static LETTER_OR_SYMBOL: LazyLock<Option<Regex>> =
    LazyLock::new(|| patterns::compile(r"^[\p{S}\p{L}]$").ok());
static CARD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let text = "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$";
    patterns::compile(text).ok()
});

/// An absolute URI or an absolute path (Go: `url.ParseRequestURI`).
fn is_request_uri(s: &str) -> bool {
    if s.is_empty() || s.bytes().any(|b| b < 0x20 || b == 0x7f || b == b' ') {
        return false;
    }
    if s.starts_with('/') {
        return true;
    }
    match s.split_once(':') {
        Some((scheme, rest)) => {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
                // An opaque URI such as `mailto:a` is none that a request can name.
                && rest.starts_with('/')
        }
        None => false,
    }
}

/// An address, with or without a name (Go: `mail.ParseAddress`, but for quoted and commented forms).
pub fn is_email(s: &str) -> bool {
    let s = s.trim();
    let address = match s.strip_suffix('>').and_then(|s| s.rsplit_once('<')) {
        Some((_, address)) => address,
        None => s,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |a: &str| {
        !a.is_empty()
            && a.chars()
                .all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || local.split('.').all(atom)) && domain.split('.').all(atom)
}

/// Upstream's pattern, taken apart: one label with at most a dash after its first letter, or labels with dots and a
/// top level of letters.
fn is_hostname(s: &str) -> bool {
    let is =
        |re: &Option<Regex>, c: char| re.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4])));
    let word = |c: char| c.is_ascii_alphanumeric() || is(&LETTER_OR_SYMBOL, c);
    let shaped = match s.rsplit_once('.') {
        None => {
            let rest = s.char_indices().nth(1).map_or("", |(i, _)| &s[i..]);
            let rest = rest.strip_prefix('-').unwrap_or(rest);
            s.starts_with(word) && rest.chars().all(word) && rest.chars().count() <= 62
        }
        Some((labels, top)) => {
            let ends = |l: &str| l.starts_with(word) && l.ends_with(word);
            let label =
                |l: &str| ends(l) && l.chars().all(|c| c == '-' || word(c)) && l.chars().count() <= 63;
            labels.split('.').all(label)
                && (2..=63).contains(&top.chars().count())
                && top.chars().all(|c| c.is_ascii_alphabetic() || is(&LETTER, c))
        }
    };
    shaped && s.len() <= 255 && s.split('.').all(|p| p.len() <= 63)
}

/// An IPv4 address whose numbers may have leading zeros, as older Go read them.
fn sloppy_v4(s: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = s.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let digits = part.trim_start_matches('0');
        *octet = match (plain, digits) {
            (false, _) => return None,
            (true, "") => 0,
            (true, digits) => digits.parse().ok()?,
        };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn is_cidr(s: &str) -> bool {
    let Some((address, bits)) = s.split_once('/') else { return false };
    let max = if sloppy_v4(address).is_some() {
        32
    } else if address.contains(':') && address.parse::<Ipv6Addr>().is_ok() {
        128
    } else {
        return false;
    };
    !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && bits.parse::<u32>().is_ok_and(|n| n <= max)
}

/// Go: `net.ParseMAC`: 6, 8 or 20 bytes in pairs by `:` or `-`, or in fours by `.`.
fn is_mac(s: &str) -> bool {
    let groups = |by: char, len: usize, counts: [usize; 3]| {
        let parts: Vec<&str> = s.split(by).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2, [6, 8, 20]) || groups('-', 2, [6, 8, 20]) || groups('.', 4, [3, 4, 10])
}

fn is_uuid(s: &str, version: Option<char>) -> bool {
    let mut digits = String::new();
    let mut rest = s;
    for (i, len) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some((part, after)) = rest.split_at_checked(len) else { return false };
        digits.push_str(part);
        rest = after;
    }
    let hex = rest.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let at = |i: usize| digits.as_bytes().get(i).map(u8::to_ascii_lowercase);
    let variant = matches!(version, None | Some('3')) || at(16).is_some_and(|b| b"89ab".contains(&b));
    hex && variant && version.is_none_or(|v| at(12) == Some(v as u8))
}

fn isbn_digits(s: &str) -> String {
    s.chars().filter(|c| !matches!(c, '-' | ' ' | '\t')).collect()
}

fn is_isbn10(s: &str) -> bool {
    let s = isbn_digits(s);
    let b = s.as_bytes();
    if b.len() != 10 || !b[..9].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let last = match b[9] {
        b'X' => 10,
        d if d.is_ascii_digit() => u32::from(d - b'0'),
        _ => return false,
    };
    let sum: u32 = (1..).zip(&b[..9]).map(|(i, d)| i * u32::from(d - b'0')).sum::<u32>() + 10 * last;
    sum.is_multiple_of(11)
}

fn is_isbn13(s: &str) -> bool {
    let s = isbn_digits(s);
    let b = s.as_bytes();
    if b.len() != 13 || !b.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 =
        b[..12].iter().enumerate().map(|(i, d)| (1 + 2 * (i as u32 % 2)) * u32::from(d - b'0')).sum();
    u32::from(b[12] - b'0') == (10 - sum % 10) % 10
}

fn is_credit_card(s: &str) -> bool {
    let digits: String = s.chars().filter(char::is_ascii_digit).collect();
    if !CARD.as_ref().is_some_and(|r| r.is_match(&digits)) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let n = u32::from(d - b'0') * (1 + i as u32 % 2);
            if n > 9 { n - 9 } else { n }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_date(s: &str) -> bool {
    let b = s.as_bytes();
    b.len() == 10
        && b.iter().enumerate().all(|(i, c)| if matches!(i, 4 | 7) { *c == b'-' } else { c.is_ascii_digit() })
        && s.parse::<jiff::civil::Date>().is_ok()
}

/// Upstream: `strfmt.IsDateTime`, which splits at the first `t` of any case.
fn is_date_time(s: &str) -> bool {
    let lower = s.to_lowercase();
    let Some((date, time)) = lower.split_once('t') else { return false };
    let time = time.split('t').next().unwrap_or("");
    let b = time.as_bytes();
    let two = |i: usize| b.get(i..i + 2).filter(|d| d.iter().all(u8::is_ascii_digit));
    let (Some(h), Some(m), Some(sec)) = (two(0), two(3), two(6)) else { return false };
    if !is_date(date) || b[2] != b':' || b[5] != b':' || h > b"23" || m > b"59" || sec > b"59" {
        return false;
    }
    let Some(mut rest) = time.get(8..) else { return false };
    // Any one character may stand before the fraction, as upstream's pattern does not escape its dot.
    let mut ahead = rest.chars();
    if ahead.next().is_some() {
        let fraction = ahead.as_str();
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if end > 0 && is_zone(&fraction[end..]) {
            rest = &fraction[end..];
        }
    }
    is_zone(rest)
}

fn is_zone(s: &str) -> bool {
    let b = s.as_bytes();
    s == "z"
        || (b.len() == 6
            && matches!(b[0], b'+' | b'-')
            && b[3] == b':'
            && [1, 2, 4, 5].iter().all(|i| b[*i].is_ascii_digit()))
}

/// Go's durations and Scala's (`22 ns`, `3 days`).
fn is_duration(s: &str) -> bool {
    if is_go_duration(s) {
        return true;
    }
    const UNITS: &[(&[&str], &str)] = &[
        (&["ns"], "nano"),
        (&["us", "µs"], "micro"),
        (&["ms"], "milli"),
        (&["s"], "sec"),
        (&["m"], "min"),
        (&["h", "hr"], "hour"),
        (&["d"], "day"),
        (&["w", "wk"], "week"),
    ];
    let known =
        |unit: &str| UNITS.iter().any(|(exact, stem)| exact.contains(&unit) || unit.starts_with(stem));
    let mut rest = s;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = rest[start..].trim_start_matches(|c: char| c.is_ascii_digit());
        let after = rest.trim_start();
        let end = after.find(|c: char| !(c.is_ascii_alphabetic() || c == 'µ')).unwrap_or(after.len());
        if known(&after[..end].to_lowercase()) {
            return true;
        }
    }
    false
}

/// Go: `time.ParseDuration`.
fn is_go_duration(s: &str) -> bool {
    let mut rest = s.strip_prefix(['+', '-']).unwrap_or(s);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if !digits.contains(|c: char| c.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        if !matches!(&after[..unit], "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = &after[unit..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        for (format, good, bad) in [
            ("uri", "https://a/b", "a b"),
            ("email", "a@b.com", "a.b.com"),
            ("hostname", "www.example.com", "-a.example.com"),
            ("ipv4", "192.168.000.001", "256.1.1.1"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:00:5e:00:53:01", "00:00:5e"),
            ("uuid", "7f1b1b2e-6a52-4a8e-9c5e-0f5c5d1f7a01", "7f1b1b2e"),
            ("uuid4", "7f1b1b2e-6a52-4a8e-9c5e-0f5c5d1f7a01", "7f1b1b2e-6a52-3a8e-9c5e-0f5c5d1f7a01"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4012888888881881", "4012888888881882"),
            ("ssn", "111-11-1111", "111-111-111"),
            ("hexcolor", "#FFFFFF", "#FFFF"),
            ("rgbcolor", "rgb(255, 0,1)", "rgb(256,0,0)"),
            ("byte", "ZWxpemFiZXRocG9zZXk=", "ZWxpem$"),
            ("date", "2014-12-15", "2014-13-15"),
            ("duration", "3 days", "3 moons"),
            ("duration", "1h30m", "h"),
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15 19:30:20"),
            ("datetime", "2014-12-15t19:30:20+01:00", "2014-12-15T24:30:20Z"),
            ("k8s-short-name", "a-b", "A"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
            assert!(is_supported("string", format));
        }
        assert!(
            !is_supported("string", "int32")
                && is_supported("integer", "int64")
                && !is_supported("object", "date")
        );
    }
}
