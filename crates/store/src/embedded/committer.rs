//! Makes commits durable and then visible.
//!
//! Invariant: a commit is shown to readers, watchers and its waiter only after the frame that holds it is synced;
//! revisions become visible in order and without gaps.

use super::keeper::Job;
use super::{FRAME_BYTES_MAX, Shared, now_ms};
use crate::history::Bucket;
use crate::queue::Pending;
use crate::snapshot;
use crate::state;
use crate::view::View;
use crate::wal::frame;
use crate::wal::writer::{AppendError, Writer};
use crate::{CommitError, Revision};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The buffer of a frame is given back when it grew beyond this many bytes.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// The committer's own state.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    wal: Writer,
    buffer: Vec<u8>,
    /// The lowest record number that is not durable.
    next_record: u64,
    /// What the log says of finished records.
    finished_below: u64,
    since_snapshot: u64,
    /// The file for the next segment was asked for.
    spare_asked: bool,
    dead: bool,
}

/// Ends the store when the committer panics: waiters must not wait for ever.
pub(crate) struct Guard<'a>(pub &'a Arc<Shared>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            die(self.0, Vec::new(), "a commit panicked");
        }
    }
}

/// A group that is durable and visible, and whose waiters were not told.
pub(crate) struct Done {
    batch: Vec<Pending>,
    dirty: Vec<Arc<Bucket>>,
}

impl Done {
    pub fn commits(&self) -> usize {
        self.batch.len()
    }

    /// Tells the waiters and wakes the watchers.
    pub fn tell(self, shared: &Shared) {
        for pending in self.batch {
            pending.complete();
        }
        shared.wake(self.dirty);
    }
}

impl Committer {
    pub fn new(shared: Arc<Shared>, wal: Writer, next_record: u64, since_snapshot: u64) -> Self {
        Self {
            shared,
            wal,
            buffer: Vec::new(),
            next_record,
            finished_below: 0,
            since_snapshot,
            spare_asked: false,
            dead: false,
        }
    }

    /// Whether the disk cannot be trusted any more.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Commits what is queued as one group and tells who waits for it; `false` when there was nothing or it failed.
    #[cfg(test)]
    pub fn step(&mut self) -> bool {
        self.group().map(|done| done.tell(&self.shared)).is_some()
    }

    /// Commits what is queued as one group; `None` when there was nothing or it failed.
    pub fn group(&mut self) -> Option<Done> {
        let batch = self.shared.queue.lock().take(FRAME_BYTES_MAX);
        if batch.is_empty() || self.dead {
            return None;
        }
        let revision = batch.last().map_or(0, |p| p.commit.revision);
        if batch.iter().any(|p| !p.is_empty()) {
            self.begin_frame();
            if let Err(error) = self.write_commits(&batch).and_then(|()| self.append(revision)) {
                self.give_up(batch, error);
                return None;
            }
        }
        let done = self.publish(batch, revision);
        self.snapshot_if_due();
        Some(done)
    }

    /// Writes down which records are finished, if the log does not say so yet. Failure costs only a repeated report.
    pub fn write_finished(&mut self) {
        let known = self.finished_below;
        self.begin_frame();
        if self.finished_below > known && self.append(self.wal.position().revision).is_err() {
            self.dead = true;
        }
    }

    fn begin_frame(&mut self) {
        let lowest = self.shared.records.lock().kept.keys().next().copied();
        self.finished_below = lowest.unwrap_or(self.next_record);
        frame::begin(&mut self.buffer, self.finished_below);
    }

    /// Puts the commits of a group into the frame, sealed.
    fn write_commits(&mut self, batch: &[Pending]) -> Result<(), AppendError> {
        for pending in batch.iter().filter(|p| !p.is_empty()) {
            let sealed = self.shared.options.seal.write_commit(&pending.commit, &mut self.buffer);
            sealed.map_err(|e| AppendError::Fatal(e.to_string()))?;
        }
        Ok(())
    }

    fn append(&mut self, revision: Revision) -> Result<(), AppendError> {
        let segment = self.wal.segment();
        self.wal.append(&mut self.buffer, revision, now_ms(&self.shared.clock))?;
        self.since_snapshot += self.buffer.len() as u64;
        if self.buffer.capacity() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        self.shared.fsyncs.fetch_add(1, Ordering::Relaxed);
        if self.wal.segment() != segment {
            self.shared.keeper.give(&self.shared, Job::Spare);
            self.spare_asked = false;
        }
        if !self.spare_asked && self.wal.is_half_full() {
            // The first segment has none yet.
            self.shared.keeper.give(&self.shared, Job::Spare);
            self.spare_asked = true;
        }
        Ok(())
    }

    fn publish(&mut self, batch: Vec<Pending>, revision: Revision) -> Done {
        let mut events = Vec::new();
        {
            let mut superseded = self.shared.superseded.lock();
            let mut view = View::clone(&self.shared.view.load());
            for pending in &batch {
                state::apply(&mut view, &pending.commit, &mut events, &mut superseded);
            }
            self.shared.view.store(Arc::new(view));
        }
        {
            let mut records = self.shared.records.lock();
            for pending in &batch {
                if let Some((number, bytes)) = &pending.commit.record {
                    self.next_record = number + 1;
                    records.bytes += bytes.len() as u64;
                    records.kept.insert(*number, (pending.commit.revision, bytes.clone()));
                }
            }
        }
        let dirty = self.shared.history.publish(events, revision);
        self.shared.queue.lock().settle(&batch);
        self.shared.commits.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Done { batch, dirty }
    }

    /// The frame did not make it: refuses everything that is not durable, or ends the store.
    fn give_up(&mut self, batch: Vec<Pending>, error: AppendError) {
        match error {
            AppendError::Full(reason) => {
                let dir = self.shared.options.dir.display().to_string();
                let waiting = {
                    let mut queue = self.shared.queue.lock();
                    queue.reset(self.shared.view.load().revision, self.next_record)
                };
                for pending in batch.into_iter().chain(waiting) {
                    pending.refuse(CommitError::DiskFull { dir: dir.clone(), reason: reason.clone() });
                }
            }
            AppendError::Fatal(reason) => {
                self.dead = true;
                die(&self.shared, batch, &reason);
            }
        }
    }

    fn snapshot_if_due(&mut self) {
        let every = self.shared.options.snapshot_every_bytes;
        if self.since_snapshot < every || !self.shared.keeper.begin_snapshot() {
            return;
        }
        // A snapshot stands between two segments, so that the log behind it is whole files.
        let now = now_ms(&self.shared.clock);
        match self.wal.rotate(0, now) {
            Ok(()) => {}
            Err(AppendError::Full(reason)) => {
                *self.shared.problem.lock() = Some(format!("no snapshot was written: {reason}"));
                self.shared.keeper.end_snapshot();
                self.since_snapshot = every - every / 4;
                return;
            }
            Err(AppendError::Fatal(reason)) => {
                self.dead = true;
                die(&self.shared, Vec::new(), &reason);
                return;
            }
        }
        self.since_snapshot = 0;
        let header = snapshot::Header {
            store: self.wal.store(),
            segment: self.wal.segment(),
            position: self.wal.position(),
            next_record: self.next_record,
            made_ms: now,
        };
        let records = self.shared.record_list();
        let view = self.shared.view.load_full();
        self.shared.keeper.give(&self.shared, Job::Snapshot { header, view, records });
        self.shared.keeper.give(&self.shared, Job::Spare);
    }
}

/// Ends the store: by default the process with it.
fn die(shared: &Arc<Shared>, batch: Vec<Pending>, reason: &str) {
    (shared.options.fatal)(reason);
    // Only a test's hook comes back.
    let waiting = {
        let mut queue = shared.queue.lock();
        queue.close();
        queue.reset(shared.view.load().revision, 0)
    };
    for pending in batch.into_iter().chain(waiting) {
        pending.refuse(CommitError::Closed);
    }
    shared.wake(shared.history.close());
}
