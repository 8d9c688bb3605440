//! Paths into an object and the errors found there (upstream: apimachinery `pkg/util/validation/field`).
//!
//! Error texts equal upstream's, since clients show and tests compare them.

use serde_json::Value;
use std::fmt;

/// A path such as `spec.containers[0].name` or `metadata.labels[app]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// The empty path, of the object itself.
    pub fn root() -> Self {
        Self::default()
    }

    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field; the names are the `reason` of a Status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    /// [`Self::Invalid`], of a text with a type of its own name.
    NamedInvalid,
    /// [`Self::NotSupported`], of what has no named type.
    TextNotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    /// The machine-readable reason (`FieldValueInvalid` …).
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid | Self::NamedInvalid => "FieldValueInvalid",
            Self::NotSupported | Self::TextNotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::NamedInvalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported | Self::TextNotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One error at one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub kind: ErrorType,
    pub field: Path,
    /// The offending value as shown after the colon; `None` where upstream shows none.
    pub bad: Option<Value>,
    pub detail: String,
}

/// Errors in the order found.
pub type ErrorList = Vec<Error>;

impl Error {
    fn new(kind: ErrorType, field: &Path, bad: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: field.clone(), bad, detail: detail.into() }
    }

    pub fn required(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, field, None, detail)
    }

    pub fn invalid(field: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, field, Some(bad.into()), detail)
    }

    pub fn duplicate(field: &Path, bad: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, field, Some(bad.into()), "")
    }

    pub fn not_found(field: &Path, bad: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, field, Some(bad.into()), "")
    }

    /// A value outside an enumeration; `supported` is shown in the order given, quoted.
    pub fn not_supported(field: &Path, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(ErrorType::NotSupported, field, Some(bad.into()), detail)
    }

    /// [`Self::invalid`] where upstream's type has a name of its own.
    pub fn named_invalid(field: &Path, bad: &str, detail: impl Into<String>) -> Self {
        Self { kind: ErrorType::NamedInvalid, ..Self::invalid(field, bad, detail) }
    }

    /// [`Self::not_supported`] where upstream's type has no name of its own.
    pub fn text_not_supported(field: &Path, bad: &str, supported: &[&str]) -> Self {
        Self { kind: ErrorType::TextNotSupported, ..Self::not_supported(field, bad, supported) }
    }

    pub fn forbidden(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, field, None, detail)
    }

    /// More bytes than allowed; the value itself is not shown.
    pub fn too_long(field: &Path, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::new(ErrorType::TooLong, field, None, detail)
    }

    pub fn too_many(field: &Path, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} item{}", if max == 1 { "" } else { "s" });
        Self::new(ErrorType::TooMany, field, Some(actual.into()), detail)
    }

    pub fn internal(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Internal, field, None, detail)
    }

    /// The text after the field's name, which is also a Status cause's message.
    pub fn body(&self) -> String {
        let mut out = self.kind.text().to_owned();
        if let Some(bad) = &self.bad {
            match bad {
                // What stands beside the values of an enumeration is of a named type, which upstream prints as it
                // does structs, maps and lists.
                Value::String(s)
                    if !matches!(self.kind, ErrorType::NotSupported | ErrorType::NamedInvalid) =>
                {
                    out.push_str(&format!(": {}", quoted(s)));
                }
                other => out.push_str(&format!(": {}", crate::go::json(other))),
            }
        }
        if !self.detail.is_empty() {
            out.push_str(&format!(": {}", self.detail));
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A text as Go's `%q` shows it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_ascii() || is_printable(c) => out.push(c),
            c if u32::from(c) > 0xffff => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Rust and Go agree on what can be printed. Behind a letter, as an accent is meant to stand; alone Rust escapes it.
fn is_printable(c: char) -> bool {
    !String::from_iter(['a', c]).escape_debug().to_string().starts_with("a\\u")
}

/// Joins errors as upstream's `ToAggregate().Error()`: one alone, several in brackets, duplicates once.
pub fn aggregate(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for e in errors {
        let t = e.to_string();
        if !texts.contains(&t) {
            texts.push(t);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_texts_are_shown_as_json() {
        let at = Path::new("a");
        assert_eq!(Error::invalid(&at, "\u{7f}<", "no").body(), "Invalid value: \"\\x7f<\": no");
        let named = Error::not_supported(&at, "\u{7f}<", &["x"]).body();
        assert_eq!(named, "Unsupported value: \"\u{7f}\\u003c\": supported values: \"x\"");
    }

    #[test]
    fn texts_equal_upstreams() {
        let p = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(Error::required(&p, "").to_string(), "spec.containers[0].name: Required value");
        assert_eq!(
            Error::invalid(&p, "A", "must be lower case").to_string(),
            "spec.containers[0].name: Invalid value: \"A\": must be lower case"
        );
        assert_eq!(
            Error::not_supported(&Path::new("type"), "x", &["a", "b"]).to_string(),
            "type: Unsupported value: \"x\": supported values: \"a\", \"b\""
        );
        assert_eq!(Path::new("metadata").child("labels").key("a/b").to_string(), "metadata.labels[a/b]");
    }

    #[test]
    fn texts_are_quoted_as_in_go() {
        assert_eq!(quoted("a\"\\\n\u{7f}\0é\u{200b}"), "\"a\\\"\\\\\\n\\x7f\\x00é\\u200b\"");
        assert_eq!(quoted("e\u{301}\u{2028}\u{85}"), "\"e\u{301}\\u2028\\u0085\"");
        let e = Error::invalid(&Path::new("a"), "\u{7f}", "b");
        assert_eq!(e.to_string(), "a: Invalid value: \"\\x7f\": b");
    }

    #[test]
    fn several_errors_are_bracketed_once_each() {
        let e = Error::required(&Path::new("a"), "");
        assert_eq!(aggregate(&[e.clone(), e.clone()]), "a: Required value");
        let f = Error::required(&Path::new("b"), "");
        assert_eq!(aggregate(&[e, f]), "[a: Required value, b: Required value]");
    }
}
