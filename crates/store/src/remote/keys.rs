//! The names of things in etcd: the store's own keys as they are, and the few of ours beside them.
//!
//! Invariant: a key of the store never reads as one of ours, nor the other way round.

use bytes::Bytes;

/// Where the keys lie.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Stands before everything.
    pub prefix: String,
    /// What all keys of the store start with: `/registry/`, or nothing.
    pub scope: String,
    /// This server's name among those on the same etcd.
    pub identity: String,
}

/// What a key in etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A key of the store.
    Key(&'a str),
    /// The value that watchers get with a deletion of the same revision.
    Last,
    Other,
}

/// Upstream's name for the key by which API servers agree on who compacts.
/// upstream: apiserver `pkg/storage/etcd3/compact.go#compactRevKey`
pub const COMPACT_KEY: &str = "compact_rev_key";
/// Everything of ours.
const OWN: &str = "/taffrail/";

impl Layout {
    /// A key of the store in etcd.
    pub fn key(&self, key: &str) -> Bytes {
        format!("{}{key}", self.prefix).into()
    }

    pub fn holds(&self, key: &str) -> bool {
        key.starts_with(&self.scope) && !key.starts_with(OWN)
    }

    /// Everything that is watched, as a start and an end.
    pub fn watched(&self) -> (Bytes, Bytes) {
        if self.scope.is_empty() {
            return range_of(&self.prefix);
        }
        // `.` comes before `/`: the last values of deletions lie right before the keys.
        let start = format!("{}{}.", self.prefix, self.scope.trim_end_matches('/'));
        (start.into(), range_of(&format!("{}{}", self.prefix, self.scope)).1)
    }

    pub fn name<'a>(&self, key: &'a [u8]) -> Name<'a> {
        let text = std::str::from_utf8(key).ok();
        let Some(key) = text.and_then(|k| k.strip_prefix(self.prefix.as_str())) else { return Name::Other };
        if key.starts_with(&self.last_prefix()) {
            Name::Last
        } else if self.holds(key) && key != COMPACT_KEY {
            Name::Key(key)
        } else {
            Name::Other
        }
    }

    fn last_prefix(&self) -> String {
        if self.scope.is_empty() {
            return format!("{OWN}deleted/");
        }
        format!("{}.deleted/", self.scope.trim_end_matches('/'))
    }

    /// Where the last value of a commit's nth operation goes; the next commit writes over it.
    pub fn last(&self, op: usize) -> Bytes {
        format!("{}{}{}/{op}", self.prefix, self.last_prefix(), self.identity).into()
    }

    pub fn records(&self) -> (Bytes, Bytes) {
        range_of(&format!("{}{OWN}audit/", self.prefix))
    }

    /// A record's key; `unique` is not used twice by this server.
    pub fn record(&self, unique: &str) -> Bytes {
        format!("{}{OWN}audit/{}/{unique}", self.prefix, self.identity).into()
    }

    /// The server whose record a key is.
    pub fn record_owner<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let prefix = format!("{}{OWN}audit/", self.prefix);
        std::str::from_utf8(key).ok()?.strip_prefix(prefix.as_str())?.split_once('/').map(|(owner, _)| owner)
    }

    /// What all servers have in common.
    pub fn mark(&self, name: &str) -> Bytes {
        format!("{}{OWN}cluster/{name}", self.prefix).into()
    }

    /// The servers that are there, each a key with a lease.
    pub fn servers(&self) -> (Bytes, Bytes) {
        range_of(&format!("{}{OWN}servers/", self.prefix))
    }

    pub fn server(&self) -> Bytes {
        format!("{}{OWN}servers/{}", self.prefix, self.identity).into()
    }

    pub fn server_of<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key).ok()?.strip_prefix(format!("{}{OWN}servers/", self.prefix).as_str())
    }
}

/// All keys that start with a prefix, as etcd wants it: the start and the first key behind the end.
fn range_of(prefix: &str) -> (Bytes, Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        // Every key there is.
        None => return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        // UTF-8 has no byte 255, so the last byte can always grow.
        Some(last) => *last = last.saturating_add(1),
    }
    (Bytes::copy_from_slice(prefix.as_bytes()), end.into())
}

/// A deletion's last value with the key that it is of.
pub fn join_last(key: &str, stored: &[u8]) -> Bytes {
    [key.as_bytes(), b"\n", stored].concat().into()
}

/// Takes apart what [`join_last`] made.
pub fn split_last(value: &[u8]) -> Option<(&str, &[u8])> {
    let newline = value.iter().position(|b| *b == b'\n')?;
    Some((std::str::from_utf8(&value[..newline]).ok()?, &value[newline + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str, scope: &str) -> Layout {
        Layout { prefix: prefix.into(), scope: scope.into(), identity: "me".into() }
    }

    #[test]
    fn keys_and_ours_are_told_apart() {
        for (prefix, scope) in [("", ""), ("", "/registry/"), ("/c1", "/registry/"), ("/c1", "")] {
            let l = layout(prefix, scope);
            let (start, end) = l.watched();
            let inside = |key: &[u8]| key >= &start[..] && (key < &end[..] || end == "\0");
            let key = l.key("/registry/pods/a/b");
            assert_eq!(l.name(&key), Name::Key("/registry/pods/a/b"));
            assert_eq!(l.name(&l.last(3)), Name::Last);
            assert!(inside(&key) && inside(&l.last(3)), "{prefix} {scope}");
            assert_eq!(l.name(&l.record("1")), Name::Other);
            assert_eq!((l.record_owner(&l.record("1")), l.server_of(&l.server())), (Some("me"), Some("me")));
            assert_eq!(l.name(format!("{prefix}{COMPACT_KEY}").as_bytes()), Name::Other);
            assert_eq!(l.name(b"\xff"), Name::Other);
        }
        assert_eq!(layout("/c1", "").name(b"/registry/a"), Name::Other);
        assert_eq!(layout("", "/registry/").watched(), ("/registry.".into(), "/registry0".into()));
        assert!(!layout("", "/registry/").holds("/other"));
    }

    #[test]
    fn a_last_value_keeps_its_key() {
        let joined = join_last("/a", b"x\ny");
        assert_eq!(split_last(&joined), Some(("/a", &b"x\ny"[..])));
    }
}
