//! The store on real etcd: its keys there, and a watch cache here that is read in its place.
//!
//! One thread runs everything that talks to etcd. One watch (`remote/feed.rs`) feeds the same tree and history as the
//! embedded engine's; commits (`remote/writer.rs`) are etcd transactions. Invariants: the view shows every change up to
//! its revision and none after it; a commit is acknowledged after etcd has it and, while the watch is alive, after the
//! view shows it; several of these stores on one etcd show the same changes in the same order.

mod compactor;
mod feed;
mod keys;
mod load;
mod marks;
mod records;
mod stamp;
#[cfg(test)]
mod tests;
mod writer;

use crate::embedded::Fatal;
use crate::history::{Bucket, History};
use crate::state::{self, Superseded};
use crate::view::View;
use crate::*;
use ::etcd::Client;
use arc_swap::ArcSwap;
use base::rng::Rng;
use keys::Layout;
pub use marks::Mark;
use parking_lot::Mutex;
use records::Records;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;
use writer::Flight;

/// Transactions that etcd has at the same time; more wait their turn.
const TXNS_AT_ONCE_MAX: usize = 256;
/// Between two questions for progress while somebody waits for it
/// (upstream: apiserver `pkg/storage/cacher/progress#progressRequestPeriod`).
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);
/// How long a read waits for a revision to be seen here (upstream: apiserver `pkg/storage/cacher#blockTimeout`).
const REACH_WAIT: Duration = Duration::from_secs(3);
/// How long closing waits for commits that are under way.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How to open a store on etcd. Sizes are in bytes.
#[derive(Clone)]
pub struct EtcdOptions {
    pub config: EtcdConfig,
    /// What all keys start with; commits of others are refused.
    pub scope: String,
    /// This server's name, not another's on the same etcd, and the same at the next start: the audit records that it
    /// left open are found by it. Without slashes.
    pub identity: String,
    /// How long one question to etcd may take, tries included.
    pub request_timeout: Duration,
    /// The largest transaction (etcd: `--max-request-bytes`).
    pub request_bytes_max: usize,
    /// Commits that wait for etcd.
    pub queue_bytes_max: u64,
    /// Audit records that are not finished.
    pub records_bytes_max: u64,
    /// Changes kept for watchers; the older of both limits counts.
    pub history_events_max: usize,
    pub history_bytes_max: u64,
    /// Past revisions that opening reads, so that watches and pages of before a restart go on.
    pub backlog_revisions: u64,
    /// `None` leaves compaction to others.
    pub compact_every: Option<Duration>,
    /// Which values etcd holds encrypted, and the keys that open them.
    pub seal: Arc<Seal>,
    /// Tells values by bits, for reads that ask for some.
    pub bloom: Bloom,
    /// What this server must have in common with the others on the same etcd.
    pub marks: Vec<Mark>,
    /// What is done when etcd's history turns out to be another one than was shown: by default the process ends.
    pub fatal: Fatal,
    /// Names records.
    pub rng: Arc<Rng>,
}

impl EtcdOptions {
    pub fn new(config: EtcdConfig, identity: impl Into<String>) -> Self {
        Self {
            config,
            scope: "/registry/".to_owned(),
            identity: identity.into(),
            request_timeout: Duration::from_secs(10),
            request_bytes_max: 3 << 19,
            queue_bytes_max: 256 << 20,
            records_bytes_max: 256 << 20,
            history_events_max: 100_000,
            history_bytes_max: 128 << 20,
            backlog_revisions: 10_000,
            // upstream: apiserver `pkg/storage/storagebackend#DefaultCompactInterval`
            compact_every: Some(Duration::from_secs(300)),
            seal: Arc::new(Seal::none()),
            bloom: |_| u64::MAX,
            marks: Vec::new(),
            fatal: Arc::new(|reason| {
                eprintln!(
                    "the store cannot go on: {reason}. Stopping at once; a restart shows what etcd has."
                );
                std::process::abort();
            }),
            rng: Arc::new(Rng::from_os()),
        }
    }
}

/// Why a store on etcd could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("the server's name {0:?} for etcd is empty or has a slash in it")]
    Identity(String),
    #[error("the store in etcd ({endpoints}) cannot be opened: {reason}")]
    Open { endpoints: String, reason: String },
    #[error(
        "this server does not belong to the cluster in etcd: {otherwise}. (If the cluster is to have a new one: stop all of \
         its servers and remove the key {key} from etcd)"
    )]
    Foreign { otherwise: String, key: String },
    #[error("etcd {0} tells wrong progress to watches; use 3.5.8 or newer")]
    TooOld(String),
    #[error("could not start the thread for etcd")]
    Thread(#[source] std::io::Error),
}

/// The store.
pub struct Etcd {
    shared: Arc<Shared>,
    handle: Handle,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the tasks share.
struct Shared {
    options: EtcdOptions,
    layout: Layout,
    client: Client,
    view: ArcSwap<View>,
    /// Held by whoever replaces the view.
    superseded: Mutex<Superseded>,
    history: Arc<History>,
    /// The view's revision, to wait for.
    visible: watch::Sender<Revision>,
    /// Somebody waits for progress of the watch.
    progress: Notify,
    records: Mutex<Records>,
    /// There are finished records to delete.
    finished: Notify,
    flight: Mutex<Flight>,
    permits: Semaphore,
    /// Readers that wait for etcd's newest revision.
    asking: Mutex<Asking>,
    compact_to: AtomicU64,
    compact: Notify,
    closed: AtomicBool,
    commits: AtomicU64,
    db_bytes: AtomicU64,
    quota_bytes: AtomicU64,
    problem: Mutex<Option<String>>,
    /// A value that the watch brought does not open: waiting does not help.
    unsealed: Mutex<Option<String>>,
}

/// One question for the newest revision is under way at a time; who comes meanwhile waits for the next one.
#[derive(Default)]
struct Asking {
    waiting: Vec<oneshot::Sender<Result<Revision, Unavailable>>>,
    running: bool,
}

impl Etcd {
    /// Connects, reads what is there, and follows it from then on. Blocks the thread meanwhile.
    ///
    /// # Errors
    /// etcd cannot be reached, is too old, holds values that no key of [`EtcdOptions::seal`] opens, or the configuration
    /// cannot work.
    pub fn open(options: EtcdOptions) -> Result<Arc<Self>, EtcdError> {
        if options.identity.is_empty() || options.identity.contains('/') {
            return Err(EtcdError::Identity(options.identity));
        }
        let (opened, outcome) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(EtcdError::Thread(error)))),
            };
            let handle = runtime.handle().clone();
            let shared = runtime.block_on(load::open(options));
            let shared = match shared {
                Ok(shared) => shared,
                Err(error) => return drop(opened.send(Err(error))),
            };
            let sent = opened.send(Ok((shared.clone(), handle)));
            if sent.is_ok() {
                runtime.block_on(async {
                    // A dropped sender stops it just as well.
                    let _ = stopped.await;
                    shared.drain().await;
                });
            }
            runtime.shutdown_background();
        };
        let thread =
            std::thread::Builder::new().name("store-etcd".into()).spawn(run).map_err(EtcdError::Thread)?;
        let gone = |_| EtcdError::Thread(std::io::Error::other("it ended at once"));
        let (shared, handle) = outcome.recv().map_err(gone)??;
        let (stop, thread) = (Mutex::new(Some(stop)), Mutex::new(Some(thread)));
        Ok(Arc::new(Self { shared, handle, stop, thread }))
    }

    /// This server's name among those on the same etcd.
    pub fn identity(&self) -> &str {
        &self.shared.options.identity
    }

    /// What goes wrong at present without stopping the store: etcd cannot be reached.
    pub fn problem(&self) -> Option<String> {
        self.shared.problem.lock().clone()
    }

    /// Writes etcd's own snapshot (as `etcdctl snapshot save` does) to a new file. Blocks the thread meanwhile.
    ///
    /// # Errors
    /// The file exists or cannot be written, or etcd breaks off; nothing is left behind then.
    pub fn backup(&self, to: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        let client = self.shared.client.clone();
        self.handle.spawn(async move {
            let mut write =
                |piece: &[u8]| file.write_all(piece).map_err(|e| ::etcd::Error::Config(e.to_string()));
            let result = client.snapshot(&mut write).await;
            let result = result.map_err(|e| std::io::Error::other(e.to_string()));
            // Nobody waits for it when the program ends.
            let _ = done.send(result.and_then(|()| file.sync_all()));
        });
        let result =
            outcome.recv().unwrap_or_else(|_| Err(std::io::Error::other("the store is shutting down")));
        if result.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(to);
        }
        result
    }

    /// Takes no more commits, waits a few seconds for those under way, and ends all watches.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        if let Some(stop) = self.stop.lock().take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        wake(self.shared.history.close());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Etcd {
    fn revision(&self) -> Revision {
        self.shared.view.load().revision
    }

    fn reach(&self, at_least: Option<Revision>) -> ReachFuture {
        let (shared, now) = (self.shared.clone(), self.revision());
        if at_least.is_some_and(|r| r <= now) {
            return Box::pin(std::future::ready(Ok(now)));
        }
        // In the store's own runtime: the future may be polled in any other, or in none.
        let task = self.handle.spawn(async move {
            let wanted = match at_least {
                Some(revision) => revision,
                None => shared.newest().await?,
            };
            let there = shared.wait_visible(wanted, Instant::now() + REACH_WAIT, true).await;
            if !there && at_least.is_none() {
                let reason = format!("revision {wanted} did not come in {} s", REACH_WAIT.as_secs());
                return Err(Unavailable { reason });
            }
            Ok(shared.view.load().revision)
        });
        let closed = |_| Unavailable { reason: "the store is shutting down".to_owned() };
        Box::pin(async move { task.await.map_err(closed)? })
    }

    fn is_shared(&self) -> bool {
        true
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
        writer::enqueue(&self.shared, &self.handle, txn)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watcher>, ReadError> {
        let current = self.revision();
        if after > current {
            return Err(ReadError::Future { asked: after, current });
        }
        Ok(Box::new(self.shared.history.watch(prefix, after)?))
    }

    /// Forgets the past here at once and in etcd soon. Not needed: the store compacts by itself, see
    /// [`EtcdOptions::compact_every`].
    fn compact(&self, before: Revision) -> Result<(), ReadError> {
        let current = self.revision();
        if before > current {
            return Err(ReadError::Future { asked: before, current });
        }
        self.shared.forget(before);
        self.shared.compact_to.fetch_max(before, Ordering::AcqRel);
        self.shared.compact.notify_one();
        Ok(())
    }

    /// This server's, and those of servers that are gone.
    fn unfinished_records(&self) -> Vec<(u64, Revision, bytes::Bytes)> {
        self.shared.records.lock().list()
    }

    fn finish_record(&self, record: u64) {
        if self.shared.records.lock().finish(record) {
            self.shared.finished.notify_one();
        }
    }

    /// Sizes are etcd's, and its limit; 0 when it does not tell.
    fn stats(&self) -> Stats {
        let s = &self.shared;
        let view = s.view.load();
        Stats {
            revision: view.revision,
            compacted: view.compacted,
            keys: view.tree.live(),
            used_bytes: view.used_bytes,
            quota_bytes: s.quota_bytes.load(Ordering::Relaxed),
            disk_bytes: s.db_bytes.load(Ordering::Relaxed),
            commits: s.commits.load(Ordering::Relaxed),
            fsyncs: 0,
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
    /// Forgets the past in memory.
    fn forget(&self, before: Revision) {
        state::compact(&self.view, &self.superseded, before);
        self.history.compact(before);
    }

    /// Waits until the view shows a revision; `false` when it did not in time. An `urgent` wait asks etcd for progress
    /// at once, because the revision may belong to keys that are not watched.
    async fn wait_visible(&self, revision: Revision, until: Instant, urgent: bool) -> bool {
        let mut visible = self.visible.subscribe();
        if *visible.borrow_and_update() < revision && urgent {
            self.progress.notify_one();
        }
        loop {
            let step = until.min(Instant::now() + PROGRESS_PERIOD);
            let seen = visible.wait_for(|v| *v >= revision);
            let seen = tokio::time::timeout_at(step, seen).await.map(|v| v.is_ok());
            match seen {
                Ok(there) => return there,
                Err(_) if Instant::now() >= until => return false,
                Err(_) => self.progress.notify_one(),
            }
        }
    }

    /// etcd's newest revision, asked for after this call began.
    async fn newest(self: &Arc<Self>) -> Result<Revision, Unavailable> {
        let (answer, waiting) = oneshot::channel();
        let start = {
            let mut asking = self.asking.lock();
            asking.waiting.push(answer);
            !std::mem::replace(&mut asking.running, true)
        };
        if start {
            let shared = self.clone();
            tokio::spawn(async move { shared.answer_newest().await });
        }
        // The question before may take all the time that there is.
        let within = self.options.request_timeout;
        let late = || Unavailable { reason: format!("etcd did not answer in {} ms", within.as_millis()) };
        let closed = |_| Unavailable { reason: "the store is shutting down".to_owned() };
        tokio::time::timeout(within, waiting).await.map_err(|_| late())?.map_err(closed)?
    }

    async fn answer_newest(&self) {
        loop {
            let waiting = {
                let mut asking = self.asking.lock();
                let waiting = std::mem::take(&mut asking.waiting);
                asking.running = !waiting.is_empty();
                waiting
            };
            if waiting.is_empty() {
                return;
            }
            let answer = self.client.current_revision(self.options.request_timeout).await;
            let answer = answer.map(unsigned).map_err(|e| Unavailable { reason: e.to_string() });
            for waiter in waiting {
                // Who no longer waits does not need it.
                let _ = waiter.send(answer.clone());
            }
        }
    }

    /// The end: commits under way, finished records, and the sign that this server is there.
    async fn drain(&self) {
        let until = Instant::now() + CLOSE_WAIT;
        while self.flight.lock().under_way() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = tokio::time::timeout_at(until, self.say_goodbye()).await;
    }
}

/// Wakes the watchers of buckets.
fn wake(buckets: Vec<Arc<Bucket>>) {
    let wakers: Vec<Waker> = buckets.iter().flat_map(|b| b.sleepers().into_values()).collect();
    wakers.into_iter().for_each(Waker::wake);
}

/// etcd's numbers are signed and never negative.
fn unsigned(revision: i64) -> Revision {
    u64::try_from(revision).unwrap_or(0)
}

/// The value of a key as the store shows it, of what is stored in etcd under `place`.
fn opened(
    seal: &Seal,
    key: &str,
    place: &[u8],
    stored: &bytes::Bytes,
    at: Revision,
) -> Result<bytes::Bytes, ::etcd::Error> {
    let plain = seal.open(key, place, stored).map_err(|e| ::etcd::Error::Config(e.to_string()))?;
    Ok(stamp::shown(&plain, at))
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
