//! The store's interface, which the embedded engine and real etcd both serve.

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A point in the store's history. 0 is before the first change.
pub type Revision = u64;

/// A key with its value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// Revision that made the key.
    pub created: Revision,
    /// Revision of this value.
    pub modified: Revision,
}

/// What must hold of a key for a commit to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// The key exists and was last changed at this revision.
    At(Revision),
}

/// A value whose own revision is written into it: the decimal commit revision is inserted at byte `stamp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    pub bytes: Vec<u8>,
    /// `None` leaves the bytes as they are.
    pub stamp: Option<usize>,
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Stamped,
        expect: Expect,
    },
    /// `last` is the value that watchers get with the deletion; without it they get the stored one.
    Delete {
        key: String,
        last: Option<Stamped>,
        expect: Expect,
    },
}

/// Changes that happen together or not at all, with the audit record that describes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub ops: Vec<Op>,
    /// Opaque to the store; kept until [`Store::finish_record`].
    pub record: Option<Bytes>,
}

/// A durable commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision of all of its changes; the current one when it had none.
    pub revision: Revision,
    /// The stored (stamped) value of each op in order; a deletion gives the value that watchers get.
    pub values: Vec<Bytes>,
    /// The number of its record, when it had one.
    pub record: Option<u64>,
}

/// Why a commit did not happen. Nothing of it was applied, unless the store is [`CommitError::Unavailable`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// An expectation failed; `current` is the key's newest entry (which may not be durable yet).
    #[error("the key {key:?} is not as expected")]
    Conflict { op: usize, key: String, current: Option<Entry> },
    #[error(
        "the store is full: {used_bytes} of {quota_bytes} bytes are in use; delete objects or raise --quota-backend-bytes"
    )]
    NoSpace { used_bytes: u64, quota_bytes: u64 },
    #[error("a commit of {bytes} bytes is over the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// The log cannot grow. Nothing was written; the store goes on reading and takes commits again when there is room.
    #[error("the disk of {dir} is full ({reason}); free some space there, the store needs no restart")]
    DiskFull { dir: String, reason: String },
    /// Commits arrive faster than the disk takes them.
    #[error("{queued_bytes} bytes are waiting for the disk, the limit is {limit}; try again")]
    Busy { queued_bytes: u64, limit: u64 },
    /// The transaction makes no sense: an empty key, one key twice, a stamp beyond its value.
    #[error("the commit is malformed: {reason}")]
    Malformed { reason: String },
    /// A store on another machine gave no answer. It may have taken the commit all the same: the one error that does
    /// not mean that nothing was applied.
    #[error("the store cannot be reached: {reason}")]
    Unavailable { reason: String },
    #[error("the store is shutting down")]
    Closed,
}

/// A store on another machine cannot say what its newest revision is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot be reached: {reason}")]
pub struct Unavailable {
    pub reason: String,
}

/// Why a read of the past failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("revision {asked} has been compacted; the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the current one is {current}")]
    Future { asked: Revision, current: Revision },
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The revision that the listing shows.
    pub revision: Revision,
    /// Whether keys follow the last one.
    pub more: bool,
    /// How many keys follow the last one.
    pub remaining: u64,
}

/// What a page of a listing is beside its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub revision: Revision,
    /// The last key.
    pub last: Option<Arc<str>>,
    pub more: bool,
    pub remaining: u64,
}

/// An entry where it is kept.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    pub key: &'a Arc<str>,
    pub value: &'a Bytes,
    pub created: Revision,
    pub modified: Revision,
}

impl EntryRef<'_> {
    pub fn cloned(self) -> Entry {
        let Self { key, value, created, modified } = self;
        Entry { key: key.clone(), value: value.clone(), created, modified }
    }
}

/// Is shown the entries of a listing.
pub type Visit<'a> = dyn FnMut(EntryRef<'_>) + 'a;

/// What to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range<'a> {
    /// Keys that start with this; callers end it with a slash.
    pub prefix: &'a str,
    /// Only keys greater than this one.
    pub after: Option<&'a str>,
    /// 0 is no limit.
    pub limit: usize,
    /// The past revision to show; `None` is now.
    pub at: Option<Revision>,
    /// Values that lack one of these bits (see [`Bloom`]) may be left out. What is said of keys that follow is said of all keys.
    pub bloom: u64,
}

/// What a value may have in it, as bits of a Bloom filter: kept beside its key, so that a read can leave values out without
/// looking at them. All bits are the answer of who does not know.
pub type Bloom = fn(&[u8]) -> u64;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Arc<str>,
    pub revision: Revision,
    pub change: Change,
    /// The value before, `None` when the key was made.
    pub previous: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Bytes),
    /// With the value that the deletion carried.
    Delete(Bytes),
}

/// Events that one or many watchers of a prefix receive at once; for many, it is the same burst while they keep up.
pub type Burst = Arc<[Arc<Event>]>;

/// What a watcher receives.
#[derive(Clone, Debug)]
pub enum Watched {
    /// Events in revision order, never empty; all events of the last one's revision are in it.
    Events(Burst),
    /// The watcher fell so far behind that events it needs are gone. It is over.
    Lagged { oldest: Revision },
    /// The store closed. It is over.
    Closed,
}

/// A stream of changes under a prefix. Has no queue of its own: it is a cursor into the shared history.
pub trait Watcher: Send {
    /// The next changes after the last returned ones. Cancel safe.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Watched> + Send + '_>>;

    /// Every change up to this revision has been returned (for bookmarks): the store's revision at the time of the
    /// call when nothing under the prefix is waiting, else that of the last event returned.
    fn progress(&self) -> Revision;
}

pub type CommitFuture = Pin<Box<dyn Future<Output = Result<Committed, CommitError>> + Send>>;

pub type ReachFuture = Pin<Box<dyn Future<Output = Result<Revision, Unavailable>> + Send>>;

/// Sizes and positions, for metrics and `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub revision: Revision,
    pub compacted: Revision,
    pub keys: u64,
    /// Bytes held in memory by keys and values of all kept revisions.
    pub used_bytes: u64,
    pub quota_bytes: u64,
    /// Bytes on the disk: of log and snapshots, or of etcd's database.
    pub disk_bytes: u64,
    pub commits: u64,
    pub fsyncs: u64,
    pub watchers: u64,
}

/// The store. Reads come from memory and do not block on the disk; they never show what is not durable.
pub trait Store: Send + Sync + 'static {
    /// The newest durable revision.
    fn revision(&self) -> Revision;

    /// Waits until reads show at least a revision: with `None` all that was committed before the call, by whomever, for
    /// reads that must not be stale; with `Some` a revision that another server may have told. Gives the revision that
    /// reads show now; a revision that does not come in a few seconds is not waited for any longer, and not shown.
    /// A store with one server is always there.
    fn reach(&self, at_least: Option<Revision>) -> ReachFuture {
        let _ = at_least;
        Box::pin(std::future::ready(Ok(self.revision())))
    }

    /// Whether other servers write to the same store: only then may there be something that reads do not show yet.
    fn is_shared(&self) -> bool {
        false
    }

    fn get(&self, key: &str) -> Option<Entry>;

    fn get_at(&self, key: &str, at: Revision) -> Result<Option<Entry>, ReadError>;

    fn list(&self, range: &Range) -> Result<Page, ReadError> {
        let mut entries = Vec::new();
        let shown = self.visit(range, &mut |e| entries.push(e.cloned()))?;
        let Shown { revision, more, remaining, .. } = shown;
        Ok(Page { entries, revision, more, remaining })
    }

    /// As [`Store::list`], of which `visit` takes what it needs.
    fn visit(&self, range: &Range, visit: &mut Visit) -> Result<Shown, ReadError>;

    /// Number of keys under a prefix.
    fn count(&self, prefix: &str) -> u64;

    /// Queues a commit. Expectations are checked at once against everything queued before; the future is ready when
    /// the commit, or the one that it lost to, is durable and visible. Dropping the future does not undo the commit.
    fn commit(&self, txn: Txn) -> CommitFuture;

    /// Watches keys under a prefix for changes after a revision.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watcher>, ReadError>;

    /// Forgets history before a revision; newest values stay.
    fn compact(&self, before: Revision) -> Result<(), ReadError>;

    /// Audit records committed but not finished, oldest first, with their numbers and the revision of their commit.
    fn unfinished_records(&self) -> Vec<(u64, Revision, Bytes)>;

    /// The record's events are all written. Survives a restart lazily: a finished record may be reported again after a
    /// crash, an unfinished one is never lost.
    fn finish_record(&self, record: u64);

    fn stats(&self) -> Stats;

    /// What goes wrong at present without stopping the store, for readiness checks.
    fn problem(&self) -> Option<String>;

    /// Takes no more commits, finishes those under way and ends all watches. Reads go on.
    fn close(&self);
}
