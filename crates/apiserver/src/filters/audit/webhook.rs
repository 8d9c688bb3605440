//! Events to a server elsewhere, in batches (upstream: apiserver `plugin/pkg/audit/{webhook,buffered,truncate}`).
//!
//! Invariant: a slow or dead server costs a bounded number of waiting events; what does not fit, or is given up after
//! the last try, is counted.

use audit::batch::{Batch, Bucket, Mode, Waiting};
use audit::{Event, truncate};
use base::rng::Rng;
use bytes::Bytes;
use client::Api;
use http::Request;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tries of one batch, and how the pause between them grows (upstream: `webhook.DefaultRetryBackoffWithInitialDelay`).
const TRIES: u32 = 5;
const BACKOFF_FACTOR: f64 = 1.5;
const BACKOFF_JITTER: f64 = 0.2;
/// Batches under way at a time.
const SENDING_MAX: usize = 16;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the end waits for what is on its way.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The `--audit-webhook-*` flags.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mode: Mode,
    pub batch: Batch,
    pub initial_backoff: Duration,
    /// Largest event and batch in bytes; `None` sends all as they are.
    pub limits: Option<(usize, usize)>,
}

/// Events that were lost, by upstream's names of the parts that lose them.
#[derive(Debug, Default)]
pub struct Counters {
    pub webhook: AtomicU64,
    pub buffered: AtomicU64,
    pub truncate: AtomicU64,
}

/// The sink.
pub struct Webhook {
    sender: Arc<Sender>,
    queue: mpsc::Sender<Vec<u8>>,
    runtime: Handle,
    end: CancellationToken,
    tasks: TaskTracker,
}

/// What became of an event: known, or told when the server has answered.
pub type Told = Result<bool, oneshot::Receiver<bool>>;

struct Sender {
    api: Arc<dyn Api>,
    path: String,
    settings: Settings,
    rng: Arc<Rng>,
    counters: Counters,
    waiting: Waiting,
}

impl Webhook {
    /// Starts sending.
    pub fn start(api: Arc<dyn Api>, path: String, settings: Settings, rng: Arc<Rng>) -> Self {
        let (queue, events) = mpsc::channel(settings.batch.buffer_events.max(1));
        let sender = Arc::new(Sender {
            api,
            path,
            settings,
            rng,
            counters: Counters::default(),
            waiting: Waiting::default(),
        });
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(batches(sender.clone(), events, tasks.clone(), end.clone()));
        Self { sender, queue, runtime: Handle::current(), end, tasks }
    }

    /// Takes an event; `false` when a strict sink could not send it.
    pub fn write(&self, event: &Event) -> Told {
        let fitting = match self.sender.settings.limits {
            Some((max, _)) => truncate::fit(event, max),
            None => Some(Cow::Borrowed(event)),
        };
        let Some(event) = fitting else {
            self.sender.counters.truncate.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        };
        // In a list, events do not repeat its type.
        let mut event = event.into_owned();
        event.kind.clear();
        event.api_version.clear();
        let line = event.to_line();
        if self.sender.settings.mode != Mode::Batch {
            return Err(self.send_now(line));
        }
        let bytes = line.len();
        let room = self.sender.waiting.enter(bytes);
        if !room || self.queue.try_send(line).is_err() {
            if room {
                self.sender.waiting.leave(bytes);
            }
            self.sender.counters.buffered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Sends on the runtime of this sink, whichever thread asks.
    fn send_now(&self, line: Vec<u8>) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        let sender = self.sender.clone();
        let work = async move {
            let sent = sender.send(vec![line]).await;
            let _ = tell.send(sent || sender.settings.mode != Mode::BlockingStrict);
        };
        self.tasks.spawn_on(work, &self.runtime);
        told
    }

    pub fn counters(&self) -> &Counters {
        &self.sender.counters
    }

    /// Sends what waits, for as long as the end may take.
    pub async fn close(&self) {
        self.end.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(END_TIMEOUT, self.tasks.wait()).await;
    }
}

/// Collects batches: by number, by size, or when the first has waited long enough.
async fn batches(
    sender: Arc<Sender>,
    mut events: mpsc::Receiver<Vec<u8>>,
    tasks: TaskTracker,
    end: CancellationToken,
) {
    let (s, limits) = (sender.settings.batch.clone(), sender.settings.limits);
    let under_way = Arc::new(Semaphore::new(SENDING_MAX));
    let begun = Instant::now();
    let mut bucket = s.throttle.map(|t| Bucket::new(t, Duration::ZERO));
    let mut carried: Option<Vec<u8>> = None;
    loop {
        let first = match carried.take() {
            Some(event) => event,
            None => tokio::select! {
                event = events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = end.cancelled() => match events.try_recv() {
                    Ok(event) => event,
                    Err(_) => return,
                },
            },
        };
        let mut bytes = first.len();
        let mut batch = vec![first];
        let deadline = Instant::now() + s.max_wait;
        while batch.len() < s.batch_events {
            let next = tokio::select! {
                biased;
                event = events.recv() => event,
                () = end.cancelled() => events.try_recv().ok(),
                () = tokio::time::sleep_until(deadline) => None,
            };
            let Some(next) = next else { break };
            if limits.is_some_and(|(_, max)| bytes + next.len() > max) {
                carried = Some(next);
                break;
            }
            bytes += next.len();
            batch.push(next);
        }
        if let Some(bucket) = &mut bucket {
            tokio::time::sleep(bucket.take(begun.elapsed())).await;
        }
        let Ok(place) = under_way.clone().acquire_owned().await else { return };
        let sender = sender.clone();
        tasks.spawn(async move {
            sender.send(batch).await;
            sender.waiting.leave(bytes);
            drop(place);
        });
    }
}

impl Sender {
    /// Sends a batch, again after every failure (upstream: `retryOnError`); whether it arrived.
    async fn send(&self, batch: Vec<Vec<u8>>) -> bool {
        let events = batch.len();
        let mut body =
            br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
        body.extend_from_slice(&batch.join(&b","[..]));
        body.extend_from_slice(b"]}");
        let body = Bytes::from(body);
        let mut pause = self.settings.initial_backoff;
        for attempt in 1..=TRIES {
            let Err(why) = self.once(body.clone()).await else { return true };
            tracing::warn!(events, attempt, "audit events could not be sent: {why}");
            if attempt < TRIES {
                tokio::time::sleep(pause.mul_f64(1.0 + BACKOFF_JITTER * self.rng.fraction())).await;
                pause = pause.mul_f64(BACKOFF_FACTOR);
            }
        }
        self.counters.webhook.fetch_add(events as u64, Ordering::Relaxed);
        false
    }

    async fn once(&self, body: Bytes) -> Result<(), String> {
        let request = Request::post(&self.path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| e.to_string())?;
        match tokio::time::timeout(TIMEOUT, self.api.send(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(response.status().to_string()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("no answer in time".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{Body, BoxError};
    use http::Response;
    use parking_lot::Mutex;

    /// A server that fails as often as it is told to.
    #[derive(Default)]
    struct Fake {
        failures: Mutex<u32>,
        got: Mutex<Vec<serde_json::Value>>,
    }

    #[async_trait::async_trait]
    impl Api for Fake {
        async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err("refused".into());
            }
            self.got.lock().push(serde_json::from_slice(request.body())?);
            Ok(Response::new(crate::reply::full(Bytes::new())))
        }
    }

    fn settings() -> Settings {
        let batch =
            Batch { buffer_events: 4, batch_events: 2, max_wait: Duration::from_secs(30), throttle: None };
        Settings { mode: Mode::Batch, batch, initial_backoff: Duration::from_secs(10), limits: None }
    }

    fn start(fake: &Arc<Fake>, settings: Settings) -> Webhook {
        Webhook::start(fake.clone(), "/".into(), settings, Arc::new(Rng::seeded(1)))
    }

    fn lost(hook: &Webhook) -> (u64, u64) {
        let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
        (n(&hook.counters().buffered), n(&hook.counters().webhook))
    }

    fn event(uri: &str) -> Event {
        let json = serde_json::json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "i", "stage": "ResponseComplete",
            "requestURI": uri, "verb": "get", "user": {}, "sourceIPs": [], "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
            "stageTimestamp": "2026-01-01T00:00:00.000000Z",
        });
        serde_json::from_value(json).expect("an event")
    }

    fn uris(list: &serde_json::Value) -> Vec<&str> {
        let items = list["items"].as_array().into_iter().flatten();
        items.filter_map(|e| e["requestURI"].as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn events_go_in_batches_and_are_sent_again() {
        let fake = Arc::new(Fake::default());
        *fake.failures.lock() = 2;
        let hook = start(&fake, settings());
        ["/a", "/b", "/c"].iter().for_each(|u| assert!(hook.write(&event(u)).is_ok()));
        tokio::time::sleep(Duration::from_secs(120)).await;
        let mut got = fake.got.lock().clone();
        got.sort_by_key(|l| uris(l).len());
        assert_eq!((uris(&got[0]), uris(&got[1])), (vec!["/c"], vec!["/a", "/b"]));
        assert!(got[0]["items"][0].get("kind").is_none() && got[0]["kind"] == "EventList");
        assert_eq!(lost(&hook), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_server_costs_no_more_than_the_buffer() {
        let fake = Arc::new(Fake::default());
        *fake.failures.lock() = u32::MAX;
        let hook = start(&fake, settings());
        for _ in 0..100 {
            let _ = hook.write(&event("/x"));
        }
        assert_eq!(lost(&hook), (96, 0));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(lost(&hook), (96, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_sends_what_waits() {
        let fake = Arc::new(Fake::default());
        let hook = start(&fake, settings());
        assert_eq!(hook.write(&event("/last")).map_err(drop), Ok(true));
        hook.close().await;
        assert_eq!(uris(&fake.got.lock()[0]), ["/last"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_strict_sink_says_that_it_failed() {
        for (mode, answer) in [(Mode::Blocking, true), (Mode::BlockingStrict, false)] {
            let fake = Arc::new(Fake::default());
            *fake.failures.lock() = u32::MAX;
            let hook = start(&fake, Settings { mode, ..settings() });
            let told = hook.write(&event("/x")).expect_err("later");
            assert_eq!(told.await, Ok(answer));
            assert_eq!(lost(&hook), (0, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_bounded_in_bytes_and_rate() {
        let fake = Arc::new(Fake::default());
        let size = event("/a").to_line().len();
        let batch =
            Batch { buffer_events: 10, batch_events: 10, throttle: Some((0.1, 1)), ..settings().batch };
        let hook = start(&fake, Settings { batch, limits: Some((10 * size, 2 * size)), ..settings() });
        (0..6).for_each(|_| drop(hook.write(&event("/a"))));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.got.lock().iter().map(|l| uris(l).len()).collect::<Vec<_>>(), [2]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.got.lock().iter().map(|l| uris(l).len()).collect::<Vec<_>>(), [2, 2, 2]);
    }
}
