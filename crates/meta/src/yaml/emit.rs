//! YAML text of a tree, as upstream's library writes it: the same order of keys, quotes and folds
//! (upstream: go-yaml v2 `encode.go`, `emitterc.go`, `sorter.go`).

use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Columns that a level is indented by.
const INDENT: usize = 2;
/// The column behind which texts are folded at their next space.
const WIDTH: usize = 80;
/// Bytes of a key that can stand before its colon on one line.
const SIMPLE_KEY_MAX: usize = 128;

/// The text; it ends in a newline.
pub(super) fn to_string(value: &Value) -> String {
    let mut emitter = Emitter { out: String::new(), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => emitter.map(map, 0, false),
        Value::Array(list) if !list.is_empty() => emitter.list(list, 0, false),
        other => emitter.leaf(other, INDENT),
    }
    if !emitter.out.ends_with('\n') {
        emitter.out.push('\n');
    }
    emitter.out
}

struct Emitter {
    out: String,
    column: usize,
}

impl Emitter {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn line(&mut self, indent: usize) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    /// `here`: the first entry stands behind a dash.
    fn map(&mut self, map: &Map<String, Value>, indent: usize, here: bool) {
        let mut members: Vec<(&String, &Value)> = map.iter().collect();
        members.sort_by(|a, b| natural(a.0, b.0));
        for (i, (key, value)) in members.into_iter().enumerate() {
            if i > 0 || !here {
                self.line(indent);
            }
            if key.contains('\n') || key.len() > SIMPLE_KEY_MAX {
                self.put("? ");
                self.text(key, indent + INDENT, false);
                self.line(indent);
                self.put(":");
            } else {
                self.text(key, indent, true);
                self.put(":");
            }
            match value {
                Value::Object(map) if !map.is_empty() => self.map(map, indent + INDENT, false),
                Value::Array(list) if !list.is_empty() => self.list(list, indent, false),
                other => {
                    self.put(" ");
                    self.leaf(other, indent + INDENT);
                }
            }
        }
    }

    fn list(&mut self, list: &[Value], indent: usize, here: bool) {
        for (i, value) in list.iter().enumerate() {
            if i > 0 || !here {
                self.line(indent);
            }
            self.put("- ");
            match value {
                Value::Object(map) if !map.is_empty() => self.map(map, indent + INDENT, true),
                Value::Array(list) if !list.is_empty() => self.list(list, indent + INDENT, true),
                other => self.leaf(other, indent + INDENT),
            }
        }
    }

    fn leaf(&mut self, value: &Value, indent: usize) {
        match value {
            Value::String(text) => self.text(text, indent, false),
            other => self.put(&other.to_string()),
        }
    }

    fn text(&mut self, text: &str, indent: usize, is_key: bool) {
        let allowed = Allowed::of(text);
        if text.contains('\n') {
            match allowed.block && !is_key {
                true => self.literal(text, indent),
                false => self.double(text, indent, !is_key),
            }
        } else if !is_text(text) {
            self.double(text, indent, !is_key);
        } else if allowed.plain && !text.is_empty() {
            self.folded(text, indent, !is_key, false);
        } else if allowed.single {
            self.put("'");
            self.folded(text, indent, !is_key, true);
            self.put("'");
        } else {
            self.double(text, indent, !is_key);
        }
    }

    /// A text without breaks; those that are too long go on in the next line.
    fn folded(&mut self, text: &str, indent: usize, folds: bool, quoted: bool) {
        let chars: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (i, c) in chars.iter().enumerate() {
            let inner = !quoted || i > 0 && i + 1 < chars.len();
            let alone = chars.get(i + 1) != Some(&' ');
            if *c == ' ' && folds && !after_space && self.column > WIDTH && inner && alone {
                self.line(indent);
            } else {
                self.out.push(*c);
                if quoted && *c == '\'' {
                    self.out.push(*c);
                }
                self.column += 1;
            }
            after_space = *c == ' ';
        }
    }

    fn double(&mut self, text: &str, indent: usize, folds: bool) {
        self.put("\"");
        let chars: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (i, c) in chars.iter().enumerate() {
            let inner = i > 0 && i + 1 < chars.len();
            if *c == ' ' && folds && !after_space && self.column > WIDTH && inner {
                self.line(indent);
                if chars.get(i + 1) == Some(&' ') {
                    self.put("\\");
                }
            } else {
                self.put(&escaped(*c));
            }
            after_space = *c == ' ';
        }
        self.put("\"");
    }

    fn literal(&mut self, text: &str, indent: usize) {
        let lead = if text.starts_with([' ', '\n']) { INDENT.to_string() } else { String::new() };
        let chomp = match text.strip_suffix('\n') {
            None => "-",
            Some(rest) if rest.is_empty() || rest.ends_with('\n') => "+",
            Some(_) => "",
        };
        self.put(&format!("|{lead}{chomp}"));
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.out.push('\n');
            if !line.is_empty() {
                self.out.extend(std::iter::repeat_n(' ', indent));
                self.out.push_str(line);
            }
        }
        self.out.push('\n');
        self.column = 0;
    }
}

/// In which styles a text can stand in a block.
struct Allowed {
    plain: bool,
    single: bool,
    block: bool,
}

impl Allowed {
    /// Upstream: `yaml_emitter_analyze_scalar`.
    fn of(text: &str) -> Self {
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut break_space, mut space_break) = (false, false, false);
        let mut before = ' ';
        let mut chars = text.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            let ends_word = chars.peek().is_none_or(|next| is_blank(*next));
            indicators |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                | '`'
                    if first =>
                {
                    true
                }
                '?' | ':' | '-' if first => ends_word,
                ':' => ends_word,
                '#' => is_blank(before),
                _ => false,
            };
            special |= !is_printable(c) || matches!(c, '\u{2028}' | '\u{2029}');
            break_space |= c == ' ' && before == '\n' && !first;
            space_break |= c == '\n' && before == ' ' && !first;
            before = c;
            first = false;
        }
        let around = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        Self {
            plain: !(around || special || break_space || space_break || indicators || text.contains('\n')),
            single: !(special || break_space || space_break),
            block: !(text.ends_with(' ') || special || space_break),
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// What upstream's library takes for printable, which is nothing beyond the first plane.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

fn escaped(c: char) -> String {
    let short = match c {
        '\0' => "0",
        '\u{7}' => "a",
        '\u{8}' => "b",
        '\t' => "t",
        '\n' => "n",
        '\u{b}' => "v",
        '\u{c}' => "f",
        '\r' => "r",
        '\u{1b}' => "e",
        '"' => "\"",
        '\\' => "\\",
        '\u{85}' => "N",
        '\u{2028}' => "L",
        '\u{2029}' => "P",
        c if is_printable(c) => return c.to_string(),
        c => {
            let n = u32::from(c);
            return match n {
                0..=0xff => format!("\\x{n:02X}"),
                0x100..=0xffff => format!("\\u{n:04X}"),
                _ => format!("\\U{n:08X}"),
            };
        }
    };
    format!("\\{short}")
}

/// Whether the text reads as a text without quotes (upstream: `resolve`, `isBase60Float`).
fn is_text(text: &str) -> bool {
    let word = matches!(
        text,
        "" | "~"
            | "null"
            | "Null"
            | "NULL"
            | "<<"
            | "y"
            | "Y"
            | "yes"
            | "Yes"
            | "YES"
            | "true"
            | "True"
            | "TRUE"
            | "on"
            | "On"
            | "ON"
            | "n"
            | "N"
            | "no"
            | "No"
            | "NO"
            | "false"
            | "False"
            | "FALSE"
            | "off"
            | "Off"
            | "OFF"
    );
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    !word && !(is_number && (reads_as_number(text) || reads_as_time(text)))
}

fn reads_as_number(text: &str) -> bool {
    let digits = text.replace('_', "");
    let unsigned = digits.trim_start_matches(['+', '-']);
    if digits.len() - unsigned.len() > 1 || unsigned.is_empty() {
        return false;
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(digits.as_str(), ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let of = |prefix: &str, radix: u32| {
        unsigned.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
    };
    if of("0x", 16) || of("0X", 16) || of("0b", 2) || of("0o", 8) || of("0", 8) || of("", 10) {
        return true;
    }
    // minutes and seconds, as old readers have it
    if unsigned.contains(':') {
        let mut parts = unsigned.split(':');
        let whole = |p: &str| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit());
        return parts.next().is_some_and(|p| whole(p) && p.starts_with(|c: char| c.is_ascii_digit()))
            && parts
                .all(|p| whole(p.trim_end_matches('.')) || p.split('.').all(|q| q.is_empty() || whole(q)));
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let all = |d: &str| d.chars().all(|c| c.is_ascii_digit());
    let has = !whole.is_empty() || fraction.is_some_and(|f| !f.is_empty());
    has && all(whole) && fraction.is_none_or(all) && exponent.is_none_or(|e| !e.is_empty() && all(e))
}

/// Upstream: `parseTimestamp`; a date, with a time behind it.
fn reads_as_time(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let numbers = |t: &str, sep: char, n: usize| {
        let parts: Vec<&str> = t.split(sep).collect();
        parts.len() == n && parts.iter().all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
    };
    let is_date = numbers(date, '-', 3) && date.find('-') == Some(4);
    let clock = |t: &str| {
        let end = t.find(['Z', '+', '-', ' ']).unwrap_or(t.len());
        numbers(t[..end].split('.').next().unwrap_or(""), ':', 3)
    };
    is_date && time.is_none_or(clock)
}

/// The order of keys: numbers in them by size (upstream: `keyList.Less`).
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for i in 0..a.len().min(b.len()) {
        if a[i] == b[i] {
            continue;
        }
        match (a[i].is_alphabetic(), b[i].is_alphabetic()) {
            (true, true) => return a[i].cmp(&b[i]),
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {}
        }
        // a zero behind other digits is part of their number
        let behind =
            |from: usize| a[..from].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
        let start = u64::from((a[i] == '0' || b[i] == '0') && behind(i));
        let number = |chars: &[char]| {
            let digits = chars[i..].iter().map_while(|c| c.to_digit(10));
            digits
                .fold((start, 0), |(n, count), d| (n.wrapping_mul(10).wrapping_add(u64::from(d)), count + 1))
        };
        return number(&a).cmp(&number(&b)).then(a[i].cmp(&b[i]));
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_quoted_where_they_must() {
        for (text, written) in [
            ("f:metadata", "f:metadata"),
            (".", "."),
            ("a b", "a b"),
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("a:", "'a:'"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("*", "'*'"),
            ("it's", "it's"),
            ("'x", "'''x'"),
            ("", "\"\""),
            ("yes", "\"yes\""),
            ("1", "\"1\""),
            ("1e3", "\"1e3\""),
            ("0x1f", "\"0x1f\""),
            ("1.2.3", "1.2.3"),
            ("10:20", "\"10:20\""),
            ("10.0.0.1", "10.0.0.1"),
            ("2026-01-01T00:00:00Z", "\"2026-01-01T00:00:00Z\""),
            ("2026-01-01", "\"2026-01-01\""),
            (" x", "' x'"),
            ("\t", "\"\\t\""),
            ("\u{1f600}", "\"\\U0001F600\""),
            ("ü", "ü"),
            ("a\nb", "|-\n  a\n  b"),
            ("a\n", "|\n  a"),
            ("a\n\n", "|+\n  a\n"),
            ("a \nb", "\"a \\nb\""),
        ] {
            assert_eq!(to_string(&json!(text)), format!("{written}\n"), "{text:?}");
        }
    }

    #[test]
    fn trees_are_indented() {
        let tree = json!({"b": [{"c": 1, "d": [[], {}]}, [1, 2]], "a10": null, "a2": {"x": {"z": true}}});
        let text = "a2:\n  x:\n    z: true\na10: null\nb:\n- c: 1\n  d:\n  - []\n  - {}\n- - 1\n  - 2\n";
        assert_eq!(to_string(&tree), text);
    }

    #[test]
    fn long_texts_are_folded() {
        let text = format!("{} b c", "a".repeat(90));
        assert_eq!(to_string(&json!({"k": text})), format!("k: {}\n  b c\n", "a".repeat(90)));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in
            ["a\n b\n", "\n x", "x:\ny", "#", "\"", "\\", "a\u{85}b", "? x", "|", "!x", "null", "-", "+1_0"]
        {
            let tree = json!({"k": [text], text: text});
            let back = crate::yaml::parse_yaml(to_string(&tree).as_bytes(), 1 << 20);
            assert_eq!(back.map(|b| b.0), Ok(tree), "{text:?}");
        }
    }
}
