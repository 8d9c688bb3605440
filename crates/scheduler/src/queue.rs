//! Which pod is decided next: those that may be (active), those that wait out a failure (back-off), those that wait for
//! the cluster to change (unschedulable) and those held by scheduling gates.
//!
//! Pure: the time comes in. upstream: `pkg/scheduler/backend/queue/scheduling_queue.go`

use crate::pod::PodInfo;
use client::Kind;
use k8s_openapi::api::core::v1::Pod;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Waits after failures: doubling from the first to the second (`--pod-initial-backoff-seconds`, `--pod-max-backoff-seconds`).
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Unschedulable pods are tried again after this, whatever happens (`DefaultPodMaxInUnschedulablePodsDuration`).
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(5 * 60);

/// A change of the cluster that may help pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node came or changed in what decisions look at.
    Node,
    /// A pod came to a node: helps those that want to be near others.
    PodPlaced,
    /// A pod left a node, or needs less there.
    PodGone,
}

impl Change {
    /// Whether a pod that these filters turned down may do better now.
    fn helps(self, plugins: &BTreeSet<&'static str>) -> bool {
        let any = |names: &[&str]| plugins.is_empty() || names.iter().any(|n| plugins.contains(n));
        match self {
            Self::Node => true,
            Self::PodPlaced => any(&["InterPodAffinity", "PodTopologySpread"]),
            Self::PodGone => any(&["NodeResourcesFit", "NodePorts", "InterPodAffinity", "PodTopologySpread"]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Reverse<i32>, u64),
    Backoff(Duration, u64),
    Unschedulable(Duration),
    Gated,
    /// Taken, with the number of the last change before.
    Taken(u64),
}

struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    failed_at: Duration,
    plugins: BTreeSet<&'static str>,
    added_at: Duration,
}

/// A pod to be decided about.
#[derive(Debug, Clone)]
pub struct Taken {
    pub pod: Arc<PodInfo>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it was first added.
    pub added_at: Duration,
}

/// The queue. Pods are known by uid.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), String>,
    backoff: BTreeMap<(Duration, u64), String>,
    sequence: u64,
    /// Changes so far, with what each may help; the last ones of those that a taken pod may have missed.
    changes: u64,
    last: [u64; 3],
}

impl Queue {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Numbers of active, backing-off, unschedulable and gated pods (`scheduler_pending_pods`).
    pub fn counts(&self) -> [usize; 4] {
        let of = |f: fn(&Place) -> bool| self.entries.values().filter(|e| f(&e.place)).count();
        let waits = of(|p| matches!(p, Place::Unschedulable(_)));
        [self.active.len(), self.backoff.len(), waits, of(|p| matches!(p, Place::Gated))]
    }

    /// A pod without a node was added or changed.
    pub fn put(&mut self, pod: Arc<Pod>, now: Duration) {
        let uid = pod.uid().to_owned();
        let gated = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
        let Some(old) = self.entries.get_mut(&uid) else {
            let pod = Arc::new(PodInfo::new(pod));
            let (plugins, failed_at) = (BTreeSet::new(), now);
            let entry = Entry { pod, place: Place::Gated, attempts: 0, failed_at, plugins, added_at: now };
            self.entries.insert(uid.clone(), entry);
            if !gated {
                self.activate(&uid);
            }
            return;
        };
        let relevant = differs(&old.pod.pod, &pod);
        old.pod = Arc::new(PodInfo::new(pod));
        match old.place {
            Place::Gated if !gated => self.activate(&uid),
            // an edit may be just what it needed
            Place::Unschedulable(_) if relevant => self.revive(&uid, now),
            Place::Active(..) => self.activate(&uid),
            _ => {}
        }
    }

    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.unlink(&entry.place);
        }
    }

    /// The pod to decide about now. [`Self::failed`] or [`Self::remove`] must follow.
    pub fn take(&mut self, now: Duration) -> Option<Taken> {
        self.tick(now);
        let (_, uid) = self.active.pop_first()?;
        let changes = self.changes;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Taken(changes);
        entry.attempts = entry.attempts.saturating_add(1);
        Some(Taken { pod: entry.pod.clone(), attempt: entry.attempts, added_at: entry.added_at })
    }

    /// A decided pod found no place, or its binding failed (then without filters to blame).
    pub fn failed(&mut self, uid: &str, plugins: BTreeSet<&'static str>, now: Duration) {
        let last = self.last;
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Place::Taken(since) = entry.place else { return };
        let error = plugins.is_empty();
        entry.plugins = plugins;
        entry.failed_at = now;
        let kinds = [Change::Node, Change::PodPlaced, Change::PodGone];
        let missed = kinds.iter().zip(last).any(|(c, at)| at > since && c.helps(&entry.plugins));
        if missed || error {
            self.revive(uid, now);
        } else {
            entry.place = Place::Unschedulable(now);
        }
    }

    /// The cluster changed: pods that it may help are tried again, after what is left of their back-off.
    pub fn changed(&mut self, change: Change, now: Duration) {
        self.changes += 1;
        self.last[change as usize] = self.changes;
        let helped = |e: &Entry| matches!(e.place, Place::Unschedulable(_)) && change.helps(&e.plugins);
        let uids: Vec<String> = self.entries.iter().filter(|(_, e)| helped(e)).map(|(u, _)| u.clone()).collect();
        uids.iter().for_each(|u| self.revive(u, now));
    }

    /// When something will be due, if nothing happens.
    pub fn next_due(&self) -> Option<Duration> {
        let backoff = self.backoff.first_key_value().map(|((at, _), _)| *at);
        let waits = self.entries.values().filter_map(|e| match e.place {
            Place::Unschedulable(since) => Some(since + UNSCHEDULABLE_MAX),
            _ => None,
        });
        waits.chain(backoff).min()
    }

    fn tick(&mut self, now: Duration) {
        while let Some(((at, _), uid)) = self.backoff.first_key_value()
            && *at <= now
        {
            let uid = uid.clone();
            self.activate(&uid);
        }
        let old = |e: &Entry| matches!(e.place, Place::Unschedulable(s) if now.saturating_sub(s) >= UNSCHEDULABLE_MAX);
        let uids: Vec<String> = self.entries.iter().filter(|(_, e)| old(e)).map(|(u, _)| u.clone()).collect();
        uids.iter().for_each(|u| self.activate(u));
    }

    /// To back-off, or to active when that is over.
    fn revive(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get(uid) else { return };
        let due = entry.failed_at + backoff(entry.attempts);
        if due <= now {
            return self.activate(uid);
        }
        let place = entry.place;
        self.unlink(&place);
        self.sequence += 1;
        let key = (due, self.sequence);
        self.backoff.insert(key, uid.to_owned());
        if let Some(e) = self.entries.get_mut(uid) {
            e.place = Place::Backoff(key.0, key.1);
        }
    }

    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        let (place, priority) = (entry.place, Reverse(entry.pod.priority()));
        self.unlink(&place);
        let turn = match place {
            // an edit does not cost a pod its turn
            Place::Active(_, turn) => turn,
            _ => {
                self.sequence += 1;
                self.sequence
            }
        };
        self.active.insert((priority, turn), uid.to_owned());
        if let Some(e) = self.entries.get_mut(uid) {
            e.place = Place::Active(priority, turn);
        }
    }

    fn unlink(&mut self, place: &Place) {
        match place {
            Place::Active(p, n) => drop(self.active.remove(&(*p, *n))),
            Place::Backoff(at, n) => drop(self.backoff.remove(&(*at, *n))),
            _ => {}
        }
    }
}

/// The wait of a pod after so many attempts.
fn backoff(attempts: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF_MAX)
}

/// Whether more than the status changed.
fn differs(a: &Pod, b: &Pod) -> bool {
    a.spec != b.spec || a.metadata.labels != b.metadata.labels || a.metadata.annotations != b.metadata.annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const S: Duration = Duration::from_secs(1);

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let v = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": []}});
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn next(q: &mut Queue, now: Duration) -> Option<String> {
        q.take(now).map(|t| t.pod.uid().to_owned())
    }

    #[test]
    fn priority_then_age() {
        let mut q = Queue::default();
        for (n, p) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            q.put(pod(n, p), S);
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut q, S)).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn failed_pods_wait_for_a_helpful_change_and_their_backoff() {
        let mut q = Queue::default();
        q.put(pod("a", 0), S);
        let blame = |p: &'static str| BTreeSet::from([p]);
        assert_eq!(next(&mut q, S).as_deref(), Some("a"));
        q.failed("a", blame("NodeResourcesFit"), S);
        q.changed(Change::PodPlaced, 2 * S);
        assert_eq!(q.counts(), [0, 0, 1, 0]);
        q.changed(Change::PodGone, S + S / 2);
        assert_eq!((next(&mut q, S + S / 2), q.next_due()), (None, Some(2 * S)));
        assert_eq!(next(&mut q, 2 * S).as_deref(), Some("a"));
        // a change while it was being decided about is not lost
        q.changed(Change::Node, 2 * S);
        q.failed("a", blame("NodeResourcesFit"), 2 * S);
        assert_eq!(q.counts(), [0, 1, 0, 0]);
        assert_eq!(next(&mut q, 3 * S), None, "the second wait is longer");
        assert_eq!(next(&mut q, 4 * S).as_deref(), Some("a"));
        q.failed("a", blame("NodeName"), 4 * S);
        assert_eq!(next(&mut q, 4 * S + UNSCHEDULABLE_MAX).as_deref(), Some("a"));
    }

    #[test]
    fn gates_hold_and_edits_help() {
        let mut q = Queue::default();
        let mut gated = (*pod("a", 0)).clone();
        let gates = serde_json::from_value(json!([{"name": "g"}])).unwrap();
        gated.spec.as_mut().unwrap().scheduling_gates = gates;
        q.put(Arc::new(gated), S);
        q.changed(Change::Node, S);
        assert_eq!(next(&mut q, S), None);
        q.put(pod("a", 0), S);
        assert_eq!(next(&mut q, S).as_deref(), Some("a"));
        q.failed("a", BTreeSet::from(["NodeAffinity"]), S);
        let mut status = (*pod("a", 0)).clone();
        status.status = Some(Default::default());
        q.put(Arc::new(status), 9 * S);
        assert_eq!(next(&mut q, 9 * S), None, "its own status is no news");
        let mut edited = (*pod("a", 0)).clone();
        edited.metadata.labels = Some([("k".to_owned(), "v".to_owned())].into());
        q.put(Arc::new(edited), 9 * S);
        assert_eq!(next(&mut q, 9 * S).as_deref(), Some("a"));
        q.remove("a");
        assert!(q.is_empty());
    }
}
