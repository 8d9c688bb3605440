//! Audit records in etcd: put with the commit that they describe, deleted when they are finished.
//!
//! Each server has its own, under its name; a server is there while its key with a lease is. Invariant: a record is
//! deleted only after it was finished; one whose server is gone is reported by the next server that starts.

use super::*;
use ::etcd::Error;
use ::etcd::proto::{DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request, RequestOp, TxnRequest};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};

/// Records deleted in one transaction (etcd takes 128 operations by default).
const DELETES_MAX: usize = 100;
/// How long finished records gather before they are deleted.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Keys of one page of records.
const PAGE_KEYS: i64 = 500;
/// A server that does not renew its key for this long is gone.
const PRESENCE_SECONDS: i64 = 30;
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Records that are not finished, by their number: the revision of their commit in etcd.
#[derive(Default)]
pub struct Records {
    kept: BTreeMap<u64, Kept>,
    bytes: u64,
    /// Keys of finished ones, to be deleted.
    finished: Vec<Bytes>,
    /// Counts names of records; with `run` no name is used twice.
    next: u64,
    run: Option<u64>,
    lease: Option<i64>,
}

struct Kept {
    shows: Revision,
    key: Bytes,
    bytes: Bytes,
}

impl Records {
    pub fn add(&mut self, number: u64, shows: Revision, key: Bytes, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        self.kept.insert(number, Kept { shows, key, bytes });
    }

    pub fn list(&self) -> Vec<(u64, Revision, Bytes)> {
        self.kept.iter().map(|(n, k)| (*n, k.shows, k.bytes.clone())).collect()
    }

    /// `false` when there is no such record.
    pub fn finish(&mut self, number: u64) -> bool {
        let Some(kept) = self.kept.remove(&number) else { return false };
        self.bytes -= kept.bytes.len() as u64;
        self.finished.push(kept.key);
        true
    }

    pub fn check_room(&self, limit: u64) -> Result<(), CommitError> {
        if self.bytes > limit { Err(CommitError::Busy { queued_bytes: self.bytes, limit }) } else { Ok(()) }
    }
}

impl Shared {
    pub fn new_record_key(&self) -> Bytes {
        let mut records = self.records.lock();
        records.next += 1;
        let next = records.next;
        let run = *records.run.get_or_insert_with(|| self.options.rng.below(u64::MAX));
        self.layout.record(&format!("{run:016x}-{next:016x}"))
    }

    /// Takes over what this server left open, and what servers left that are gone.
    pub async fn adopt_records(&self) -> Result<(), Error> {
        let servers = self.all(self.layout.servers(), true).await?;
        let there: HashSet<&str> = servers.iter().filter_map(|kv| self.layout.server_of(&kv.key)).collect();
        for kv in self.all(self.layout.records(), false).await? {
            let Some(owner) = self.layout.record_owner(&kv.key) else { continue };
            if owner == self.layout.identity || !there.contains(owner) {
                let revision = unsigned(kv.create_revision);
                match self.options.seal.open_record(&kv.key, &kv.value) {
                    Ok(plain) => self.records.lock().add(revision, revision, kv.key, plain),
                    // Another server's own key sealed it: that server completes it when it is there again.
                    Err(_) if owner != self.layout.identity => {}
                    Err(error) => return Err(Error::Config(error.to_string())),
                }
            }
        }
        Ok(())
    }

    async fn all(&self, range: (Bytes, Bytes), keys_only: bool) -> Result<Vec<KeyValue>, Error> {
        let (mut key, range_end) = range;
        let mut all = Vec::new();
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE_KEYS,
                keys_only,
                ..RangeRequest::default()
            };
            let page = self.client.range(&request, self.options.request_timeout).await?;
            all.extend(page.kvs);
            match all.last() {
                Some(last) if page.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(all),
            }
        }
    }

    /// Deletes finished records for ever. One that could not be deleted is tried again, at the latest by the next start.
    pub async fn delete_finished(self: Arc<Self>) {
        loop {
            self.finished.notified().await;
            tokio::time::sleep(GATHER).await;
            while !self.delete_some().await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// `false` when it did not work and should be tried again.
    async fn delete_some(&self) -> bool {
        loop {
            let keys: Vec<Bytes> = {
                let mut records = self.records.lock();
                let rest = records.finished.len().saturating_sub(DELETES_MAX);
                records.finished.split_off(rest)
            };
            if keys.is_empty() {
                return true;
            }
            let part = |key: &Bytes| {
                let range = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
                RequestOp { request: Some(Request::DeleteRange(range)) }
            };
            let request = TxnRequest { success: keys.iter().map(part).collect(), ..TxnRequest::default() };
            if self.client.txn(&request, self.options.request_timeout).await.is_err() {
                self.records.lock().finished.extend(keys);
                return false;
            }
        }
    }

    /// Says that this server is there. Failure is made up for later.
    pub async fn announce(&self) {
        let within = self.options.request_timeout;
        let Ok(lease) = self.client.grant_lease(PRESENCE_SECONDS, within).await else { return };
        let put = PutRequest { key: self.layout.server(), value: Bytes::new(), lease };
        let success = vec![RequestOp { request: Some(Request::Put(put)) }];
        let request = TxnRequest { success, ..TxnRequest::default() };
        if self.client.txn(&request, within).await.is_ok() {
            self.records.lock().lease = Some(lease);
        }
    }

    pub async fn stay_announced(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let lease = self.records.lock().lease;
            let alive = match lease {
                // What is not known is asked again the next time.
                Some(id) => self.client.keep_lease(id, self.options.request_timeout).await.unwrap_or(true),
                None => false,
            };
            if !alive {
                self.announce().await;
            }
        }
    }

    /// Deletes what is finished, and says that this server is gone.
    pub async fn say_goodbye(&self) {
        self.delete_some().await;
        let lease = self.records.lock().lease.take();
        if let Some(id) = lease {
            let _ = self.client.revoke_lease(id, self.options.request_timeout).await;
        }
    }
}
