//! Plain counters of a queue and its workers; whoever serves metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    depth: AtomicU64,
    adds: AtomicU64,
    retries: AtomicU64,
    reconciles: AtomicU64,
    failures: AtomicU64,
    panics: AtomicU64,
    busy_micros: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// Keys that wait (`workqueue_depth`).
    pub depth: u64,
    /// `workqueue_adds_total`.
    pub adds: u64,
    /// `workqueue_retries_total`.
    pub retries: u64,
    /// Reconciles that ended, in any way (count of `workqueue_work_duration_seconds`).
    pub reconciles: u64,
    pub failures: u64,
    pub panics: u64,
    /// Time in reconciles (sum of `workqueue_work_duration_seconds`).
    pub busy: Duration,
}

impl Metrics {
    pub fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            depth: self.depth.load(Relaxed),
            adds: self.adds.load(Relaxed),
            retries: self.retries.load(Relaxed),
            reconciles: self.reconciles.load(Relaxed),
            failures: self.failures.load(Relaxed),
            panics: self.panics.load(Relaxed),
            busy: Duration::from_micros(self.busy_micros.load(Relaxed)),
        }
    }

    pub(super) fn added(&self) {
        self.adds.fetch_add(1, Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn set_depth(&self, depth: usize) {
        self.depth.store(depth as u64, Relaxed);
    }

    /// `failed` says whether it failed, and then whether by a panic.
    pub(super) fn reconciled(&self, took: Duration, failed: Option<bool>) {
        self.reconciles.fetch_add(1, Relaxed);
        self.busy_micros.fetch_add(took.as_micros() as u64, Relaxed);
        match failed {
            None => {}
            Some(false) => drop(self.failures.fetch_add(1, Relaxed)),
            Some(true) => drop(self.panics.fetch_add(1, Relaxed)),
        }
    }
}
