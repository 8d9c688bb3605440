//! The wanted table: fragments by owner, and the changes between two of them.
//!
//! Invariant: an entry is in the table while any owner wants it, with the value of the first owner in order, so two
//! owners that disagree (a host port and a node port) never flap.

use super::model::{Change, EntryKey, EntryValue, Fragment};
use crate::spec::Key;
use std::collections::{BTreeMap, HashMap};

/// Who wants an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    Service(Key),
    /// A pod's host ports, by its uid.
    Pod(String),
}

/// The wanted content of the kernel's table.
#[derive(Debug, Default)]
pub struct Table {
    owners: BTreeMap<Owner, (u32, Fragment)>,
    /// Owners by age number, and what each says; nearly always one.
    entries: HashMap<EntryKey, Vec<(u32, EntryValue)>>,
    next: u32,
}

impl Table {
    /// Replaces what the owner wants; an empty fragment forgets it. Returns the changes, in no order.
    pub fn replace(&mut self, owner: Owner, fragment: Fragment) -> Vec<Change> {
        let (number, old) = self.owners.remove(&owner).unwrap_or_else(|| {
            self.next = self.next.wrapping_add(1);
            (self.next, Fragment::new())
        });
        let mut changes = vec![];
        for (key, value) in &old {
            if fragment.get(key) != Some(value) {
                self.change(*key, number, None, &mut changes);
            }
        }
        for (key, value) in &fragment {
            if old.get(key) != Some(value) {
                self.change(*key, number, Some(*value), &mut changes);
            }
        }
        if !fragment.is_empty() {
            self.owners.insert(owner, (number, fragment));
        }
        merge(changes)
    }

    /// Everything in the table.
    pub fn all(&self) -> impl Iterator<Item = (EntryKey, EntryValue)> {
        self.entries.iter().filter_map(|(k, said)| Some((*k, said.first()?.1)))
    }

    /// What it says of a key.
    pub fn get(&self, key: &EntryKey) -> Option<EntryValue> {
        self.entries.get(key).and_then(|said| said.first()).map(|(_, v)| *v)
    }

    /// The owners, for finding those that are gone.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owners.keys()
    }

    fn change(&mut self, key: EntryKey, number: u32, value: Option<EntryValue>, changes: &mut Vec<Change>) {
        let said = self.entries.entry(key).or_default();
        let before = said.first().map(|(_, v)| *v);
        said.retain(|(n, _)| *n != number);
        if let Some(value) = value {
            let at = said.partition_point(|(n, _)| *n < number);
            said.insert(at, (number, value));
        }
        let after = said.first().map(|(_, v)| *v);
        if said.is_empty() {
            self.entries.remove(&key);
        }
        if before != after {
            changes.extend(before.map(|v| Change::Remove(key, v)));
            changes.extend(after.map(|v| Change::Add(key, v)));
        }
    }
}

/// Joins changes that follow each other, so that each key is removed at most once and added at most once.
pub fn merge(changes: Vec<Change>) -> Vec<Change> {
    let mut net: BTreeMap<EntryKey, (Option<EntryValue>, Option<EntryValue>)> = BTreeMap::new();
    for change in changes {
        match change {
            Change::Remove(key, value) => {
                net.entry(key).or_insert((Some(value), None)).1 = None;
            }
            Change::Add(key, value) => {
                net.entry(key).or_insert((None, None)).1 = Some(value);
            }
        }
    }
    let mut out = vec![];
    for (key, (before, after)) in net {
        if before != after {
            out.extend(before.map(|v| Change::Remove(key, v)));
            out.extend(after.map(|v| Change::Add(key, v)));
        }
    }
    out
}
