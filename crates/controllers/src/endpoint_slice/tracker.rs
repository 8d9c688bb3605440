//! What was written and not yet seen, and which change of a pod or Service caused a write.

use crate::common::pods;
use client::Kind;
use client::controller::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The version a slice must have been seen at, by uid; `None` for one that must have been seen to go.
type Expected = HashMap<String, Option<u64>>;

/// Writes not yet seen, per Service (upstream: `EndpointSliceTracker`).
#[derive(Default)]
pub(crate) struct Tracker(Mutex<HashMap<ObjectKey, Expected>>);

impl Tracker {
    pub(crate) fn wrote(&self, key: &ObjectKey, slice: &EndpointSlice) {
        let version = slice.resource_version().parse().unwrap_or(0);
        self.0.lock().entry(key.clone()).or_default().insert(slice.uid().to_owned(), Some(version));
    }

    pub(crate) fn deleted(&self, key: &ObjectKey, slice: &EndpointSlice) {
        self.0.lock().entry(key.clone()).or_default().insert(slice.uid().to_owned(), None);
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }

    /// Whether the slices seen lack a write. What was seen is not expected any more.
    pub(crate) fn is_stale(&self, key: &ObjectKey, seen: &[EndpointSlice]) -> bool {
        let mut all = self.0.lock();
        let Some(expected) = all.get_mut(key) else { return false };
        expected.retain(|uid, version| {
            let slice = seen.iter().find(|s| s.uid() == uid);
            match (slice, version) {
                (Some(s), Some(v)) => s.resource_version().parse().is_ok_and(|have: u64| have < *v),
                (Some(s), None) => !s.is_deleting(),
                // a created slice that is not there yet; one deleted by others comes as an event, too
                (None, Some(_)) => true,
                (None, None) => false,
            }
        });
        let stale = !expected.is_empty();
        if !stale {
            all.remove(key);
        }
        stale
    }

    /// A slice went away by somebody else's hand, so it will not be seen.
    pub(crate) fn gone(&self, key: &ObjectKey, uid: &str) {
        if let Some(expected) = self.0.lock().get_mut(key) {
            expected.remove(uid);
        }
    }
}

#[derive(Clone, Default)]
struct Times {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

/// When the changes happened that led to a write (upstream: `TriggerTimeTracker`).
#[derive(Default)]
pub(crate) struct TriggerTimes(Mutex<HashMap<ObjectKey, Times>>);

impl TriggerTimes {
    /// The earliest change since the last call for this Service; `None` when none has a time.
    pub(crate) fn of_change(
        &self,
        key: &ObjectKey,
        service: &Service,
        selected: &[Arc<Pod>],
    ) -> Option<Timestamp> {
        let changed = |p: &Arc<Pod>| {
            let ready = pods::condition(p, "Ready")?.last_transition_time.as_ref()?;
            Some((p.name().to_owned(), ready.0))
        };
        let made = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let new = Times { service: made, pods: selected.iter().filter_map(changed).collect() };
        let Some(old) = self.0.lock().insert(key.clone(), new.clone()) else { return made };
        let of_pods =
            new.pods.iter().filter(|(n, t)| old.pods.get(*n).is_none_or(|o| *t > o)).map(|(_, t)| *t);
        let of_service = new.service.filter(|t| old.service.is_none_or(|o| *t > o));
        of_pods.chain(of_service).min()
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}
