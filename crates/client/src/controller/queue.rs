//! The work queue: each key at most once waiting and at most once being worked on.

use super::QueueKey;
use super::metrics::Metrics;
use base::clock::SharedClock;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Waits of failed keys: per key doubling, and over all keys a token bucket (upstream:
/// `workqueue.DefaultTypedControllerRateLimiter`).
#[derive(Clone, Copy, Debug)]
pub struct RateLimiter {
    /// Wait after the first failure.
    pub base: Duration,
    pub max: Duration,
    /// Retries a second over all keys, beyond the burst.
    pub per_second: f64,
    pub burst: f64,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(5),
            max: Duration::from_secs(1000),
            per_second: 10.0,
            burst: 100.0,
        }
    }
}

impl RateLimiter {
    /// The wait of a key that failed this often before.
    pub fn of_failures(&self, failures: u32) -> Duration {
        self.base.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.max)
    }
}

struct State<K> {
    ready: VecDeque<K>,
    /// Waiting for a worker: in `ready`, or added while being worked on.
    dirty: HashSet<K>,
    processing: HashSet<K>,
    /// By due time and order of adding.
    delayed: BTreeMap<(Duration, u64), K>,
    due: HashMap<K, (Duration, u64)>,
    sequence: u64,
    failures: HashMap<K, u32>,
    /// Tokens of the overall bucket (negative: promised away), as of a time.
    tokens: (f64, Duration),
}

/// A work queue with delays and back-off.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    clock: SharedClock,
    limiter: RateLimiter,
    metrics: Arc<Metrics>,
}

impl<K: QueueKey> Queue<K> {
    pub fn new(clock: SharedClock, limiter: RateLimiter) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            tokens: (limiter.burst, clock.monotonic()),
        };
        Self { state: Mutex::new(state), wake: Notify::new(), clock, limiter, metrics: Arc::default() }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Adds a key to be worked on now.
    pub fn add(&self, key: K) {
        self.state.lock().add(key, &self.metrics);
        self.wake.notify_one();
    }

    /// Adds a key after a wait; of several waits of a key the shortest counts.
    pub fn add_after(&self, key: K, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        let at = self.clock.monotonic().saturating_add(wait);
        let mut s = self.state.lock();
        if let Some(due) = s.due.get(&key).copied() {
            if due.0 <= at {
                return;
            }
            s.delayed.remove(&due);
        }
        s.sequence += 1;
        let slot = (at, s.sequence);
        s.due.insert(key.clone(), slot);
        s.delayed.insert(slot, key);
        drop(s);
        self.wake.notify_one();
    }

    /// Adds a key that failed, after its back-off.
    pub fn add_rate_limited(&self, key: K) {
        let now = self.clock.monotonic();
        let wait = {
            let mut s = self.state.lock();
            let failures = s.failures.entry(key.clone()).or_insert(0);
            let own = self.limiter.of_failures(*failures);
            *failures = failures.saturating_add(1);
            let (mut tokens, then) = s.tokens;
            let earned = now.saturating_sub(then).as_secs_f64() * self.limiter.per_second;
            tokens = (tokens + earned).min(self.limiter.burst) - 1.0;
            s.tokens = (tokens, now);
            let shared = Duration::from_secs_f64((-tokens).max(0.0) / self.limiter.per_second);
            own.max(shared)
        };
        self.metrics.retried();
        self.add_after(key, wait);
    }

    /// Ends the back-off of a key.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// Failures of a key since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key, if one is due. [`Self::done`] must follow.
    pub fn try_take(&self) -> Option<K> {
        let now = self.clock.monotonic();
        let mut s = self.state.lock();
        while let Some((slot, _)) = s.delayed.first_key_value()
            && slot.0 <= now
        {
            let slot = *slot;
            if let Some(key) = s.delayed.remove(&slot) {
                s.due.remove(&key);
                s.add(key, &self.metrics);
            }
        }
        let key = s.ready.pop_front()?;
        s.dirty.remove(&key);
        s.processing.insert(key.clone());
        self.metrics.set_depth(s.ready.len());
        if !s.ready.is_empty() {
            // another worker may sleep
            self.wake.notify_one();
        }
        Some(key)
    }

    /// Waits for the next key. [`Self::done`] must follow.
    pub async fn take(&self) -> K {
        loop {
            let woken = self.wake.notified();
            if let Some(key) = self.try_take() {
                return key;
            }
            match self.next_due() {
                None => woken.await,
                Some(wait) => {
                    let _ = tokio::time::timeout(wait.max(Duration::from_millis(1)), woken).await;
                }
            }
        }
    }

    /// Ends the work on a key; it goes back to the line if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut s = self.state.lock();
        s.processing.remove(key);
        if s.dirty.contains(key) {
            s.ready.push_back(key.clone());
            self.metrics.set_depth(s.ready.len());
            drop(s);
            self.wake.notify_one();
        }
    }

    /// Keys that wait for a worker.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time until the next delayed key is due.
    fn next_due(&self) -> Option<Duration> {
        let due = self.state.lock().delayed.first_key_value().map(|(slot, _)| slot.0)?;
        Some(due.saturating_sub(self.clock.monotonic()))
    }
}

impl<K: QueueKey> State<K> {
    fn add(&mut self, key: K, metrics: &Metrics) {
        if !self.dirty.insert(key.clone()) {
            return;
        }
        metrics.added();
        if !self.processing.contains(&key) {
            self.ready.push_back(key);
            metrics.set_depth(self.ready.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::ManualClock;
    use jiff::Timestamp;

    fn queue() -> (Arc<ManualClock>, Queue<&'static str>) {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        (clock.clone(), Queue::new(clock, RateLimiter::default()))
    }

    #[test]
    fn a_key_waits_once_and_is_worked_on_once() {
        let (_, q) = queue();
        q.add("a");
        q.add("a");
        q.add("b");
        assert_eq!(q.try_take(), Some("a"));
        q.add("a");
        assert_eq!(q.try_take(), Some("b"));
        assert_eq!(q.try_take(), None, "a is being worked on");
        q.done(&"a");
        assert_eq!(q.try_take(), Some("a"));
        q.done(&"a");
        assert_eq!(q.try_take(), None);
    }

    #[test]
    fn delays_and_backoff_follow_the_clock() {
        let (clock, q) = queue();
        q.add_after("a", Duration::from_secs(5));
        q.add_after("a", Duration::from_secs(2));
        q.add_after("a", Duration::from_secs(9));
        assert_eq!(q.try_take(), None);
        clock.advance(Duration::from_secs(2));
        assert_eq!(q.try_take(), Some("a"));
        q.done(&"a");
        clock.advance(Duration::from_secs(60));
        assert_eq!(q.try_take(), None);
        for wait in [5, 10, 20, 40] {
            q.add_rate_limited("a");
            clock.advance(Duration::from_millis(wait - 1));
            assert_eq!(q.try_take(), None, "{wait}");
            clock.advance(Duration::from_millis(1));
            assert_eq!(q.try_take(), Some("a"), "{wait}");
            q.done(&"a");
        }
        q.forget(&"a");
        assert_eq!(q.failures(&"a"), 0);
        assert_eq!(RateLimiter::default().of_failures(50), Duration::from_secs(1000));
    }

    #[test]
    fn many_failures_share_a_rate() {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let q: Queue<u32> = Queue::new(clock.clone(), RateLimiter::default());
        for i in 0..110 {
            q.add_rate_limited(i);
        }
        clock.advance(Duration::from_millis(10));
        assert_eq!(std::iter::from_fn(|| q.try_take()).count(), 100);
        clock.advance(Duration::from_millis(1000));
        assert_eq!(std::iter::from_fn(|| q.try_take()).count(), 10);
    }
}
