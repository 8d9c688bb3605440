//! Commits on their way to the disk.
//!
//! Invariants: expectations are judged against everything queued before, durable or not; revisions and record numbers
//! are given in queue order, so the log needs no sorting; `overlay` holds the newest state of exactly the keys that
//! queued commits change and the view does not show yet.

use crate::item::Item;
use crate::seal::is_sealed;
use crate::slot::Slot;
use crate::view::View;
use crate::wal::codec::{Action, Commit, Mutation};
use crate::{CommitError, Committed, Entry, Expect, Op, Revision, Stamped, Txn};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Bytes of the largest revision in decimal.
const STAMP_BYTES_MAX: usize = 20;

/// What bounds the queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub commit_bytes: usize,
    pub queue_bytes: u64,
    pub quota_bytes: u64,
}

impl Limits {
    /// Where commits that only delete or record end too. They need some room beyond the quota, because deleting is
    /// how an operator gets out of a full store.
    fn hard_quota(&self) -> u64 {
        self.quota_bytes.saturating_add(self.quota_bytes / 16).saturating_add(1 << 20)
    }
}

/// The queue.
pub struct Queue {
    waiting: VecDeque<Pending>,
    overlay: HashMap<Arc<str>, Newest>,
    /// Bytes of commits that are not visible yet, and what they will add to memory.
    bytes: u64,
    growth: u64,
    next_revision: Revision,
    next_record: u64,
    closed: bool,
}

struct Newest {
    revision: Revision,
    entry: Option<Entry>,
}

/// A commit that was accepted.
pub struct Pending {
    pub commit: Commit,
    slot: Arc<Slot>,
    values: Vec<Bytes>,
    bytes: u64,
    growth: u64,
}

impl Pending {
    /// Whether there is something to write.
    pub fn is_empty(&self) -> bool {
        self.commit.changes.is_empty() && self.commit.record.is_none()
    }

    /// Tells the waiter that it is done.
    pub fn complete(self) {
        let record = self.commit.record.map(|(number, _)| number);
        self.slot.complete(Ok(Committed { revision: self.commit.revision, values: self.values, record }));
    }

    /// Tells the waiter that it did not happen.
    pub fn refuse(self, error: CommitError) {
        self.slot.complete(Err(error));
    }
}

impl Queue {
    pub fn new(next_revision: Revision, next_record: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            overlay: HashMap::new(),
            bytes: 0,
            growth: 0,
            next_revision,
            next_record,
            closed: false,
        }
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn next_record(&self) -> u64 {
        self.next_record
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Judges a transaction and queues it. `held_bytes` is what unfinished records hold in memory.
    pub fn enqueue(
        &mut self,
        txn: Txn,
        view: &View,
        held_bytes: u64,
        limits: &Limits,
    ) -> Result<Arc<Slot>, CommitError> {
        let size = check_shape(&txn, limits)?;
        if self.closed {
            return Err(CommitError::Closed);
        }
        if self.bytes > 0 && self.bytes + size as u64 > limits.queue_bytes {
            return Err(CommitError::Busy { queued_bytes: self.bytes, limit: limits.queue_bytes });
        }
        let mut found = Vec::with_capacity(txn.ops.len());
        for (op, what) in txn.ops.iter().enumerate() {
            found.push(self.expect(op, what, view)?);
        }
        let growth = growth(&txn, &found);
        self.check_room(&txn, growth, view, held_bytes, limits)?;

        let (changes, values) = self.make_changes(txn.ops, found);
        let revision = if changes.is_empty() { self.next_revision - 1 } else { self.next_revision };
        self.next_revision = revision + 1;
        let record = txn.record.map(|bytes| {
            self.next_record += 1;
            (self.next_record - 1, bytes)
        });
        let slot = Arc::new(Slot::default());
        let commit = Commit { revision, changes, record };
        let bytes = commit.size() as u64;
        self.bytes += bytes;
        self.growth += growth;
        self.waiting.push_back(Pending { commit, slot: slot.clone(), values, bytes, growth });
        Ok(slot)
    }

    /// Whether a queued commit changes the key.
    pub fn is_pending(&self, key: &str) -> bool {
        self.overlay.contains_key(key)
    }

    /// A place behind everything queued: completed when that is durable and visible.
    pub fn barrier(&mut self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let commit = Commit { revision: self.next_revision - 1, changes: Vec::new(), record: None };
        let values = Vec::new();
        self.waiting.push_back(Pending { commit, slot: slot.clone(), values, bytes: 0, growth: 0 });
        slot
    }

    /// Takes commits for one frame: at least one, then as many as fit.
    pub fn take(&mut self, bytes_max: u64) -> Vec<Pending> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.front() {
            if !batch.is_empty() && bytes + next.bytes > bytes_max {
                break;
            }
            bytes += next.bytes;
            batch.extend(self.waiting.pop_front());
        }
        batch
    }

    /// The view shows these commits now.
    pub fn settle(&mut self, batch: &[Pending]) {
        for pending in batch {
            self.bytes -= pending.bytes;
            self.growth -= pending.growth;
            for change in &pending.commit.changes {
                if self.overlay.get(&change.key).is_some_and(|n| n.revision == pending.commit.revision) {
                    self.overlay.remove(&change.key);
                }
            }
        }
    }

    /// Forgets everything that is not durable; the waiting commits are handed back to be refused.
    pub fn reset(&mut self, durable: Revision, next_record: u64) -> VecDeque<Pending> {
        self.overlay.clear();
        self.bytes = 0;
        self.growth = 0;
        self.next_revision = durable + 1;
        self.next_record = next_record;
        std::mem::take(&mut self.waiting)
    }

    /// The key's newest entry, when the operation's expectation of it holds.
    fn expect(&self, op: usize, what: &Op, view: &View) -> Result<Option<Entry>, CommitError> {
        let (Op::Put { key, expect, .. } | Op::Delete { key, expect, .. }) = what;
        let current = match self.overlay.get(key.as_str()) {
            Some(newest) => newest.entry.clone(),
            None => view.get(key),
        };
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::At(revision) => current.as_ref().is_some_and(|e| e.modified == *revision),
        };
        if holds { Ok(current) } else { Err(CommitError::Conflict { op, key: key.clone(), current }) }
    }

    fn check_room(
        &self,
        txn: &Txn,
        growth: u64,
        view: &View,
        held_bytes: u64,
        limits: &Limits,
    ) -> Result<(), CommitError> {
        let used = view.used_bytes + self.growth + held_bytes;
        let puts = txn.ops.iter().any(|op| matches!(op, Op::Put { .. }));
        let quota = if puts { limits.quota_bytes } else { limits.hard_quota() };
        if growth > 0 && used.saturating_add(growth) > quota {
            return Err(CommitError::NoSpace { used_bytes: used, quota_bytes: limits.quota_bytes });
        }
        Ok(())
    }

    /// The changes with their final bytes, and each operation's value.
    fn make_changes(&mut self, ops: Vec<Op>, found: Vec<Option<Entry>>) -> (Vec<Mutation>, Vec<Bytes>) {
        let revision = self.next_revision;
        let mut changes = Vec::with_capacity(ops.len());
        let mut values = Vec::with_capacity(ops.len());
        for (op, current) in ops.into_iter().zip(found) {
            let (key, action, value) = match (op, current) {
                (Op::Put { key, value, .. }, current) => {
                    let value = stamp(value, revision);
                    let (key, created) = match current {
                        Some(e) => (e.key, e.created),
                        None => (Arc::from(key), revision),
                    };
                    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
                    self.overlay.insert(key.clone(), Newest { revision, entry: Some(entry) });
                    (key, Action::Put(value.clone()), value)
                }
                (Op::Delete { last, .. }, Some(current)) => {
                    let last = last.map(|l| stamp(l, revision));
                    let value = last.clone().unwrap_or(current.value);
                    self.overlay.insert(current.key.clone(), Newest { revision, entry: None });
                    (current.key, Action::Delete(last), value)
                }
                (Op::Delete { .. }, None) => {
                    values.push(Bytes::new());
                    continue;
                }
            };
            values.push(value);
            changes.push(Mutation { key, action });
        }
        (changes, values)
    }
}

/// Refuses what could never be committed; gives the size in bytes.
pub fn check_shape(txn: &Txn, limits: &Limits) -> Result<usize, CommitError> {
    let malformed = |reason: String| Err(CommitError::Malformed { reason });
    let mut size = txn.record.as_ref().map_or(0, Bytes::len);
    let mut keys = HashSet::new();
    if txn.record.as_ref().is_some_and(|r| is_sealed(r)) {
        return malformed("its record reads as an encrypted one".to_owned());
    }
    for op in &txn.ops {
        let (key, value) = match op {
            Op::Put { key, value, .. } => (key, Some(value)),
            Op::Delete { key, last, .. } => (key, last.as_ref()),
        };
        if key.is_empty() {
            return malformed("a key is empty".to_owned());
        }
        if txn.ops.len() > 1 && !keys.insert(key.as_str()) {
            return malformed(format!("it changes the key {key:?} twice"));
        }
        if value.is_some_and(|v| is_sealed(&v.bytes)) {
            return malformed(format!("the value of {key:?} reads as an encrypted one"));
        }
        if let Some(value) = value {
            if value.stamp.is_some_and(|at| at > value.bytes.len()) {
                return malformed(format!(
                    "the stamp of {key:?} lies beyond its {} bytes",
                    value.bytes.len()
                ));
            }
            size += value.bytes.len() + STAMP_BYTES_MAX;
        }
        size += key.len();
    }
    if size > limits.commit_bytes {
        return Err(CommitError::TooLarge { bytes: size, limit: limits.commit_bytes });
    }
    Ok(size)
}

/// What a transaction adds to memory.
fn growth(txn: &Txn, found: &[Option<Entry>]) -> u64 {
    let ops = txn.ops.iter().zip(found).map(|(op, current)| match (op, current) {
        (Op::Put { key, value, .. }, _) => Item::version_bytes(key, value.bytes.len() + STAMP_BYTES_MAX),
        (Op::Delete { key, .. }, Some(_)) => Item::version_bytes(key, 0),
        (Op::Delete { .. }, None) => 0,
    });
    ops.sum::<u64>() + txn.record.as_ref().map_or(0, |r| r.len() as u64)
}

/// The bytes with the revision written in.
pub fn stamp(value: Stamped, revision: Revision) -> Bytes {
    let Some(at) = value.stamp else { return value.bytes.into() };
    let text = revision.to_string();
    let mut out = Vec::with_capacity(value.bytes.len() + text.len());
    out.extend_from_slice(&value.bytes[..at]);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(&value.bytes[at..]);
    out.into()
}
