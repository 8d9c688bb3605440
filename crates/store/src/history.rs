//! Recent changes, shared by all watchers.
//!
//! One ring holds every change. For each prefix that somebody watches there is a bucket with the ring's changes under
//! it; a watcher is a cursor into its prefix's bucket and has no queue, so a thousand watchers of one prefix cost no
//! more to write for than one. Invariants: a bucket holds every change of the ring under its prefix above `since`;
//! a change is in its buckets before `revision` covers it; no waker runs while a lock of this module is held.

use crate::{Burst, Change, Event, ReadError, Revision, Watched, Watcher};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque, vec_deque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Events that one call gives a watcher, but for the rest of the last revision.
const BATCH_EVENTS_MAX: usize = 1000;
/// Bytes of events that one call gives a watcher, but for the last event and the rest of its revision: a watcher that
/// does not go on keeps them in memory.
const BATCH_BYTES_MAX: u64 = 256 << 10;
/// A burst of more events than this ends where the number of its last one, among all of its prefix, is a multiple of this:
/// watchers that were at different places go on at the same one, and share what comes then.
const ALIGN_EVENTS: usize = 64;
/// Bursts kept for the watchers of a prefix: some begin or end elsewhere, as changes come while others are woken.
const BURSTS_MAX: usize = 8;
/// Events forgotten between two chances for others to take the lock.
const TRIM_STEP_EVENTS: usize = 1000;
/// Bytes of an event beyond its key and values.
const EVENT_OVERHEAD_BYTES: u64 = 128;

/// The shared history.
pub struct History {
    ring: Mutex<Ring>,
    /// Every change up to here is in its buckets.
    revision: AtomicU64,
    closed: AtomicBool,
    watchers: AtomicU64,
    next_watcher: AtomicU64,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: u64,
    /// Changes up to here may be gone.
    floor: Revision,
    events_max: usize,
    bytes_max: u64,
    /// Buckets by their prefix up to its last slash: a key meets all of its buckets by its own slashes.
    buckets: HashMap<Box<str>, Vec<Arc<Bucket>>>,
}

/// The changes under one watched prefix.
pub struct Bucket {
    prefix: Box<str>,
    log: RwLock<Log>,
    /// The newest bursts that were made, when there are watchers to share them.
    bursts: Mutex<VecDeque<(Revision, Burst)>>,
    wakers: Mutex<HashMap<u64, Waker>>,
    /// When there were watchers to wake, in microseconds of a monotonic clock.
    woken_us: AtomicU64,
    /// Changed only under the ring's lock.
    watchers: AtomicU64,
}

struct Log {
    events: VecDeque<Arc<Event>>,
    /// The number of the first event; they are counted from anywhere.
    first: usize,
    /// Changes above this are in `events` if they are in the ring.
    since: Revision,
    /// A change of this revision is gone.
    lost: Revision,
}

pub fn event_bytes(event: &Event) -> u64 {
    let (Change::Put(value) | Change::Delete(value)) = &event.change;
    (event.key.len() + value.len() + event.previous.as_ref().map_or(0, |p| p.len())) as u64
        + EVENT_OVERHEAD_BYTES
}

/// The part of a prefix up to its last slash.
fn parent(prefix: &str) -> &str {
    prefix.rfind('/').map_or("", |slash| &prefix[..=slash])
}

impl Ring {
    fn each_bucket(&self, key: &str, mut each: impl FnMut(&Arc<Bucket>)) {
        let ends =
            std::iter::once(0).chain(key.bytes().enumerate().filter(|(_, b)| *b == b'/').map(|(i, _)| i + 1));
        for end in ends {
            for bucket in self.buckets.get(&key[..end]).into_iter().flatten() {
                if key.starts_with(&*bucket.prefix) {
                    each(bucket);
                }
            }
        }
    }

    fn forget_oldest(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.bytes -= event_bytes(&event);
        self.floor = self.floor.max(event.revision);
        self.each_bucket(&event.key, |bucket| {
            let mut log = bucket.log.write();
            log.lost = log.lost.max(event.revision);
            while log.events.front().is_some_and(|e| e.revision <= event.revision) {
                log.events.pop_front();
                log.first = log.first.wrapping_add(1);
            }
            // What was forgotten is not to be held by them.
            bucket.bursts.lock().retain(|(after, _)| *after >= event.revision);
        });
    }

    fn over_limit(&self) -> bool {
        self.events.len() > self.events_max || self.bytes > self.bytes_max
    }
}

impl History {
    pub fn new(
        events: VecDeque<Arc<Event>>,
        floor: Revision,
        revision: Revision,
        events_max: usize,
        bytes_max: u64,
    ) -> Arc<Self> {
        let bytes = events.iter().map(|e| event_bytes(e)).sum();
        let ring = Ring { events, bytes, floor, events_max, bytes_max, buckets: HashMap::new() };
        Arc::new(Self {
            ring: Mutex::new(ring),
            revision: AtomicU64::new(revision),
            closed: AtomicBool::new(false),
            watchers: AtomicU64::new(0),
            next_watcher: AtomicU64::new(0),
        })
    }

    pub fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Adds the changes up to a revision; gives the buckets whose watchers are to be woken.
    pub fn publish(&self, events: Vec<Arc<Event>>, revision: Revision) -> Vec<Arc<Bucket>> {
        let mut dirty = HashMap::new();
        let mut ring = self.ring.lock();
        for event in events {
            ring.each_bucket(&event.key, |bucket| {
                bucket.log.write().events.push_back(event.clone());
                dirty.entry(Arc::as_ptr(bucket)).or_insert_with(|| bucket.clone());
            });
            ring.bytes += event_bytes(&event);
            ring.events.push_back(event);
        }
        while ring.over_limit() {
            ring.forget_oldest();
        }
        self.revision.store(revision, Ordering::Release);
        dirty.into_values().collect()
    }

    /// Forgets changes before a revision.
    pub fn compact(&self, before: Revision) {
        loop {
            let mut ring = self.ring.lock();
            for _ in 0..TRIM_STEP_EVENTS {
                if ring.events.front().is_none_or(|e| e.revision >= before) {
                    ring.floor = ring.floor.max(before.saturating_sub(1));
                    return;
                }
                ring.forget_oldest();
            }
        }
    }

    /// Forgets everything before a revision that the changes do not lead up to: watchers behind it have lost events.
    /// Gives the buckets whose watchers are to be woken.
    pub fn reset(&self, revision: Revision) -> Vec<Arc<Bucket>> {
        let mut ring = self.ring.lock();
        ring.events.clear();
        ring.bytes = 0;
        ring.floor = revision;
        for bucket in ring.buckets.values().flatten() {
            let mut log = bucket.log.write();
            log.events.clear();
            log.since = revision;
            log.lost = revision;
            bucket.bursts.lock().clear();
        }
        self.revision.store(revision, Ordering::Release);
        ring.buckets.values().flatten().cloned().collect()
    }

    pub fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<Cursor, ReadError> {
        let mut ring = self.ring.lock();
        if after < ring.floor {
            return Err(ReadError::Compacted { asked: after, oldest: ring.floor });
        }
        let here = self.revision.load(Ordering::Acquire);
        let existing =
            ring.buckets.get(parent(prefix)).and_then(|all| all.iter().find(|b| *b.prefix == *prefix));
        let bucket = match existing {
            Some(bucket) => bucket.clone(),
            None => {
                let log = Log { events: VecDeque::new(), first: 0, since: here, lost: 0 };
                let bucket = Arc::new(Bucket {
                    prefix: prefix.into(),
                    log: RwLock::new(log),
                    bursts: Mutex::default(),
                    wakers: Mutex::new(HashMap::new()),
                    woken_us: AtomicU64::new(0),
                    watchers: AtomicU64::new(0),
                });
                ring.buckets.entry(parent(prefix).into()).or_default().push(bucket.clone());
                bucket
            }
        };
        let since = bucket.log.read().since;
        if after < since {
            let from = ring.events.partition_point(|e| e.revision <= after);
            let to = ring.events.partition_point(|e| e.revision <= since);
            let mut log = bucket.log.write();
            for event in ring.events.range(from..to).rev().filter(|e| e.key.starts_with(prefix)) {
                log.events.push_front(event.clone());
                log.first = log.first.wrapping_sub(1);
            }
            log.since = after;
        }
        bucket.watchers.fetch_add(1, Ordering::Relaxed);
        drop(ring);
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let id = self.next_watcher.fetch_add(1, Ordering::Relaxed);
        Ok(Cursor { history: self.clone(), bucket, after, id })
    }

    /// Ends all watches; gives the buckets to wake.
    pub fn close(&self) -> Vec<Arc<Bucket>> {
        self.closed.store(true, Ordering::Release);
        self.ring.lock().buckets.values().flatten().cloned().collect()
    }
}

impl Bucket {
    /// Takes out the wakers of all watchers that sleep.
    pub fn sleepers(&self) -> HashMap<u64, Waker> {
        std::mem::take(&mut *self.wakers.lock())
    }

    /// How long ago there were watchers to wake; they are to be woken now.
    pub fn woken(&self, now: Duration) -> Duration {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let before_us = self.woken_us.swap(now_us, Ordering::Relaxed);
        Duration::from_micros(now_us.saturating_sub(before_us))
    }

    fn read(&self, after: Revision) -> Option<Watched> {
        let log = self.log.read();
        if after < log.lost {
            return Some(Watched::Lagged { oldest: log.lost });
        }
        let from = log.events.partition_point(|e| e.revision <= after);
        let (mut to, mut bytes) = (from, 0);
        while to < log.events.len() && to - from < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
            bytes += event_bytes(&log.events[to]);
            to += 1;
        }
        if to - from > ALIGN_EVENTS {
            to -= log.first.wrapping_add(to) % ALIGN_EVENTS;
        }
        while to > from && to < log.events.len() && log.events[to].revision == log.events[to - 1].revision {
            to += 1;
        }
        (to > from).then(|| Watched::Events(self.burst(after, log.events.range(from..to))))
    }

    /// The events after a revision, as one burst for all who ask for the same.
    fn burst(&self, after: Revision, events: vec_deque::Iter<Arc<Event>>) -> Burst {
        if self.watchers.load(Ordering::Relaxed) < 2 {
            return events.cloned().collect();
        }
        let mut bursts = self.bursts.lock();
        let same = |(from, burst): &&(Revision, Burst)| {
            *from == after
                && burst.len() == events.len()
                && burst.last().zip(events.clone().next_back()).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some((_, burst)) = bursts.iter().rev().find(same) {
            return burst.clone();
        }
        if bursts.len() == BURSTS_MAX {
            bursts.pop_front();
        }
        let burst: Burst = events.cloned().collect();
        bursts.push_back((after, burst.clone()));
        burst
    }

    fn has_after(&self, after: Revision) -> bool {
        let log = self.log.read();
        after < log.lost || log.events.back().is_some_and(|e| e.revision > after)
    }
}

/// One watcher.
pub struct Cursor {
    history: Arc<History>,
    bucket: Arc<Bucket>,
    after: Revision,
    id: u64,
}

impl Cursor {
    fn take(&mut self) -> Option<Watched> {
        let covered = self.history.revision.load(Ordering::Acquire);
        let found = self.bucket.read(self.after);
        match &found {
            Some(Watched::Events(events)) => self.after = events.last().map_or(self.after, |e| e.revision),
            Some(_) => {}
            None => self.after = self.after.max(covered),
        }
        found
    }
}

impl Watcher for Cursor {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Watched> + Send + '_>> {
        Box::pin(Next(self))
    }

    fn progress(&self) -> Revision {
        let covered = self.history.revision.load(Ordering::Acquire);
        if self.bucket.has_after(self.after) { self.after } else { self.after.max(covered) }
    }
}

struct Next<'a>(&'a mut Cursor);

impl Future for Next<'_> {
    type Output = Watched;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Watched> {
        let cursor = &mut *self.0;
        if let Some(found) = cursor.take() {
            return Poll::Ready(found);
        }
        cursor.bucket.wakers.lock().insert(cursor.id, cx.waker().clone());
        // A change may have come between the look and the waker.
        if let Some(found) = cursor.take() {
            return Poll::Ready(found);
        }
        if cursor.history.closed.load(Ordering::Acquire) {
            Poll::Ready(Watched::Closed)
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.history.watchers.fetch_sub(1, Ordering::Relaxed);
        self.bucket.wakers.lock().remove(&self.id);
        let mut ring = self.history.ring.lock();
        let parent = parent(&self.bucket.prefix);
        if self.bucket.watchers.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let Some(siblings) = ring.buckets.get_mut(parent) else { return };
        siblings.retain(|b| !Arc::ptr_eq(b, &self.bucket));
        if siblings.is_empty() {
            ring.buckets.remove(parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn watchers_at_different_places_come_to_share_bursts() {
        let history = History::new(VecDeque::new(), 0, 0, 10_000, 1 << 30);
        let mut watchers = [0, 3, 17].map(|_| history.watch("/k/", 0).expect("nothing is forgotten"));
        let event = |revision| {
            let change = Change::Put(Bytes::from_static(b"v"));
            Arc::new(Event { key: format!("/k/{revision}").into(), revision, change, previous: None })
        };
        for (at, watcher) in [0, 3, 17].into_iter().zip(&mut watchers) {
            watcher.after = at;
        }
        history.publish((1..=300).map(event).collect(), 300);
        let mut take = |i: usize| match watchers[i].take() {
            Some(Watched::Events(burst)) => burst,
            other => panic!("no events but {other:?}"),
        };
        let first = [take(0), take(1), take(2)];
        assert_eq!(first.each_ref().map(|b| b.first().map(|e| e.revision)), [Some(1), Some(4), Some(18)]);
        assert_eq!(first.each_ref().map(|b| b.last().map(|e| e.revision)), [Some(256); 3]);
        let second = [take(0), take(1), take(2)];
        assert_eq!(second.each_ref().map(|b| (b.len(), b.last().map(|e| e.revision))), [(44, Some(300)); 3]);
        assert!(Arc::ptr_eq(&second[0], &second[1]) && Arc::ptr_eq(&second[0], &second[2]));
    }
}
