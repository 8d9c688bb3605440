//! How a commit changes the tree. The same code runs when a commit is made and when it is read back from the log.
//!
//! Invariant: the same commits give the same view, events and byte counts, whether live or replayed.

use crate::item::Item;
use crate::view::View;
use crate::wal::codec::{Action, Commit};
use crate::{Change, Event, Revision};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Keys that gained an older version, by the revision that made it old: what compaction has to look at.
pub type Superseded = VecDeque<(Revision, Arc<str>)>;

/// Keys compacted between two chances for others to take the lock.
pub const COMPACTION_STEP_KEYS: usize = 1000;

/// Makes a commit visible in a view.
pub fn apply(view: &mut View, commit: &Commit, events: &mut Vec<Arc<Event>>, superseded: &mut Superseded) {
    let revision = commit.revision;
    for change in &commit.changes {
        let old = view.tree.get(&change.key).cloned();
        let previous = old.as_ref().and_then(|i| i.newest.value.clone());
        let key = old.as_ref().map_or_else(|| change.key.clone(), |i| i.key.clone());
        let (value, shown) = match (&change.action, &previous) {
            (Action::Put(value), _) => (Some(value.clone()), Change::Put(value.clone())),
            (Action::Delete(Some(last)), Some(_)) => (None, Change::Delete(last.clone())),
            (Action::Delete(None), Some(stored)) => (None, Change::Delete(stored.clone())),
            // Deletions of what is not there are never logged.
            (Action::Delete(_), None) => continue,
        };
        view.used_bytes += Item::version_bytes(&key, value.as_ref().map_or(0, |v| v.len()));
        let item = match (old, value) {
            (Some(old), value) => {
                superseded.push_back((revision, key.clone()));
                old.with(revision, value)
            }
            (None, Some(value)) => Item::new(key.clone(), revision, value),
            (None, None) => continue,
        };
        view.tree.put(Arc::new(item));
        events.push(Arc::new(Event { key, revision, change: shown, previous }));
    }
    view.revision = revision;
}

/// Forgets what only reads before a revision can see, in steps between which others may change the view.
pub fn compact(view: &ArcSwap<View>, superseded: &Mutex<Superseded>, before: Revision) {
    loop {
        let mut superseded = superseded.lock();
        let mut next = View::clone(&view.load());
        next.compacted = next.compacted.max(before);
        let more = compact_step(&mut next, before, &mut superseded);
        view.store(Arc::new(next));
        if !more {
            return;
        }
    }
}

/// One step of forgetting what only reads before a revision can see; `false` when nothing is left to do.
fn compact_step(view: &mut View, before: Revision, superseded: &mut Superseded) -> bool {
    let mut keys = BTreeSet::new();
    while keys.len() < COMPACTION_STEP_KEYS {
        match superseded.front() {
            Some((revision, _)) if *revision <= before => {}
            _ => break,
        }
        keys.extend(superseded.pop_front().map(|(_, key)| key));
    }
    for key in &keys {
        let Some(item) = view.tree.get(key) else { continue };
        let (kept, freed) = item.compacted(before);
        view.used_bytes = view.used_bytes.saturating_sub(freed);
        match kept {
            Some(item) => view.tree.put(Arc::new(item)),
            None => view.tree.remove(key),
        }
    }
    !keys.is_empty()
}
