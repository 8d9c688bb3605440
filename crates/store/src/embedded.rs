//! The embedded store: one log, one tree in memory, one that commits at a time.
//!
//! Invariant: readers touch only the current view and the shared history; neither a read nor a watch ever waits for
//! the disk.

pub(crate) mod committer;
pub(crate) mod keeper;
mod turns;

use crate::disk::{Disk, Mode};
use crate::history::{Bucket, History};
use crate::queue::{Limits, Queue};
use crate::recover::{self, HistoryLimits, OpenError, Place, Recovery};
use crate::slot::Wait;
use crate::snapshot;
use crate::state::{self, Superseded};
use crate::view::View;
use crate::wal::frame::Seed;
use crate::wal::segment::{self, Position};
use crate::wal::writer::{self, FreeList, Writer};
use crate::*;
use arc_swap::ArcSwap;
use base::clock::SharedClock;
use base::rng::Rng;
use bytes::Bytes;
use committer::Committer;
use keeper::Keeper;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;
use turns::Turns;

/// Preallocated files kept for reuse.
pub(crate) const FREE_FILES_MAX: usize = 2;
/// Watchers woken by the committer itself; more are left to a thread of their own, so that commits do not wait.
const INLINE_WAKES_MAX: usize = 16;
/// The time between two rounds of that thread, for each watcher of the last one: what many watchers are to see in a burst,
/// each gets in few pieces. A change after a pause waits for nothing; those that follow it sooner than the shortest time
/// between rounds are the thread's too, as to wake somebody costs more than to show him one change more.
const WAKE_EACH: Duration = Duration::from_micros(100);
const WAKE_EVERY_MIN: Duration = Duration::from_millis(2);
const WAKE_EVERY_MAX: Duration = Duration::from_millis(100);
/// The first segment of a new store is small: a start does not wait until a large one has been written.
const FIRST_SEGMENT_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of one group of commits, unless a single commit is larger.
pub(crate) const FRAME_BYTES_MAX: u64 = 4 << 20;

/// What is done when the disk can no longer be trusted. The default prints the reason and aborts: after a failed sync
/// nobody can know what is durable, and only a restart finds out.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// How to open a store. Sizes are in bytes.
#[derive(Clone)]
pub struct Options {
    /// The store's own directory.
    pub dir: PathBuf,
    /// What the operator calls the data directory, for messages.
    pub data_dir: PathBuf,
    pub quota_bytes: u64,
    pub segment_bytes: u64,
    pub commit_bytes_max: usize,
    /// Commits that wait for the disk.
    pub queue_bytes_max: u64,
    /// Changes kept for watchers; the older of both limits counts.
    pub history_events_max: usize,
    pub history_bytes_max: u64,
    /// Log written between two snapshots.
    pub snapshot_every_bytes: u64,
    /// Which values the files hold encrypted, and the keys that open them.
    pub seal: Arc<Seal>,
    /// Tells values by bits, for reads that ask for some.
    pub bloom: Bloom,
    pub fatal: Fatal,
    /// Names a new store.
    pub rng: Arc<Rng>,
}

impl Options {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            data_dir: dir.clone(),
            dir,
            quota_bytes: 2 << 30,
            segment_bytes: 16 << 20,
            commit_bytes_max: 3 << 20,
            queue_bytes_max: 256 << 20,
            history_events_max: 100_000,
            history_bytes_max: 128 << 20,
            snapshot_every_bytes: 64 << 20,
            seal: Arc::new(Seal::none()),
            bloom: |_| u64::MAX,
            fatal: Arc::new(|reason| {
                eprintln!(
                    "the store cannot go on: {reason}. Stopping at once; a restart recovers all that was acknowledged."
                );
                std::process::abort();
            }),
            rng: Arc::new(Rng::from_os()),
        }
    }

    fn place<'a>(&'a self, disk: &'a dyn Disk) -> Place<'a> {
        Place { disk, dir: &self.dir, data_dir: &self.data_dir }
    }

    fn limits(&self) -> Limits {
        Limits {
            commit_bytes: self.commit_bytes_max,
            queue_bytes: self.queue_bytes_max,
            quota_bytes: self.quota_bytes,
        }
    }
}

/// The store.
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` when the caller commits.
    turns: Option<Arc<Turns>>,
    recovery: Recovery,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

/// What the threads share.
pub(crate) struct Shared {
    pub options: Options,
    pub disk: Arc<dyn Disk>,
    pub clock: SharedClock,
    pub view: ArcSwap<View>,
    pub queue: Mutex<Queue>,
    pub work: Condvar,
    /// Held by whoever replaces the view.
    pub superseded: Mutex<Superseded>,
    pub history: Arc<History>,
    pub records: Mutex<Records>,
    pub keeper: Keeper,
    pub wakers: WakeList,
    pub free: FreeList,
    pub commits: AtomicU64,
    pub fsyncs: AtomicU64,
    pub problem: Mutex<Option<String>>,
}

/// Unfinished records.
#[derive(Default)]
pub(crate) struct Records {
    pub kept: BTreeMap<u64, (Revision, Bytes)>,
    pub bytes: u64,
}

/// Watchers to be woken by the thread for it. Holds at most one waker for each watcher and wake.
#[derive(Default)]
pub(crate) struct WakeList {
    list: Mutex<(Vec<Waker>, bool)>,
    work: Condvar,
    /// Notified only by the end: a round lasts its time.
    round: Condvar,
}

impl Embedded {
    /// Opens the store in a directory, which is made when it is missing.
    ///
    /// # Errors
    /// The directory is in use, cannot be written, holds damage that a crash does not explain, or values that no key of
    /// [`Options::seal`] opens.
    pub fn open(options: Options, disk: Arc<dyn Disk>, clock: SharedClock) -> Result<Arc<Self>, OpenError> {
        let (mut store, committer) = Self::load(options, disk, clock, true)?;
        let turns = Turns::new(store.shared.clone(), committer);
        store.turns = Some(turns.clone());
        let shared = store.shared.clone();
        let waker = store.shared.clone();
        let path = store.shared.options.dir.clone();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            thread.map_err(|source| OpenError::Io { what: "start a thread for", path: path.clone(), source })
        };
        let mut threads = store.threads.lock();
        threads.push(spawn("store-keep", Box::new(move || keeper::run(&shared)))?);
        threads.push(spawn("store-wake", Box::new(move || waker.wakers.run()))?);
        threads.push(spawn("store-commit", Box::new(move || turns.run()))?);
        drop(threads);
        Ok(Arc::new(store))
    }

    /// Opens without threads: the caller makes commits durable with [`Committer::step`].
    #[cfg(test)]
    pub(crate) fn open_stepped(
        options: Options,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
        threads: bool,
    ) -> Result<(Arc<Self>, Committer), OpenError> {
        let (store, committer) = Self::load(options, disk, clock, threads)?;
        Ok((Arc::new(store), committer))
    }

    fn load(
        options: Options,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
        threads: bool,
    ) -> Result<(Self, Committer), OpenError> {
        let place = options.place(&*disk);
        let lock = place.lock()?;
        let limits = HistoryLimits { events: options.history_events_max, bytes: options.history_bytes_max };
        let loaded = match recover::load(&place, limits, Some(&options.seal))? {
            Some(loaded) => loaded,
            None => {
                create(&place, &options, now_ms(&clock))
                    .map_err(|e| place.io("make the log in", &options.dir, e))?;
                recover::load(&place, limits, None)?
                    .ok_or_else(|| place.corrupt(&segment::segment_name(1), 0, "the file is missing"))?
            }
        };
        let free = tidy(&place)?;
        let wal =
            Writer::resume(disk.clone(), &options.dir, options.segment_bytes, free.clone(), loaded.resume)
                .map_err(|e| place.io("open the log in", &options.dir, e))?;
        let View { tree, revision, compacted, used_bytes } = loaded.view;
        let view = View { tree: tree.with_bloom(options.bloom), revision, compacted, used_bytes };
        let history = History::new(
            loaded.events,
            loaded.events_after,
            revision,
            options.history_events_max,
            options.history_bytes_max,
        );
        let bytes = loaded.records.values().map(|(_, b)| b.len() as u64).sum();
        let shared = Arc::new(Shared {
            disk,
            clock,
            view: ArcSwap::from_pointee(view),
            queue: Mutex::new(Queue::new(revision + 1, loaded.next_record)),
            work: Condvar::new(),
            superseded: Mutex::new(loaded.superseded),
            history,
            records: Mutex::new(Records { kept: loaded.records, bytes }),
            keeper: Keeper::new(threads),
            wakers: WakeList::default(),
            free,
            commits: AtomicU64::new(0),
            fsyncs: AtomicU64::new(0),
            problem: Mutex::new(None),
            options,
        });
        let committer = Committer::new(shared.clone(), wal, loaded.next_record, loaded.log_bytes);
        let store = Self {
            shared,
            turns: None,
            recovery: loaded.recovery,
            threads: Mutex::new(Vec::new()),
            lock: Mutex::new(Some(lock)),
        };
        Ok((store, committer))
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// What goes wrong at present without stopping the store: a snapshot that could not be written.
    pub fn problem(&self) -> Option<String> {
        self.shared.problem.lock().clone()
    }

    /// Takes no more commits, makes the queued ones durable, ends all watches and gives the directory free.
    pub fn close(&self) {
        self.shared.queue.lock().close();
        self.shared.work.notify_all();
        // The committer goes first: it may still have work for the other two.
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads.into_iter().rev() {
            let name = thread.thread().name().map(str::to_owned);
            if name.as_deref() == Some("store-wake") {
                self.shared.wake(self.shared.history.close());
                self.shared.wakers.stop();
            } else if name.as_deref() == Some("store-keep") {
                self.shared.keeper.stop();
            }
            // The last handle may be dropped by a waker that the store itself runs.
            if thread.thread().id() != std::thread::current().id() {
                // A thread that panicked has already ended the store.
                let _ = thread.join();
            }
        }
        self.shared.wake(self.shared.history.close());
        self.lock.lock().take();
    }

    /// Writes a backup of the present revision to a new file, while the store goes on.
    ///
    /// # Errors
    /// The file exists or cannot be written; nothing is left behind then.
    pub fn backup(&self, to: &std::path::Path) -> std::io::Result<Revision> {
        let view = self.shared.view.load_full();
        let records = self.shared.record_list();
        let next_record = self.shared.queue.lock().next_record();
        let header = snapshot::Header {
            store: [0; 16],
            segment: 1,
            position: Position { revision: view.revision, ..Position::default() },
            next_record,
            made_ms: now_ms(&self.shared.clock),
        };
        tools::write_backup(
            &*self.shared.disk,
            to,
            &header,
            &view,
            &records,
            Some(&self.shared.options.seal),
        )?;
        Ok(view.revision)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Embedded {
    fn revision(&self) -> Revision {
        self.shared.view.load().revision
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.shared.view.load().get(key)
    }

    fn get_at(&self, key: &str, at: Revision) -> Result<Option<Entry>, ReadError> {
        self.shared.view.load().get_at(key, at)
    }

    fn visit(&self, range: &Range, visit: &mut Visit) -> Result<Shown, ReadError> {
        self.shared.view.load_full().visit(range, visit)
    }

    fn count(&self, prefix: &str) -> u64 {
        self.shared.view.load().count(prefix)
    }

    fn commit(&self, txn: Txn) -> CommitFuture {
        let shared = &self.shared;
        let held_bytes = shared.records.lock().bytes;
        let mut queue = shared.queue.lock();
        let queued = queue.enqueue(txn, &shared.view.load(), held_bytes, &shared.options.limits());
        match queued {
            Ok(slot) => {
                drop(queue);
                match &self.turns {
                    Some(turns) => Box::pin(turns.wait(slot)),
                    None => Box::pin(Wait(slot)),
                }
            }
            // The change that stands in the way cannot be read yet: told only then, the caller reads it and is right.
            Err(CommitError::Conflict { op, key, current }) if queue.is_pending(&key) => {
                let slot = queue.barrier();
                drop(queue);
                shared.work.notify_one();
                Box::pin(async move {
                    Wait(slot).await?;
                    Err(CommitError::Conflict { op, key, current })
                })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watcher>, ReadError> {
        let current = self.revision();
        if after > current {
            return Err(ReadError::Future { asked: after, current });
        }
        Ok(Box::new(self.shared.history.watch(prefix, after)?))
    }

    fn compact(&self, before: Revision) -> Result<(), ReadError> {
        let current = self.revision();
        if before > current {
            return Err(ReadError::Future { asked: before, current });
        }
        state::compact(&self.shared.view, &self.shared.superseded, before);
        self.shared.history.compact(before);
        Ok(())
    }

    fn unfinished_records(&self) -> Vec<(u64, Revision, Bytes)> {
        self.shared.record_list()
    }

    fn finish_record(&self, record: u64) {
        let mut records = self.shared.records.lock();
        if let Some((_, bytes)) = records.kept.remove(&record) {
            records.bytes -= bytes.len() as u64;
        }
    }

    fn stats(&self) -> Stats {
        let s = &self.shared;
        let view = s.view.load();
        // A file may go meanwhile.
        let size = |name: String| s.disk.open(&s.options.dir.join(name), Mode::Read)?.size();
        let names = s.disk.list(&s.options.dir).unwrap_or_default();
        Stats {
            revision: view.revision,
            compacted: view.compacted,
            keys: view.tree.live(),
            used_bytes: view.used_bytes,
            quota_bytes: s.options.quota_bytes,
            disk_bytes: names.into_iter().filter_map(|name| size(name).ok()).sum(),
            commits: s.commits.load(Ordering::Relaxed),
            fsyncs: s.fsyncs.load(Ordering::Relaxed),
            watchers: s.history.watchers(),
        }
    }

    fn problem(&self) -> Option<String> {
        Self::problem(self)
    }

    fn close(&self) {
        Self::close(self);
    }
}

impl Shared {
    pub fn record_list(&self) -> Vec<snapshot::Record> {
        self.records.lock().kept.iter().map(|(n, (r, b))| (*n, *r, b.clone())).collect()
    }

    /// Wakes the watchers of buckets: a few here; many, and those that were woken just now, in the thread for it.
    pub fn wake(&self, buckets: Vec<Arc<Bucket>>) {
        let now = self.clock.monotonic();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for bucket in buckets {
            let sleepers = bucket.sleepers();
            if sleepers.is_empty() {
                continue;
            }
            let list = if bucket.woken(now) < WAKE_EVERY_MIN { &mut there } else { &mut here };
            list.extend(sleepers.into_values());
        }
        if here.len() > INLINE_WAKES_MAX {
            there.append(&mut here);
        }
        if self.keeper.has_thread() {
            here.into_iter().for_each(Waker::wake);
            self.wakers.add(there);
        } else {
            here.into_iter().chain(there).for_each(Waker::wake);
        }
    }
}

impl WakeList {
    fn add(&self, wakers: Vec<Waker>) {
        if wakers.is_empty() {
            return;
        }
        self.list.lock().0.extend(wakers);
        self.work.notify_one();
    }

    fn stop(&self) {
        self.list.lock().1 = true;
        self.work.notify_one();
        self.round.notify_one();
    }

    fn run(&self) {
        loop {
            let (wakers, stop) = {
                let mut list = self.list.lock();
                while list.0.is_empty() && !list.1 {
                    self.work.wait(&mut list);
                }
                (std::mem::take(&mut list.0), list.1)
            };
            let count = u32::try_from(wakers.len()).unwrap_or(u32::MAX);
            wakers.into_iter().for_each(Waker::wake);
            if stop {
                return;
            }
            let pause = WAKE_EACH.saturating_mul(count).clamp(WAKE_EVERY_MIN, WAKE_EVERY_MAX);
            let mut list = self.list.lock();
            if !list.1 {
                self.round.wait_for(&mut list, pause);
            }
        }
    }
}

pub(crate) fn now_ms(clock: &SharedClock) -> u64 {
    u64::try_from(clock.now().as_millisecond()).unwrap_or(0)
}

/// A new store's name: what keeps its log apart from any other's.
pub(crate) fn new_id(rng: &Rng) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng.below(u64::MAX).to_le_bytes());
    id[8..].copy_from_slice(&rng.below(u64::MAX).to_le_bytes());
    id
}

/// Makes the first segment of a new store.
fn create(place: &Place, options: &Options, made_ms: u64) -> std::io::Result<()> {
    let seed = Seed { store: new_id(&options.rng), segment: 1 };
    let bytes = options.segment_bytes.min(FIRST_SEGMENT_BYTES_MAX);
    let header = segment::Header { seed, start: Position::default(), bytes, made_ms };
    let name = segment::free_name(1);
    let file = writer::preallocate(place.disk, &place.dir.join(&name), bytes, true)?;
    writer::install(place.disk, place.dir, file, &name, &header)?;
    Ok(())
}

/// Removes what crashes left behind; gives the files for reuse.
fn tidy(place: &Place) -> Result<FreeList, OpenError> {
    let files = place.files()?;
    let (keep, surplus) = files.free.split_at(files.free.len().min(FREE_FILES_MAX));
    let unfinished = files.unfinished.then(|| segment::UNFINISHED_NAME.to_owned());
    for name in surplus.iter().chain(&unfinished) {
        let path = place.dir.join(name);
        place.disk.remove(&path).map_err(|e| place.io("remove", &path, e))?;
    }
    Ok(Arc::new(Mutex::new(keep.to_vec())))
}
