//! Leader election: of several programs that could do the same work, one does it, and another when that one is gone.
//!
//! The lock is a Lease with upstream's members, so that upstream's programs and this one respect each other
//! (upstream: client-go `tools/leaderelection`, `resourcelock/leaselock.go`). Invariants: work begins after the lease
//! was written with this identity, and is told to end when it could not be renewed within the deadline, which is shorter
//! than the time for which others leave it alone; that time is measured from when a change of the lease was seen here,
//! never by comparing clocks of two machines.

use crate::events::{EventType, Recorder, reference};
use crate::typed::Client;
use base::clock::SharedClock;
use base::rng::Rng;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use meta::Status;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the lease says when its holder has given it up, in seconds (upstream: `LeaderElector.tryRelease`).
const RELEASED_SECONDS: i32 = 1;
/// How often giving it up is tried when the lease changes meanwhile.
const RELEASE_TRIES: usize = 3;

/// The times of an election; the defaults are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long others wait for a change of the lease before they take it.
    pub lease_duration: Duration,
    /// How long the leader tries to renew it before it stops leading.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let [lease_duration, renew_deadline, retry_period] = [15, 10, 2].map(Duration::from_secs);
        Self { lease_duration, renew_deadline, retry_period }
    }
}

impl Times {
    /// Looks for what cannot work (upstream: `NewLeaderElector`).
    ///
    /// # Errors
    /// What must be greater than what.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.lease_duration < Duration::from_secs(1) || self.retry_period.is_zero() {
            return Err("the lease lasts a second at least, and there is a pause between tries");
        }
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline");
        }
        if self.renew_deadline <= self.longest_pause() {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor");
        }
        Ok(())
    }

    /// The retry period with upstream's `JitterFactor`.
    fn longest_pause(&self) -> Duration {
        self.retry_period.saturating_mul(12) / 10
    }
}

/// One candidate for one lease.
pub struct Elector {
    pub client: Client,
    pub namespace: String,
    /// The lease.
    pub name: String,
    /// This candidate's own name, no other's.
    pub identity: String,
    pub times: Times,
    pub recorder: Recorder,
    pub clock: SharedClock,
    pub rng: Arc<Rng>,
    /// 1 while this candidate leads.
    pub leading: Arc<AtomicU64>,
    seen: Option<Seen>,
}

/// The lease as it was last seen to change.
struct Seen {
    lease: Lease,
    at: Instant,
}

/// What a look at the lease asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Somebody else has it.
    Wait,
    /// It is this candidate's, or nobody's any more.
    Write,
}

impl Seen {
    fn spec(&self) -> LeaseSpec {
        self.lease.spec.clone().unwrap_or_default()
    }

    fn is_valid(&self, now: Instant) -> bool {
        let seconds = self.spec().lease_duration_seconds.unwrap_or(0);
        self.at + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) > now
    }

    fn holder(&self) -> String {
        self.spec().holder_identity.unwrap_or_default()
    }

    fn turn(&self, me: &str, now: Instant) -> Turn {
        let holder = self.holder();
        if holder.is_empty() || holder == me || !self.is_valid(now) { Turn::Write } else { Turn::Wait }
    }
}

impl Elector {
    pub fn new(client: Client, lease: (&str, &str), identity: String, recorder: Recorder) -> Self {
        Self {
            client,
            namespace: lease.0.to_owned(),
            name: lease.1.to_owned(),
            identity,
            times: Times::default(),
            recorder,
            clock: base::clock::SystemClock::shared(),
            rng: Arc::new(Rng::from_os()),
            leading: Arc::default(),
            seen: None,
        }
    }

    /// Stands for election until cancelled. Whenever this candidate leads, `lead` is called; what it returns must end
    /// soon after its token was cancelled, and may be asked for again after that.
    pub async fn run<W: Future<Output = ()>>(
        mut self,
        cancel: CancellationToken,
        mut lead: impl FnMut(CancellationToken) -> W,
    ) {
        while self.acquire(&cancel).await {
            self.leading.store(1, Ordering::Relaxed);
            self.tell("became leader");
            tracing::info!(target: "leader", lease = self.name, identity = self.identity, "leading");
            let term = cancel.child_token();
            let work = lead(term.clone());
            let renewing = async {
                self.renew(&cancel).await;
                self.leading.store(0, Ordering::Relaxed);
                term.cancel();
            };
            tokio::join!(renewing, work);
            if cancel.is_cancelled() {
                self.release().await;
            }
            self.tell("stopped leading");
            tracing::info!(target: "leader", lease = self.name, "no longer leading");
        }
    }

    /// `false` when cancelled.
    async fn acquire(&mut self, cancel: &CancellationToken) -> bool {
        loop {
            let attempt = tokio::select! {
                biased;
                () = cancel.cancelled() => return false,
                attempt = self.attempt() => attempt,
            };
            match attempt {
                Ok(Turn::Write) => return true,
                Ok(Turn::Wait) => {}
                Err(error) => {
                    tracing::debug!(target: "leader", lease = self.name, %error, "not acquired");
                }
            }
            // Candidates that were refused together shall not come back together.
            let period = self.times.retry_period;
            let more = self.times.longest_pause().mul_f64(self.rng.fraction());
            tokio::select! {
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(period + more) => {}
            }
        }
    }

    /// Returns when the lease is lost, or cancelled.
    async fn renew(&mut self, cancel: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.times.retry_period) => {}
            }
            let attempt = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                attempt = self.attempt() => attempt,
            };
            match attempt {
                Ok(Turn::Write) => renewed = Instant::now(),
                // Upstream tries on until the deadline; there is nothing to be won by it.
                Ok(Turn::Wait) => return,
                Err(error) => {
                    tracing::warn!(target: "leader", lease = self.name, %error, "not renewed");
                }
            }
            if renewed.elapsed() + self.times.retry_period > self.times.renew_deadline {
                return;
            }
        }
    }

    /// One try to have the lease, or to keep it, in half the deadline (upstream: `resourcelock.NewFromKubeconfig`).
    async fn attempt(&mut self) -> Result<Turn, Status> {
        let within = self.times.renew_deadline / 2;
        let late = || Status::timeout(format!("no answer in {} ms", within.as_millis()), 0);
        tokio::time::timeout(within, self.try_once()).await.unwrap_or_else(|_| Err(late()))
    }

    async fn try_once(&mut self) -> Result<Turn, Status> {
        // The leader writes on top of what it wrote last, and looks only when that fails.
        let ours = self.seen.as_ref().filter(|s| s.holder() == self.identity && s.is_valid(Instant::now()));
        if let Some(lease) = ours.map(|s| s.lease.clone())
            && self.write(lease).await.is_ok()
        {
            return Ok(Turn::Write);
        }
        let found: Lease = match self.client.get(&self.namespace, &self.name).await {
            Ok(lease) => lease,
            Err(e) if e.is_not_found() => {
                let name = Some(self.name.clone());
                let metadata =
                    ObjectMeta { name, namespace: Some(self.namespace.clone()), ..ObjectMeta::default() };
                let spec = Some(next(None, &self.identity, self.times.lease_duration, self.clock.now()));
                let made = self.client.create(&Lease { metadata, spec }).await?;
                self.seen = Some(Seen { lease: made, at: Instant::now() });
                return Ok(Turn::Write);
            }
            Err(e) => return Err(e),
        };
        let changed = self.seen.as_ref().is_none_or(|s| s.lease.spec != found.spec);
        let now = Instant::now();
        let at = self.seen.as_ref().filter(|_| !changed).map_or(now, |s| s.at);
        let seen = Seen { lease: found.clone(), at };
        let turn = seen.turn(&self.identity, now);
        self.seen = Some(seen);
        match turn {
            Turn::Wait => Ok(Turn::Wait),
            Turn::Write => self.write(found).await.map(|()| Turn::Write),
        }
    }

    async fn write(&mut self, mut lease: Lease) -> Result<(), Status> {
        lease.spec =
            Some(next(lease.spec.as_ref(), &self.identity, self.times.lease_duration, self.clock.now()));
        // The time counts from before the write: others may see it earlier than the answer comes.
        let at = Instant::now();
        let lease = self.client.update(&lease).await?;
        self.seen = Some(Seen { lease, at });
        Ok(())
    }

    /// Gives the lease up, so that nobody has to wait for its end.
    async fn release(&mut self) {
        for _ in 0..RELEASE_TRIES {
            let Ok(mut lease) = self.client.get::<Lease>(&self.namespace, &self.name).await else { return };
            let held = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.identity);
            if !held {
                return;
            }
            lease.spec = lease.spec.map(|spec| released(&spec, self.clock.now()));
            match self.client.update(&lease).await {
                Err(e) if e.code == 409 => {}
                _ => return,
            }
        }
    }

    fn tell(&self, what: &str) {
        let Some(seen) = &self.seen else { return };
        let message = format!("{} {what}", self.identity);
        self.recorder.event(&reference(&seen.lease), EventType::Normal, "LeaderElection", message);
    }
}

/// The lease as `me` writes it.
fn next(old: Option<&LeaseSpec>, me: &str, lasts: Duration, now: Timestamp) -> LeaseSpec {
    let mine = old.is_some_and(|o| o.holder_identity.as_deref() == Some(me));
    let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
    let since = old.filter(|_| mine).and_then(|o| o.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(lasts.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(since.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        // A lease that was never held before has seen no change of its holder.
        lease_transitions: Some(if mine || old.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

fn released(old: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(RELEASED_SECONDS),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: old.lease_transitions,
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests;
