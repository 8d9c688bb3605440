//! Opening, and reading everything anew after the history here and in etcd no longer meet.
//!
//! Opening reads a past revision and lets the watch replay what came after: so the history reaches back behind the
//! start, and watches and pages from before a restart, or from another server, go on. Invariant: what is loaded is
//! one revision, whole.

use super::keys::{Layout, Name};
use super::records::Records;
use super::*;
use crate::item::{Item, Version};
use crate::tree::Tree;
use ::etcd::Error;
use ::etcd::proto::{KeyValue, RangeRequest};
use std::collections::VecDeque;

/// Keys of one page of a listing, at most.
const PAGE_KEYS_MAX: i64 = 500;
/// Bytes that a page is meant to have: where values are large, the next page has fewer keys.
const PAGE_BYTES: i64 = 16 << 20;
/// How often a listing is begun anew because etcd was compacted meanwhile.
const LIST_TRIES: usize = 3;
/// How long opening may take to show what etcd has, for each try of a request it makes.
const FIRST_VIEW_WAIT: Duration = Duration::from_secs(60);
/// Between two looks at whether waiting for that has a point.
const FIRST_VIEW_STEP: Duration = Duration::from_millis(200);

/// Opens: gives the store with its tasks running.
pub async fn open(options: EtcdOptions) -> Result<Arc<Shared>, EtcdError> {
    let endpoints = options.config.endpoints.join(", ");
    let failed = |reason: String| EtcdError::Open { endpoints: endpoints.clone(), reason };
    let client = Client::new(options.config.clone()).map_err(|e| failed(e.to_string()))?;
    let layout = Layout {
        prefix: options.config.prefix.clone(),
        scope: options.scope.clone(),
        identity: options.identity.clone(),
    };
    let status = client.status(options.request_timeout).await.map_err(|e| failed(e.to_string()))?;
    if tells_wrong_progress(&status.version) {
        return Err(EtcdError::TooOld(status.version));
    }
    let loading = Loading { client: &client, layout: &layout, options: &options };
    loading.check_marks().await?;
    let view = loading.past().await.map_err(|e| failed(e.to_string()))?;
    let start = view.revision;
    let history =
        History::new(VecDeque::new(), start, start, options.history_events_max, options.history_bytes_max);
    let shared = Arc::new(Shared {
        layout,
        client,
        view: ArcSwap::from_pointee(view),
        superseded: Mutex::default(),
        history,
        visible: watch::Sender::new(start),
        progress: Notify::new(),
        records: Mutex::new(Records::default()),
        finished: Notify::new(),
        flight: Mutex::default(),
        permits: Semaphore::new(TXNS_AT_ONCE_MAX),
        asking: Mutex::default(),
        compact_to: AtomicU64::new(0),
        compact: Notify::new(),
        closed: AtomicBool::new(false),
        commits: AtomicU64::new(0),
        db_bytes: AtomicU64::new(0),
        quota_bytes: AtomicU64::new(0),
        problem: Mutex::new(None),
        unsealed: Mutex::new(None),
        options,
    });
    shared.note_size(&status);
    shared.adopt_records().await.map_err(|e| failed(e.to_string()))?;
    shared.announce().await;
    spawn(&shared, Shared::follow);
    spawn(&shared, Shared::stay_announced);
    spawn(&shared, Shared::delete_finished);
    spawn(&shared, Shared::compact_on_demand);
    spawn(&shared, Shared::compact_by_time);
    spawn(&shared, Shared::watch_size);
    let now = shared.newest().await.map_err(|e| failed(e.reason))?;
    let until = Instant::now() + FIRST_VIEW_WAIT;
    while !shared.wait_visible(now, until.min(Instant::now() + FIRST_VIEW_STEP), true).await {
        if let Some(why) = shared.unsealed.lock().clone() {
            return Err(failed(why));
        }
        if Instant::now() < until {
            continue;
        }
        let why = shared.problem.lock().clone().unwrap_or_else(|| "the watch is silent".to_owned());
        return Err(failed(format!("revision {now} did not come: {why}")));
    }
    Ok(shared)
}

fn spawn<F>(shared: &Arc<Shared>, task: impl FnOnce(Arc<Shared>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(task(shared.clone()));
}

/// What a listing needs.
pub struct Loading<'a> {
    pub client: &'a Client,
    pub layout: &'a Layout,
    pub options: &'a EtcdOptions,
}

impl Loading<'_> {
    /// The state of some time ago, as far back as etcd and the options go.
    async fn past(&self) -> Result<View, Error> {
        let wait = self.options.request_timeout;
        let current = unsigned(self.client.current_revision(wait).await?);
        let compacted = self.compacted().await?;
        let start = current.saturating_sub(self.options.backlog_revisions).max(compacted).max(1);
        match self.list(Some(start), None).await {
            Err(e) if e.is_compacted() => self.present(None).await,
            other => other,
        }
    }

    /// The state of now. `old` lends its values where they are the same.
    pub async fn present(&self, old: Option<&View>) -> Result<View, Error> {
        let mut tries = 1;
        loop {
            match self.list(None, old).await {
                Err(e) if e.is_compacted() && tries < LIST_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// The revision that was last compacted, as far as the API servers have told each other.
    async fn compacted(&self) -> Result<Revision, Error> {
        let key = bytes::Bytes::from_static(keys::COMPACT_KEY.as_bytes());
        let request = RangeRequest { key, ..RangeRequest::default() };
        let found = self.client.range(&request, self.options.request_timeout).await?;
        let text = found.kvs.first().and_then(|kv| std::str::from_utf8(&kv.value).ok());
        Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0))
    }

    async fn list(&self, at: Option<Revision>, old: Option<&View>) -> Result<View, Error> {
        let tree = Tree::default().with_bloom(self.options.bloom);
        let mut view = View { tree, ..View::default() };
        let mut at = at.map_or(0, signed);
        let (mut key, range_end) = self.layout.watched();
        let mut limit = PAGE_KEYS_MAX;
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit,
                revision: at,
                ..RangeRequest::default()
            };
            let page = self.client.range(&request, self.options.request_timeout).await?;
            if at == 0 {
                at = page.header.as_ref().map_or(0, |h| h.revision);
            }
            for kv in &page.kvs {
                self.add(&mut view, kv, old)?;
            }
            limit = next_limit(&page.kvs);
            match page.kvs.last() {
                // The next key is the last one and a zero byte.
                Some(last) if page.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => break,
            }
        }
        view.revision = unsigned(at);
        view.compacted = view.revision;
        Ok(view)
    }

    fn add(&self, view: &mut View, kv: &KeyValue, old: Option<&View>) -> Result<(), Error> {
        let Name::Key(key) = self.layout.name(&kv.key) else { return Ok(()) };
        let modified = unsigned(kv.mod_revision);
        let known = old.and_then(|o| o.tree.get(key)).filter(|i| i.newest.modified == modified);
        let (key, value) = match known {
            Some(item) => (item.key.clone(), item.newest.value.clone()),
            None => {
                let value = opened(&self.options.seal, key, &kv.key, &kv.value, modified)?;
                (Arc::from(key), Some(value))
            }
        };
        view.used_bytes += Item::version_bytes(&key, value.as_ref().map_or(0, |v| v.len()));
        let newest = Version { modified, created: unsigned(kv.create_revision), value, older: None };
        view.tree.put(Arc::new(Item { key, newest }));
        Ok(())
    }
}

/// How many keys the next page may have, by the size of those of this one.
fn next_limit(page: &[KeyValue]) -> i64 {
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    let bytes_each = i64::try_from(bytes / page.len().max(1)).unwrap_or(i64::MAX).max(1);
    (PAGE_BYTES / bytes_each).clamp(1, PAGE_KEYS_MAX)
}

/// etcd before 3.5.8 (and 3.4.25) could tell progress ahead of events (etcd issue 15220), and cannot tell it on demand
/// in one answer for all (upstream: apiserver `pkg/storage/feature/feature_support_checker.go`).
fn tells_wrong_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|p| p.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch < 25,
        (3, 5, patch) => patch < 8,
        (major, minor, _) => (major, minor) < (3, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_large_values_have_fewer_keys() {
        let page = |bytes: usize| vec![KeyValue { value: vec![0; bytes].into(), ..KeyValue::default() }; 2];
        assert_eq!(next_limit(&[]), PAGE_KEYS_MAX);
        assert_eq!(next_limit(&page(1000)), PAGE_KEYS_MAX);
        assert_eq!(next_limit(&page(1 << 20)), 16);
        assert_eq!(next_limit(&page(32 << 20)), 1);
    }

    #[test]
    fn versions_with_false_progress_are_known() {
        for bad in ["3.5.7", "3.4.24", "3.3.99", "2.3.8", "", "3.5.0-rc.1"] {
            assert!(tells_wrong_progress(bad), "{bad}");
        }
        for good in ["3.5.8", "3.4.25", "3.6.0-rc.3", "3.7.0", "4.0.0"] {
            assert!(!tells_wrong_progress(good), "{good}");
        }
    }
}
