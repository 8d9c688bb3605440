//! A bound on requests in flight: more are told to come back (429)
//! (upstream: apiserver `pkg/server/filters/maxinflight.go`).

use crate::request_info::RequestInfo;
use auth::identity::Identity;
use meta::status::{Result, Status};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Upstream: `--max-requests-inflight`.
pub const READING_MAX: usize = 400;
/// Upstream: `--max-mutating-requests-inflight`.
pub const MUTATING_MAX: usize = 200;
/// Streams (watches, execs) at a time.
pub const STREAMS_MAX: usize = 20_000;

pub struct InFlight {
    reading: Arc<Semaphore>,
    mutating: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new(READING_MAX, MUTATING_MAX)
    }
}

/// A request's place; given back on drop. `None` for those that are never refused.
#[derive(Debug)]
pub struct Slot(#[allow(dead_code)] Option<OwnedSemaphorePermit>); // held, never read

impl InFlight {
    /// Limits in requests at a time; 0 takes the default.
    pub fn new(reading: usize, mutating: usize) -> Self {
        let or = |n: usize, default| Arc::new(Semaphore::new(if n == 0 { default } else { n }));
        Self {
            reading: or(reading, READING_MAX),
            mutating: or(mutating, MUTATING_MAX),
            streams: or(0, STREAMS_MAX),
        }
    }

    /// Takes a place. The cluster's administrators are never locked out.
    pub fn enter(&self, info: &RequestInfo, user: &Identity, long: bool) -> Result<Slot> {
        if user.groups.iter().any(|g| g == auth::identity::SYSTEM_MASTERS) {
            return Ok(Slot(None));
        }
        let pool = match (long, info.is_mutating()) {
            (true, _) => &self.streams,
            (false, true) => &self.mutating,
            (false, false) => &self.reading,
        };
        match pool.clone().try_acquire_owned() {
            Ok(permit) => Ok(Slot(Some(permit))),
            Err(_) => Err(Status::too_many_requests("Too many requests, please try again later.", 1)),
        }
    }
}
