//! Text to trees and back: JSON and YAML, with budgets.
//!
//! Whatever the bytes are, parsing ends quickly, uses bounded memory and never overflows the stack: nesting
//! beyond [`MAX_DEPTH`], alias bombs and oversized documents are refused. Duplicate keys are not refused here:
//! the last one wins, as in Go, and each is reported, so that field validation can decide.

mod emit;
mod syntax;
mod tree;

use serde_json::Value;
use std::fmt;
use tree::{JsonTree, Traced, TracedYaml, Tree};

/// Deepest nesting of lists and maps. Upstream allows 10000; this is lower so that a stored tree can always be
/// read back, wrapped in a list and an audit event, by recursive code on a small stack (serde_json stops at 128).
pub const MAX_DEPTH: usize = 100;
/// Most documents in one YAML stream.
pub const MAX_DOCUMENTS: usize = 10_000;
/// Most nodes that aliases may add to a document.
const MAX_ALIASED_NODES: usize = 100_000;
/// Most duplicate keys that are reported.
const MAX_DUPLICATES: usize = 100;

/// Why text is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The syntax is wrong, in the words of Go's decoder for JSON.
    Syntax(String),
    /// Nested too deeply.
    Depth,
    /// More bytes than allowed.
    TooLarge { limit: usize },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(s) => f.write_str(s),
            Self::Depth => f.write_str("exceeded max depth"),
            Self::TooLarge { limit } => write!(f, "limit is {limit}"),
        }
    }
}

impl std::error::Error for ParseError {}

/// A tree and what is to be said about duplicate keys (`duplicate field "spec.replicas"`), in document order.
pub type Parsed = (Value, Vec<String>);

/// Parses one JSON document.
///
/// # Errors
/// Go's text: `invalid character 'x' looking for beginning of value`, `unexpected end of JSON input`.
pub fn parse_json(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let lossy;
    let bytes = match std::str::from_utf8(bytes) {
        Ok(_) => bytes,
        // Go replaces what is not UTF-8.
        Err(_) => {
            lossy = String::from_utf8_lossy(bytes).into_owned();
            lossy.as_bytes()
        }
    };
    let JsonTree(tree) = serde_json::from_slice(bytes).map_err(|e| json_error(bytes, &e))?;
    if !tree.duplicates {
        return Ok((tree.value, Vec::new()));
    }
    let traced: Traced = serde_json::from_slice(bytes).map_err(|e| json_error(bytes, &e))?;
    Ok((tree.value, traced.0))
}

/// The text of a failure of serde_json over these bytes, in Go's words where it is one of syntax.
pub(crate) fn json_error(bytes: &[u8], e: &serde_json::Error) -> ParseError {
    match syntax::first_error(bytes, MAX_DEPTH) {
        Some(syntax::Fault::Text(t)) => ParseError::Syntax(t),
        Some(syntax::Fault::Depth) => ParseError::Depth,
        None => ParseError::Syntax(e.to_string()),
    }
}

/// Parses the first document of YAML text (JSON is YAML too).
///
/// # Errors
/// [`ParseError::TooLarge`] above `max_bytes`, else the parser's words behind `yaml: `.
pub fn parse_yaml(bytes: &[u8], max_bytes: usize) -> Result<Parsed, ParseError> {
    let first = trees(bytes, max_bytes)?.into_iter().next();
    let Some(tree) = first else { return Ok((Value::Null, Vec::new())) };
    if !tree.duplicates {
        return Ok((tree.value, Vec::new()));
    }
    let traced = traces(bytes)?.into_iter().next().map(|t| t.0).unwrap_or_default();
    Ok((tree.value, traced))
}

/// Parses all documents of a YAML stream, or one JSON document; empty documents are left out.
///
/// # Errors
/// As [`parse_yaml`].
pub fn documents(bytes: &[u8], max_bytes: usize) -> Result<Vec<Parsed>, ParseError> {
    let trees = trees(bytes, max_bytes)?;
    let mut traced = if trees.iter().any(|t| t.duplicates) { traces(bytes)? } else { Vec::new() }.into_iter();
    let parsed = trees.into_iter().map(|t| (t.value, traced.next().map(|t| t.0).unwrap_or_default()));
    Ok(parsed.filter(|(v, _)| !v.is_null()).collect())
}

/// Makes whole numbers that were written with a fraction what they are to readers without types.
pub fn without_fractions(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => {
            let whole = n.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 1e15);
            if let Some(whole) = whole {
                *value = (whole as i64).into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_fractions),
        Value::Object(map) => map.values_mut().for_each(without_fractions),
        _ => {}
    }
}

/// YAML text of a tree, as upstream writes it; ends in a newline.
pub fn to_string(value: &Value) -> String {
    emit::to_string(value)
}

fn trees(bytes: &[u8], max_bytes: usize) -> Result<Vec<Tree>, ParseError> {
    if bytes.len() > max_bytes {
        return Err(ParseError::TooLarge { limit: max_bytes });
    }
    if std::str::from_utf8(bytes).is_ok_and(|text| text.chars().any(is_control)) {
        return Err(ParseError::Syntax("yaml: control characters are not allowed".to_owned()));
    }
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(tree) = serde_json::from_slice(bytes)
    {
        return Ok(vec![tree]);
    }
    serde_saphyr::from_slice_multiple_with_options(bytes, options(bytes.len()))
        .map_err(|e| yaml_error(bytes, &e))
}

/// What upstream's reader takes for no text, wherever it stands.
fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}') || matches!(c, '\u{fffe}' | '\u{ffff}')
}

fn traces(bytes: &[u8]) -> Result<Vec<TracedYaml>, ParseError> {
    serde_saphyr::from_slice_multiple_with_options(bytes, options(bytes.len()))
        .map_err(|e| yaml_error(bytes, &e))
}

fn yaml_error(bytes: &[u8], e: &serde_saphyr::Error) -> ParseError {
    let text = e.to_string();
    if text.contains("exceeded max depth") || text.contains("Depth") {
        return ParseError::Depth;
    }
    let text = text.lines().next().unwrap_or("cannot be read");
    if let Some((_, bracket)) = text.split_once("unclosed bracket '") {
        return ParseError::Syntax(unclosed(bytes, bracket.starts_with('{')));
    }
    // upstream's reader names the line first, and the first line not at all
    let placed =
        text.rsplit_once(" at line ").and_then(|(what, at)| Some((what, at.split_once(", column ")?.0)));
    ParseError::Syntax(match placed {
        Some((what, "1")) => format!("yaml: {what}"),
        Some((what, line)) => format!("yaml: line {line}: {what}"),
        None => format!("yaml: {text}"),
    })
}

/// A list or map between brackets that does not end, as upstream's reader tells it.
fn unclosed(bytes: &[u8], map: bool) -> String {
    let lines = bytes.iter().filter(|b| **b == b'\n').count() + usize::from(bytes.last() != Some(&b'\n'));
    let missing = match (bytes.trim_ascii_end().last(), map) {
        (Some(b'{' | b'[' | b':' | b','), _) => "node content",
        (_, true) => "',' or '}'",
        (_, false) => "',' or ']'",
    };
    format!("yaml: line {lines}: did not find expected {missing}")
}

/// The dialect of upstream's YAML 1.1 reader, and the budgets. Everything grows at most linearly with the
/// text, but for aliases, which have an own limit.
fn options(len: usize) -> serde_saphyr::Options {
    let nodes = len.saturating_add(MAX_ALIASED_NODES);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: nodes.saturating_mul(2),
            max_nodes: nodes,
            max_aliases: MAX_ALIASED_NODES,
            max_anchors: MAX_ALIASED_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH + 1,
            max_documents: MAX_DOCUMENTS,
            max_merge_keys: MAX_ALIASED_NODES,
            enforce_alias_anchor_ratio: false,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED_NODES },
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, Instant};

    const MIB: usize = 1 << 20;

    fn yaml(text: &str) -> Value {
        parse_yaml(text.as_bytes(), MIB).unwrap_or_else(|e| panic!("{text}: {e}")).0
    }

    #[test]
    fn json_duplicates_are_reported_with_their_paths() {
        let text = br#"{"a":{"b":[{"c":1,"c":2}]},"d":1,"d":{"e":1,"e":2}}"#;
        let (v, dups) = parse_json(text).unwrap();
        assert_eq!(v, json!({"a": {"b": [{"c": 2}]}, "d": {"e": 2}}));
        assert_eq!(
            dups,
            ["duplicate field \"a.b[0].c\"", "duplicate field \"d\"", "duplicate field \"d.e\""]
        );
        assert!(parse_json(b"{\"a\":1}").unwrap().1.is_empty());
    }

    #[test]
    fn json_errors_are_gos() {
        let cases = [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{x}", "invalid character 'x' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("-", "invalid character ' ' in numeric literal"),
            ("tr", "invalid character ' ' in literal true (expecting 'u')"),
            ("\"a", "unexpected end of JSON input"),
            ("\"\\", "invalid character ' ' in string escape code"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
        ];
        for (text, want) in cases {
            assert_eq!(parse_json(text.as_bytes()).unwrap_err().to_string(), want, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse_json(deep(MAX_DEPTH).as_bytes()).is_ok());
        for n in [MAX_DEPTH + 1, 127, 128, 9999, 1_000_000] {
            assert_eq!(parse_json(deep(n).as_bytes()), Err(ParseError::Depth), "{n}");
            assert!(parse_yaml(deep(n).as_bytes(), 4 * MIB).is_err(), "{n}");
        }
        let block: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(parse_yaml(block.as_bytes(), MIB).is_err());
    }

    #[test]
    fn yaml_duplicates_are_reported_with_their_lines() {
        let (v, dups) = parse_yaml(b"a:\n  b: 1\n  b: 2\nc: 1\nc: 3\n", MIB).unwrap();
        assert_eq!(v, json!({"a": {"b": 2}, "c": 3}));
        let want = "yaml: unmarshal errors:\n  line 3: key \"b\" already set in map\n  line 5: key \"c\" already set in map";
        assert_eq!(dups, [want]);
    }

    #[test]
    fn yaml_reads_as_upstreams_dialect() {
        assert_eq!(
            yaml("a: 0644\nb: yes\nc: 1.0\nd: 'yes'\ne: ~\n1: x\n"),
            json!({"a": 420, "b": true, "c": 1, "d": "yes", "e": null, "1": "x"})
        );
        assert_eq!(
            yaml("a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n"),
            json!({"a": {"b": 1}, "c": {"b": 1, "d": 2}})
        );
        assert_eq!(yaml("a: |\n  x\n  y\n"), json!({"a": "x\ny\n"}));
        assert_eq!(yaml("a: 2026-01-02T03:04:05Z"), json!({"a": "2026-01-02T03:04:05Z"}));
        assert_eq!(yaml("a: 18446744073709551615"), json!({"a": 18446744073709551615u64}));
        assert_eq!(yaml(""), Value::Null);
        assert_eq!(yaml("a: 1\n---\nb: 2\n"), json!({"a": 1}));
        assert!(parse_yaml(b"a: b: c", MIB).unwrap_err().to_string().starts_with("yaml: "));
        assert_eq!(parse_yaml(b"a: 1", 3), Err(ParseError::TooLarge { limit: 3 }));
        for (text, why) in [
            ("{", "yaml: line 1: did not find expected node content"),
            ("{\"a\": 1\n", "yaml: line 1: did not find expected ',' or '}'"),
            ("a:\n- [1", "yaml: line 2: did not find expected ',' or ']'"),
        ] {
            assert_eq!(parse_yaml(text.as_bytes(), MIB), Err(ParseError::Syntax(why.to_owned())), "{text}");
        }
    }

    #[test]
    fn yaml_duplicates_and_documents() {
        let docs = documents(b"---\na: 1\n---\n---\nb: {c: 1, c: 2}\n", MIB).unwrap();
        assert_eq!(
            docs,
            [
                (json!({"a": 1}), vec![]),
                (
                    json!({"b": {"c": 2}}),
                    vec!["yaml: unmarshal errors:\n  line 5: key \"c\" already set in map".to_owned()]
                )
            ]
        );
    }

    #[test]
    fn bombs_are_refused_quickly() {
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..30 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            laughs.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        let start = Instant::now();
        assert!(parse_yaml(laughs.as_bytes(), MIB).is_err());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn written_yaml_reads_back() {
        let v = json!({"a": "yes", "b": "0644", "c": ["x", {"d": null}], "e": "l1\nl2\n", "f": {}, "g": [], "h": "1.0", "i": ": #", "j": "x ".repeat(100), "k": 1.5});
        let text = to_string(&v);
        assert_eq!(yaml(&text), v, "{text}");
        assert!(text.contains("c:\n- x\n- d: null\n"), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(proptest::num::u8::ANY, 0..200), s in "[\\[\\]{}:,\"a0-9 \n&*-]{0,80}") {
            for x in [&b[..], s.as_bytes()] {
                let json = parse_json(x);
                let _ = documents(x, MIB);
                if let (Ok((v, _)), Ok(std)) = (&json, serde_json::from_slice::<Value>(x)) {
                    proptest::prop_assert_eq!(v, &std);
                }
            }
        }
    }
}
