//! Where a value's own revision stands, for a backend that stores values without it.
//!
//! etcd gives a value's revision only after it is stored, so values are stored with an empty place for it, and the
//! revision is written in when the value is read. For objects the place is `metadata.resourceVersion` of the JSON, so
//! that kube-apiserver can read what is stored, and objects of its own that lack the member get it. A value whose place
//! is elsewhere carries a trailer that says where. Invariant: what is read back is what the embedded engine would have
//! stored, for any bytes and any place.

use crate::queue::stamp;
use crate::{Revision, Stamped};
use bytes::Bytes;
use std::ops::Range;

/// Stands before a place that cannot be found in the value; then come the decimal place or `-` for none, to the end.
const TRAILER: &[u8] = b"\0stamp=";
/// Bytes of the largest place in decimal.
const PLACE_BYTES_MAX: usize = 20;

/// What there is at `metadata.resourceVersion`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The value is no object with metadata.
    None,
    /// An empty string whose inside is here.
    Empty(usize),
    /// A string with something in it.
    Full(Range<usize>),
    /// No such member; it would go here, the first of `metadata`.
    Missing { at: usize, comma: bool },
}

/// The bytes to store.
pub fn stored(value: &Stamped) -> Bytes {
    let found = find(&value.bytes);
    let plain = match (value.stamp, found) {
        (Some(at), Place::Empty(place)) => at == place,
        (None, Place::None | Place::Full(_)) => true,
        _ => false,
    };
    if plain && trailer(&value.bytes).is_none() {
        return Bytes::copy_from_slice(&value.bytes);
    }
    let place = value.stamp.map_or_else(|| "-".to_owned(), |at| at.to_string());
    [&value.bytes[..], TRAILER, place.as_bytes()].concat().into()
}

/// The bytes to show of what is stored: with the revision in them.
pub fn shown(stored: &[u8], revision: Revision) -> Bytes {
    if let Some((end, place)) = trailer(stored) {
        return stamp(Stamped { bytes: stored[..end].to_vec(), stamp: place }, revision);
    }
    match find(stored) {
        Place::Empty(at) => splice(stored, at..at, &revision.to_string()),
        Place::Missing { at, comma } => {
            let comma = if comma { "," } else { "" };
            splice(stored, at..at, &format!("\"resourceVersion\":\"{revision}\"{comma}"))
        }
        Place::None | Place::Full(_) => Bytes::copy_from_slice(stored),
    }
}

/// A shown value with another revision in it; `None` when it has no place for one.
pub fn restamped(shown: &[u8], revision: Revision) -> Option<Bytes> {
    match find(shown) {
        Place::Full(range) => Some(splice(shown, range, &revision.to_string())),
        _ => None,
    }
}

/// Whether a shown value, restamped, is what the stamped value will be.
pub fn same_but_revision(shown: &[u8], value: &Stamped) -> bool {
    let (Some(at), Place::Full(range)) = (value.stamp, find(shown)) else { return false };
    at == range.start
        && shown.len() - range.len() == value.bytes.len()
        && shown[..at] == value.bytes[..at]
        && shown[range.end..] == value.bytes[at..]
}

fn splice(bytes: &[u8], range: Range<usize>, text: &str) -> Bytes {
    [&bytes[..range.start], text.as_bytes(), &bytes[range.end..]].concat().into()
}

/// Where the value before the trailer ends, and the place that the trailer tells.
fn trailer(bytes: &[u8]) -> Option<(usize, Option<usize>)> {
    let from = bytes.len().saturating_sub(TRAILER.len() + PLACE_BYTES_MAX);
    let end = from + bytes[from..].windows(TRAILER.len()).rposition(|w| w == TRAILER)?;
    let text = std::str::from_utf8(&bytes[end + TRAILER.len()..]).ok()?;
    if text == "-" {
        return Some((end, None));
    }
    let place: usize = text.parse().ok()?;
    // A place beyond the value was never written by us.
    (place <= end && place.to_string() == text).then_some((end, Some(place)))
}

/// Looks for `metadata.resourceVersion`. Total: any bytes give an answer, in one pass and without recursion.
fn find(bytes: &[u8]) -> Place {
    let mut scan = Scan { bytes, at: 0 };
    scan.top().unwrap_or(Place::None)
}

/// A place in JSON text.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn top(&mut self) -> Option<Place> {
        self.take(b'{')?;
        loop {
            let key = self.key()?;
            if &self.bytes[key] == b"metadata" {
                return self.metadata();
            }
            self.skip_value()?;
            self.take(b',')?;
        }
    }

    fn metadata(&mut self) -> Option<Place> {
        self.take(b'{')?;
        let start = self.at;
        if self.take(b'}').is_some() {
            return Some(Place::Missing { at: start, comma: false });
        }
        loop {
            let key = self.key()?;
            if &self.bytes[key] == b"resourceVersion" {
                let inside = self.string()?;
                return Some(if inside.is_empty() {
                    Place::Empty(inside.start)
                } else {
                    Place::Full(inside)
                });
            }
            self.skip_value()?;
            if self.take(b',').is_none() {
                self.take(b'}')?;
                return Some(Place::Missing { at: start, comma: true });
            }
        }
    }

    /// A member's name and the colon behind it.
    fn key(&mut self) -> Option<Range<usize>> {
        let key = self.string()?;
        self.take(b':')?;
        Some(key)
    }

    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.space();
        (*self.bytes.get(self.at)? == byte).then(|| self.at += 1)
    }

    /// The inside of a string.
    fn string(&mut self) -> Option<Range<usize>> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            match *self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(start..self.at - 1)
    }

    fn skip_value(&mut self) -> Option<()> {
        self.space();
        let mut depth = 0_usize;
        loop {
            match *self.bytes.get(self.at)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                // The end of a number or a word is the end of the value only outside of all brackets.
                b',' | b'}' | b']' if depth == 0 => return Some(()),
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(text: &str, at: Option<usize>) -> (Bytes, Bytes) {
        let raw = stored(&Stamped { bytes: text.as_bytes().to_vec(), stamp: at });
        let back = shown(&raw, 42);
        (raw, back)
    }

    #[test]
    fn objects_are_stored_as_they_are() {
        let text = concat!(
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":{"resourceVersion":"","a":"\"}"},"#,
            r#""name":"n","resourceVersion":"","uid":"u"},"spec":{}}"#
        );
        let at = text.find(r#""n","resourceVersion":""#).unwrap() + r#""n","resourceVersion":""#.len();
        let (raw, back) = round(text, Some(at));
        assert_eq!(raw, text.as_bytes());
        assert_eq!(
            back,
            text.replace(r#""n","resourceVersion":"""#, r#""n","resourceVersion":"42""#).as_bytes()
        );
        let value = Stamped { bytes: text.into(), stamp: Some(at) };
        assert!(same_but_revision(&back, &value));
        assert!(!same_but_revision(&back, &Stamped { stamp: Some(at - 1), ..value.clone() }));
        let other = Stamped { bytes: text.replace("\"u\"", "\"v\"").into_bytes(), ..value };
        assert!(!same_but_revision(&back, &other));
        assert_eq!(
            restamped(&back, 43).unwrap(),
            String::from_utf8_lossy(&back).replace("42", "43").as_bytes()
        );
    }

    #[test]
    fn objects_of_others_get_their_revision() {
        let cases = [
            (
                r#"{"kind":"A","metadata":{"name":"n"}}"#,
                r#"{"kind":"A","metadata":{"resourceVersion":"7","name":"n"}}"#,
            ),
            (
                r#"{ "x" : [1,{"metadata":{}}], "metadata" : { } }"#,
                r#"{ "x" : [1,{"metadata":{}}], "metadata" : {"resourceVersion":"7" } }"#,
            ),
            (r#"{"metadata":{"resourceVersion":"5"}}"#, r#"{"metadata":{"resourceVersion":"5"}}"#),
            (r#"{"x":1}"#, r#"{"x":1}"#),
            (r#"{"metadata":null}"#, r#"{"metadata":null}"#),
            (r#"{"metadata":{"a":"#, r#"{"metadata":{"a":"#),
            ("k8s\0protobuf", "k8s\0protobuf"),
            ("", ""),
        ];
        for (raw, want) in cases {
            assert_eq!(shown(raw.as_bytes(), 7), want.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn places_that_cannot_be_found_are_told() {
        let cases = [
            ("rv=\"\"", Some(4)),
            ("", Some(0)),
            ("end", Some(3)),
            (r#"{"metadata":{}}"#, None),
            ("a\0stamp=1", None),
        ];
        for (text, at) in cases {
            let want = stamp(Stamped { bytes: text.into(), stamp: at }, 42);
            assert_eq!(round(text, at).1, want, "{text}");
        }
        assert_eq!(round("text", None).0, "text".as_bytes(), "no trailer without need");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0..61_usize) {
            let value = Stamped { stamp: (at <= bytes.len()).then_some(at), bytes };
            let raw = stored(&value);
            prop_assert_eq!(shown(&raw, 9), stamp(value, 9));
        }

        #[test]
        fn any_near_json_is_survived(
            text in r#"[{}\[\]",:a\\ ]{0,40}"#,
            head in prop::sample::select(vec!["", "{\"metadata\":{", "{\"a\":"]),
        ) {
            let bytes = format!("{head}{text}").into_bytes();
            let value = Stamped { stamp: Some(bytes.len() / 2), bytes };
            prop_assert_eq!(shown(&stored(&value), 9), stamp(value, 9));
        }
    }
}
