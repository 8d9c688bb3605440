//! The sizes that are over the limit today, in `xtask/ratchet.txt`: an entry may shrink or go, never grow.
//!
//! A line is `LINES PATH` for a file or `LINES PATH FUNCTION` for a function; `#` starts a comment.

use super::shape::Size;
use super::{Finding, read};
use std::collections::BTreeMap;
use std::path::Path;

const LIST: &str = "xtask/ratchet.txt";

/// Path and function.
type Key = (String, Option<String>);

pub fn check(root: &Path, sizes: &[Size]) -> Result<Vec<Finding>, String> {
    let allowed = parse(&read(&root.join(LIST))?)?;
    Ok(compare(&allowed, sizes))
}

fn parse(content: &str) -> Result<BTreeMap<Key, usize>, String> {
    let mut allowed = BTreeMap::new();
    for (i, line) in content.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let bad = || format!("{LIST}:{}: expected `LINES PATH [FUNCTION]`, found {line:?}", i + 1);
        let words: Vec<&str> = line.split_whitespace().collect();
        let (lines, path, function) = match words[..] {
            [lines, path] => (lines, path, None),
            [lines, path, function] => (lines, path, Some(function.to_owned())),
            _ => return Err(bad()),
        };
        allowed.insert((path.to_owned(), function), lines.parse().map_err(|_| bad())?);
    }
    Ok(allowed)
}

fn compare(allowed: &BTreeMap<Key, usize>, sizes: &[Size]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Functions of one name in one file share an entry: the longest counts.
    let mut largest: BTreeMap<Key, &Size> = BTreeMap::new();
    for size in sizes {
        let key = (size.path.clone(), size.function.clone());
        let kept = largest.entry(key).or_insert(size);
        if size.lines > kept.lines {
            *kept = size;
        }
    }
    for (key, size) in &largest {
        let limit = allowed.get(key).copied().unwrap_or(0).max(size.limit());
        if size.lines > limit {
            let what =
                key.1.as_ref().map_or_else(|| "the file".to_owned(), |name| format!("the function {name}"));
            let text = format!("{what} has {} lines; at most {limit}", size.lines);
            findings.push(Finding::new(&size.path, size.line, text));
        }
    }
    for ((path, function), lines) in allowed {
        let entry = [&lines.to_string(), path, function.as_deref().unwrap_or("")].join(" ");
        let entry = entry.trim_end();
        match largest.get(&(path.clone(), function.clone())) {
            Some(size) if size.lines <= size.limit() => {
                findings.push(Finding::new(
                    LIST,
                    0,
                    format!("`{entry}` is not needed any more; take it out"),
                ));
            }
            Some(size) if size.lines < *lines => {
                findings.push(Finding::new(
                    LIST,
                    0,
                    format!("`{entry}` has become {}; write that", size.lines),
                ));
            }
            None => findings.push(Finding::new(
                LIST,
                0,
                format!("`{entry}` names what is not there; take it out"),
            )),
            Some(_) => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &str, function: &str, lines: usize) -> Vec<String> {
        let size = Size { path: "a.rs".into(), function: Some(function.into()), line: 1, lines };
        compare(&parse(list).unwrap(), &[size]).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn an_entry_only_shrinks() {
        assert_eq!(found("", "f", 111), ["the function f has 111 lines; at most 110"]);
        assert_eq!(found("120 a.rs f # why", "f", 120), [""; 0]);
        assert_eq!(found("120 a.rs f", "f", 121), ["the function f has 121 lines; at most 120"]);
        assert_eq!(found("120 a.rs f", "f", 119), ["`120 a.rs f` has become 119; write that"]);
        assert_eq!(found("120 a.rs f", "f", 110), ["`120 a.rs f` is not needed any more; take it out"]);
        assert_eq!(found("120 a.rs g", "f", 9), ["`120 a.rs g` names what is not there; take it out"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(
            parse("# head\nmany a.rs\n").unwrap_err(),
            "xtask/ratchet.txt:2: expected `LINES PATH [FUNCTION]`, found \"many a.rs\""
        );
    }
}
