//! JSONPath as printer columns use it (upstream: client-go `util/jsonpath`), and the simple paths of schemas
//! (upstream: apiextensions `schema/cel#ValidFieldPath`).
//!
//! Left out of the first: unions, text between braces, and recursive descent.

use super::structural::Structural;
use serde_json::Value;
use std::cmp::Ordering;

/// Most steps of a path.
const STEPS_MAX: usize = 128;
/// Most values that a path gives.
const RESULTS_MAX: usize = 10_000;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    All,
    Filter(Vec<Step>, Option<(String, Value)>),
}

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let steps = steps(&mut rest, &[])?;
        if rest.is_empty() {
            Ok(Self(steps))
        } else {
            Err(format!("unrecognized character in action: {rest}"))
        }
    }

    /// The values at the path. `None` when an index is out of bounds or a step does not fit its value.
    pub fn find<'a>(&self, v: &'a Value) -> Option<Vec<&'a Value>> {
        find(&self.0, v)
    }
}

/// Reads steps up to the end or one of the stop letters.
fn steps(rest: &mut &str, stops: &[char]) -> Result<Vec<Step>, String> {
    let mut out = Vec::new();
    while let Some(c) = rest.chars().next() {
        if stops.contains(&c) {
            break;
        }
        if out.len() >= STEPS_MAX {
            return Err("path is too long".to_owned());
        }
        match c {
            '.' => {
                *rest = &rest[1..];
                if rest.starts_with('.') {
                    return Err("recursive descent is not supported".to_owned());
                }
                if rest.starts_with('[') || rest.is_empty() {
                    continue;
                }
                out.push(field(rest, stops));
            }
            '[' => out.push(bracket(rest)?),
            _ if out.is_empty() => out.push(field(rest, stops)),
            _ => return Err(format!("unrecognized character in action: {c:?}")),
        }
    }
    Ok(out)
}

fn field(rest: &mut &str, stops: &[char]) -> Step {
    let mut name = String::new();
    let mut chars = rest.char_indices();
    let mut end = rest.len();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' | ']' | ' ' | '(' | ')' | '{' | '}' | '"' | '\'' => {
                end = i;
                break;
            }
            c if stops.contains(&c) => {
                end = i;
                break;
            }
            _ => name.push(c),
        }
    }
    *rest = &rest[end..];
    if name == "*" { Step::All } else { Step::Field(name) }
}

fn bracket(rest: &mut &str) -> Result<Step, String> {
    let inside = &rest[1..];
    if let Some(filter) = inside.strip_prefix("?(") {
        *rest = filter;
        return self::filter(rest);
    }
    if let Some(quote) = inside.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let end = inside[1..].find(quote).ok_or("unterminated array")?;
        let name = inside[1..=end].to_owned();
        *rest = inside[end + 2..].strip_prefix(']').ok_or("unterminated array")?;
        return Ok(Step::Field(name));
    }
    let end = inside.find(']').ok_or("unterminated array")?;
    let text = &inside[..end];
    *rest = &inside[end + 1..];
    if text == "*" {
        return Ok(Step::All);
    }
    let number = |s: &str| -> Result<Option<i64>, String> {
        if s.is_empty() {
            return Ok(None);
        }
        s.parse().map(Some).map_err(|_| format!("array index {s} is not a number"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [one] => number(one)?.map(Step::Index).ok_or_else(|| format!("invalid array index {text}")),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
        [from, to, by] => match number(by)?.unwrap_or(1) {
            by if by > 0 => Ok(Step::Slice(number(from)?, number(to)?, by)),
            _ => Err("step must be > 0".to_owned()),
        },
        _ => Err(format!("invalid array index {text}")),
    }
}

/// `@.path op literal)]`, or the path alone, which asks for its being there.
fn filter(rest: &mut &str) -> Result<Step, String> {
    *rest = rest.trim_start();
    *rest = rest.strip_prefix('@').ok_or("filter must begin with @")?;
    let path = steps(rest, &[' ', '=', '!', '<', '>', ')'])?;
    *rest = rest.trim_start();
    let op = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|op| rest.starts_with(op));
    let test = match op {
        None => None,
        Some(op) => {
            *rest = rest[op.len()..].trim_start();
            Some((op.to_owned(), literal(rest)?))
        }
    };
    *rest = rest.trim_start().strip_prefix(")]").ok_or("unterminated filter")?;
    Ok(Step::Filter(path, test))
}

fn literal(rest: &mut &str) -> Result<Value, String> {
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let end = rest[1..].find(quote).ok_or("unterminated quoted string")?;
        let text = rest[1..=end].to_owned();
        *rest = &rest[end + 2..];
        return Ok(text.into());
    }
    let end = rest.find(')').ok_or("unterminated filter")?;
    let text = rest[..end].trim();
    *rest = &rest[end..];
    serde_json::from_str(text).map_err(|_| format!("unrecognized identifier {text}"))
}

fn find<'a>(steps: &[Step], v: &'a Value) -> Option<Vec<&'a Value>> {
    let mut current = vec![v];
    for step in steps {
        let mut next = Vec::new();
        for v in current {
            apply(step, v, &mut next)?;
            next.truncate(RESULTS_MAX);
        }
        current = next;
    }
    Some(current)
}

fn apply<'a>(step: &Step, v: &'a Value, out: &mut Vec<&'a Value>) -> Option<()> {
    match (step, v) {
        (Step::Field(name), Value::Object(map)) => out.extend(map.get(name)),
        (Step::Field(_), Value::Null) => {}
        (Step::All, Value::Array(list)) => out.extend(list),
        (Step::All, Value::Object(map)) => out.extend(map.values()),
        (Step::Index(i), Value::Array(list)) => {
            out.push(list.get(position(*i, list.len())?)?);
        }
        (Step::Slice(from, to, by), Value::Array(list)) => {
            let start = position(from.unwrap_or(0), list.len())?;
            let end = to.map_or(Some(list.len()), |to| position(to, list.len()))?.min(list.len());
            out.extend(list.get(start..end.max(start))?.iter().step_by(usize::try_from(*by).ok()?));
        }
        (Step::Filter(path, test), Value::Array(list)) => {
            out.extend(list.iter().filter(|e| passes(path, test.as_ref(), e)));
        }
        _ => return None,
    }
    Some(())
}

/// An index from the front; negative ones count from the end.
fn position(i: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).ok()?;
    usize::try_from(if i < 0 { len + i } else { i }).ok()
}

fn passes(path: &[Step], test: Option<&(String, Value)>, element: &Value) -> bool {
    let Some(found) = find(path, element) else { return false };
    let Some((op, want)) = test else { return !found.is_empty() };
    let [value] = found.as_slice() else { return false };
    let order = match (value, want) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (a, b) => (*a == b).then_some(Ordering::Equal),
    };
    match op.as_str() {
        "==" => order == Some(Ordering::Equal),
        "!=" => order != Some(Ordering::Equal),
        "<" => order == Some(Ordering::Less),
        ">" => order == Some(Ordering::Greater),
        "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

/// The schema that a simple path such as `.spec.a['b']` leads to, with the path as errors write it.
pub fn schema_at<'s>(
    path: &str,
    schema: &'s Structural,
    allow_brackets: bool,
) -> Result<(String, &'s Structural), String> {
    const NO_FIELD: &str = "does not refer to a valid field";
    const END: &str = "unexpected end of JSON path";
    let (mut at, mut out, mut rest) = (schema, String::new(), path);
    while let Some(c) = rest.chars().next() {
        let name = match c {
            '.' => {
                let (token, after) = token(&rest[1..]);
                if token.is_empty() {
                    return Err(END.to_owned());
                }
                rest = after;
                token.to_owned()
            }
            '[' if !allow_brackets => return Err("array notation is not allowed".to_owned()),
            '[' => {
                let (quoted, after) = token(&rest[1..]);
                if quoted.is_empty() {
                    return Err(END.to_owned());
                }
                let inner = quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\''));
                let Some(inner) = inner else {
                    return Err(format!("expected single quoted string but got {quoted}"));
                };
                rest = match after.strip_prefix(']') {
                    Some(after) => after,
                    None if after.is_empty() => return Err(END.to_owned()),
                    None => return Err(format!("expected ] but got {}", token(after).0)),
                };
                inner.replace("\\'", "'").replace("\\\\", "\\")
            }
            _ => return Err(format!("expected [ or . but got: {}", token(rest).0)),
        };
        if !at.properties.is_empty() {
            at = at.properties.get(&name).ok_or(NO_FIELD)?;
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&name);
        } else {
            at = at.additional.as_ref().and_then(|a| a.schema()).ok_or(NO_FIELD)?;
            out.push_str(&format!("[{name}]"));
        }
    }
    Ok((out, at))
}

/// The next token: a delimiter, a quoted text or what stands up to the next delimiter.
fn token(s: &str) -> (&str, &str) {
    if let Some(inner) = s.strip_prefix('\'') {
        let mut escaped = false;
        for (i, c) in inner.char_indices() {
            if c == '\'' && !escaped {
                return s.split_at(i + 2);
            }
            escaped = c == '\\';
        }
        return (s, "");
    }
    match s.find(['.', '[', ']']) {
        Some(0) => s.split_at(1),
        Some(i) => s.split_at(i),
        None => (s, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_values() {
        let v = json!({"a": {"b.c": 1, "l": [{"t": "x", "n": 1}, {"t": "y", "n": 2}]}});
        let get = |p: &str| JsonPath::parse(p).unwrap().find(&v).map(|f| json!(f));
        assert_eq!(get(r".a.b\.c"), Some(json!([1])));
        assert_eq!(get(".a['b.c']"), Some(json!([1])));
        assert_eq!(get(".a.l[1].t"), Some(json!(["y"])));
        assert_eq!(get(".a.l[-1].n"), Some(json!([2])));
        assert_eq!(get(".a.l[*].n"), Some(json!([1, 2])));
        assert_eq!(get(".a.l[?(@.t==\"y\")].n"), Some(json!([2])));
        assert_eq!(get(".a.l[?(@.n>1)].t"), Some(json!(["y"])));
        assert_eq!(get(".a.l[0:1].t"), Some(json!(["x"])));
        assert_eq!(get(".a.none.x"), Some(json!([])));
        assert_eq!(get(".a.l[7]"), None);
        assert!(JsonPath::parse(".a[").is_err() && JsonPath::parse(".a[?(x)]").is_err());
    }

    #[test]
    fn simple_paths_lead_to_schemas() {
        let s = Structural::parse(&json!({"properties": {"spec": {"properties": {
            "a": {"type": "string"}, "m": {"additionalProperties": {"type": "integer"}}}}}}))
        .unwrap();
        assert_eq!(schema_at(".spec.a", &s, false).unwrap().0, "spec.a");
        assert_eq!(schema_at(".spec['m'].k", &s, true).unwrap().1.ty, "integer");
        assert_eq!(schema_at(".spec['a']", &s, false).unwrap_err(), "array notation is not allowed");
        assert_eq!(schema_at(".spec.b", &s, true).unwrap_err(), "does not refer to a valid field");
        assert_eq!(schema_at("spec", &s, true).unwrap_err(), "expected [ or . but got: spec");
        assert_eq!(schema_at(".spec.", &s, true).unwrap_err(), "unexpected end of JSON path");
    }
}
