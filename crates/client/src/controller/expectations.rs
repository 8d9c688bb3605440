//! What a controller did and has not yet seen in its local copy (upstream: `controller.UIDTrackingControllerExpectations`).
//!
//! Invariant: while a key's expectations are open, acting on the local copy could repeat what was already done.

use base::clock::SharedClock;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

/// Expectations older than this are given up (upstream: `controller.ExpectationsTimeout`).
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

struct Open {
    creations: i64,
    /// Uids of objects whose deletion was asked for.
    deletions: HashSet<String>,
    since: Duration,
}

/// Open creations and deletions per key.
pub struct Expectations<K> {
    open: Mutex<HashMap<K, Open>>,
    clock: SharedClock,
}

impl<K: Hash + Eq + Clone> Expectations<K> {
    pub fn new(clock: SharedClock) -> Self {
        Self { open: Mutex::default(), clock }
    }

    /// Before creating or deleting: what will be seen.
    pub fn expect(&self, key: &K, creations: i64, deletions: impl IntoIterator<Item = String>) {
        let since = self.clock.monotonic();
        let open = Open { creations, deletions: deletions.into_iter().collect(), since };
        self.open.lock().insert(key.clone(), open);
    }

    /// A creation was seen, or will not be because it failed.
    pub fn created(&self, key: &K) {
        if let Some(o) = self.open.lock().get_mut(key) {
            o.creations -= 1;
        }
    }

    /// A deletion was seen (an object counts as deleted when it has a deletion timestamp), or will not be.
    pub fn deleted(&self, key: &K, uid: &str) {
        if let Some(o) = self.open.lock().get_mut(key) {
            o.deletions.remove(uid);
        }
    }

    /// Whether everything was seen, or waiting was given up.
    pub fn satisfied(&self, key: &K) -> bool {
        let now = self.clock.monotonic();
        self.open.lock().get(key).is_none_or(|o| {
            (o.creations <= 0 && o.deletions.is_empty()) || now.saturating_sub(o.since) > TIMEOUT
        })
    }

    pub fn forget(&self, key: &K) {
        self.open.lock().remove(key);
    }

    /// Forgets everything, when events may have been missed.
    pub fn clear(&self) {
        self.open.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;
    use std::sync::Arc;

    #[test]
    fn open_until_seen_or_old() {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let e = Expectations::new(clock.clone());
        assert!(e.satisfied(&1));
        e.expect(&1, 2, ["u".to_owned()]);
        e.created(&1);
        e.created(&1);
        assert!(!e.satisfied(&1));
        e.deleted(&1, "other");
        assert!(!e.satisfied(&1));
        e.deleted(&1, "u");
        assert!(e.satisfied(&1));
        e.expect(&1, 1, []);
        clock.advance(TIMEOUT + Duration::from_secs(1));
        assert!(e.satisfied(&1));
    }
}
