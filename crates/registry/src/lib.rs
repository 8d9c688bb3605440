//! The generic verbs, written once for all kinds: a row of the table in, stored bytes out.
//!
//! Invariants: every verb demands a [`meta::permit::Permit`]; an object is encoded once, when it is written, and those
//! bytes (with the revision stamped in by the store) serve every later GET, LIST and WATCH; what was not validated is
//! not stored; the core of a write's audit record is in the commit of the write.

pub mod cursor;
mod delete;
mod encode;
pub mod kinds_index;
pub mod labels;
pub mod object_meta;
mod read;
pub mod snapshot;
mod versions;
mod watch;
mod write;

pub use delete::{DeleteOptions, Deleted, Preconditions, Propagation};
pub use encode::{encode, item_slice, reencode, reencode_stored};
pub use kinds_index::Kinds;
pub use read::{ListQuery, Listed, Match, Selectors};
pub use watch::{WatchEvent, WatchEventType, WatchQuery, Watching};
pub use write::{Request, Written, match_namespace, precondition_uid, wipe_system_fields};

use async_trait::async_trait;
use base::clock::SharedClock;
use base::rng::Rng;
use bytes::Bytes;
use kinds::KindDef;
use meta::status::Result;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;
use store::Store;

/// What is being done to an object, for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// A stream or proxy to what the object stands for (`pods/exec`, `nodes/proxy`).
    Connect,
}

impl Operation {
    /// The name that webhooks and policies know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Admission as the verbs call it. Implemented over the caller's identity by the API server.
#[async_trait]
pub trait Admit: Send + Sync {
    /// May change `new`, before it is prepared and validated.
    async fn mutate(&self, op: Operation, name: &str, new: &mut Value, old: Option<&Value>) -> Result<()>;

    /// Sees the object as it will be stored. `new` is absent on delete.
    async fn validate(
        &self,
        op: Operation,
        name: &str,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<()>;
}

/// Makes the audit core that rides in a commit.
pub trait Recorder: Send + Sync {
    /// The record of a request that is about to be stored; `None` when the policy's level is None.
    fn core(&self) -> Option<Bytes>;

    /// The commit is durable; `record` is the number to finish once the request's events are written.
    fn committed(&self, record: u64);

    /// How long the store was waited for.
    fn stored(&self, _time: std::time::Duration) {}

    /// Tells the client something, whatever becomes of its request.
    fn warn(&self, text: &str);
}

/// Keeps what lives beside the objects of a kind (service addresses and ports) in step with them.
#[async_trait]
pub trait Companion: Send + Sync {
    /// Completes a new object, or a changed one with what it was, before it is validated, and takes what it needs. A dry
    /// run takes nothing.
    async fn begin(&self, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Box<dyn Taking>>;

    /// An object is gone: what it held is free.
    async fn deleted(&self, gone: &Value);

    /// What is written in the same commit as the change from `old` to `new`: keys that only one object may have. So two
    /// servers of one cluster cannot give the same thing away twice.
    fn claims(&self, new: Option<&Value>, old: Option<&Value>) -> Vec<store::Op> {
        let _ = (new, old);
        Vec::new()
    }

    /// Another object has this key: nothing was written, what was taken is undone, and the write is tried again.
    fn contended(&self, key: &str) {
        let _ = key;
    }
}

/// What one write took.
#[async_trait]
pub trait Taking: Send {
    /// Keeps what was taken and frees what the write gave up, or undoes it all when nothing was written.
    async fn end(self: Box<Self>, written: bool);
}

/// The registry: rows, store and the few capabilities that writing needs.
pub struct Registry {
    store: Arc<dyn Store>,
    clock: SharedClock,
    rng: Arc<Rng>,
    kinds: RwLock<Arc<Kinds>>,
    companions: Vec<(meta::GroupResource, Arc<dyn Companion>)>,
}

impl Registry {
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, rng: Arc<Rng>, kinds: Kinds) -> Self {
        Self { store, clock, rng, kinds: RwLock::new(Arc::new(kinds)), companions: Vec::new() }
    }

    /// Adds the companion of a kind; at build only.
    pub fn with_companion(mut self, of: meta::GroupResource, companion: Arc<dyn Companion>) -> Self {
        self.companions.push((of, companion));
        self
    }

    /// What is served now. A request asks once and keeps the answer.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.read().clone()
    }

    /// Puts another set of rows in the place of the present one.
    pub fn serve(&self, rows: impl IntoIterator<Item = Arc<KindDef>>) {
        let next = Kinds::new(rows);
        let mut kinds = self.kinds.write();
        *kinds = Arc::new(next.numbered(kinds.generation() + 1));
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    fn companion(&self, kind: &KindDef) -> Option<&dyn Companion> {
        self.companions
            .iter()
            .find(|(of, _)| of.group == kind.group && of.resource == kind.plural)
            .map(|(_, c)| &**c)
    }
}

/// Turns a store failure into the client's answer.
fn commit_failure(e: store::CommitError) -> meta::Status {
    match e {
        store::CommitError::NoSpace { .. } => {
            meta::Status::internal(format!("etcdserver: mvcc: database space exceeded: {e}"))
        }
        store::CommitError::TooLarge { .. } => meta::Status::too_large(e.to_string()),
        store::CommitError::Busy { .. } => meta::Status::too_many_requests(e.to_string(), 1),
        // Upstream hands on what etcd's client says as it is: 500 without a reason.
        store::CommitError::Unavailable { reason } => {
            meta::Status::new(500, meta::Reason::Unknown, format!("etcdserver: request timed out: {reason}"))
        }
        e => meta::Status::internal(e),
    }
}
