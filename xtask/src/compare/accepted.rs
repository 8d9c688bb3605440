//! Differences that are meant to be.

use serde::Deserialize;
use std::collections::HashSet;

const LIST: &str = include_str!("accepted.yaml");

#[derive(Deserialize)]
struct Entry {
    /// How places begin that this is about; a `*` stands for anything.
    place: String,
    /// Why it is meant to be; for readers.
    #[serde(rename = "why")]
    _why: String,
}

pub struct Accepted {
    entries: Vec<Entry>,
    seen: HashSet<usize>,
}

impl Accepted {
    pub fn load() -> Result<Self, String> {
        let entries = serde_saphyr::from_str(LIST).map_err(|e| format!("accepted.yaml: {e}"))?;
        Ok(Self { entries, seen: HashSet::new() })
    }

    pub fn holds(&mut self, place: &str) -> bool {
        let found = self.entries.iter().position(|e| begins(place, &e.place));
        self.seen.extend(found);
        found.is_some()
    }

    /// What was not seen, but for what only made requests show.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let unseen = self.entries.iter().enumerate().filter(|(i, _)| !self.seen.contains(i));
        unseen.map(|(_, e)| e.place.as_str()).filter(|place| !place.starts_with("fuzz | "))
    }
}

fn begins(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(begins("requests a b: code", "requests a"));
        assert!(begins("openapi v3 apis/apps: x.y.z", "openapi v3 *: x.*z"));
        assert!(!begins("openapi v3 apis/apps: x.y.z", "openapi v3 *: y.*x"));
        assert!(Accepted::load().is_ok());
    }
}
