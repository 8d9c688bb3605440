//! The pods that wait for a node.
//!
//! Invariant: a pod is in exactly one place: ready, backing off, unschedulable until something changes, held by its
//! scheduling gates, or being placed. (Upstream: `pkg/scheduler/backend/queue`.)

use crate::pod;
use k8s_openapi::api::core::v1::Pod;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Wait after the first failure, doubled by each further one up to the second (upstream:
/// `DefaultPodInitialBackoffDuration`, `DefaultPodMaxBackoffDuration`).
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// After this long an unschedulable pod is tried again though nothing changed (upstream:
/// `DefaultPodMaxInUnschedulablePodsDuration`).
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);
/// Most pods that wait; the rest is taken up from the API when there is room again.
pub(crate) const CAPACITY: usize = 200_000;

/// What may make a pod placeable that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A node came or changed, or a pod left: look at all.
    Room,
    /// A pod was placed: look at those with wishes about other pods.
    Neighbour,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Since when.
    Active(Duration),
    /// Until when, and whether after an error of ours.
    Backoff(Duration, bool),
    /// Since when.
    Unschedulable(Duration),
    Gated,
    /// Whether something changed since.
    Placing(Option<Hint>),
}

#[derive(Clone)]
struct Entry {
    pod: Arc<Pod>,
    place: Place,
    seq: u64,
    attempts: u32,
    looks_at_others: bool,
}

type ActiveKey = (Reverse<i32>, Duration, u64, String);

/// The queue. Times are those of the monotonic clock.
#[derive(Default)]
pub(crate) struct Queue {
    /// By uid.
    entries: HashMap<String, Entry>,
    active: BTreeSet<ActiveKey>,
    backoff: BTreeSet<(Duration, u64, String)>,
    unschedulable: BTreeSet<(Duration, u64, String)>,
    next_seq: u64,
    overflowed: bool,
}

impl Queue {
    /// Adds a pod without a node, or takes in its new state.
    pub(crate) fn put(&mut self, pod: Arc<Pod>, now: Duration) {
        let uid = uid(&pod).to_owned();
        let gated = is_gated(&pod);
        let Some(old) = self.entries.get(&uid) else {
            if self.entries.len() >= CAPACITY {
                self.overflowed = true;
                return;
            }
            self.next_seq += 1;
            let place = if gated { Place::Gated } else { Place::Active(now) };
            let entry =
                Entry { pod, place: Place::Gated, seq: self.next_seq, attempts: 0, looks_at_others: false };
            self.entries.insert(uid.clone(), entry);
            self.set_place(&uid, place);
            return;
        };
        let changed = differs(&old.pod, &pod);
        let place = match &old.place {
            Place::Gated if !gated => Some(Place::Active(now)),
            Place::Active(_) | Place::Backoff(..) | Place::Unschedulable(_) if gated => Some(Place::Gated),
            Place::Unschedulable(since) if changed => Some(retry_place(old.attempts, *since, now)),
            Place::Placing(_) if changed => Some(Place::Placing(Some(Hint::Room))),
            // the priority may be another
            Place::Active(since) if changed => Some(Place::Active(*since)),
            _ => None,
        };
        if let Some(place) = place {
            self.leave(&uid);
            self.replace_pod(&uid, pod);
            self.set_place(&uid, place);
        } else {
            self.replace_pod(&uid, pod);
        }
    }

    /// The pod is gone or has a node.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to place; it stays known until [`Self::remove`] or one of the returns.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Arc<Pod>> {
        self.tick(now);
        let uid = match self.active.first() {
            Some((.., uid)) => uid.clone(),
            // nothing better to do: backing off keeps order, not the pods from idle nodes (upstream:
            // `SchedulerPopFromBackoffQ`); after an error the wait is for the server's sake
            None => self.backoff.iter().map(|(.., uid)| uid).find(|u| self.is_early(u))?.clone(),
        };
        self.leave(&uid);
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Placing(None);
        entry.attempts = entry.attempts.saturating_add(1);
        Some(entry.pod.clone())
    }

    /// No node could take a popped pod. `looks_at_others`: pods placed elsewhere may change that.
    pub(crate) fn unschedulable(&mut self, uid: &str, looks_at_others: bool, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.looks_at_others = looks_at_others;
        let again = match entry.place {
            Place::Placing(Some(Hint::Room)) => true,
            Place::Placing(Some(Hint::Neighbour)) => looks_at_others,
            _ => false,
        };
        let place = if is_gated(&entry.pod) {
            Place::Gated
        } else if again {
            retry_place(entry.attempts, now, now)
        } else {
            Place::Unschedulable(now)
        };
        self.set_place(uid, place);
    }

    /// Placing a popped pod failed for a reason that is not the nodes'.
    pub(crate) fn failed(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get(uid) else { return };
        let place = Place::Backoff(now + backoff(entry.attempts), true);
        self.set_place(uid, if is_gated(&entry.pod) { Place::Gated } else { place });
    }

    /// Something changed: unschedulable pods get another chance.
    pub(crate) fn moved(&mut self, hint: Hint, now: Duration) {
        for entry in self.entries.values_mut() {
            if let Place::Placing(seen) = &mut entry.place
                && *seen != Some(Hint::Room)
            {
                *seen = Some(hint);
            }
        }
        let all: Vec<String> = self.unschedulable.iter().map(|(.., uid)| uid.clone()).collect();
        for uid in all {
            let Some(entry) = self.entries.get(&uid) else { continue };
            if let Place::Unschedulable(since) = entry.place
                && (hint == Hint::Room || entry.looks_at_others)
            {
                let place = retry_place(entry.attempts, since, now);
                self.leave(&uid);
                self.set_place(&uid, place);
            }
        }
    }

    /// Whether a pod can be popped.
    pub(crate) fn is_ready(&self, now: Duration) -> bool {
        !self.active.is_empty()
            || self.next_wake().is_some_and(|at| at <= now)
            || self.backoff.iter().any(|(.., uid)| self.is_early(uid))
    }

    /// When a pod becomes ready by itself.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        let backoff = self.backoff.first().map(|(until, ..)| *until);
        let flush = self.unschedulable.first().map(|(since, ..)| *since + MAX_UNSCHEDULABLE);
        backoff.into_iter().chain(flush).min()
    }

    /// Whether pods were left out and there is room for them now. Asking takes the mark away.
    pub(crate) fn take_overflow(&mut self) -> bool {
        self.entries.len() < CAPACITY / 2 && std::mem::take(&mut self.overflowed)
    }

    /// Uids of all pods that wait.
    pub(crate) fn uids(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Moves what has waited long enough.
    fn tick(&mut self, now: Duration) {
        while let Some((until, _, uid)) = self.backoff.first().cloned()
            && until <= now
        {
            self.leave(&uid);
            self.set_place(&uid, Place::Active(until));
        }
        while let Some((since, _, uid)) = self.unschedulable.first().cloned()
            && since + MAX_UNSCHEDULABLE <= now
        {
            self.leave(&uid);
            self.set_place(&uid, Place::Active(now));
        }
    }

    fn is_early(&self, uid: &str) -> bool {
        self.entries.get(uid).is_some_and(|e| matches!(e.place, Place::Backoff(_, false)))
    }

    fn replace_pod(&mut self, uid: &str, pod: Arc<Pod>) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.pod = pod;
        }
    }

    /// Takes a pod out of the order it is in.
    fn leave(&mut self, uid: &str) {
        let Some(e) = self.entries.get(uid) else { return };
        let (seq, uid) = (e.seq, uid.to_owned());
        match e.place {
            Place::Active(since) => {
                self.active.remove(&(Reverse(pod::priority(&e.pod)), since, seq, uid));
            }
            Place::Backoff(until, _) => {
                self.backoff.remove(&(until, seq, uid));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.remove(&(since, seq, uid));
            }
            Place::Gated | Place::Placing(_) => {}
        }
    }

    /// Puts a pod that has left its place into another.
    fn set_place(&mut self, uid: &str, place: Place) {
        let Some(e) = self.entries.get_mut(uid) else { return };
        let (seq, uid) = (e.seq, uid.to_owned());
        match place {
            Place::Active(since) => {
                self.active.insert((Reverse(pod::priority(&e.pod)), since, seq, uid));
            }
            Place::Backoff(until, _) => {
                self.backoff.insert((until, seq, uid));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.insert((since, seq, uid));
            }
            Place::Gated | Place::Placing(_) => {}
        }
        e.place = place;
    }
}

/// Where a pod goes that failed `attempts` times, last at `since`.
fn retry_place(attempts: u32, since: Duration, now: Duration) -> Place {
    let until = since + backoff(attempts);
    if until <= now { Place::Active(now) } else { Place::Backoff(until, false) }
}

fn backoff(attempts: u32) -> Duration {
    // more doublings than this are beyond the limit anyway
    let doublings = attempts.saturating_sub(1).min(10);
    (BACKOFF * (1 << doublings)).min(MAX_BACKOFF)
}

/// Whether a change of a pod can change where it can go: its status cannot (upstream: `isPodUpdated`).
fn differs(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || old.metadata.owner_references != new.metadata.owner_references
}

fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

#[cfg(test)]
mod tests;
