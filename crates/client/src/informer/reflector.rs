//! The loop that keeps a store: list in pages, watch from there, list again when the server forgot where we were.

use super::store::Store;
use super::watch::{Frame, Frames};
use crate::kind::push_query;
use crate::typed::{Client, ListOptions};
use base::clock::SharedClock;
use base::rng::Rng;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::{Reason, Status};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Objects in a page of the first list (upstream: `pager.defaultPageSize`).
const PAGE: u32 = 500;
/// Wait after the first failure; doubles with each (upstream: `Reflector` back-off).
const BACKOFF_MIN: Duration = Duration::from_millis(800);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A watch that lasted this long makes the next failure a first one.
const BACKOFF_RESET: Duration = Duration::from_secs(120);
/// A watch that ends sooner and brought nothing counts as a failure.
const WATCH_TOO_SHORT: Duration = Duration::from_secs(1);
/// Watches are asked to last between this and twice this.
const WATCH_SECONDS: u64 = 300;
/// A watch without any frame for this long is taken for dead (bookmarks come about once a minute).
const WATCH_SILENCE: Duration = Duration::from_secs(3 * 60);

pub(super) struct Source<T> {
    /// Path and query of the collection.
    pub(super) uri: String,
    pub(super) list_accept: Option<&'static str>,
    pub(super) watch_accept: Option<&'static str>,
    pub(super) trim: fn(&mut T),
}

pub(super) struct Reflector<T> {
    client: Client,
    source: Source<T>,
    store: Arc<Store<T>>,
    clock: SharedClock,
    rng: Arc<Rng>,
    failures: u32,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Reflector<T> {
    pub(super) fn new(
        client: Client,
        source: Source<T>,
        store: Arc<Store<T>>,
        clock: SharedClock,
        rng: Arc<Rng>,
    ) -> Self {
        Self { client, source, store, clock, rng, failures: 0 }
    }

    pub(super) async fn run(mut self) {
        loop {
            let mut version = loop {
                match self.list().await {
                    Ok(v) => break v,
                    Err(e) => self.pause("list", &e).await,
                }
            };
            while let Some(next) = self.watch(version).await {
                version = next;
            }
        }
    }

    /// Lists everything into the store and says at which version.
    async fn list(&self) -> Result<String, Status> {
        let mut all = Vec::new();
        let mut options = ListOptions { limit: Some(PAGE), ..ListOptions::default() };
        loop {
            let mut uri = self.source.uri.clone();
            options.write(&mut uri);
            let page = self.client.list_at::<T>(&uri, self.source.list_accept).await?;
            all.extend(page.items);
            // every page is of the first one's revision
            match page.continue_token {
                Some(token) => options.continue_token = Some(token),
                None => {
                    all.iter_mut().for_each(self.source.trim);
                    self.store.replace(all);
                    return Ok(page.resource_version);
                }
            }
        }
    }

    /// Watches until the stream ends; the version to go on from, or `None` when a new list is needed.
    async fn watch(&mut self, from: String) -> Option<String> {
        let started = self.clock.monotonic();
        let mut version = from.clone();
        let result = self.follow(&mut version).await;
        let lasted = self.clock.monotonic().saturating_sub(started);
        if lasted > BACKOFF_RESET {
            self.failures = 0;
        }
        match result {
            Ok(()) if version == from && lasted < WATCH_TOO_SHORT => {
                self.pause("watch", &Status::unavailable("ended at once")).await;
            }
            Ok(()) => self.failures = 0,
            Err(e) if matches!(e.reason, Reason::Expired | Reason::Gone) || e.code == 410 => {
                tracing::debug!(uri = %self.source.uri, "watch expired, listing again: {e}");
                return None;
            }
            Err(e) => {
                self.pause("watch", &e).await;
                // what the server refuses or garbles may be mended by a new list
                if e.code != 503 && e.code != 429 {
                    return None;
                }
            }
        }
        Some(version)
    }

    async fn follow(&self, version: &mut String) -> Result<(), Status> {
        let mut uri = self.source.uri.clone();
        push_query(&mut uri, "watch", "true");
        push_query(&mut uri, "allowWatchBookmarks", "true");
        push_query(&mut uri, "resourceVersion", version);
        let seconds = WATCH_SECONDS + self.rng.below(WATCH_SECONDS);
        push_query(&mut uri, "timeoutSeconds", &seconds.to_string());
        let mut frames = Frames::new(self.client.stream(&uri, self.source.watch_accept).await?);
        loop {
            let frame = match tokio::time::timeout(WATCH_SILENCE, frames.next::<T>()).await {
                Ok(frame) => frame?,
                Err(_) => return Ok(()),
            };
            match frame {
                None => return Ok(()),
                Some(Frame::Bookmark(v)) => *version = v,
                Some(Frame::Failed(e)) => return Err(e),
                Some(Frame::Applied(mut object)) => {
                    self.note(version, &object);
                    (self.source.trim)(&mut object);
                    self.store.apply(object);
                }
                Some(Frame::Deleted(mut object)) => {
                    self.note(version, &object);
                    (self.source.trim)(&mut object);
                    self.store.remove(object);
                }
            }
        }
    }

    fn note(&self, version: &mut String, object: &T) {
        let meta: &ObjectMeta = self.store.meta_of(object);
        if let Some(v) = &meta.resource_version {
            version.clone_from(v);
        }
    }

    async fn pause(&mut self, what: &str, error: &Status) {
        let wait = backoff(self.failures, self.rng.fraction());
        self.failures = self.failures.saturating_add(1);
        tracing::warn!(uri = %self.source.uri, failures = self.failures, wait_ms = wait.as_millis() as u64, "{what} failed: {error}");
        tokio::time::sleep(wait).await;
    }
}

/// Doubles from the minimum to the maximum, then adds up to as much again (upstream: jitter factor 1.0).
fn backoff(failures: u32, fraction: f64) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(6)).min(BACKOFF_MAX).mul_f64(1.0 + fraction).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_bound() {
        assert_eq!(backoff(0, 0.0), BACKOFF_MIN);
        assert_eq!(backoff(1, 0.5), Duration::from_millis(2400));
        assert_eq!(backoff(60, 0.0), BACKOFF_MAX);
    }
}
