//! Go's words for what is wrong with JSON text (upstream: Go `encoding/json/scanner.go`).
//!
//! Runs only after the real parser refused the text; it needs no recursion and no memory but one byte per level.

/// What Go puts behind the end, so that a value ends there.
const END: u8 = b' ';

/// The first fault of a text.
pub(super) enum Fault {
    Text(String),
    Depth,
}

#[derive(Clone, Copy, PartialEq)]
enum Open {
    Array,
    /// Before the colon.
    Key,
    /// After the colon.
    Value,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Value,
    /// A value, or the end of an empty list.
    ValueOrEnd,
    /// A key, or the end of an empty map.
    KeyOrEnd,
    Key,
    AfterValue,
}

/// Scans the text; `None` when Go finds no fault.
pub(super) fn first_error(bytes: &[u8], max_depth: usize) -> Option<Fault> {
    let mut stack: Vec<Open> = Vec::new();
    let mut state = State::Value;
    let mut i = 0;
    loop {
        while bytes.get(i).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            i += 1;
        }
        let Some(&c) = bytes.get(i) else {
            let done = state == State::AfterValue && stack.is_empty();
            return (!done).then(end);
        };
        match state {
            State::AfterValue => {
                let (next, context) = match (stack.last_mut(), c) {
                    (Some(top @ Open::Key), b':') => {
                        *top = Open::Value;
                        (Some(State::Value), "")
                    }
                    (Some(Open::Key), _) => (None, "after object key"),
                    (Some(top @ Open::Value), b',') => {
                        *top = Open::Key;
                        (Some(State::Key), "")
                    }
                    (Some(Open::Array), b',') => (Some(State::Value), ""),
                    (Some(Open::Value), b'}') | (Some(Open::Array), b']') => {
                        stack.pop();
                        (Some(State::AfterValue), "")
                    }
                    (Some(Open::Value), _) => (None, "after object key:value pair"),
                    (Some(Open::Array), _) => (None, "after array element"),
                    (None, _) => (None, "after top-level value"),
                };
                match next {
                    Some(s) => state = s,
                    None => return Some(bad(c, context)),
                }
                i += 1;
            }
            State::ValueOrEnd if c == b']' => {
                stack.pop();
                state = State::AfterValue;
                i += 1;
            }
            State::KeyOrEnd if c == b'}' => {
                stack.pop();
                state = State::AfterValue;
                i += 1;
            }
            State::Key | State::KeyOrEnd if c != b'"' => {
                return Some(bad(c, "looking for beginning of object key string"));
            }
            _ if c == b'[' || c == b'{' => {
                if stack.len() >= max_depth {
                    return Some(Fault::Depth);
                }
                stack.push(if c == b'[' { Open::Array } else { Open::Key });
                state = if c == b'[' { State::ValueOrEnd } else { State::KeyOrEnd };
                i += 1;
            }
            _ => match scalar(bytes, i) {
                Ok(next) => {
                    i = next;
                    state = State::AfterValue;
                }
                Err(fault) => return Some(fault),
            },
        }
    }
}

/// Scans a string, number or word; the index behind it.
fn scalar(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    match bytes[start] {
        b'"' => string(bytes, start + 1),
        b'-' | b'0'..=b'9' => number(bytes, start),
        b't' => word(bytes, start, "true"),
        b'f' => word(bytes, start, "false"),
        b'n' => word(bytes, start, "null"),
        c => Err(bad(c, "looking for beginning of value")),
    }
}

fn word(bytes: &[u8], start: usize, word: &str) -> Result<usize, Fault> {
    for (k, want) in word.bytes().enumerate() {
        let c = bytes.get(start + k).copied().unwrap_or(END);
        if c != want {
            return Err(bad(c, &format!("in literal {word} (expecting '{}')", char::from(want))));
        }
    }
    Ok(start + word.len())
}

fn string(bytes: &[u8], mut i: usize) -> Result<usize, Fault> {
    loop {
        let c = *bytes.get(i).ok_or_else(end)?;
        i += 1;
        match c {
            b'"' => return Ok(i),
            b'\\' => {
                let e = bytes.get(i).copied().unwrap_or(END);
                i += 1;
                match e {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let h = bytes.get(i).copied().unwrap_or(END);
                            if !h.is_ascii_hexdigit() {
                                return Err(bad(h, "in \\u hexadecimal character escape"));
                            }
                            i += 1;
                        }
                    }
                    _ => return Err(bad(e, "in string escape code")),
                }
            }
            0..0x20 => return Err(bad(c, "in string literal")),
            _ => {}
        }
    }
}

fn number(bytes: &[u8], mut i: usize) -> Result<usize, Fault> {
    let at = |i: usize| bytes.get(i).copied();
    let digits = |mut i: usize| {
        while at(i).is_some_and(|b| b.is_ascii_digit()) {
            i += 1;
        }
        i
    };
    let need = |i: usize, context: &str| match at(i) {
        Some(b) if b.is_ascii_digit() => Ok(()),
        other => Err(bad(other.unwrap_or(END), context)),
    };
    if at(i) == Some(b'-') {
        i += 1;
    }
    need(i, "in numeric literal")?;
    i = if at(i) == Some(b'0') { i + 1 } else { digits(i) };
    if at(i) == Some(b'.') {
        need(i + 1, "after decimal point in numeric literal")?;
        i = digits(i + 1);
    }
    if matches!(at(i), Some(b'e' | b'E')) {
        i += 1;
        if matches!(at(i), Some(b'+' | b'-')) {
            i += 1;
        }
        need(i, "in exponent of numeric literal")?;
        i = digits(i);
    }
    Ok(i)
}

fn end() -> Fault {
    Fault::Text("unexpected end of JSON input".to_owned())
}

fn bad(c: u8, context: &str) -> Fault {
    let shown = match c {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\r' => "\\r".to_owned(),
        7 => "\\a".to_owned(),
        8 => "\\b".to_owned(),
        11 => "\\v".to_owned(),
        12 => "\\f".to_owned(),
        0..0x20 | 0x7f => format!("\\x{c:02x}"),
        0x80..0xa0 => format!("\\u00{c:02x}"),
        _ => char::from(c).to_string(),
    };
    Fault::Text(format!("invalid character '{shown}' {context}"))
}
