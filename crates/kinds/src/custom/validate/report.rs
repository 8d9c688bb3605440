//! What a check of a value gives: failures with their codes, and how much matched, by which the best of several
//! alternatives is chosen.

use super::numbers::shown;
use meta::field::{Error, ErrorList, ErrorType, Path, quoted};
use serde_json::Value;

/// What kind of field error a failure becomes (upstream: `kubeOpenAPIResultToFieldErrors`).
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Code {
    #[default]
    Invalid,
    Type,
    Required,
    Enum,
    TooLong,
    TooMany,
    /// A failure of no field in particular.
    Other,
}

/// One failure.
#[derive(Clone, Default)]
pub(super) struct Failure {
    pub code: Code,
    pub path: String,
    pub value: Option<Value>,
    pub limit: i64,
    pub values: Vec<Value>,
    pub message: String,
}

impl Failure {
    /// `actual` is the type, or the text that has not the format.
    pub fn wrong_type(path: &str, wanted: &str, actual: &str) -> Self {
        Self {
            code: Code::Type,
            path: path.to_owned(),
            value: Some(actual.into()),
            message: format!("{path} in body must be of type {wanted}: {actual}", actual = quoted(actual)),
            ..Self::default()
        }
    }

    pub fn limit(code: Code, path: &str, value: Value, limit: i64, message: String) -> Self {
        Self { code, path: path.to_owned(), value: Some(value), limit, message, ..Self::default() }
    }

    pub fn other(message: String) -> Self {
        Self { code: Code::Other, message, ..Self::default() }
    }

    fn into_error(self, prefix: &Path) -> Error {
        let name = self.path.strip_prefix('.').unwrap_or(&self.path);
        let at =
            if name.is_empty() || self.code == Code::Other { prefix.clone() } else { prefix.child(name) };
        let value = self.value.map_or_else(|| "".into(), |v| shown(&v));
        match self.code {
            Code::Required => Error::required(&at, ""),
            Code::TooLong => Error::too_long(&at, usize::try_from(self.limit).unwrap_or(0)),
            Code::TooMany => {
                let actual = value.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
                Error::too_many(&at, actual, usize::try_from(self.limit).unwrap_or(0))
            }
            Code::Enum => {
                let texts: Vec<String> = self
                    .values
                    .iter()
                    .map(|v| v.as_str().map_or_else(|| shown(v).to_string(), str::to_owned))
                    .collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                Error::not_supported(&at, value, &texts)
            }
            Code::Type => {
                Error { kind: ErrorType::TypeInvalid, field: at, bad: Some(value), detail: self.message }
            }
            Code::Invalid => {
                Error::invalid(&at, if value.is_null() { "".into() } else { value }, self.message)
            }
            Code::Other => Error::invalid(&at, "", self.message),
        }
    }
}

/// The outcome of a check.
#[derive(Default)]
pub(super) struct Found {
    pub errors: Vec<Failure>,
    pub matches: usize,
}

impl From<Failure> for Found {
    fn from(f: Failure) -> Self {
        Self { errors: vec![f], matches: 0 }
    }
}

impl Found {
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// One text is told once.
    pub fn add(&mut self, f: Failure) {
        if !self.errors.iter().any(|e| e.message == f.message) {
            self.errors.push(f);
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        other.errors.into_iter().for_each(|f| self.add(f));
    }

    /// Takes over the alternative that matched most, the first of several.
    pub fn merge_best(&mut self, alternatives: Vec<Self>) {
        let most = alternatives.iter().map(|f| f.matches).max().unwrap_or(0);
        if let Some(best) = alternatives.into_iter().find(|f| f.matches == most) {
            self.merge(best);
        }
    }

    pub fn into_errors(self, prefix: &Path) -> ErrorList {
        self.errors.into_iter().map(|f| f.into_error(prefix)).collect()
    }
}

/// A list as Go's `%v` prints it.
pub(super) fn go_list(list: &[Value]) -> String {
    let texts: Vec<String> =
        list.iter().map(|v| v.as_str().map_or_else(|| shown(v).to_string(), str::to_owned)).collect();
    format!("[{}]", texts.join(" "))
}
