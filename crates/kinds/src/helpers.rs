//! Checks of names, labels and numbers that every kind shares (upstream: apimachinery `pkg/util/validation`).
//!
//! A check returns the messages of what is wrong, none when all is well; texts equal upstream's.

use meta::field::{Error, ErrorList, Path};

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_LABEL_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const CONFIG_KEY: &str = "[-._a-zA-Z0-9]+";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";

/// Longest DNS label, in bytes.
pub const DNS_LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const DNS_SUBDOMAIN_MAX: usize = 253;

/// Upstream's wording of a failed pattern, with examples.
pub fn regex_error(text: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{pattern}')");
    }
    let list: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{pattern}')", list.join(" or "))
}

fn max_length(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_dns1123_label(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && lower_alnum(b[0])
        && lower_alnum(b[b.len() - 1])
        && b.iter().all(|c| lower_alnum(*c) || *c == b'-')
}

/// Replaces the trailing dash of a generateName by a letter, so that it is checked as a prefix (upstream:
/// `maskTrailingDash`).
fn unmask(name: &str, prefix: bool) -> String {
    // Upstream takes two bytes away for one letter, so the one before the dash is not looked at.
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => {
            let kept = rest.char_indices().next_back().map_or("", |(last, _)| &rest[..last]);
            format!("{kept}a")
        }
        _ => name.to_owned(),
    }
}

/// Errors of a DNS-1123 subdomain (upstream: `IsDNS1123Subdomain`); `prefix` allows the trailing dash of a generateName.
pub fn dns_subdomain_errors(name: &str, prefix: bool) -> Vec<String> {
    let name = unmask(name, prefix);
    let mut errors = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        errors.push(max_length(DNS_SUBDOMAIN_MAX));
    }
    if !name.split('.').all(is_dns1123_label) {
        errors.push(regex_error(DNS1123_SUBDOMAIN_TEXT, DNS1123_SUBDOMAIN, &["example.com"]));
    }
    errors
}

/// Errors of a DNS-1123 label (upstream: `IsDNS1123Label`).
pub fn dns_label_errors(name: &str, prefix: bool) -> Vec<String> {
    let name = unmask(name, prefix);
    let mut errors = Vec::new();
    if name.len() > DNS_LABEL_MAX {
        errors.push(max_length(DNS_LABEL_MAX));
    }
    if !is_dns1123_label(&name) {
        errors.push(if dns_subdomain_errors(&name, false).is_empty() {
            "must not contain dots".to_owned()
        } else {
            regex_error(DNS1123_LABEL_TEXT, DNS1123_LABEL, &["my-name", "123-abc"])
        });
    }
    errors
}

/// Errors of a DNS-1035 label (upstream: `IsDNS1035Label`), the name of a Service.
pub fn dns1035_label_errors(name: &str, prefix: bool) -> Vec<String> {
    let name = unmask(name, prefix);
    let mut errors = Vec::new();
    if name.len() > DNS_LABEL_MAX {
        errors.push(max_length(DNS_LABEL_MAX));
    }
    if !is_dns1123_label(&name) || name.as_bytes()[0].is_ascii_digit() {
        errors.push(regex_error(DNS1035_LABEL_TEXT, DNS1035_LABEL, &["my-name", "abc-123"]));
    }
    errors
}

/// Errors of a qualified name such as a label key (upstream: `IsQualifiedName`).
pub use meta::names::label_key_errors as qualified_name_errors;

/// Errors of the name of an environment variable: printable ASCII without `=` (upstream: `IsRelaxedEnvVarName`).
pub fn env_name_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if !name.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=') {
        let text = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        errors.push(text.to_owned());
    }
    errors
}

/// Errors of a subdomain whose labels may have underscores (upstream: `IsDNS1123SubdomainWithUnderscore`).
pub fn underscored_subdomain_errors(name: &str) -> Vec<String> {
    let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
    let pattern = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    let mut errors = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        errors.push(max_length(DNS_SUBDOMAIN_MAX));
    }
    let is_label = |l: &str| is_dns1123_label(&l.strip_prefix('_').unwrap_or(l).replace('_', "-"));
    if !name.split('.').all(is_label) {
        errors.push(regex_error(text, pattern, &["example.com"]));
    }
    errors
}

/// Errors of a label's value (upstream: `IsValidLabelValue`).
pub use meta::names::label_value_errors;

/// Errors of a ConfigMap or Secret key (upstream: `IsConfigMapKey`).
pub fn config_key_errors(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if key.len() > DNS_SUBDOMAIN_MAX {
        errors.push(max_length(DNS_SUBDOMAIN_MAX));
    }
    if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        errors.push(regex_error(CONFIG_KEY_TEXT, CONFIG_KEY, &["key.name", "KEY_NAME", "key-name"]));
    }
    if key == "." {
        errors.push("must not be '.'".to_owned());
    } else if key == ".." {
        errors.push("must not be '..'".to_owned());
    } else if key.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// Errors of a path segment (upstream: `ValidatePathSegmentName`), the name of a Role or binding.
pub fn path_segment_errors(name: &str, prefix: bool) -> Vec<String> {
    let mut errors = Vec::new();
    if !prefix && (name == "." || name == "..") {
        errors.push(format!("may not be '{name}'"));
    }
    for illegal in ["/", "%"] {
        if name.contains(illegal) {
            errors.push(format!("may not contain '{illegal}'"));
        }
    }
    errors
}

/// Longest name of a driver, in bytes.
pub const DRIVER_NAME_MAX: usize = 63;

/// Errors of the name of a CSI or device driver (upstream: `ValidateCSIDriverName`).
pub fn driver_name(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    if name.len() > DRIVER_NAME_MAX {
        errors.push(Error::too_long(at, DRIVER_NAME_MAX));
    }
    let messages = dns_subdomain_errors(&name.to_lowercase(), false);
    errors.extend(messages.into_iter().map(|m| Error::invalid(at, name, m)));
}

/// Errors of a DNS subdomain in any case (upstream: `IsDNS1123SubdomainCaseless`).
pub fn caseless_subdomain_errors(name: &str) -> Vec<String> {
    let text = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
    let mut errors = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        errors.push(format!("must be no more than {DNS_SUBDOMAIN_MAX} bytes"));
    }
    if !name.to_ascii_lowercase().split('.').all(is_dns1123_label) {
        errors.push(regex_error(text, DNS1123_SUBDOMAIN, &["Example.com"]));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-b", "a.b", "0", "a0.b-c.d"] {
            assert!(dns_subdomain_errors(good, false).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", ".a", "a_b", "a/b"] {
            assert!(!dns_subdomain_errors(bad, false).is_empty(), "{bad}");
        }
        for prefix in ["web-", "b-", "a.b-"] {
            assert!(dns_subdomain_errors(prefix, true).is_empty(), "{prefix}");
        }
        assert!(!dns_subdomain_errors("web-", false).is_empty());
        assert_eq!(dns_label_errors("a.b", false), ["must not contain dots"]);
        assert!(!dns1035_label_errors("1a", false).is_empty());
    }

    #[test]
    fn qualified_names_and_values() {
        for good in ["a", "A_b.c", "example.com/My-Name"] {
            assert!(qualified_name_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "Ex.com/a"] {
            assert!(!qualified_name_errors(bad).is_empty(), "{bad}");
        }
        assert!(label_value_errors("").is_empty());
        assert!(!label_value_errors("a b").is_empty());
        assert!(config_key_errors(".hidden").is_empty());
        assert_eq!(config_key_errors("..x"), ["must not start with '..'"]);
    }
}
