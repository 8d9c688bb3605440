//! What a label key and a label value may look like (upstream: apimachinery `pkg/api/validate/content`).

const KEY_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const KEY_EXAMPLES: &str = "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const VALUE_EXAMPLES: &str = "(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '";
const SUBDOMAIN_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// Longest name part of a key and longest value, in bytes.
const PART_MAX: usize = 63;
/// Longest prefix of a key, in bytes.
const PREFIX_MAX: usize = 253;

/// Messages of what is wrong with a label key, none when it is good.
pub fn label_key_errors(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let pattern_error = || format!("{KEY_TEXT} {KEY_EXAMPLES}{KEY_PATTERN}')");
    let mut parts = key.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain_errors(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {tail}", pattern_error())];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > PART_MAX {
        errors.push(format!("name part must be no more than {PART_MAX} bytes"));
    }
    if !is_part(name) {
        errors.push(format!("name part {}", pattern_error()));
    }
    errors
}

/// Messages of what is wrong with a label value, none when it is good.
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > PART_MAX {
        errors.push(format!("must be no more than {PART_MAX} bytes"));
    }
    if !value.is_empty() && !is_part(value) {
        errors.push(format!("{VALUE_TEXT} {VALUE_EXAMPLES}({KEY_PATTERN})?')"));
    }
    errors
}

fn is_part(s: &str) -> bool {
    let b = s.as_bytes();
    let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    alnum(b.first())
        && alnum(b.last())
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn subdomain_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > PREFIX_MAX {
        errors.push(format!("must be no more than {PREFIX_MAX} bytes"));
    }
    let lower = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |l: &str| {
        let b = l.as_bytes();
        b.first().is_some_and(lower)
            && b.last().is_some_and(lower)
            && b.iter().all(|c| lower(c) || *c == b'-')
    };
    if !s.split('.').all(label) {
        errors.push(format!(
            "{SUBDOMAIN_TEXT} (e.g. 'example.com', regex used for validation is '{SUBDOMAIN_PATTERN}')"
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        for good in ["a", "A_b.c", "example.com/My-Name", "0"] {
            assert!(label_key_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "Ex.com/a", "a b", &"x".repeat(64)] {
            assert!(!label_key_errors(bad).is_empty(), "{bad}");
        }
        assert!(label_value_errors("").is_empty() && label_value_errors("a.b_C-1").is_empty());
        assert!(!label_value_errors("a b").is_empty());
        assert_eq!(label_value_errors(&"x".repeat(64)), ["must be no more than 63 bytes"]);
    }
}
