//! Asking the trail: filters over events, newest or oldest first, without reading what cannot match.

use crate::chain::{Entry, read_line, segments};
use jiff::Timestamp;
use regex::Regex;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// The largest answer.
pub const LIMIT_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    OldestFirst,
    NewestFirst,
}

/// What to look for; empty fields match everything. Texts may have `*` and `?` in them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Authenticated or impersonated user.
    pub user: Option<Pattern>,
    pub verb: Option<Pattern>,
    /// `pods`, `pods/exec`, `deployments.apps`.
    pub resource: Option<Pattern>,
    pub namespace: Option<Pattern>,
    pub name: Option<Pattern>,
    pub source_ip: Option<Pattern>,
    pub status: Option<u16>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// The newest this many; 0 takes [`LIMIT_MAX`].
    pub limit: usize,
    pub order: Order,
}

/// A text with `*` and `?`.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// A piece that must be in any line that can match, as it stands in JSON.
    literal: String,
}

impl Pattern {
    pub fn new(text: &str) -> Result<Self, String> {
        let mut pattern = String::from("^");
        for c in text.chars() {
            match c {
                '*' => pattern.push_str(".*"),
                '?' => pattern.push('.'),
                c => pattern.push_str(&regex::escape(&c.to_string())),
            }
        }
        pattern.push('$');
        let regex = Regex::new(&pattern).map_err(|e| format!("{text:?} is not a pattern: {e}"))?;
        let plain =
            |c: char| !matches!(c, '*' | '?' | '.' | '/' | '"' | '\\' | '&' | '<' | '>') && !c.is_control();
        let literal = text.split(|c| !plain(c)).max_by_key(|p| p.len()).unwrap_or("").to_owned();
        Ok(Self { regex, literal })
    }

    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// Reads a time: RFC 3339, or a duration before now such as `10m`.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(t) = text.parse() {
        return Ok(t);
    }
    let (number, seconds) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        Some(b'd') => (&text[..text.len() - 1], 86_400),
        _ => (text, 0),
    };
    let n = number.parse::<i64>().ok().filter(|_| seconds > 0);
    let n = n.ok_or_else(|| {
        format!("{text:?} is neither a time (2026-01-02T15:04:05Z) nor a duration (30s, 10m, 2h, 7d)")
    })?;
    let back = jiff::SignedDuration::from_secs(n.saturating_mul(seconds));
    now.checked_sub(back).map_err(|e| e.to_string())
}

impl Filter {
    /// Whether a line can match at all, judged without parsing it.
    fn may_match(&self, line: &[u8]) -> bool {
        let text = [&self.user, &self.verb, &self.resource, &self.namespace, &self.name, &self.source_ip];
        text.into_iter().flatten().all(|p| p.literal.is_empty() || contains(line, p.literal.as_bytes()))
    }

    pub fn matches(&self, e: &Value) -> bool {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let ok = |p: &Option<Pattern>, t: &str| p.as_ref().is_none_or(|p| p.matches(t));
        let users = [text(&e["user"]["username"]), text(&e["impersonatedUser"]["username"])];
        if self.user.as_ref().is_some_and(|p| !users.iter().any(|u| !u.is_empty() && p.matches(u))) {
            return false;
        }
        let r = &e["objectRef"];
        let (resource, sub, group) = (text(&r["resource"]), text(&r["subresource"]), text(&r["apiGroup"]));
        if let Some(p) = &self.resource {
            let full = if sub.is_empty() { resource.clone() } else { format!("{resource}/{sub}") };
            let grouped = format!("{full}.{group}");
            if !(p.matches(&full) || p.matches(&grouped) || (sub.is_empty() && p.matches(&resource))) {
                return false;
            }
        }
        let ips = e["sourceIPs"].as_array();
        let from = |p: &Pattern| ips.is_some_and(|l| l.iter().any(|i| p.matches(i.as_str().unwrap_or(""))));
        let at = e["stageTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        ok(&self.verb, &text(&e["verb"]))
            && ok(&self.namespace, &text(&r["namespace"]))
            && ok(&self.name, &text(&r["name"]))
            && self.source_ip.as_ref().is_none_or(from)
            && self.status.is_none_or(|s| e["responseStatus"]["code"] == s)
            && self.since.is_none_or(|s| at.is_some_and(|t| t >= s))
            && self.until.is_none_or(|u| at.is_some_and(|t| t < u))
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memmem(haystack, needle)
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(&first) = needle.first() else { return true };
    let mut at = 0;
    while let Some(i) = haystack[at..].iter().position(|b| *b == first) {
        if haystack[at + i..].starts_with(needle) {
            return true;
        }
        at += i + 1;
    }
    false
}

/// The events that match, as JSON texts.
pub fn run(dir: &Path, filter: &Filter) -> io::Result<Vec<String>> {
    let limit = if filter.limit == 0 { LIMIT_MAX } else { filter.limit.min(LIMIT_MAX) };
    // Newest segments first, until there is enough or they are too old.
    let mut found: Vec<Vec<String>> = Vec::new();
    let mut count = 0;
    for segment in segments(dir)?.iter().rev() {
        let (matches, begins) = scan(segment, filter, limit)?;
        count += matches.len();
        found.push(matches);
        let too_old = filter.since.is_some_and(|s| begins.is_some_and(|b| b < s));
        if count >= limit || too_old {
            break;
        }
    }
    let mut all: Vec<String> = found.into_iter().rev().flatten().collect();
    let extra = all.len().saturating_sub(limit);
    all.drain(..extra);
    if filter.order == Order::NewestFirst {
        all.reverse();
    }
    Ok(all)
}

/// The newest matches of a segment, oldest first, and when it begins.
fn scan(segment: &Path, filter: &Filter, limit: usize) -> io::Result<(Vec<String>, Option<Timestamp>)> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(segment)?);
    let mut line = Vec::new();
    let mut out = std::collections::VecDeque::new();
    let mut begins = None;
    while read_line(&mut reader, &mut line)? {
        if begins.is_none() {
            begins = serde_json::from_slice::<Entry>(&line).ok().and_then(|e| e.received.parse().ok());
        }
        if !filter.may_match(&line) {
            continue;
        }
        let Ok(entry) = serde_json::from_slice::<Entry>(&line) else { continue };
        let Ok(event) = serde_json::from_str::<Value>(entry.event.get()) else { continue };
        if event["auditID"].is_string() && filter.matches(&event) {
            out.push_back(entry.event.get().to_owned());
            if out.len() > limit {
                out.pop_front();
            }
        }
    }
    Ok((out.into(), begins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Value {
        json!({
            "auditID": "1", "verb": "create", "stageTimestamp": "2026-01-02T03:04:05.000000Z",
            "user": {"username": "admin"}, "impersonatedUser": {"username": "mallory"}, "sourceIPs": ["10.0.0.1"],
            "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "ns", "name": "web"},
            "responseStatus": {"code": 403}
        })
    }

    fn p(text: &str) -> Option<Pattern> {
        Some(Pattern::new(text).expect("a pattern"))
    }

    #[test]
    fn filters() {
        let e = event();
        for f in [
            Filter { user: p("mallory"), ..Filter::default() },
            Filter { user: p("ad*"), ..Filter::default() },
            Filter { resource: p("pods/exec"), ..Filter::default() },
            Filter { resource: p("pods/*"), status: Some(403), ..Filter::default() },
            Filter { name: p("w?b"), namespace: p("ns"), source_ip: p("10.*"), ..Filter::default() },
            Filter { since: "2026-01-02T03:04:00Z".parse().ok(), ..Filter::default() },
        ] {
            assert!(f.matches(&e), "{f:?}");
        }
        for f in [
            Filter { resource: p("pods"), ..Filter::default() },
            Filter { status: Some(200), ..Filter::default() },
            Filter { until: "2026-01-02T03:04:00Z".parse().ok(), ..Filter::default() },
        ] {
            assert!(!f.matches(&e), "{f:?}");
        }
    }

    #[test]
    fn times() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        assert_eq!(time("10m", now), Ok("2026-01-02T02:54:05Z".parse().expect("a time")));
        assert!(time("soon", now).is_err());
        assert!(time("1\u{fffd}", now).is_err());
    }
}
