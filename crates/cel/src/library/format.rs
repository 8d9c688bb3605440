//! Named formats of texts (upstream: apiserver `pkg/cel/library/format.go`).

use super::url::Url;
use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;
use base64::Engine as _;
use regex::Regex;
use std::sync::{Arc, LazyLock};

/// A format, and how long a pattern for it is estimated to be.
#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    pub pattern_len: u64,
    check: fn(&str) -> Vec<String>,
}

/// The longest pattern of a format of names; estimates of `validate` are made with it.
pub const PATTERN_LEN_MAX: u64 = 128;

macro_rules! formats {
    ($($constant:ident, $function:literal, $name:literal, $len:literal, $check:expr;)+) => {
        $(static $constant: Format = Format { name: $name, pattern_len: $len, check: $check };)+

        fn named(name: &str) -> Option<&'static Format> {
            [$(($function, &$constant)),+].into_iter().find(|(f, _)| *f == name).map(|(_, format)| format)
        }

        pub const ROWS: &[Row] = &[
            $(Row {
                name: concat!("format.", $function),
                run: |_| Ok(Value::Format(&$constant)),
                overloads: &[(concat!("format.", $function), "() -> kubernetes.NamedFormat")],
            },)+
            Row {
                name: "format.named",
                run: by_name,
                overloads: &[("format-named", "(string) -> optional(kubernetes.NamedFormat)")],
            },
            Row {
                name: "validate",
                run: validate,
                overloads: &[("format-validate", "kubernetes.NamedFormat.(string) -> optional(list(string))")],
            },
        ];
    };
}

formats! {
    LABEL, "dns1123Label", "DNS1123Label", 30, |s| label(s, false);
    SUBDOMAIN, "dns1123Subdomain", "DNS1123Subdomain", 60, |s| subdomain(s, false);
    LABEL_1035, "dns1035Label", "DNS1035Label", 30, |s| label_1035(s, false);
    QUALIFIED, "qualifiedName", "QualifiedName", 60, qualified;
    LABEL_PREFIX, "dns1123LabelPrefix", "DNS1123LabelPrefix", 30, |s| label(s, true);
    SUBDOMAIN_PREFIX, "dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, |s| subdomain(s, true);
    LABEL_1035_PREFIX, "dns1035LabelPrefix", "DNS1035LabelPrefix", 30, |s| label_1035(s, true);
    LABEL_VALUE, "labelValue", "LabelValue", 40, label_value;
    URI, "uri", "URI", 1103, |s| Url::parse(s).err().into_iter().collect();
    UUID, "uuid", "uuid", 78, |s| unless(UUID_PATTERN.is_match(s), "does not match the UUID format");
    BYTE, "byte", "byte", 84, |s| {
        unless(base64::engine::general_purpose::STANDARD.decode(s).is_ok(), "invalid base64")
    };
    DATE, "date", "date", 114, |s| unless(s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok(), "invalid date");
    DATETIME, "datetime", "datetime", 114, |s| unless(super::time::timestamp(s).is_ok(), "invalid datetime");
}

static UUID_PATTERN: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?i-u)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"));

/// A pattern of this file. One that cannot be read matches nothing, which the tests would show.
fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).or_else(|_| Regex::new("[^\\s\\S]")).unwrap_or_else(|_| unreachable!("a constant"))
}

fn unless(holds: bool, why: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![why.to_owned()] }
}

fn by_name(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => Ok(Value::Optional(named(s).map(|f| Arc::new(Value::Format(f))))),
        _ => Err(Failure::NoOverload),
    }
}

fn validate(args: &[Value]) -> Outcome {
    let [Value::Format(format), Value::String(s)] = args else { return Err(Failure::NoOverload) };
    let errors: Vec<Value> = (format.check)(s).into_iter().map(|e| Value::String(e.into())).collect();
    Ok(Value::Optional((!errors.is_empty()).then(|| Arc::new(Value::list(errors)))))
}

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

fn is_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

/// A prefix may end in a dash: what follows is not known yet.
fn masked(s: &str, prefix: bool) -> String {
    if prefix && s.len() > 1 && s.ends_with('-') { format!("{}a", &s[..s.len() - 1]) } else { s.to_owned() }
}

fn too_long(s: &str, max: usize) -> Option<String> {
    (s.len() > max).then(|| format!("must be no more than {max} bytes"))
}

fn label(s: &str, prefix: bool) -> Vec<String> {
    let s = masked(s, prefix);
    let mut out: Vec<String> = too_long(&s, LABEL_MAX).into_iter().collect();
    if !is_label(&s) {
        out.push("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    out
}

fn subdomain(s: &str, prefix: bool) -> Vec<String> {
    let s = masked(s, prefix);
    let mut out: Vec<String> = too_long(&s, SUBDOMAIN_MAX).into_iter().collect();
    if !s.split('.').all(is_label) {
        out.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    out
}

fn label_1035(s: &str, prefix: bool) -> Vec<String> {
    let s = masked(s, prefix);
    let mut out: Vec<String> = too_long(&s, LABEL_MAX).into_iter().collect();
    if !(is_label(&s) && s.starts_with(|c: char| c.is_ascii_lowercase())) {
        out.push("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    out
}

fn is_name(s: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && ends(s.bytes().next())
        && ends(s.bytes().last())
}

const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn qualified(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(subdomain(prefix, false).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else {
        out.extend(too_long(name, LABEL_MAX).map(|e| format!("name part {e}")));
    }
    if !is_name(name) {
        out.push(format!("name part {NAME}"));
    }
    out
}

fn label_value(s: &str) -> Vec<String> {
    let mut out: Vec<String> = too_long(s, LABEL_MAX).into_iter().collect();
    if !(s.is_empty() || is_name(s)) {
        out.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned());
    }
    out
}
