//! Compaction: of etcd by one API server at a time, of memory by each, and the size of the database.
//!
//! Invariant: what etcd has forgotten by the servers' common decision is forgotten here too, so that a page or a watch
//! is refused alike by each of them.

use super::*;
use ::etcd::Error;
use ::etcd::proto::{
    Compare, CompareTarget, Operand, PutRequest, RangeRequest, Request, RequestOp, Response, StatusResponse,
    TxnRequest,
};
use bytes::Bytes;

/// Between two compactions on demand.
const DEMAND_PAUSE: Duration = Duration::from_millis(100);
/// How often the size of the database is asked for.
const SIZE_EVERY: Duration = Duration::from_secs(30);

/// What a server knows of compaction (upstream: apiserver `pkg/storage/etcd3/compact.go#Compact`). The version of a key
/// in etcd counts compactions; who raises it from what it last saw compacts up to the revision that it saw then.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    version: i64,
    revision: i64,
}

impl Shared {
    /// Compacts in etcd what was asked for, until it worked or is gone anyway.
    pub async fn compact_on_demand(self: Arc<Self>) {
        loop {
            self.compact.notified().await;
            let to = self.compact_to.load(Ordering::Acquire);
            match self.client.compact(signed(to), self.options.request_timeout).await {
                Err(error) if !error.is_compacted() => self.compact.notify_one(),
                _ => {}
            }
            tokio::time::sleep(DEMAND_PAUSE).await;
        }
    }

    pub async fn compact_by_time(self: Arc<Self>) {
        let Some(every) = self.options.compact_every else { return };
        let mut round = Round::default();
        loop {
            tokio::time::sleep(every).await;
            // What fails is tried again the next time.
            if let Ok(compacted) = self.compact_round(&mut round).await {
                let known = self.view.load().revision;
                self.forget(unsigned(compacted).min(known));
            }
        }
    }

    /// One round; gives the revision up to which etcd is compacted, 0 when that is not known.
    async fn compact_round(&self, round: &mut Round) -> Result<i64, Error> {
        let key = Bytes::from_static(keys::COMPACT_KEY.as_bytes());
        let value = round.revision.to_string().into();
        let part = |request| vec![RequestOp { request: Some(request) }];
        let request = TxnRequest {
            compare: vec![Compare {
                target: CompareTarget::Version.into(),
                key: key.clone(),
                operand: Some(Operand::Version(round.version)),
            }],
            success: part(Request::Put(PutRequest { key: key.clone(), value, lease: 0 })),
            failure: part(Request::Range(RangeRequest { key, ..RangeRequest::default() })),
        };
        let answer = self.client.txn(&request, self.options.request_timeout).await?;
        let current = answer.header.map_or(0, |h| h.revision);
        let before = std::mem::replace(&mut round.revision, current);
        if answer.succeeded {
            round.version += 1;
            // The first round only takes a mark.
            if before > 0 {
                self.client.compact(before, self.options.request_timeout).await?;
            }
            return Ok(before);
        }
        let found = answer.responses.into_iter().next().and_then(|r| r.response);
        let kv = match found {
            Some(Response::Range(mut range)) => range.kvs.pop(),
            _ => None,
        };
        let kv = kv.ok_or_else(|| Error::Malformed("the compaction's key is gone".to_owned()))?;
        round.version = kv.version;
        Ok(std::str::from_utf8(&kv.value).ok().and_then(|t| t.parse().ok()).unwrap_or(0))
    }

    pub async fn watch_size(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SIZE_EVERY).await;
            if let Ok(status) = self.client.status(self.options.request_timeout).await {
                self.note_size(&status);
            }
        }
    }

    pub fn note_size(&self, status: &StatusResponse) {
        self.db_bytes.store(unsigned(status.db_size), Ordering::Relaxed);
        self.quota_bytes.store(unsigned(status.db_size_quota), Ordering::Relaxed);
    }
}
