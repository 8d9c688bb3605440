//! Batches of events: how many wait, how large they are, how often one goes
//! (upstream: apiserver `plugin/pkg/audit/buffered`, `--audit-*-mode`, `--audit-*-batch-*`).
//!
//! Invariant: what waits is bounded by number and by bytes; what does not fit is counted by who asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of events that wait for a backend. Upstream bounds their number alone, which bodies of lists make worthless.
pub const WAITING_BYTES_MAX: usize = 128 << 20;

/// How an event goes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The request waits; that an event was lost does not fail it.
    Blocking,
    /// A request whose first event is lost fails.
    BlockingStrict,
    Batch,
}

/// The flags of batch mode.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Events that wait; more are dropped.
    pub buffer_events: usize,
    pub batch_events: usize,
    /// How long the first event of a batch waits for others.
    pub max_wait: Duration,
    /// Batches a second, and how many may go at once after a pause.
    pub throttle: Option<(f64, u32)>,
}

/// Who may send now: a token bucket on a clock that the caller reads.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// `now` is any monotonic time.
    pub fn new((rate, burst): (f64, u32), now: Duration) -> Self {
        Self { rate, burst: f64::from(burst), tokens: f64::from(burst), at: now }
    }

    /// Takes a place; how long to wait for it.
    pub fn take(&mut self, now: Duration) -> Duration {
        let earned = now.saturating_sub(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.burst) - 1.0;
        self.at = now;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
    }
}

/// The bytes of what waits in a queue.
#[derive(Debug, Default)]
pub struct Waiting(AtomicUsize);

impl Waiting {
    /// Counts bytes that come; `false` when there is no room for them.
    pub fn enter(&self, bytes: usize) -> bool {
        let room = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= WAITING_BYTES_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    pub fn leave(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::new((2.0, 2), Duration::ZERO);
        let waits: Vec<u128> = (0..4).map(|_| bucket.take(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1000]);
        assert_eq!(bucket.take(Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let waiting = Waiting::default();
        assert!(waiting.enter(WAITING_BYTES_MAX) && !waiting.enter(1));
        waiting.leave(10);
        assert!(waiting.enter(10) && !waiting.enter(usize::MAX));
    }
}
