//! The one control loop: keys in, one reconcile per key at a time, failures again with back-off.
//!
//! Invariant: a key that was added after a reconcile of it began is reconciled again after that one ended.

mod expectations;
mod metrics;
mod queue;

pub use expectations::Expectations;
pub use metrics::{Metrics, MetricsSnapshot};
pub use queue::{Queue, RateLimiter};

use crate::api::BoxError;
use crate::informer::{Change, Informer};
use crate::kind::Kind;
use async_trait::async_trait;
use base::clock::SharedClock;
use futures::FutureExt;
use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the loop logs is the controllers', whichever crate they are of.
const LOG: &str = "controllers";

/// Namespace and name of an object; the namespace is empty for cluster-scoped ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of<K: Kind>(object: &K) -> Self {
        Self::new(object.namespace(), object.name())
    }
}

impl Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What may be a queue's key.
pub trait QueueKey: Clone + Debug + Eq + Hash + Send + Sync + 'static {}

impl<T: Clone + Debug + Eq + Hash + Send + Sync + 'static> QueueKey for T {}

/// What comes after a reconcile that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing until the key is added again.
    Done,
    /// Once more after this time.
    Again(Duration),
}

/// A failure; the key is tried again with back-off.
pub type Error = BoxError;

/// Brings the world nearer to what one key asks for. Must be safe to repeat.
#[async_trait]
pub trait Reconcile: Send + Sync + 'static {
    type Key: QueueKey;

    async fn reconcile(&self, key: &Self::Key) -> Result<After, Error>;
}

type Feed = Pin<Box<dyn Future<Output = ()> + Send>>;
type Gate = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A controller being put together.
pub struct Controller<R: Reconcile> {
    name: &'static str,
    reconciler: Arc<R>,
    queue: Arc<Queue<R::Key>>,
    workers: usize,
    clock: SharedClock,
    feeds: Vec<Feed>,
    gates: Vec<Gate>,
}

impl<R: Reconcile> Controller<R> {
    /// A controller with one worker and nothing that feeds it yet.
    pub fn new(name: &'static str, reconciler: Arc<R>, clock: SharedClock) -> Self {
        let queue = Arc::new(Queue::new(clock.clone(), RateLimiter::default()));
        Self { name, reconciler, queue, workers: 1, clock, feeds: Vec::new(), gates: Vec::new() }
    }

    /// Uses a queue made before, for reconcilers that add keys themselves.
    #[must_use]
    pub fn with_queue(mut self, queue: Arc<Queue<R::Key>>) -> Self {
        self.queue = queue;
        self
    }

    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    pub fn queue(&self) -> &Arc<Queue<R::Key>> {
        &self.queue
    }

    /// Calls `handle` for every change of a kind, and for every object there is after a resync. Nothing is reconciled
    /// before the informer has its first list.
    #[must_use]
    pub fn watches<T, F>(mut self, informer: &Informer<T>, mut handle: F) -> Self
    where
        T: Send + Sync + 'static,
        F: FnMut(&Change<T>, &Queue<R::Key>) + Send + 'static,
    {
        let (store, queue) = (informer.store().clone(), self.queue.clone());
        let mut subscription = informer.subscribe();
        self.feeds.push(Box::pin(async move {
            while let Some(event) = subscription.next_change().await {
                match event {
                    Some(change) => handle(&change, &queue),
                    None => {
                        for object in store.list() {
                            handle(&Change { old: None, new: Some(object) }, &queue);
                        }
                    }
                }
            }
        }));
        let gate = informer.store().clone();
        self.gates.push(Box::pin(async move { gate.synced().await }));
        self
    }

    /// Waits for an informer's first list, without being fed by it.
    #[must_use]
    pub fn needs<T: Send + Sync + 'static>(mut self, informer: &Informer<T>) -> Self {
        let gate = informer.store().clone();
        self.gates.push(Box::pin(async move { gate.synced().await }));
        self
    }

    /// Adds keys at a fixed period, first after one period.
    #[must_use]
    pub fn resync<F>(mut self, period: Duration, keys: F) -> Self
    where
        F: Fn() -> Vec<R::Key> + Send + 'static,
    {
        let queue = self.queue.clone();
        self.feeds.push(Box::pin(async move {
            loop {
                tokio::time::sleep(period).await;
                keys().into_iter().for_each(|k| queue.add(k));
            }
        }));
        self
    }

    /// Runs until cancelled; reconciles under way are finished then.
    pub fn start(self, cancel: CancellationToken) -> Handle {
        let metrics = self.queue.metrics().clone();
        let name = self.name;
        let task = tokio::spawn(self.run(cancel));
        Handle { name, metrics, task }
    }

    async fn run(self, cancel: CancellationToken) {
        let mut feeds = JoinSet::new();
        for feed in self.feeds {
            feeds.spawn(feed);
        }
        for gate in self.gates {
            tokio::select! {
                () = gate => {}
                () = cancel.cancelled() => return,
            }
        }
        tracing::info!(target: LOG, controller = self.name, "started");
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            let (queue, reconciler, clock) =
                (self.queue.clone(), self.reconciler.clone(), self.clock.clone());
            let (name, cancel) = (self.name, cancel.clone());
            workers.spawn(async move {
                loop {
                    let key = tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        key = queue.take() => key,
                    };
                    work(name, &*reconciler, &queue, &clock, &key).await;
                }
            });
        }
        while workers.join_next().await.is_some() {}
        // the feeds end as their set is dropped
        tracing::info!(target: LOG, controller = self.name, "stopped");
    }
}

async fn work<R: Reconcile>(
    name: &str,
    reconciler: &R,
    queue: &Queue<R::Key>,
    clock: &SharedClock,
    key: &R::Key,
) {
    let started = clock.monotonic();
    let outcome = AssertUnwindSafe(reconciler.reconcile(key)).catch_unwind().await;
    let took = clock.monotonic().saturating_sub(started);
    let metrics = queue.metrics();
    match outcome {
        Ok(Ok(after)) => {
            metrics.reconciled(took, None);
            queue.forget(key);
            if let After::Again(wait) = after {
                queue.add_after(key.clone(), wait);
            }
        }
        Ok(Err(e)) => {
            let conflict = e.downcast_ref::<meta::Status>().is_some_and(meta::Status::is_conflict);
            // a conflict means that our copy is behind: the change that is on its way mends it
            let text = base::error::chain(e.as_ref());
            if conflict {
                tracing::debug!(target: LOG, controller = name, ?key, "reconcile met a newer object: {text}");
            } else {
                tracing::warn!(target: LOG, controller = name, ?key, "reconcile failed: {text}");
            }
            metrics.reconciled(took, Some(false));
            queue.add_rate_limited(key.clone());
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            tracing::error!(target: LOG, controller = name, ?key, "reconcile panicked: {text}");
            metrics.reconciled(took, Some(true));
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(key);
}

/// A running controller.
pub struct Handle {
    pub name: &'static str,
    pub metrics: Arc<Metrics>,
    task: tokio::task::JoinHandle<()>,
}

impl Handle {
    /// A task that is no queue controller but is stopped with them.
    pub fn of_task(name: &'static str, task: tokio::task::JoinHandle<()>) -> Self {
        Self { name, metrics: Arc::default(), task }
    }

    /// Waits for the end, after its token was cancelled.
    pub async fn stopped(self) {
        if let Err(e) = self.task.await
            && e.is_panic()
        {
            tracing::error!(target: LOG, controller = self.name, "ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::informer::Store;
    use base::clock::SystemClock;
    use k8s_openapi::Metadata;
    use k8s_openapi::api::core::v1::ConfigMap;
    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    struct Script {
        seen: mpsc::UnboundedSender<String>,
        outcomes: Mutex<Vec<&'static str>>,
    }

    #[async_trait]
    impl Reconcile for Script {
        type Key = ObjectKey;

        async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
            self.seen.send(key.to_string()).unwrap();
            let next = self.outcomes.lock().pop();
            match next {
                Some("panic") => panic!("on purpose"),
                Some("fail") => Err("failed".into()),
                Some("again") => Ok(After::Again(Duration::from_millis(1))),
                _ => Ok(After::Done),
            }
        }
    }

    #[tokio::test]
    async fn failures_and_panics_are_tried_again() {
        let (seen, mut rx) = mpsc::unbounded_channel();
        let script = Arc::new(Script { seen, outcomes: Mutex::new(vec!["again", "panic", "fail"]) });
        let store = Arc::new(Store::new(ConfigMap::metadata));
        let informer = Informer::of_store(store.clone());
        let cancel = CancellationToken::new();
        let handle = Controller::new("test", script, SystemClock::shared())
            .watches(&informer, |c, q| q.add(ObjectKey::of(&**c.latest().unwrap())))
            .start(cancel.clone());
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".into());
        map.metadata.namespace = Some("n".into());
        store.replace(vec![map]);
        for _ in 0..4 {
            let key = tokio::time::timeout(Duration::from_secs(5), rx.recv()).await.unwrap();
            assert_eq!(key.as_deref(), Some("n/a"));
        }
        cancel.cancel();
        let metrics = handle.metrics.clone();
        handle.stopped().await;
        let m = metrics.snapshot();
        assert_eq!((m.failures, m.panics, m.retries), (1, 1, 2));
    }
}
