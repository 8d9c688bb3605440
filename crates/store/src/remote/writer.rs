//! Commits as etcd transactions.
//!
//! Invariants: commits that touch one key reach etcd in the order of the calls, others at the same time; a commit is
//! sent at most once, unless it certainly never reached etcd; every commit is answered, whatever becomes of its task.

use super::keys::join_last;
use super::*;
use crate::queue::{self, Limits};
use crate::slot::{Slot, Wait};
use ::etcd::Error;
use ::etcd::proto::{
    Compare, CompareTarget, DeleteRangeRequest, KeyValue, Operand, PutRequest, RangeRequest, Request,
    RequestOp, Response, ResponseOp, TxnRequest, TxnResponse,
};
use bytes::Bytes;
use prost::Message;
use std::collections::HashMap;

/// How long an acknowledged commit waits to be seen here when the watch is broken.
const VISIBLE_WAIT: Duration = Duration::from_secs(5);

/// Commits under way, so that those of one key follow each other.
#[derive(Default)]
pub struct Flight {
    keys: HashMap<String, (u64, watch::Receiver<()>)>,
    next: u64,
    bytes: u64,
    count: usize,
}

impl Flight {
    pub fn under_way(&self) -> usize {
        self.count
    }
}

/// A commit's place among the others. Dropping it lets the next one go, and answers if nobody has.
struct Ticket {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    keys: Vec<String>,
    id: u64,
    bytes: u64,
    answered: bool,
    /// Dropped with the ticket, which is what others wait for.
    _done: watch::Sender<()>,
}

impl Ticket {
    fn answer(mut self, outcome: Result<Committed, CommitError>) {
        self.answered = true;
        self.slot.complete(outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut flight = self.shared.flight.lock();
        flight.count -= 1;
        flight.bytes -= self.bytes;
        for key in &self.keys {
            if flight.keys.get(key).is_some_and(|(id, _)| *id == self.id) {
                flight.keys.remove(key);
            }
        }
        drop(flight);
        if !self.answered {
            self.slot.complete(Err(CommitError::Closed));
        }
    }
}

/// Takes a commit; the future is ready when it is done.
pub fn enqueue(shared: &Arc<Shared>, handle: &Handle, txn: Txn) -> CommitFuture {
    let (ticket, before) = match register(shared, &txn) {
        Ok(registered) => registered,
        Err(error) => return Box::pin(std::future::ready(Err(error))),
    };
    if txn.ops.is_empty() && txn.record.is_none() {
        let revision = shared.view.load().revision;
        return Box::pin(std::future::ready(Ok(Committed { revision, values: Vec::new(), record: None })));
    }
    let slot = ticket.slot.clone();
    let until = Instant::now() + shared.options.request_timeout;
    handle.spawn(async move {
        let outcome = run(&ticket.shared, &txn, before, until).await;
        ticket.answer(outcome);
    });
    Box::pin(Wait(slot))
}

fn register(shared: &Arc<Shared>, txn: &Txn) -> Result<(Ticket, Vec<watch::Receiver<()>>), CommitError> {
    let options = &shared.options;
    let limits = Limits { commit_bytes: options.request_bytes_max, queue_bytes: 0, quota_bytes: 0 };
    let bytes = queue::check_shape(txn, &limits)? as u64;
    let keys: Vec<String> = txn.ops.iter().map(|op| expectation(op).0.to_owned()).collect();
    if let Some(key) = keys.iter().find(|k| !shared.layout.holds(k)) {
        let reason = format!("the key {key:?} is not under {:?}", options.scope);
        return Err(CommitError::Malformed { reason });
    }
    if shared.closed.load(Ordering::Acquire) {
        return Err(CommitError::Closed);
    }
    if txn.record.is_some() {
        shared.records.lock().check_room(options.records_bytes_max)?;
    }
    let (done, seen) = watch::channel(());
    let mut flight = shared.flight.lock();
    if flight.bytes > 0 && flight.bytes + bytes > options.queue_bytes_max {
        return Err(CommitError::Busy { queued_bytes: flight.bytes, limit: options.queue_bytes_max });
    }
    flight.next += 1;
    flight.count += 1;
    flight.bytes += bytes;
    let id = flight.next;
    let mut before = Vec::new();
    for key in &keys {
        before.extend(flight.keys.insert(key.clone(), (id, seen.clone())).map(|(_, earlier)| earlier));
    }
    let slot = Arc::new(Slot::default());
    let shared = shared.clone();
    drop(flight);
    Ok((Ticket { shared, slot, keys, id, bytes, answered: false, _done: done }, before))
}

async fn run(
    shared: &Shared,
    txn: &Txn,
    before: Vec<watch::Receiver<()>>,
    until: Instant,
) -> Result<Committed, CommitError> {
    let late =
        |_| CommitError::Unavailable { reason: "commits to the same key are still waiting".to_owned() };
    for mut earlier in before {
        let done = async { while earlier.changed().await.is_ok() {} };
        tokio::time::timeout_at(until, done).await.map_err(late)?;
    }
    if let Some(conflict) = shared.certain_conflict(txn) {
        return Err(conflict);
    }
    let record_key = txn.record.as_ref().map(|_| shared.new_record_key());
    let plan = shared.plan(txn, record_key.as_ref()).map_err(unsealed)?;
    let bytes = plan.request.encoded_len();
    if bytes > shared.options.request_bytes_max {
        return Err(CommitError::TooLarge { bytes, limit: shared.options.request_bytes_max });
    }
    let answer = {
        let busy = |_| CommitError::Unavailable { reason: "etcd is too slow".to_owned() };
        let permit = tokio::time::timeout_at(until, shared.permits.acquire()).await.map_err(busy)?;
        let _permit = permit.map_err(|_| CommitError::Closed)?;
        let left = until.saturating_duration_since(Instant::now());
        shared.client.txn(&plan.request, left).await.map_err(|e| shared.refusal(&e, bytes))?
    };
    let revision = answer.header.as_ref().map_or(0, |h| unsigned(h.revision));
    if !answer.succeeded {
        let conflict = shared.conflict(txn, &answer);
        if let CommitError::Conflict { current, .. } = &conflict {
            // Who lost can read what won.
            let won = current.as_ref().map_or(revision, |e| e.modified);
            shared.wait_visible(won, Instant::now() + VISIBLE_WAIT, current.is_none()).await;
        }
        return Err(conflict);
    }
    let changed = answer.responses.iter().take(plan.record_at).any(has_effect);
    // A record alone is not seen by the watch: its commit shows no other revision than the one before.
    let shows = if changed { revision } else { shared.view.load().revision };
    let record = record_key.zip(txn.record.clone()).map(|(key, bytes)| {
        shared.records.lock().add(revision, shows, key, bytes);
        revision
    });
    shared.commits.fetch_add(1, Ordering::Relaxed);
    if !changed {
        let values = txn.ops.iter().map(|_| Bytes::new()).collect();
        return Ok(Committed { revision: shows, values, record });
    }
    shared.wait_visible(revision, Instant::now() + VISIBLE_WAIT, false).await;
    let values = txn.ops.iter().enumerate();
    let values =
        values.map(|(i, op)| shared.value(op, revision, answer.responses.get(plan.first_op + i))).collect();
    Ok(Committed { revision, values, record })
}

/// A request, and where the answers to its parts stand.
struct Plan {
    request: TxnRequest,
    /// The first operation of the commit, behind the last values.
    first_op: usize,
    /// Behind the last operation.
    record_at: usize,
}

impl Shared {
    /// The conflict that a commit certainly ends in, without asking etcd: revisions only grow, so a key that is newer
    /// here than expected will never be as expected again.
    fn certain_conflict(&self, txn: &Txn) -> Option<CommitError> {
        let view = self.view.load();
        txn.ops.iter().enumerate().find_map(|(op, what)| {
            let (key, Expect::At(expected)) = expectation(what) else { return None };
            let current = view.get(key);
            let lost = match &current {
                Some(entry) => entry.modified > expected,
                None => expected <= view.revision,
            };
            lost.then(|| CommitError::Conflict { op, key: key.to_owned(), current })
        })
    }

    fn plan(&self, txn: &Txn, record_key: Option<&Bytes>) -> Result<Plan, SealError> {
        let seal = &self.options.seal;
        let view = self.view.load();
        let mut request = TxnRequest::default();
        let mut changes = Vec::with_capacity(txn.ops.len() + 1);
        for (i, op) in txn.ops.iter().enumerate() {
            let (key, expect) = expectation(op);
            let key_there = self.layout.key(key);
            let (target, operand) = match expect {
                Expect::Any => (None, 0),
                Expect::Absent => (Some(CompareTarget::Create), 0),
                Expect::At(revision) => (Some(CompareTarget::Mod), signed(revision)),
            };
            if let Some(target) = target {
                let operand = match target {
                    CompareTarget::Mod => Operand::ModRevision(operand),
                    _ => Operand::CreateRevision(operand),
                };
                let target = target.into();
                request.compare.push(Compare { target, key: key_there.clone(), operand: Some(operand) });
                request.failure.push(part(Request::Range(RangeRequest {
                    key: key_there.clone(),
                    ..RangeRequest::default()
                })));
            }
            match op {
                Op::Put { value, .. } => {
                    let value = seal.seal(key, &key_there, &stamp::stored(value))?;
                    changes.push(put(key_there, value));
                }
                Op::Delete { last, .. } => {
                    if let Some(last) = last {
                        // Mostly the stored value with the deletion's revision, which everybody can make alone.
                        let known = view.get(key).filter(|e| expect == Expect::At(e.modified));
                        if !known.is_some_and(|e| stamp::same_but_revision(&e.value, last)) {
                            let value = seal.seal(key, &key_there, &stamp::stored(last))?;
                            let value = join_last(key, &value);
                            request.success.push(put(self.layout.last(i), value));
                        }
                    }
                    let prev_kv = last.is_none();
                    let range =
                        DeleteRangeRequest { key: key_there, prev_kv, ..DeleteRangeRequest::default() };
                    changes.push(part(Request::DeleteRange(range)));
                }
            }
        }
        let first_op = request.success.len();
        let record_at = first_op + changes.len();
        request.success.append(&mut changes);
        if let (Some(key), Some(record)) = (record_key, &txn.record) {
            let record = seal.seal_record(key, record)?;
            request.success.push(put(key.clone(), record));
        }
        Ok(Plan { request, first_op, record_at })
    }

    /// What an operation's key holds now: the same bytes that the watch has brought, when it has.
    fn value(&self, op: &Op, revision: Revision, answer: Option<&ResponseOp>) -> Bytes {
        match op {
            Op::Put { key, value, .. } => match self.view.load().get(key) {
                Some(entry) if entry.modified == revision => entry.value,
                _ => queue::stamp(value.clone(), revision),
            },
            Op::Delete { last, .. } => {
                let Some(Response::DeleteRange(gone)) = answer.and_then(|a| a.response.as_ref()) else {
                    return Bytes::new();
                };
                match (last, gone.prev_kvs.first()) {
                    _ if gone.deleted == 0 => Bytes::new(),
                    (Some(last), _) => queue::stamp(last.clone(), revision),
                    (None, Some(kv)) => {
                        let (key, at) = (expectation(op).0, unsigned(kv.mod_revision));
                        // What does not open was never shown here either.
                        let stored = opened(&self.options.seal, key, &kv.key, &kv.value, at);
                        let stored = stored.unwrap_or_default();
                        stamp::restamped(&stored, revision).unwrap_or(stored)
                    }
                    (None, None) => Bytes::new(),
                }
            }
        }
    }

    /// Which expectation failed, by what etcd found instead.
    fn conflict(&self, txn: &Txn, answer: &TxnResponse) -> CommitError {
        let expecting = txn.ops.iter().enumerate().filter(|(_, op)| expectation(op).1 != Expect::Any);
        for ((op, what), found) in expecting.zip(&answer.responses) {
            let (key, expect) = expectation(what);
            let Some(Response::Range(range)) = &found.response else { continue };
            let kv = range.kvs.first();
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => kv.is_none(),
                Expect::At(revision) => kv.is_some_and(|kv| unsigned(kv.mod_revision) == revision),
            };
            if !holds {
                return match kv.map(|kv| self.entry(key, kv)).transpose() {
                    Ok(current) => CommitError::Conflict { op, key: key.to_owned(), current },
                    Err(error) => CommitError::Unavailable { reason: error.to_string() },
                };
            }
        }
        CommitError::Unavailable { reason: "etcd refused a commit whose expectations hold".to_owned() }
    }

    fn entry(&self, key: &str, kv: &KeyValue) -> Result<Entry, Error> {
        let modified = unsigned(kv.mod_revision);
        let value = opened(&self.options.seal, key, &kv.key, &kv.value, modified)?;
        Ok(Entry { key: Arc::from(key), value, created: unsigned(kv.create_revision), modified })
    }

    /// etcd's refusal in the store's words (upstream: etcd `api/v3rpc/rpctypes/error.go`).
    fn refusal(&self, error: &Error, bytes: usize) -> CommitError {
        let reason = error.to_string();
        if error.says("database space exceeded") {
            CommitError::NoSpace {
                used_bytes: self.db_bytes.load(Ordering::Relaxed),
                quota_bytes: self.quota_bytes.load(Ordering::Relaxed),
            }
        } else if error.says("request is too large") || error.says("larger than max") {
            CommitError::TooLarge { bytes, limit: self.options.request_bytes_max }
        } else if error.says("too many operations") || error.says("duplicate key") {
            CommitError::Malformed { reason }
        } else if error.says("too many requests") {
            let queued_bytes = self.flight.lock().bytes;
            CommitError::Busy { queued_bytes, limit: self.options.queue_bytes_max }
        } else {
            CommitError::Unavailable { reason }
        }
    }
}

fn unsealed(error: SealError) -> CommitError {
    CommitError::Unavailable { reason: error.to_string() }
}

fn expectation(op: &Op) -> (&str, Expect) {
    let (Op::Put { key, expect, .. } | Op::Delete { key, expect, .. }) = op;
    (key, *expect)
}

fn part(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    part(Request::Put(PutRequest { key, value, lease: 0 }))
}

/// Whether a part of a transaction changed a key.
fn has_effect(answer: &ResponseOp) -> bool {
    match &answer.response {
        Some(Response::Put(_)) => true,
        Some(Response::DeleteRange(gone)) => gone.deleted > 0,
        _ => false,
    }
}
