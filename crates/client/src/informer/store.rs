//! The objects of one kind, by namespace and name and by controlling owner.

use super::subscription::{Change, Subscription, Topic};
use crate::kind::controller_of;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;

type Key = (String, String);

struct Inner<T> {
    by_namespace: BTreeMap<String, BTreeMap<String, Arc<T>>>,
    /// Keys of the objects that a uid controls, once somebody has asked for them.
    by_owner: Option<Owners>,
}

type Owners = HashMap<String, HashSet<Key>>;

/// A local copy of the objects of one kind. Cluster-scoped objects have the empty namespace.
pub struct Store<T> {
    meta: fn(&T) -> &ObjectMeta,
    inner: RwLock<Inner<T>>,
    topic: Topic<T>,
    synced: watch::Sender<bool>,
}

impl<T: Send + Sync + 'static> Store<T> {
    /// `meta` finds an object's metadata.
    pub fn new(meta: fn(&T) -> &ObjectMeta) -> Self {
        let inner = RwLock::new(Inner { by_namespace: BTreeMap::new(), by_owner: None });
        Self { meta, inner, topic: Topic::default(), synced: watch::channel(false).0 }
    }

    pub fn get(&self, ns: &str, name: &str) -> Option<Arc<T>> {
        self.inner.read().by_namespace.get(ns)?.get(name).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.inner.read().by_namespace.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub fn by_namespace(&self, ns: &str) -> Vec<Arc<T>> {
        self.inner.read().by_namespace.get(ns).map(|m| m.values().cloned().collect()).unwrap_or_default()
    }

    /// The objects whose managing controller has this uid; with the empty uid those that no controller manages.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<T>> {
        if let Some(found) = self.inner.read().owned(uid) {
            return found;
        }
        let mut inner = self.inner.write();
        inner.index_owners(self.meta);
        inner.owned(uid).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.inner.read().by_namespace.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub async fn synced(&self) {
        // the sender lives as long as self
        let _ = self.synced.subscribe().wait_for(|s| *s).await;
    }

    pub fn subscribe(&self) -> Subscription<T> {
        self.topic.subscribe()
    }

    /// An object's metadata.
    pub fn meta_of<'a>(&self, object: &'a T) -> &'a ObjectMeta {
        (self.meta)(object)
    }

    /// Adds or replaces an object. An object as old as the one held is ignored: nothing changed.
    pub fn apply(&self, object: T) {
        let object = Arc::new(object);
        let mut inner = self.inner.write();
        let old = inner.put(self.meta, object.clone());
        if old.as_ref().is_some_and(|o| same(self.meta, o, &object)) {
            return;
        }
        // announced under the lock, so that the order of announcements is that of the states
        self.topic.publish(Change { old, new: Some(object) });
    }

    /// Removes an object; what is announced is its last state.
    pub fn remove(&self, object: T) {
        let object = Arc::new(object);
        let mut inner = self.inner.write();
        if inner.take(self.meta, &key(self.meta, &object)).is_some() {
            self.topic.publish(Change { old: Some(object), new: None });
        }
    }

    /// Replaces everything by a whole list, announcing the differences.
    pub fn replace(&self, objects: Vec<T>) {
        let mut inner = self.inner.write();
        let mut gone: HashSet<Key> = inner
            .by_namespace
            .iter()
            .flat_map(|(ns, m)| m.keys().map(move |n| (ns.clone(), n.clone())))
            .collect();
        for object in objects {
            let object = Arc::new(object);
            gone.remove(&key(self.meta, &object));
            let old = inner.put(self.meta, object.clone());
            if !old.as_ref().is_some_and(|o| same(self.meta, o, &object)) {
                self.topic.publish(Change { old, new: Some(object) });
            }
        }
        for k in gone {
            if let Some(old) = inner.take(self.meta, &k) {
                self.topic.publish(Change { old: Some(old), new: None });
            }
        }
        drop(inner);
        self.synced.send_replace(true);
    }
}

impl<T> Inner<T> {
    /// `None` while owners are not indexed.
    fn owned(&self, uid: &str) -> Option<Vec<Arc<T>>> {
        let keys = self.by_owner.as_ref()?.get(uid).into_iter().flatten();
        Some(keys.filter_map(|(ns, name)| self.by_namespace.get(ns)?.get(name).cloned()).collect())
    }

    fn index_owners(&mut self, meta: fn(&T) -> &ObjectMeta) {
        let mut owners = Owners::new();
        for object in self.by_namespace.values().flat_map(BTreeMap::values) {
            owners.entry(owner_of(meta, object).to_owned()).or_default().insert(key(meta, object));
        }
        self.by_owner = Some(owners);
    }

    fn put(&mut self, meta: fn(&T) -> &ObjectMeta, object: Arc<T>) -> Option<Arc<T>> {
        let (ns, name) = key(meta, &object);
        if let Some(owners) = &mut self.by_owner {
            let key = (ns.clone(), name.clone());
            owners.entry(owner_of(meta, &object).to_owned()).or_default().insert(key);
        }
        let old = self.by_namespace.entry(ns).or_default().insert(name, object.clone())?;
        if owner_of(meta, &old) != owner_of(meta, &object) {
            self.disown(meta, &old);
        }
        Some(old)
    }

    fn take(&mut self, meta: fn(&T) -> &ObjectMeta, k: &Key) -> Option<Arc<T>> {
        let names = self.by_namespace.get_mut(&k.0)?;
        let old = names.remove(&k.1)?;
        if names.is_empty() {
            self.by_namespace.remove(&k.0);
        }
        self.disown(meta, &old);
        Some(old)
    }

    fn disown(&mut self, meta: fn(&T) -> &ObjectMeta, old: &T) {
        let (Some(owners), owner) = (&mut self.by_owner, owner_of(meta, old)) else { return };
        if let Some(keys) = owners.get_mut(owner) {
            keys.remove(&key(meta, old));
            if keys.is_empty() {
                owners.remove(owner);
            }
        }
    }
}

/// The managing controller's uid, empty when there is none.
fn owner_of<T>(meta: fn(&T) -> &ObjectMeta, object: &T) -> &str {
    controller_of(meta(object)).map_or("", |o| o.uid.as_str())
}

fn key<T>(meta: fn(&T) -> &ObjectMeta, object: &T) -> Key {
    let m = meta(object);
    (m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
}

fn same<T>(meta: fn(&T) -> &ObjectMeta, a: &T, b: &T) -> bool {
    let (a, b) = (meta(a), meta(b));
    a.uid == b.uid && a.resource_version.is_some() && a.resource_version == b.resource_version
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::*;
    use k8s_openapi::Metadata;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(name: &str, rv: &str, owner: &str) -> Pod {
        let refs = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": owner, "controller": true}]);
        let meta = json!({"namespace": "n", "name": name, "uid": name, "resourceVersion": rv, "ownerReferences": refs});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    #[tokio::test]
    async fn differences_are_announced_and_indexed() {
        let store = Store::new(Pod::metadata);
        let mut sub = store.subscribe();
        assert!(matches!(sub.next().await, Some(Event::Resync)));
        store.replace(vec![pod("a", "1", "x"), pod("b", "1", "x")]);
        assert!(store.has_synced());
        assert_eq!(store.by_owner("x").len(), 2);
        sub.next().await;
        sub.next().await;
        store.apply(pod("a", "1", "x")); // unchanged: silent
        store.apply(pod("a", "2", "y"));
        let Some(Event::Applied(p)) = sub.next().await else { panic!("an update") };
        assert_eq!(p.metadata.resource_version.as_deref(), Some("2"));
        assert_eq!((store.by_owner("x").len(), store.by_owner("y").len()), (1, 1));
        store.replace(vec![pod("a", "2", "y")]);
        let Some(Event::Deleted(p)) = sub.next().await else { panic!("a deletion") };
        assert_eq!(p.metadata.name.as_deref(), Some("b"));
        store.remove(pod("a", "3", "y"));
        assert!(store.is_empty() && store.by_owner("y").is_empty());
    }

    #[tokio::test]
    async fn a_slow_subscriber_gets_a_resync() {
        let store = Store::new(Pod::metadata);
        let mut sub = store.subscribe();
        sub.next().await;
        for i in 0..=super::super::subscription::CAPACITY {
            store.apply(pod("a", &i.to_string(), "x"));
        }
        assert!(matches!(sub.next().await, Some(Event::Resync)));
        store.apply(pod("b", "1", "x"));
        assert!(
            matches!(sub.next().await, Some(Event::Applied(p)) if p.metadata.name.as_deref() == Some("b"))
        );
    }
}
