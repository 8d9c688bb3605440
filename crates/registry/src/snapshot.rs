//! A parsed copy of all objects of some kinds, kept in step with the store: what the server itself acts by on every
//! request (webhook configurations, policies, custom resource definitions).
//!
//! Invariant: the copy is always one that the store had; after changes were missed, what is stored replaces it.

use crate::Registry;
use kinds::KindDef;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;
use store::{Range, Watched};
use tokio_util::sync::CancellationToken;

/// A copy of type `T`, made from the objects of a kind, in the order of their names.
pub struct Snapshot<T> {
    current: RwLock<Arc<T>>,
    changes: tokio::sync::watch::Sender<u64>,
}

impl<T: Send + Sync + 'static> Snapshot<T> {
    /// Reads what is stored, and follows every change until cancelled. `make` runs again after each change.
    pub fn start(
        registry: &Arc<Registry>,
        row: &Arc<KindDef>,
        make: impl Fn(&[Value]) -> T + Send + Sync + 'static,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let (objects, from) = load(registry, row);
        let this = Arc::new(Self {
            current: RwLock::new(Arc::new(make(&objects))),
            changes: tokio::sync::watch::channel(0).0,
        });
        tokio::spawn(follow(this.clone(), registry.clone(), row.clone(), make, from, cancel));
        this
    }

    /// A copy that never changes, for tests.
    pub fn fixed(value: T) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Arc::new(value)), changes: tokio::sync::watch::channel(0).0 })
    }

    pub fn get(&self) -> Arc<T> {
        self.current.read().clone()
    }

    /// Tells of every change of the copy.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn load(registry: &Registry, row: &KindDef) -> (Vec<Value>, u64) {
    let range = Range { prefix: &row.key_prefix(), ..Range::default() };
    // The present can always be read.
    let Ok(page) = registry.store().list(&range) else { return (Vec::new(), registry.store().revision()) };
    let objects = page.entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
    (objects, page.revision)
}

async fn follow<T: Send + Sync + 'static>(
    this: Arc<Snapshot<T>>,
    registry: Arc<Registry>,
    row: Arc<KindDef>,
    make: impl Fn(&[Value]) -> T + Send + Sync,
    mut from: u64,
    cancel: CancellationToken,
) {
    loop {
        let watcher = registry.store().watch(&row.key_prefix(), from);
        let missed = watcher.is_err();
        if let Ok(mut watcher) = watcher {
            let watched = tokio::select! {
                () = cancel.cancelled() => return,
                watched = watcher.next() => watched,
            };
            if matches!(watched, Watched::Closed) {
                return;
            }
        }
        // Such kinds have few objects, which change seldom: reading them all again is the simplest that is right.
        let (objects, revision) = load(&registry, &row);
        if missed && revision <= from {
            tracing::error!(kind = %row.kind, "the store can no longer be followed");
            return;
        }
        from = revision;
        *this.current.write() = Arc::new(make(&objects));
        this.changes.send_modify(|n| *n += 1);
    }
}
