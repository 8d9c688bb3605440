//! Local copies of kinds, kept by one list and watch per kind and shared by all users in the process.
//!
//! Invariant: a [`Store`] only ever moves forward: it shows the server's state at some revision not older than what it
//! showed before, and every difference between two states is announced to every [`Subscription`], or replaced by
//! one [`Event::Resync`] when a subscriber is too slow.

mod reflector;
mod store;
mod subscription;
mod watch;

pub use store::Store;
pub use subscription::{Change, Event, Subscription};
pub use watch::{Frame, Frames};

use crate::dynamic::ApiResource;
use crate::kind::{Kind, path_of, push_query};
use crate::typed::Client;
use base::clock::SharedClock;
use base::rng::Rng;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use parking_lot::Mutex;
use reflector::{Reflector, Source};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The metadata of any object; what is known of kinds learned at run time. Labels, annotations and managed fields are left
/// out, and not even read: there is a copy of every object of the cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Known")]
pub struct MetaObject {
    pub metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    metadata: KnownMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct KnownMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<Known> for MetaObject {
    fn from(Known { metadata: m }: Known) -> Self {
        let metadata = ObjectMeta {
            name: m.name,
            namespace: m.namespace,
            uid: m.uid,
            resource_version: m.resource_version,
            creation_timestamp: m.creation_timestamp,
            deletion_timestamp: m.deletion_timestamp,
            finalizers: m.finalizers,
            owner_references: m.owner_references,
            ..ObjectMeta::default()
        };
        Self { metadata }
    }
}

/// A local copy of one kind. Cheap to clone; lives until its [`Informers`] stop.
pub struct Informer<T> {
    store: Arc<Store<T>>,
    /// Keeps a private reflector running; shared ones stop with their [`Informers`].
    guard: Option<Arc<DropGuard>>,
}

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), guard: self.guard.clone() }
    }
}

impl<T: Send + Sync + 'static> Informer<T> {
    pub fn store(&self) -> &Arc<Store<T>> {
        &self.store
    }

    /// Changes from now on. The first event is [`Event::Resync`]: look at the store.
    pub fn subscribe(&self) -> Subscription<T> {
        self.store.subscribe()
    }

    /// Waits for the first whole list.
    pub async fn synced(&self) {
        self.store.synced().await;
    }

    pub fn has_synced(&self) -> bool {
        self.store.has_synced()
    }

    /// An informer over a store that the caller fills, for tests.
    pub fn of_store(store: Arc<Store<T>>) -> Self {
        Self { store, guard: None }
    }
}

/// The informers of a process, one per kind and selector.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    clock: SharedClock,
    rng: Arc<Rng>,
    cancel: CancellationToken,
    shared: Arc<Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// Nothing runs until the first kind is asked for. Needs a tokio runtime from then on.
    pub fn new(client: Client, clock: SharedClock) -> Self {
        let (rng, cancel) = (Arc::new(Rng::from_os()), CancellationToken::new());
        Self { client, clock, rng, cancel, shared: Arc::default() }
    }

    /// The informer of a kind, started by the first caller.
    pub fn of<K: Kind>(&self) -> Informer<K> {
        self.of_selected("")
    }

    /// As [`Self::of`], for the objects that a field selector selects.
    pub fn of_selected<K: Kind>(&self, field_selector: &str) -> Informer<K> {
        let mut uri = path_of::<K>("", "", "");
        if !field_selector.is_empty() {
            push_query(&mut uri, "fieldSelector", field_selector);
        }
        let mut shared = self.shared.lock();
        if let Some(known) = shared.get(&uri).and_then(|i| i.clone().downcast::<Informer<K>>().ok()) {
            return (*known).clone();
        }
        let source = Source { uri: uri.clone(), list_accept: None, watch_accept: None, trim: trim_kind::<K> };
        let informer = self.start(Arc::new(Store::new(K::metadata)), source, self.cancel.clone(), None);
        shared.insert(uri, Arc::new(informer.clone()));
        informer
    }

    /// A private informer of the metadata of a kind learned at run time; it stops when its last clone is dropped.
    pub fn metadata_of(&self, resource: &ApiResource) -> Informer<MetaObject> {
        let source = Source {
            uri: resource.path("", "", ""),
            list_accept: Some(
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            ),
            watch_accept: Some(
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
            ),
            trim: |_| {},
        };
        let cancel = self.cancel.child_token();
        let guard = Some(Arc::new(cancel.clone().drop_guard()));
        self.start(Arc::new(Store::new(|o: &MetaObject| &o.metadata)), source, cancel, guard)
    }

    /// Ends all watches.
    pub fn stop(&self) {
        self.cancel.cancel();
    }

    fn start<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        store: Arc<Store<T>>,
        source: Source<T>,
        cancel: CancellationToken,
        guard: Option<Arc<DropGuard>>,
    ) -> Informer<T> {
        let reflector =
            Reflector::new(self.client.clone(), source, store.clone(), self.clock.clone(), self.rng.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = reflector.run() => {}
            }
        });
        Informer { store, guard }
    }
}

fn trim_kind<K: Kind>(object: &mut K) {
    trim(object.metadata_mut());
}

/// Drops what nobody reads from a local copy.
fn trim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
}
