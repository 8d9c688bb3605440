//! A key with the versions that are kept of it.
//!
//! Invariant: versions are in falling revision order, the newest in the item itself; a chain never ends with a
//! deletion, because nothing and a deletion read the same.

use crate::{EntryRef, Revision};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes that a version costs beyond its key and value: tree slot, item, and the allocations' headers.
const VERSION_OVERHEAD_BYTES: u64 = 128;

/// A key and its history.
#[derive(Clone, Debug)]
pub struct Item {
    pub key: Arc<str>,
    pub newest: Version,
}

/// A value, or the absence of one, from a revision on.
#[derive(Clone, Debug)]
pub struct Version {
    pub modified: Revision,
    pub created: Revision,
    /// `None` is a deletion.
    pub value: Option<Bytes>,
    pub older: Option<Arc<Version>>,
}

impl Drop for Version {
    /// Long chains are taken apart in a loop: the derived drop would recurse once for each version.
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(version) = next {
            next = Arc::into_inner(version).and_then(|mut v| v.older.take());
        }
    }
}

impl Version {
    fn used_bytes(&self, key: &str) -> u64 {
        (key.len() + self.value.as_ref().map_or(0, Bytes::len)) as u64 + VERSION_OVERHEAD_BYTES
    }
}

impl Item {
    pub fn is_live(&self) -> bool {
        self.newest.value.is_some()
    }

    /// The newest version, when it is not a deletion.
    pub fn entry(&self) -> Option<EntryRef<'_>> {
        self.entry_of(&self.newest)
    }

    /// What the key was at a revision.
    pub fn entry_at(&self, at: Revision) -> Option<EntryRef<'_>> {
        self.entry_of(self.version_at(at)?)
    }

    fn entry_of<'a>(&'a self, version: &'a Version) -> Option<EntryRef<'a>> {
        let value = version.value.as_ref()?;
        Some(EntryRef { key: &self.key, value, created: version.created, modified: version.modified })
    }

    fn version_at(&self, at: Revision) -> Option<&Version> {
        let mut version = &self.newest;
        while version.modified > at {
            version = version.older.as_deref()?;
        }
        Some(version)
    }

    /// Bytes that a version of this key with this value takes.
    pub fn version_bytes(key: &str, value: usize) -> u64 {
        (key.len() + value) as u64 + VERSION_OVERHEAD_BYTES
    }

    /// The item with a newer version; the present one becomes history.
    pub fn with(&self, modified: Revision, value: Option<Bytes>) -> Item {
        let created = if self.is_live() { self.newest.created } else { modified };
        let older = Some(Arc::new(self.newest.clone()));
        Item { key: self.key.clone(), newest: Version { modified, created, value, older } }
    }

    pub fn new(key: Arc<str>, modified: Revision, value: Bytes) -> Item {
        Item { key, newest: Version { modified, created: modified, value: Some(value), older: None } }
    }

    /// Without what no read at `before` or later can see, and the bytes that this frees; no item when nothing is left.
    pub fn compacted(&self, before: Revision) -> (Option<Item>, u64) {
        let mut kept = Vec::new();
        let mut freed = 0;
        let mut next = Some(&self.newest);
        let mut below = false;
        while let Some(version) = next {
            let needed = !below && (version.modified > before || version.value.is_some());
            below |= version.modified <= before;
            if needed {
                kept.push(version);
            } else {
                freed += version.used_bytes(&self.key);
            }
            next = version.older.as_deref();
        }
        let mut older: Option<Arc<Version>> = None;
        while let Some(version) = kept.pop() {
            let version = Version {
                modified: version.modified,
                created: version.created,
                value: version.value.clone(),
                older: older.take(),
            };
            if kept.is_empty() {
                return (Some(Item { key: self.key.clone(), newest: version }), freed);
            }
            older = Some(Arc::new(version));
        }
        (None, freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Item {
        let first = Item::new("a".into(), 2, Bytes::from_static(b"two"));
        first
            .with(4, None)
            .with(6, Some(Bytes::from_static(b"six")))
            .with(8, Some(Bytes::from_static(b"eight")))
    }

    fn shown(item: &Item, at: Revision) -> Option<String> {
        item.entry_at(at).map(|e| format!("{}:{}", e.created, String::from_utf8_lossy(e.value)))
    }

    #[test]
    fn each_revision_shows_its_value() {
        let i = item();
        let all: Vec<_> = (1..=9).map(|r| shown(&i, r).unwrap_or_default()).collect();
        assert_eq!(all, ["", "2:two", "2:two", "", "", "6:six", "6:six", "6:eight", "6:eight"]);
    }

    #[test]
    fn compaction_keeps_every_read_from_there_on() {
        for before in 1..=10 {
            let (kept, _) = item().compacted(before);
            let kept = kept.expect("the newest is live");
            for at in before..=10 {
                assert_eq!(shown(&kept, at), shown(&item(), at), "compacted {before}, read at {at}");
            }
        }
        assert!(item().with(12, None).compacted(11).0.is_some(), "a deletion that may still be read under");
        assert!(item().with(12, None).compacted(12).0.is_none(), "a deletion that nothing can see under");
    }

    #[test]
    fn compaction_frees_what_was_counted() {
        let i = item().with(12, None);
        let total: u64 = [3, 0, 3, 5, 0].iter().map(|v| Item::version_bytes("a", *v)).sum();
        assert_eq!(i.compacted(12).1, total);
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let mut i = Item::new("a".into(), 1, Bytes::new());
        for r in 2..300_000 {
            i = i.with(r, Some(Bytes::new()));
        }
        drop(i);
    }
}
