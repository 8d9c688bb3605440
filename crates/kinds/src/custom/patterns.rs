//! Patterns as Go's RE2 reads them, on the `regex` crate.
//!
//! The two agree but for a few letters: classes such as `\d` are ASCII in Go, `[` and doubled operators inside a class
//! are plain there, and a brace that starts no repetition is itself. Matching is linear in both.

use regex::{Regex, RegexBuilder};
use std::iter::Peekable;
use std::str::Chars;

/// Largest compiled pattern, in bytes of memory.
const COMPILED_BYTES_MAX: usize = 8 << 20;

/// Compiles a Go pattern; the error is Go's text where the fault is a common one.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern);
    RegexBuilder::new(&translated)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|e| format!("error parsing regexp: {}", go_error(&e.to_string(), &translated, pattern)))
}

/// The fault in Go's words. The crate's text shows the pattern with a line of carets under the fault.
fn go_error(text: &str, translated: &str, pattern: &str) -> String {
    /// Columns that the crate puts before the pattern.
    const INDENT: usize = 4;
    let mut lines = text.lines().skip_while(|l| !l.trim_start().starts_with('^'));
    let carets = lines.next().unwrap_or("");
    let start = carets.find('^').unwrap_or(0).saturating_sub(INDENT);
    let len = carets.trim().len();
    let letters = |from: usize, len: usize| translated.chars().skip(from).take(len).collect::<String>();
    let fault = letters(start, len);
    let message = text.lines().last().unwrap_or("").trim_start_matches("error: ");
    for (crates, gos) in [
        (
            "repetition operator missing expression",
            format!("missing argument to repetition operator: `{fault}`"),
        ),
        ("unclosed group", format!("missing closing ): `{pattern}`")),
        ("unopened group", format!("unexpected ): `{pattern}`")),
        ("unclosed character class", format!("missing closing ]: `{}`", letters(start, usize::MAX))),
        ("invalid character class range", format!("invalid character class range: `{fault}`")),
        ("unrecognized escape sequence", format!("invalid escape sequence: `{fault}`")),
        ("backreferences are not supported", format!("invalid escape sequence: `{fault}`")),
        ("look-around", format!("invalid or unsupported Perl syntax: `{fault}`")),
        ("incomplete escape sequence", "trailing backslash at end of expression: ``".to_owned()),
    ] {
        if message.starts_with(crates) {
            return gos;
        }
    }
    format!("{message}: `{pattern}`")
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, false, &mut out),
            '[' => class(&mut chars, &mut out),
            '{' if !is_repetition(&chars) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    out
}

/// Whether what follows a brace makes it a repetition: `{n}`, `{n,}`, `{n,m}`.
fn is_repetition(rest: &Peekable<Chars>) -> bool {
    let text: String = rest.clone().take_while(|c| *c != '}').collect();
    let closed = rest.clone().any(|c| c == '}');
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    closed
        && match text.split_once(',') {
            Some((min, max)) => digits(min) && (max.is_empty() || digits(max)),
            None => digits(&text),
        }
}

fn escape(chars: &mut Peekable<Chars>, in_class: bool, out: &mut String) {
    let Some(c) = chars.next() else {
        out.push('\\');
        return;
    };
    let ascii = match c {
        'd' | 'D' => "0-9",
        'w' | 'W' => "0-9A-Za-z_",
        's' | 'S' => r"\t\n\x0C\r ",
        _ => "",
    };
    match c {
        'd' | 'w' | 's' if in_class => out.push_str(ascii),
        'd' | 'w' | 's' => out.push_str(&format!("[{ascii}]")),
        'D' | 'W' | 'S' => out.push_str(&format!("[^{ascii}]")),
        'b' | 'B' if !in_class => out.push_str(&format!("(?-u:\\{c})")),
        'Q' => quoted(chars, out),
        '<' | '>' => out.push(c),
        'p' | 'P' | 'x' => {
            out.push('\\');
            out.push(c);
            // The braces of a class name or a code point are no repetition.
            if chars.peek() == Some(&'{') {
                for c in chars.by_ref() {
                    out.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
        }
        _ => {
            out.push('\\');
            out.push(c);
        }
    }
}

/// Everything up to `\E` is itself.
fn quoted(chars: &mut Peekable<Chars>, out: &mut String) {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            break;
        }
        text.push(c);
    }
    out.push_str(&regex::escape(&text));
}

fn class(chars: &mut Peekable<Chars>, out: &mut String) {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            ']' if !first => {
                out.push(']');
                return;
            }
            ']' => out.push_str("\\]"),
            '\\' => escape(chars, true, out),
            '[' if chars.peek() == Some(&':') => out.push('['),
            ':' if chars.peek() == Some(&']')
                && out.rsplit('[').next().is_some_and(|t| t.starts_with(':')) =>
            {
                chars.next();
                out.push_str(":]");
            }
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '-' if chars.peek() == Some(&'-') => {
                chars.next();
                out.push_str("-\\-");
            }
            _ => out.push(c),
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_patterns_are_read_as_go_reads_them() {
        for (pattern, yes, no) in [
            (r"^\d+$", "12", "١٢"),
            (r"^[\w.]+$", "a.b", "é"),
            (r"^a{b}$", "a{b}", "ab"),
            (r"^a{2,3}$", "aa", "a"),
            (r"^[[&&~~]+$", "[&~", "a"),
            (r"^[[:alpha:]]+$", "ab", "1"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^[^\W_]+$", "ab", "a_"),
            (r"^[+--]$", ",", "a"),
            (r"(?i)^abc$", "ABC", "abd"),
            (r"^\p{L}$", "é", "1"),
        ] {
            let re = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert!(re.is_match(yes), "{pattern} {yes}");
            assert!(!re.is_match(no), "{pattern} {no}");
        }
        for (pattern, error) in [
            ("a(", "missing closing ): `a(`"),
            ("+", "missing argument to repetition operator: `+`"),
            ("a)", "unexpected ): `a)`"),
            ("[a", "missing closing ]: `[a`"),
            ("[b-a]", "invalid character class range: `b-a`"),
            (r"a\h", r"invalid escape sequence: `\h`"),
            ("a(?=b)", "invalid or unsupported Perl syntax: `(?=`"),
        ] {
            assert_eq!(compile(pattern).unwrap_err(), format!("error parsing regexp: {error}"));
        }
    }
}
