//! Objects that go by themselves: Events, after their time (upstream: etcd leases, `--event-ttl`).
//!
//! Invariant: what was changed within the time stays. Age is that of the last change, measured by the store's revisions,
//! so that nothing needs to be read; after a start it counts from the start. Several servers on one etcd all look; who comes
//! second finds nothing.

use base::clock::SharedClock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Expect, Op, Range, Revision, Store, Txn};
use tokio_util::sync::CancellationToken;

/// How often the store is looked through.
const EVERY: Duration = Duration::from_secs(60);
/// Keys read, and removed in one commit, at a time; etcd takes 128 operations by default (`--max-txn-ops`).
const PAGE: usize = 100;

/// What the revision was at past times.
#[derive(Default)]
struct Marks(VecDeque<(Duration, Revision)>);

impl Marks {
    /// Notes the revision of now; the revision up to which everything is older than `ttl`, if any.
    fn expired(&mut self, now: Duration, current: Revision, ttl: Duration) -> Option<Revision> {
        self.0.push_back((now, current));
        let mut out = None;
        while let Some((_, revision)) = self.0.front().filter(|(at, _)| *at + ttl <= now) {
            out = Some(*revision);
            self.0.pop_front();
        }
        out
    }
}

/// Removes what is under a prefix when it was not changed for `ttl`, until cancelled.
pub async fn run(
    store: Arc<dyn Store>,
    prefix: String,
    ttl: Duration,
    clock: SharedClock,
    cancel: CancellationToken,
) {
    let mut marks = Marks::default();
    loop {
        if let Some(until) = marks.expired(clock.monotonic(), store.revision(), ttl) {
            sweep(&*store, &prefix, until).await;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(EVERY.min(ttl)) => {}
        }
    }
}

/// Removes what was last changed at or before a revision.
async fn sweep(store: &dyn Store, prefix: &str, until: Revision) {
    let mut after: Option<String> = None;
    loop {
        let range = Range { prefix, after: after.as_deref(), limit: PAGE, ..Range::default() };
        let Ok(page) = store.list(&range) else { return };
        let old = |e: &&Entry| e.modified <= until;
        let ops = page.entries.iter().filter(old).map(|e| Op::Delete {
            key: e.key.to_string(),
            last: None,
            expect: Expect::At(e.modified),
        });
        let ops: Vec<Op> = ops.collect();
        let count = ops.len();
        // One that changed meanwhile holds the others up until the next time.
        if count > 0 && store.commit(Txn { ops, record: None }).await.is_ok() {
            tracing::debug!(target: "store", prefix, count, "expired");
        }
        match page.entries.last() {
            Some(last) if page.more => after = Some(last.key.to_string()),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_last_change() {
        let s = Duration::from_secs;
        let mut marks = Marks::default();
        assert_eq!(marks.expired(s(0), 10, s(100)), None);
        assert_eq!(marks.expired(s(60), 20, s(100)), None);
        assert_eq!(marks.expired(s(100), 25, s(100)), Some(10));
        assert_eq!(marks.expired(s(130), 30, s(100)), None);
        assert_eq!(marks.expired(s(500), 40, s(100)), Some(30));
    }
}
