//! The local copies of the metadata of all objects, which the garbage collector keeps and others may read.
//!
//! Invariant: who falls behind in hearing of deletions is told so.

use client::ApiResource;
use client::informer::{Informer, MetaObject};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::broadcast;

/// Deletions that a listener may be behind.
const BEHIND_MAX: usize = 1024;

/// An object is gone.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) namespace: String,
}

pub(crate) struct AllKinds {
    copies: Mutex<BTreeMap<(String, String), Informer<MetaObject>>>,
    deletions: broadcast::Sender<Deletion>,
}

impl Default for AllKinds {
    fn default() -> Self {
        Self { copies: Mutex::default(), deletions: broadcast::channel(BEHIND_MAX).0 }
    }
}

impl AllKinds {
    pub(crate) fn add(&self, r: &ApiResource, copy: Informer<MetaObject>) {
        self.copies.lock().insert((r.group.clone(), r.plural.clone()), copy);
    }

    pub(crate) fn remove(&self, r: &ApiResource) {
        self.copies.lock().remove(&(r.group.clone(), r.plural.clone()));
    }

    pub(crate) fn tell_deleted(&self, r: &ApiResource, namespace: &str) {
        let deletion =
            Deletion { group: r.group.clone(), plural: r.plural.clone(), namespace: namespace.to_owned() };
        // nobody may be listening
        let _ = self.deletions.send(deletion);
    }

    pub(crate) fn deletions(&self) -> broadcast::Receiver<Deletion> {
        self.deletions.subscribe()
    }

    /// Groups and plural names.
    pub(crate) fn names(&self) -> Vec<(String, String)> {
        self.copies.lock().keys().cloned().collect()
    }

    /// How many objects of a kind a namespace has; `None` while it is not known.
    pub(crate) fn count(&self, group: &str, plural: &str, namespace: &str) -> Option<usize> {
        let copy = self.copies.lock().get(&(group.to_owned(), plural.to_owned())).cloned()?;
        copy.has_synced().then(|| copy.store().by_namespace(namespace).len())
    }
}
