//! Field selectors: `metadata.name=a,status.phase!=Running` (upstream: `pkg/fields/selector.go`).

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

/// Conditions on fields, all of which must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Reads the text; values may escape `\`, `,` and `=` by a backslash.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let Some((field, equal, value)) = split_term(part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            terms.push(Term { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self { terms })
    }

    /// Selects the object of that name.
    pub fn name(name: &str) -> Self {
        Self { terms: vec![Term { field: "metadata.name".to_owned(), equal: true, value: name.to_owned() }] }
    }

    /// Whether every object is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms in their order: field, whether it must be the value or must not, value.
    pub fn terms(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        self.terms.iter().map(|t| (t.field.as_str(), t.equal, t.value.as_str()))
    }

    /// The fields named, in the order of the sorted terms; a field may come twice.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|t| t.field.as_str())
    }

    /// Matches field values that `get` looks up; a field that the object lacks reads as empty.
    pub fn matches<S: AsRef<str>>(&self, get: impl Fn(&str) -> S) -> bool {
        self.terms.iter().all(|t| (get(&t.field).as_ref() == t.value) == t.equal)
    }

    /// The one value that the field must have, if the selector says so.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}{}{}", t.field, if t.equal { "=" } else { "!=" }, escape(&t.value))?;
        }
        Ok(())
    }
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            // Upstream prints the character as its number.
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {}", c as u32));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

/// Splits at the first operator: field, whether equality is asked, value.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((&term[..i], false, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((&term[..i], true, value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let s = FieldSelector::parse("status.phase!=Running,metadata.name==a").unwrap();
        assert_eq!(s.to_string(), "metadata.name=a,status.phase!=Running");
        assert_eq!(s.requires_exact("metadata.name"), Some("a"));
        assert_eq!(s.keys().collect::<Vec<_>>(), ["metadata.name", "status.phase"]);
        let of = |phase: &'static str| s.matches(move |f| if f == "metadata.name" { "a" } else { phase });
        assert!(of("Pending") && of("") && !of("Running"));
        assert!(
            FieldSelector::parse("").unwrap().is_empty() && FieldSelector::parse(",,").unwrap().is_empty()
        );
    }

    /// Upstream: `selector_test.go#TestEscapes`, `#TestParseSelector`.
    #[test]
    fn escapes() {
        let s = FieldSelector::parse(r"a=x\,y\=z\\").unwrap();
        assert_eq!(s.requires_exact("a"), Some(r"x,y=z\"));
        assert_eq!(s.to_string(), r"a=x\,y\=z\\");
        for (bad, want) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            (r"a=\n", r"invalid field selector: invalid escape sequence: \n"),
            ("a=\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            assert_eq!(FieldSelector::parse(bad).unwrap_err(), want);
        }
    }
}
