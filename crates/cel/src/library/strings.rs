//! Texts (cel-go: `common/stdlib/standard.go`, `ext/strings.go` version 2). Places in a text count characters.

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;

/// The longest text that `replace` makes, in bytes.
const RESULT_MAX: usize = 16 << 20;

pub const ROWS: &[Row] = &[
    Row {
        name: "contains",
        run: |a| test(a, |s, t| s.contains(t)),
        overloads: &[("contains_string", "string.(string) -> bool")],
    },
    Row {
        name: "endsWith",
        run: |a| test(a, |s, t| s.ends_with(t)),
        overloads: &[("ends_with_string", "string.(string) -> bool")],
    },
    Row {
        name: "startsWith",
        run: |a| test(a, |s, t| s.starts_with(t)),
        overloads: &[("starts_with_string", "string.(string) -> bool")],
    },
    Row { name: "charAt", run: char_at, overloads: &[("string_char_at_int", "string.(int) -> string")] },
    Row {
        name: "indexOf",
        run: index_of,
        overloads: &[
            ("string_index_of_string", "string.(string) -> int"),
            ("string_index_of_string_int", "string.(string, int) -> int"),
        ],
    },
    Row {
        name: "lastIndexOf",
        run: last_index_of,
        overloads: &[
            ("string_last_index_of_string", "string.(string) -> int"),
            ("string_last_index_of_string_int", "string.(string, int) -> int"),
        ],
    },
    Row {
        name: "lowerAscii",
        run: |a| made(a, |s| s.to_ascii_lowercase()),
        overloads: &[("string_lower_ascii", "string.() -> string")],
    },
    Row {
        name: "upperAscii",
        run: |a| made(a, |s| s.to_ascii_uppercase()),
        overloads: &[("string_upper_ascii", "string.() -> string")],
    },
    Row {
        name: "trim",
        run: |a| made(a, |s| s.trim().to_owned()),
        overloads: &[("string_trim", "string.() -> string")],
    },
    Row {
        name: "replace",
        run: replace,
        overloads: &[
            ("string_replace_string_string", "string.(string, string) -> string"),
            ("string_replace_string_string_int", "string.(string, string, int) -> string"),
        ],
    },
    Row {
        name: "split",
        run: split,
        overloads: &[
            ("string_split_string", "string.(string) -> list(string)"),
            ("string_split_string_int", "string.(string, int) -> list(string)"),
        ],
    },
    Row {
        name: "substring",
        run: substring,
        overloads: &[
            ("string_substring_int", "string.(int) -> string"),
            ("string_substring_int_int", "string.(int, int) -> string"),
        ],
    },
    Row {
        name: "join",
        run: join,
        overloads: &[
            ("list_join", "list(string).() -> string"),
            ("list_join_string", "list(string).(string) -> string"),
        ],
    },
    Row {
        name: "strings.quote",
        run: |a| made(a, quote),
        overloads: &[("strings_quote", "(string) -> string")],
    },
    Row {
        name: "jsonpatch.escapeKey",
        run: |a| made(a, |s| s.replace('~', "~0").replace('/', "~1")),
        overloads: &[("string_jsonpatch_escapeKey_string", "(string) -> string")],
    },
];

fn test(args: &[Value], holds: fn(&str, &str) -> bool) -> Outcome {
    match args {
        [Value::String(s), Value::String(t)] => Ok(Value::Bool(holds(s, t))),
        _ => Err(Failure::NoOverload),
    }
}

fn made(args: &[Value], make: fn(&str) -> String) -> Outcome {
    match args {
        [Value::String(s)] => Ok(Value::String(make(s).into())),
        _ => Err(Failure::NoOverload),
    }
}

fn out_of_range(at: i64) -> Failure {
    format!("index out of range: {at}").into()
}

/// The place `at` in a text of so many characters, the end included.
fn within(at: i64, chars: usize) -> Result<usize, Failure> {
    usize::try_from(at).ok().filter(|i| *i <= chars).ok_or_else(|| out_of_range(at))
}

fn char_at(args: &[Value]) -> Outcome {
    let [Value::String(s), Value::Int(at)] = args else { return Err(Failure::NoOverload) };
    let at = within(*at, s.chars().count())?;
    Ok(Value::String(s.chars().skip(at).take(1).collect::<String>().into()))
}

fn number(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn index_of(args: &[Value]) -> Outcome {
    let (s, t, from) = match args {
        [Value::String(s), Value::String(t)] => (s, t, 0),
        [Value::String(s), Value::String(t), Value::Int(from)] => (s, t, *from),
        _ => return Err(Failure::NoOverload),
    };
    let from = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let chars: Vec<char> = s.chars().collect();
    let wanted: Vec<char> = t.chars().collect();
    if wanted.is_empty() {
        return Ok(number(from.min(chars.len())));
    }
    let found = chars.windows(wanted.len()).enumerate().skip(from).find(|(_, w)| *w == wanted);
    Ok(found.map_or(Value::Int(-1), |(i, _)| number(i)))
}

fn last_index_of(args: &[Value]) -> Outcome {
    let (s, t, from) = match args {
        [Value::String(s), Value::String(t)] => (s, t, None),
        [Value::String(s), Value::String(t), Value::Int(from)] => (s, t, Some(*from)),
        _ => return Err(Failure::NoOverload),
    };
    let chars: Vec<char> = s.chars().collect();
    let wanted: Vec<char> = t.chars().collect();
    let from = match from {
        None => chars.len(),
        Some(from) => usize::try_from(from).map_err(|_| out_of_range(from))?,
    };
    if wanted.is_empty() {
        return Ok(number(from.min(chars.len())));
    }
    if args.len() == 3 && from >= chars.len() {
        return Ok(Value::Int(-1));
    }
    let found =
        chars.windows(wanted.len()).enumerate().take(from.saturating_add(1)).rfind(|(_, w)| *w == wanted);
    Ok(found.map_or(Value::Int(-1), |(i, _)| number(i)))
}

fn replace(args: &[Value]) -> Outcome {
    let (s, old, new, count) = match args {
        [Value::String(s), Value::String(old), Value::String(new)] => (s, old, new, -1),
        [Value::String(s), Value::String(old), Value::String(new), Value::Int(count)] => {
            (s, old, new, *count)
        }
        _ => return Err(Failure::NoOverload),
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if s.matches(&**old).take(count).count().saturating_mul(new.len()).saturating_add(s.len()) > RESULT_MAX {
        return Err(format!("the result is longer than {RESULT_MAX} bytes").into());
    }
    Ok(Value::String(s.replacen(&**old, new, count).into()))
}

/// The parts of a text as Go splits it: by characters when the separator is empty.
fn parts(s: &str, separator: &str, limit: i64) -> Vec<Value> {
    let text = |s: &str| Value::String(s.into());
    let limit = match limit {
        0 => return Vec::new(),
        n => usize::try_from(n).unwrap_or(usize::MAX),
    };
    if !separator.is_empty() {
        return s.splitn(limit, separator).map(text).collect();
    }
    let mut out: Vec<Value> = Vec::new();
    for (i, (at, c)) in s.char_indices().enumerate() {
        if i + 1 == limit {
            out.push(text(&s[at..]));
            break;
        }
        out.push(text(&s[at..at + c.len_utf8()]));
    }
    out
}

fn split(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s), Value::String(by)] => Ok(Value::list(parts(s, by, -1))),
        [Value::String(s), Value::String(by), Value::Int(n)] => Ok(Value::list(parts(s, by, *n))),
        _ => Err(Failure::NoOverload),
    }
}

fn substring(args: &[Value]) -> Outcome {
    let (s, from, to) = match args {
        [Value::String(s), Value::Int(from)] => (s, *from, None),
        [Value::String(s), Value::Int(from), Value::Int(to)] => (s, *from, Some(*to)),
        _ => return Err(Failure::NoOverload),
    };
    let chars = s.chars().count();
    if let Some(to) = to.filter(|to| from > *to) {
        return Err(format!("invalid substring range. start: {from}, end: {to}").into());
    }
    let start = within(from, chars)?;
    let end = to.map_or(Ok(chars), |to| within(to, chars))?;
    Ok(Value::String(s.chars().skip(start).take(end - start).collect::<String>().into()))
}

fn join(args: &[Value]) -> Outcome {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(Failure::NoOverload),
    };
    let mut out = String::new();
    for (i, v) in list.iter().enumerate() {
        let Value::String(s) = v else { return Err(format!("join: invalid input: {v}").into()) };
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(s);
    }
    Ok(Value::String(out.into()))
}

/// The text as a literal.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
