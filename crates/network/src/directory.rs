//! The index of Services and endpoints that the proxies and DNS servers of this process read.
//!
//! Invariant: a reader sees each apply whole; whoever subscribed hears of every Service that changed, coalesced by
//! name, so the queue is bounded by the number of Services.

use crate::spec::{Key, ServiceSpec, SliceSpec};
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Services with their endpoints; shared by `Arc`.
#[derive(Debug, Default)]
pub struct Directory {
    state: RwLock<State>,
    subscribers: Mutex<Vec<Weak<Changes>>>,
}

/// The index itself, read under the directory's lock.
#[derive(Debug, Default)]
pub struct State {
    services: BTreeMap<Key, ServiceSpec>,
    slices: HashMap<Key, BTreeMap<String, Arc<SliceSpec>>>,
    slice_owner: HashMap<Key, String>,
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
    namespaces: BTreeMap<String, usize>,
    synced: bool,
}

impl Directory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds or replaces a Service.
    pub fn apply_service(&self, service: ServiceSpec) {
        let key = service.key();
        let changed = self.state.write().put_service(service);
        if changed {
            self.tell([key]);
        }
    }

    pub fn remove_service(&self, namespace: &str, name: &str) {
        let key = Key::new(namespace, name);
        if self.state.write().drop_service(&key) {
            self.tell([key]);
        }
    }

    /// Adds or replaces an EndpointSlice.
    pub fn apply_slice(&self, slice: SliceSpec) {
        let keys = self.state.write().put_slice(slice);
        if !keys.is_empty() {
            self.tell(keys);
        }
    }

    pub fn remove_slice(&self, namespace: &str, name: &str) {
        let key = self.state.write().drop_slice(&Key::new(namespace, name));
        if key.is_some() {
            self.tell(key);
        }
    }

    /// Says that the first full state has been applied: from now on the proxies program the kernel and DNS answers.
    pub fn set_synced(&self) {
        self.state.write().synced = true;
        self.tell([]);
    }

    /// Whether [`Directory::set_synced`] was called.
    pub fn synced(&self) -> bool {
        self.state.read().synced
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub(crate) fn subscribe(&self) -> Arc<Changes> {
        let changes = Arc::new(Changes::default());
        self.subscribers.lock().push(Arc::downgrade(&changes));
        changes
    }

    fn tell(&self, keys: impl IntoIterator<Item = Key> + Clone) {
        self.subscribers.lock().retain(|s| match s.upgrade() {
            Some(changes) => {
                changes.add(keys.clone());
                true
            }
            None => false,
        });
    }
}

impl State {
    pub fn service(&self, key: &Key) -> Option<&ServiceSpec> {
        self.services.get(key)
    }

    pub fn services(&self) -> impl Iterator<Item = (&Key, &ServiceSpec)> {
        self.services.iter()
    }

    pub fn slices(&self, service: &Key) -> impl Iterator<Item = &SliceSpec> {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values).map(Arc::as_ref)
    }

    /// The slices that are known.
    pub fn slice_keys(&self) -> impl Iterator<Item = &Key> {
        self.slice_owner.keys()
    }

    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Whether some Service is in the namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The Services that have the address, as their own or as that of an endpoint.
    pub fn by_address(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.by_address.get(&address).into_iter().flatten()
    }

    fn put_service(&mut self, service: ServiceSpec) -> bool {
        let key = service.key();
        if self.services.get(&key) == Some(&service) {
            return false;
        }
        let old: Vec<IpAddr> = self.services.get(&key).map(|s| s.cluster_ips.clone()).unwrap_or_default();
        let new = service.cluster_ips.clone();
        if self.services.insert(key.clone(), service).is_none() {
            *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
        }
        self.reindex(&key, old.into_iter().chain(new));
        true
    }

    fn drop_service(&mut self, key: &Key) -> bool {
        let Some(old) = self.services.remove(key) else { return false };
        if let Some(count) = self.namespaces.get_mut(&key.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&key.namespace);
            }
        }
        self.reindex(key, old.cluster_ips);
        true
    }

    fn put_slice(&mut self, slice: SliceSpec) -> Vec<Key> {
        let key = slice.key();
        let service = Key::new(&slice.namespace, &slice.service);
        let mut changed = vec![];
        if self.slice_owner.get(&key).is_some_and(|owner| *owner != slice.service) {
            changed.extend(self.drop_slice(&key));
        }
        let of_service = self.slices.entry(service.clone()).or_default();
        if of_service.get(&slice.name).is_some_and(|old| **old == slice) {
            return changed;
        }
        self.slice_owner.insert(key, slice.service.clone());
        let mut touched = addresses(&slice);
        if let Some(old) = of_service.insert(slice.name.clone(), Arc::new(slice)) {
            touched.extend(addresses(&old));
        }
        self.reindex(&service, touched);
        changed.push(service);
        changed
    }

    fn drop_slice(&mut self, key: &Key) -> Option<Key> {
        let service = Key::new(&key.namespace, self.slice_owner.remove(key)?);
        let of_service = self.slices.get_mut(&service)?;
        let old = of_service.remove(&key.name)?;
        if of_service.is_empty() {
            self.slices.remove(&service);
        }
        self.reindex(&service, addresses(&old));
        Some(service)
    }

    /// Sets right which of these addresses lead to the Service.
    fn reindex(&mut self, key: &Key, touched: impl IntoIterator<Item = IpAddr>) {
        let mut current: HashSet<IpAddr> =
            self.services.get(key).into_iter().flat_map(|s| s.cluster_ips.iter().copied()).collect();
        current.extend(self.slices(key).flat_map(addresses));
        for address in touched {
            if current.contains(&address) {
                self.by_address.entry(address).or_default().insert(key.clone());
            } else if let Some(keys) = self.by_address.get_mut(&address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }
}

fn addresses(slice: &SliceSpec) -> Vec<IpAddr> {
    slice.endpoints.iter().flat_map(|e| e.addresses.iter().copied()).collect()
}

/// The names of changed Services, waiting for one reader.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub services: BTreeSet<Key>,
    /// Something else than a Service changed (or the reader is to stop): look at it.
    pub woken: bool,
    /// Told when everything up to here has been worked off.
    pub waiters: Vec<std::sync::mpsc::SyncSender<Option<String>>>,
}

impl Changes {
    pub fn add(&self, keys: impl IntoIterator<Item = Key>) {
        let mut pending = self.pending.lock();
        pending.services.extend(keys);
        pending.woken = true;
        self.wake.notify_one();
    }

    /// Asks to be told when everything said so far has been worked off.
    pub fn add_waiter(&self, waiter: std::sync::mpsc::SyncSender<Option<String>>) {
        let mut pending = self.pending.lock();
        pending.waiters.push(waiter);
        pending.woken = true;
        self.wake.notify_one();
    }

    /// Waits for a change, then `settle` longer for its companions; empty after `timeout`.
    pub fn take(&self, timeout: Duration, settle: Duration) -> Pending {
        let mut pending = self.pending.lock();
        if !pending.woken {
            self.wake.wait_for(&mut pending, timeout);
        }
        if !pending.woken {
            return Pending::default();
        }
        drop(pending);
        std::thread::sleep(settle);
        std::mem::take(&mut *self.pending.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Endpoint;

    fn slice(name: &str, service: &str, ip: &str) -> SliceSpec {
        SliceSpec {
            namespace: "n".into(),
            name: name.into(),
            service: service.into(),
            endpoints: vec![Endpoint { addresses: vec![ip.parse().unwrap()], ..Endpoint::default() }],
            ..SliceSpec::default()
        }
    }

    #[test]
    fn addresses_follow_slices_and_changes_are_told_once() {
        let d = Directory::new();
        let changes = d.subscribe();
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        d.apply_slice(slice("s-1", "s", "10.0.0.1"));
        d.apply_slice(slice("s-2", "s", "10.0.0.1"));
        assert_eq!(changes.take(Duration::ZERO, Duration::ZERO).services.len(), 1);
        d.apply_slice(slice("s-2", "s", "10.0.0.1"));
        assert!(!changes.take(Duration::ZERO, Duration::ZERO).woken, "an equal slice is no change");
        d.remove_slice("n", "s-1");
        assert_eq!(d.read().by_address(ip).count(), 1, "the second slice still has it");
        changes.take(Duration::ZERO, Duration::ZERO);
        d.apply_slice(slice("s-2", "t", "10.0.0.1"));
        let told = changes.take(Duration::ZERO, Duration::ZERO).services;
        assert_eq!(told.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["s", "t"]);
        assert_eq!(d.read().by_address(ip).collect::<Vec<_>>(), [&Key::new("n", "t")]);
        d.remove_slice("n", "s-2");
        assert_eq!(d.read().by_address(ip).count(), 0);
    }
}
