//! ConfigMaps and Secrets of the node's pods, each watched by its name as long as a pod needs it: that is all that a
//! node may read (upstream: `pkg/kubelet/util/manager/watch_based_manager.go`).

use crate::ports::Reference;
use client::Client;
use client::informer::{Frame, Frames};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

/// Changes that a slow reader may be behind.
const CHANGES: usize = 1024;
/// Pause after a watch that failed; it doubles to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// An object as last seen.
#[derive(Clone)]
pub(super) enum Object {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

struct Entry {
    users: HashSet<String>,
    /// What a live watch says; none while there is none.
    current: Option<Object>,
    /// The version that pods have been given.
    version: Option<String>,
    task: AbortHandle,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Reference, Entry>,
    by_pod: HashMap<String, BTreeSet<Reference>>,
}

/// The watches. Bounded by what the node's pods refer to.
pub(super) struct Tracker {
    client: Client,
    inner: Arc<Mutex<Inner>>,
    changes: broadcast::Sender<Reference>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        for entry in self.inner.lock().entries.values() {
            entry.task.abort();
        }
    }
}

impl Tracker {
    pub(super) fn new(client: Client) -> Self {
        Self { client, inner: Arc::default(), changes: broadcast::channel(CHANGES).0 }
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Reference> {
        self.changes.subscribe()
    }

    /// The object if a live watch has it.
    pub(super) fn known(&self, reference: &Reference) -> Option<Object> {
        self.inner.lock().entries.get(reference)?.current.clone()
    }

    /// Notes the version that was read: a watch that starts with it brings no news.
    pub(super) fn seen(&self, reference: &Reference, version: Option<&str>) {
        if let Some(entry) = self.inner.lock().entries.get_mut(reference) {
            entry.version = version.map(str::to_owned);
        }
    }

    /// Replaces what a pod refers to.
    pub(super) fn track(&self, uid: &str, references: BTreeSet<Reference>) {
        let mut inner = self.inner.lock();
        let before = inner.by_pod.remove(uid).unwrap_or_default();
        for gone in before.difference(&references) {
            let unused = inner.entries.get_mut(gone).is_some_and(|e| {
                e.users.remove(uid);
                e.users.is_empty()
            });
            if unused && let Some(entry) = inner.entries.remove(gone) {
                entry.task.abort();
            }
        }
        for reference in &references {
            let entry = inner.entries.entry(reference.clone()).or_insert_with(|| Entry {
                users: HashSet::new(),
                current: None,
                version: None,
                task: self.start(reference.clone()),
            });
            entry.users.insert(uid.to_owned());
        }
        if !references.is_empty() {
            inner.by_pod.insert(uid.to_owned(), references);
        }
    }

    fn start(&self, reference: Reference) -> AbortHandle {
        let watch = Watch {
            client: self.client.clone(),
            inner: self.inner.clone(),
            changes: self.changes.clone(),
            reference,
        };
        tokio::spawn(watch.run()).abort_handle()
    }
}

struct Watch {
    client: Client,
    inner: Arc<Mutex<Inner>>,
    changes: broadcast::Sender<Reference>,
    reference: Reference,
}

impl Watch {
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let begun = Instant::now();
            let result = match &self.reference {
                Reference::ConfigMap { namespace, name } => {
                    self.follow(
                        &uri(namespace, "configmaps", name),
                        |c: &ConfigMap| &c.metadata,
                        Object::ConfigMap,
                    )
                    .await
                }
                Reference::Secret { namespace, name } => {
                    self.follow(&uri(namespace, "secrets", name), |s: &Secret| &s.metadata, Object::Secret)
                        .await
                }
            };
            if let Some(entry) = self.inner.lock().entries.get_mut(&self.reference) {
                entry.current = None;
            }
            // A server that drains ends every watch at once and well: only one that lasted is begun again at once.
            if begun.elapsed() > PAUSE_MAX && result.is_ok() {
                pause = PAUSE_MIN;
                continue;
            }
            if let Err(e) = result {
                tracing::debug!(reference = ?self.reference, "watch failed: {e}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows one watch to its end. It starts with the object as it is.
    async fn follow<T: DeserializeOwned>(
        &self,
        uri: &str,
        meta: fn(&T) -> &ObjectMeta,
        wrap: fn(Arc<T>) -> Object,
    ) -> Result<(), meta::Status> {
        let mut frames = Frames::new(self.client.stream(uri, None).await?);
        while let Some(frame) = frames.next::<T>().await? {
            match frame {
                Frame::Applied(object) => {
                    let version = meta(&object).resource_version.clone();
                    self.news(Some(wrap(Arc::new(object))), version);
                }
                Frame::Deleted(_) => self.news(None, None),
                Frame::Bookmark(_) => {}
                Frame::Failed(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn news(&self, object: Option<Object>, version: Option<String>) {
        let changed = match self.inner.lock().entries.get_mut(&self.reference) {
            Some(entry) => {
                entry.current = object;
                let changed = entry.version != version;
                entry.version = version;
                changed
            }
            None => false,
        };
        if changed {
            // Nobody listens: nobody needs to know.
            let _ = self.changes.send(self.reference.clone());
        }
    }
}

fn uri(namespace: &str, resource: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{resource}?fieldSelector=metadata.name%3D{name}&watch=true")
}
