//! The labels of stored objects, read where they stand, and told by bits.
//!
//! Invariant: an object that a selector asks for has all bits that [`bloom_of`] the selector has, as [`bloom`] tells them.

use memchr::memmem::Finder;
use meta::selector::LabelSelector;
use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

/// Where an object's metadata begins.
pub static METADATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"metadata\":"));

/// What a stored object's labels are, as bits (see [`store::Bloom`]).
pub fn bloom(bytes: &[u8]) -> u64 {
    Labels::of(bytes).map_or(u64::MAX, |own| own.iter().map(|(k, v)| bits(k, Some(v))).fold(0, |a, b| a | b))
}

/// The bits of the labels that every selected object has.
pub fn bloom_of(selector: &LabelSelector) -> u64 {
    selector.asked_for().map(|(key, value)| bits(key, value)).fold(0, |a, b| a | b)
}

/// A bit for the label's name, and two for the name with its value.
fn bits(key: &str, value: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let own = 1 << (hasher.finish() % 64);
    let Some(value) = value else { return own };
    value.hash(&mut hasher);
    let hash = hasher.finish();
    own | 1 << (hash % 64) | 1 << (hash / 64 % 64)
}

/// An object's labels: the inside of their braces. Labels have nothing in them that JSON escapes, and no braces.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a>(&'a str);

impl<'a> Labels<'a> {
    /// Looks for labels where they stand in what [`crate::encode`] writes: among members of the metadata in the order of
    /// their names. No more of the object is looked at, as most of it is in no cache. `None` when they cannot be told so.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let at = METADATA.find(bytes)? + METADATA.needle().len();
        let mut rest = bytes.get(at..)?.strip_prefix(b"{")?;
        let mut before: &[u8] = b"";
        loop {
            let (name, value) = member(rest)?;
            match name.cmp(b"labels") {
                Ordering::Equal => {
                    let inside = value.strip_prefix(b"{")?;
                    let inside = inside.get(..memchr::memchr(b'}', inside)?)?;
                    let plain = memchr::memchr(b'\\', inside).is_none();
                    return std::str::from_utf8(inside).ok().filter(|_| plain).map(Self);
                }
                // Only where the members are in order.
                Ordering::Greater if !before.is_empty() => return Some(Self("")),
                Ordering::Less if before < name => {}
                _ => return None,
            }
            before = name;
            match value_end(value).map(|end| value.split_at(end).1) {
                Some([b',', next @ ..]) => rest = next,
                Some([b'}', ..]) => return Some(Self("")),
                _ => return None,
            }
        }
    }

    /// The value of a label.
    pub fn get(self, key: &str) -> Option<&'a str> {
        self.iter().find(|(own, _)| *own == key).map(|(_, value)| value)
    }

    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut quoted = self.0.split('"').skip(1).step_by(2);
        std::iter::from_fn(move || Some((quoted.next()?, quoted.next()?)))
    }
}

/// A member's name and what comes after its colon.
fn member(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"\"")?;
    let (name, rest) = rest.split_at(memchr::memchr(b'"', rest)?);
    Some((name, rest.strip_prefix(b"\":")?))
}

/// Where a value of compact JSON ends.
fn value_end(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at + 1)?,
            b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
            // The end of what the value stands in.
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => (depth, at) = (depth - 1, at + 1),
            _ => at += 1,
        }
    }
}

/// What comes after the closing quote of a text that begins here.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Selectors;
    use kinds::KindDef;
    use meta::selector::FieldSelector;

    #[test]
    fn labels_are_those_of_the_object_and_of_nothing_in_it() {
        let own = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":{"a":"\"labels\":{\"app\":\"db\"}"},"labels":{"app":"web","tier":"x"},"name":"n"},"spec":{}}"#;
        let inner = r#"{"kind":"D","apiVersion":"v1","metadata":{"name":"n"},"spec":{"template":{"metadata":{"labels":{"app":"web"}}}}}"#;
        let none = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"creationTimestamp":"x","generation":1,"managedFields":[{"f":{"labels":{"app":"web"}}}],"name":"n"}}"#;
        let empty = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"app":""},"name":"n"}}"#;
        let unordered = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"n","labels":{"app":"web"}}}"#;
        for (labels, bytes, expected) in [
            ("app=web", own, true),
            ("app=web,tier in (x)", own, true),
            ("app in (web,db)", own, true),
            ("app=we", own, false),
            ("tier=web", own, false),
            ("app=db", own, false),
            ("app=web", inner, false),
            ("app=web", none, false),
            ("!app", none, true),
            ("app=", empty, true),
            ("app=web", empty, false),
            ("app=web", unordered, true),
            ("app=db", unordered, false),
            ("app!=web", inner, true),
            ("app!=web", own, false),
            ("!app", inner, true),
            ("app", own, true),
            ("app,tier notin (x)", own, false),
        ] {
            let labels = LabelSelector::parse(labels).expect("a selector");
            let may = bloom(bytes.as_bytes()) & bloom_of(&labels) == bloom_of(&labels);
            assert!(may || !expected, "{labels} {bytes}");
            let kind = KindDef { plural: "pods".into(), ..KindDef::BASE };
            let selected = Selectors { labels: labels.clone(), fields: FieldSelector::default() };
            assert_eq!(selected.matches(&kind, bytes.as_bytes()), expected, "{labels} {bytes}");
        }
    }

    #[test]
    fn bits_leave_out_most_that_is_not_asked_for() {
        let asked = bloom_of(&LabelSelector::parse("found=yes,app").expect("a selector"));
        let left = |i: usize| {
            let bytes = format!(
                r#"{{"metadata":{{"labels":{{"app":"app","found":"no{i}","n":"{i}"}},"name":"n"}}}}"#
            );
            bloom(bytes.as_bytes()) & asked != asked
        };
        let left = (0..1000).filter(|i| left(*i)).count();
        assert!(left > 950, "{left}");
        assert_eq!(bloom(b"{"), u64::MAX);
        assert_eq!(bloom(br#"{"metadata":{"creationTimestamp":"x","name":"n"}}"#), 0);
    }
}
