//! One revision of the store, whole and immutable: what readers read.
//!
//! Invariant: a view never changes, so a listing is consistent without a lock, and shows only durable commits.

use crate::tree::Tree;
use crate::{Entry, EntryRef, Range, ReadError, Revision, Shown, Visit};
use std::ops::ControlFlow;

/// The tree at a revision.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub tree: Tree,
    pub revision: Revision,
    /// Reads below this revision are refused.
    pub compacted: Revision,
    /// Bytes of keys and values of all kept versions.
    pub used_bytes: u64,
}

impl View {
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.tree.get(key)?.entry().map(EntryRef::cloned)
    }

    pub fn get_at(&self, key: &str, at: Revision) -> Result<Option<Entry>, ReadError> {
        self.check(at)?;
        Ok(self.tree.get(key).and_then(|i| i.entry_at(at)).map(EntryRef::cloned))
    }

    pub fn count(&self, prefix: &str) -> u64 {
        self.rank_of_end(prefix) - self.tree.rank(prefix.as_bytes(), false)
    }

    pub fn visit(&self, range: &Range, visit: &mut Visit) -> Result<Shown, ReadError> {
        let at = range.at.unwrap_or(self.revision);
        self.check(at)?;
        let now = at == self.revision;
        let prefix = range.prefix;
        let after = range.after.filter(|a| *a >= prefix);
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let (mut count, mut last, mut remaining) = (0, None, 0);
        // The first key that is greater.
        let from = after.map(|after| [after.as_bytes(), &[0]].concat());
        let from = from.as_deref().unwrap_or(prefix.as_bytes());
        self.tree.walk_where(prefix.as_bytes(), from, range.bloom, &mut |item| {
            if count < limit {
                if let Some(entry) = item.entry_at(at) {
                    (count, last) = (count + 1, Some(entry.key));
                    visit(entry);
                }
                return ControlFlow::Continue(());
            }
            // The tree counts the rest for the newest revision; for a past one they have to be looked at.
            if now {
                return ControlFlow::Break(());
            }
            remaining += u64::from(item.entry_at(at).is_some());
            ControlFlow::Continue(())
        });
        if now && let Some(last) = last.filter(|_| count >= limit) {
            remaining = self.rank_of_end(prefix) - self.tree.rank(last.as_bytes(), true);
        }
        Ok(Shown { revision: at, last: last.cloned(), more: remaining > 0, remaining })
    }

    fn check(&self, at: Revision) -> Result<(), ReadError> {
        if at > self.revision {
            Err(ReadError::Future { asked: at, current: self.revision })
        } else if at < self.compacted {
            Err(ReadError::Compacted { asked: at, oldest: self.compacted })
        } else {
            Ok(())
        }
    }

    /// Live keys below the first key after all that start with the prefix.
    fn rank_of_end(&self, prefix: &str) -> u64 {
        let mut end = prefix.as_bytes().to_vec();
        // UTF-8 has no byte 255, so the last byte can always grow.
        match end.last_mut() {
            None => return self.tree.live(),
            Some(last) => *last = last.saturating_add(1),
        }
        self.tree.rank(&end, false)
    }
}
