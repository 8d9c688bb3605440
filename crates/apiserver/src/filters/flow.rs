//! Priority and fairness: requests belong to flows, flows to priority levels with seats and fair queues
//! (upstream: apiserver `pkg/util/flowcontrol`).
//!
//! Invariant: every request that does not stream holds a seat of its level, waits in a bounded queue for one, or is told
//! to come back (429). The administrators' level has no bound, so that nobody locks them out.

pub mod classify;
pub mod queues;

use crate::metrics::{Counted, Running};
use crate::request_info::RequestInfo;
use auth::identity::Identity;
use base::clock::SharedClock;
use base::metrics::Family;
use classify::Schema;
use meta::object;
use meta::status::{Result, Status};
use parking_lot::{Mutex, RwLock};
use queues::{Arrival, Limits, Queues};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Upstream: `--max-requests-inflight`.
pub const READING_MAX: usize = 400;
/// Upstream: `--max-mutating-requests-inflight`.
pub const MUTATING_MAX: usize = 200;
/// Streams (watches, execs) at a time.
pub const STREAMS_MAX: usize = 20_000;
/// Connections that another protocol has taken over (exec, attach, port-forward, WebSockets) at a time. Such a one holds
/// two buffers of 32 KiB and those of two TLS connections, some 130 KiB: 256 MiB for all of them.
pub const UPGRADES_MAX: usize = 2_000;
/// How long a request waits for a seat (upstream: a quarter of the request's own time).
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Who is served when.
pub struct FlowControl {
    /// Seats of all levels together.
    seats: usize,
    clock: SharedClock,
    config: RwLock<Arc<Config>>,
    streams: Arc<Semaphore>,
    upgrades: Arc<Semaphore>,
    rejected: AtomicU64,
    /// Requests that hold a place now: reading and changing ones.
    inflight: [Arc<AtomicU64>; 2],
    dispatched: Family,
}

/// Schemas in the order in which they are tried, and levels by name.
struct Config {
    schemas: Vec<Schema>,
    levels: HashMap<String, Arc<Level>>,
}

struct Level {
    name: String,
    uid: String,
    /// `None` for levels without a bound.
    queues: Option<Mutex<Waiting>>,
}

struct Waiting {
    queues: Queues,
    next_id: u64,
    /// Those who wait are told their queue when their turn comes.
    tell: HashMap<u64, oneshot::Sender<usize>>,
}

/// A request's place; given back on drop.
#[derive(Default)]
pub struct Slot {
    seat: Option<Seat>,
    inflight: Option<Counted>,
    _stream: Option<OwnedSemaphorePermit>,
    /// A long-running request counts as such.
    pub running: Option<Arc<Running>>,
    /// UIDs of the flow schema and the priority level, for the response's headers.
    pub uids: Option<(String, String)>,
}

struct Seat {
    level: Arc<Level>,
    queue: usize,
    begun: Duration,
    clock: SharedClock,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = self.clock.monotonic();
        if let Some(queues) = &self.level.queues {
            let mut w = queues.lock();
            let next = w.queues.finish(now, self.queue, now.saturating_sub(self.begun));
            w.wake(next, now);
        }
    }
}

impl Waiting {
    /// Tells those whose turn it is; seats of those who are gone are passed on.
    fn wake(&mut self, mut next: Vec<(u64, usize)>, now: Duration) {
        while let Some((id, queue)) = next.pop() {
            let gone = self.tell.remove(&id).is_none_or(|tell| tell.send(queue).is_err());
            if gone {
                next.extend(self.queues.finish(now, queue, Duration::ZERO));
            }
        }
    }
}

/// A place in a queue; left on drop.
struct Place {
    level: Arc<Level>,
    id: u64,
    queue: usize,
    clock: SharedClock,
    served: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        if let Some(queues) = &self.level.queues {
            let mut w = queues.lock();
            w.tell.remove(&self.id);
            if !w.queues.leave(self.id, self.queue) {
                // Its turn came at the same moment: the seat is passed on.
                let now = self.clock.monotonic();
                let next = w.queues.finish(now, self.queue, Duration::ZERO);
                w.wake(next, now);
            }
        }
    }
}

impl FlowControl {
    /// With upstream's default levels and schemas. Limits in requests at a time; 0 takes the default.
    pub fn new(reading: usize, mutating: usize, clock: SharedClock) -> Self {
        let or = |n: usize, default| if n == 0 { default } else { n };
        let seats = or(reading, READING_MAX) + or(mutating, MUTATING_MAX);
        let (levels, schemas) = classify::defaults();
        let dispatched = Family::counter(
            "apiserver_flowcontrol_dispatched_requests_total",
            "Number of requests executed by API Priority and Fairness subsystem",
        );
        let config = Config::new(seats, &levels, &schemas, None, &dispatched);
        Self {
            seats,
            clock,
            config: RwLock::new(Arc::new(config)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            upgrades: Arc::new(Semaphore::new(UPGRADES_MAX)),
            rejected: AtomicU64::new(0),
            inflight: Default::default(),
            dispatched,
        }
    }

    /// Takes over the levels and schemas that are stored. Those of the defaults that must exist stay if they are missing.
    pub fn configure(&self, levels: &[Value], schemas: &[Value]) {
        let mut config = self.config.write();
        *config = Arc::new(Config::new(self.seats, levels, schemas, Some(&config), &self.dispatched));
    }

    /// Waits for a place.
    pub async fn enter(&self, info: &RequestInfo, user: &Identity, long: bool) -> Result<Slot> {
        // A watch is served like a list until it begins; other streams are not of any level.
        if long && info.verb != "watch" {
            return Ok(Slot { _stream: Some(self.stream()?), ..Slot::default() });
        }
        let config = self.config.read().clone();
        let Some(schema) = config.schemas.iter().find(|s| s.matches(info, user)) else {
            return Err(self.reject());
        };
        let Some(level) = config.levels.get(&schema.level) else { return Err(self.reject()) };
        let uids = Some((schema.uid.clone(), level.uid.clone()));
        let stream = if long { Some(self.stream()?) } else { None };
        let changes = !matches!(info.verb.as_str(), "get" | "list" | "watch" | "head");
        let inflight = || Some(Counted::of(&self.inflight[usize::from(changes)]));
        let Some(queues) = &level.queues else {
            schema.dispatched.fetch_add(1, Ordering::Relaxed);
            return Ok(Slot { uids, inflight: inflight(), _stream: stream, ..Slot::default() });
        };
        let flow = schema.flow(info, user);
        let (queue, waiting) = {
            let mut w = queues.lock();
            w.next_id += 1;
            let id = w.next_id;
            match w.queues.arrive(self.clock.monotonic(), flow, id) {
                Arrival::Reject => return Err(self.reject()),
                Arrival::Run(queue) => (queue, None),
                Arrival::Wait(queue) => {
                    let (tell, told) = oneshot::channel();
                    w.tell.insert(id, tell);
                    (queue, Some((id, told)))
                }
            }
        };
        let queue = match waiting {
            None => queue,
            Some((id, told)) => {
                let (level, clock) = (level.clone(), self.clock.clone());
                let mut place = Place { level, id, queue, clock, served: false };
                match tokio::time::timeout(WAIT_MAX, told).await {
                    Ok(Ok(queue)) => {
                        place.served = true;
                        queue
                    }
                    _ => return Err(self.reject()),
                }
            }
        };
        let seat =
            Seat { level: level.clone(), queue, begun: self.clock.monotonic(), clock: self.clock.clone() };
        schema.dispatched.fetch_add(1, Ordering::Relaxed);
        Ok(Slot { seat: Some(seat), inflight: inflight(), _stream: stream, uids, running: None })
    }

    fn stream(&self) -> Result<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().map_err(|_| self.reject())
    }

    /// A place for a connection that another protocol will take over: it is no request any more then, and no stream.
    pub fn upgrade(&self) -> Result<OwnedSemaphorePermit> {
        self.upgrades.clone().try_acquire_owned().map_err(|_| self.reject())
    }

    fn reject(&self) -> Status {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        Status::too_many_requests("Too many requests, please try again later.", 1)
    }

    /// Upstream's main metrics, in text.
    pub fn metrics(&self) -> String {
        let config = self.config.read().clone();
        let mut out = String::from("# TYPE apiserver_flowcontrol_current_executing_requests gauge\n");
        let mut waiting = String::from("# TYPE apiserver_flowcontrol_current_inqueue_requests gauge\n");
        let mut seats = String::from("# TYPE apiserver_flowcontrol_nominal_limit_seats gauge\n");
        let mut limits = String::from("# TYPE apiserver_flowcontrol_current_limit_seats gauge\n");
        for level in config.levels.values() {
            let Some(queues) = &level.queues else { continue };
            let (w, name) = (queues.lock(), &level.name);
            let _ = writeln!(
                out,
                "apiserver_flowcontrol_current_executing_requests{{priority_level=\"{name}\"}} {}",
                w.queues.executing()
            );
            let _ = writeln!(
                waiting,
                "apiserver_flowcontrol_current_inqueue_requests{{priority_level=\"{name}\"}} {}",
                w.queues.waiting()
            );
            let _ = writeln!(
                seats,
                "apiserver_flowcontrol_nominal_limit_seats{{priority_level=\"{name}\"}} {}",
                w.queues.limits().seats
            );
            // Levels lend nothing to each other.
            let _ = writeln!(
                limits,
                "apiserver_flowcontrol_current_limit_seats{{priority_level=\"{name}\"}} {}",
                w.queues.limits().seats
            );
        }
        let rejected = self.rejected.load(Ordering::Relaxed);
        let name = "apiserver_current_inflight_requests";
        let mut inflight = format!(
            "# HELP {name} Requests that are being served now, per request kind.\n# TYPE {name} gauge\n"
        );
        for (kind, count) in ["readOnly", "mutating"].into_iter().zip(&self.inflight) {
            let _ = writeln!(inflight, "{name}{{request_kind=\"{kind}\"}} {}", count.load(Ordering::Relaxed));
        }
        self.dispatched.render(&mut inflight);
        format!(
            "{out}{waiting}{seats}{limits}{inflight}# TYPE apiserver_flowcontrol_rejected_requests_total counter\napiserver_flowcontrol_rejected_requests_total {rejected}\n"
        )
    }
}

impl Slot {
    /// The request goes on as a stream: its seat is free for others.
    pub fn streams(&mut self) {
        self.seat = None;
        self.inflight = None;
    }

    /// Whether a seat of a level with a bound is taken.
    pub fn holds_seat(&self) -> bool {
        self.seat.is_some()
    }
}

impl Config {
    fn new(
        total: usize,
        levels: &[Value],
        schemas: &[Value],
        before: Option<&Self>,
        dispatched: &Family,
    ) -> Self {
        let (default_levels, default_schemas) = classify::defaults();
        let mandatory = |v: &Value| matches!(object::name(v), "exempt" | "catch-all");
        let with = |all: &[Value], defaults: Vec<Value>| -> Vec<Value> {
            let missing = |d: &Value| mandatory(d) && !all.iter().any(|v| object::name(v) == object::name(d));
            all.iter().cloned().chain(defaults.into_iter().filter(missing)).collect()
        };
        let (levels, schemas) = (with(levels, default_levels), with(schemas, default_schemas));
        let shares = |v: &Value| v["spec"]["limited"]["nominalConcurrencyShares"].as_u64().unwrap_or(0);
        let all: u64 = levels.iter().map(shares).sum();
        let made = levels.iter().map(|v| {
            // Rounded up, as upstream does.
            let seats = (total as u64 * shares(v)).div_ceil(all.max(1));
            let level = Level::new(v, usize::try_from(seats).unwrap_or(total));
            let kept =
                before.and_then(|b| b.levels.get(&level.name)).filter(|old| old.becomes(&level)).cloned();
            (level.name.clone(), kept.unwrap_or_else(|| Arc::new(level)))
        });
        let mut schemas: Vec<Schema> = schemas.iter().map(|v| Schema::parse(v, dispatched)).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { levels: made.collect(), schemas }
    }
}

impl Level {
    fn new(v: &Value, seats: usize) -> Self {
        let limited = &v["spec"]["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        let number = |f: &str| queuing[f].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let limits = Limits {
            seats,
            queues: number("queues"),
            hand: number("handSize"),
            length: number("queueLengthLimit"),
        };
        let queues = (v["spec"]["type"] != "Exempt")
            .then(|| Mutex::new(Waiting { queues: Queues::new(limits), next_id: 0, tell: HashMap::new() }));
        Self { name: object::name(v).to_owned(), uid: object::uid(v).to_owned(), queues }
    }

    /// Whether it can go on as the new one: then it takes over its number of seats.
    fn becomes(&self, new: &Self) -> bool {
        match (&self.queues, &new.queues) {
            (Some(old), Some(wanted)) if self.uid == new.uid => {
                let (mut w, limits) = (old.lock(), wanted.lock().queues.limits());
                let same = Limits { seats: limits.seats, ..w.queues.limits() } == limits;
                if same {
                    w.queues.set_seats(limits.seats);
                }
                same
            }
            (None, None) => self.uid == new.uid,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(uri: &str) -> RequestInfo {
        RequestInfo::parse(&http::Method::GET, &uri.parse().expect("a URI"))
    }

    #[test]
    fn upgraded_connections_have_a_bound_of_their_own() {
        let control = FlowControl::new(1, 0, base::clock::SystemClock::shared());
        let mut taken: Vec<_> = (0..UPGRADES_MAX).map(|_| control.upgrade().expect("a place")).collect();
        assert_eq!(control.upgrade().err().map(|e| e.code), Some(429));
        taken.pop();
        assert!(control.upgrade().is_ok());
    }

    #[tokio::test]
    async fn the_next_in_the_queue_gets_the_seat() {
        let clock = base::clock::SystemClock::shared();
        let control = Arc::new(FlowControl::new(1, 0, clock));
        // One level with one seat and a queue of one.
        let level = json!({
            "metadata": {"name": "global-default"},
            "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Queue",
                "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}}}},
        });
        control.configure(&[level], &classify::defaults().1);
        let user = Identity::new("jane", &["system:authenticated"]);
        let pods = info("/api/v1/pods");
        // 201 seats are shared by this level's 1 share and catch-all's 5.
        let mut held = Vec::new();
        for _ in 0..34 {
            held.push(control.enter(&pods, &user, false).await.expect("a seat"));
        }
        let waits = tokio::spawn({
            let (control, user, pods) = (control.clone(), user.clone(), pods.clone());
            async move { control.enter(&pods, &user, false).await.map(|s| s.holds_seat()) }
        });
        while !control.metrics().contains("inqueue_requests{priority_level=\"global-default\"} 1") {
            tokio::task::yield_now().await;
        }
        assert_eq!(control.enter(&pods, &user, false).await.err().map(|e| e.code), Some(429));
        let admin = Identity::new("root", &["system:masters"]);
        assert!(control.enter(&pods, &admin, false).await.is_ok());
        held.pop();
        assert_eq!(waits.await.expect("joined"), Ok(true));
    }
}
