//! Events to a server elsewhere, in batches (upstream: apiserver `plugin/pkg/audit/{webhook,buffered,truncate}`).
//!
//! Invariant: a slow or dead server costs a bounded number of waiting events; what does not fit, or is given up after
//! the last try, is counted.

use audit::{Event, truncate};
use bytes::Bytes;
use client::Api;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tries of one batch, and how the pause between them grows (upstream: `webhook.DefaultRetryBackoffWithInitialDelay`).
const TRIES: u32 = 5;
const BACKOFF_FACTOR: f64 = 1.5;
/// Batches under way at a time.
const SENDING_MAX: usize = 16;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The `--audit-webhook-*` flags.
#[derive(Clone, Debug)]
pub struct Settings {
    pub batch: bool,
    /// Requests fail when their event could not be sent.
    pub strict: bool,
    pub buffer_events: usize,
    pub batch_events: usize,
    pub batch_wait: Duration,
    /// Batches a second; 0 is no limit.
    pub rate: f64,
    pub burst: u32,
    pub initial_backoff: Duration,
    /// Largest event and batch in bytes; `None` sends all as they are.
    pub limits: Option<(usize, usize)>,
}

/// The sink.
pub struct Webhook {
    sender: Arc<Sender>,
    queue: mpsc::Sender<Vec<u8>>,
    runtime: Handle,
}

struct Sender {
    api: Arc<dyn Api>,
    path: String,
    settings: Settings,
    lost: AtomicU64,
}

impl Webhook {
    /// Starts sending; what waits when cancelled is sent before the end.
    pub fn start(api: Arc<dyn Api>, path: String, settings: Settings, cancel: CancellationToken) -> Self {
        let (queue, events) = mpsc::channel(settings.buffer_events.max(1));
        let sender = Arc::new(Sender { api, path, settings, lost: AtomicU64::new(0) });
        tokio::spawn(batches(sender.clone(), events, cancel));
        Self { sender, queue, runtime: Handle::current() }
    }

    /// Takes an event; `false` when a strict sink could not send it.
    pub fn write(&self, event: &Event) -> bool {
        // In a list, events do not repeat its type.
        let event = Event { kind: String::new(), api_version: String::new(), ..event.clone() };
        let line = match self.sender.settings.limits {
            Some((max, _)) => truncate::line(&event, max),
            None => Some(event.to_line()),
        };
        let Some(line) = line else {
            self.sender.lose(1);
            return true;
        };
        if self.sender.settings.batch {
            if self.queue.try_send(line).is_err() {
                self.sender.lose(1);
            }
            return true;
        }
        self.send_and_wait(line) || !self.sender.settings.strict
    }

    /// Sends on the runtime of this sink, whichever thread asks.
    fn send_and_wait(&self, line: Vec<u8>) -> bool {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let sender = self.sender.clone();
        self.runtime.spawn(async move {
            let _ = tell.send(sender.send(vec![line]).await);
        });
        let wait = move || told.recv().unwrap_or(false);
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }

    /// Events that were dropped or could not be sent.
    pub fn lost(&self) -> u64 {
        self.sender.lost.load(Ordering::Relaxed)
    }
}

/// Collects batches: by number, by size, or when the first has waited long enough.
async fn batches(sender: Arc<Sender>, mut events: mpsc::Receiver<Vec<u8>>, cancel: CancellationToken) {
    let s = sender.settings.clone();
    let under_way = Arc::new(Semaphore::new(SENDING_MAX));
    let mut bucket = Bucket { tokens: f64::from(s.burst), at: Instant::now() };
    let mut waiting: Option<Vec<u8>> = None;
    loop {
        let first = match waiting.take() {
            Some(event) => event,
            None => tokio::select! {
                event = events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = cancel.cancelled() => match events.try_recv() {
                    Ok(event) => event,
                    Err(_) => return,
                },
            },
        };
        let mut bytes = first.len();
        let mut batch = vec![first];
        let deadline = Instant::now() + s.batch_wait;
        while batch.len() < s.batch_events {
            let next = tokio::select! {
                biased;
                event = events.recv() => event,
                () = cancel.cancelled() => None,
                () = tokio::time::sleep_until(deadline) => None,
            };
            let Some(next) = next else { break };
            if s.limits.is_some_and(|(_, max)| bytes + next.len() > max) {
                waiting = Some(next);
                break;
            }
            bytes += next.len();
            batch.push(next);
        }
        bucket.take(s.rate, s.burst).await;
        let Ok(place) = under_way.clone().acquire_owned().await else { return };
        let sender = sender.clone();
        tokio::spawn(async move {
            sender.send(batch).await;
            drop(place);
        });
    }
}

/// Batches that may be sent now.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    async fn take(&mut self, rate: f64, burst: u32) {
        if rate <= 0.0 {
            return;
        }
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.at).as_secs_f64() * rate).min(f64::from(burst)) - 1.0;
        self.at = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / rate)).await;
        }
    }
}

impl Sender {
    fn lose(&self, events: usize) {
        self.lost.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Sends a batch, again after failures that may pass; whether it arrived.
    async fn send(&self, batch: Vec<Vec<u8>>) -> bool {
        let events = batch.len();
        let mut body =
            br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
        body.extend_from_slice(&batch.join(&b","[..]));
        body.extend_from_slice(b"]}");
        let body = Bytes::from(body);
        let mut pause = self.settings.initial_backoff;
        for attempt in 1..=TRIES {
            let why = match self.once(body.clone()).await {
                Ok(()) => return true,
                Err((why, false)) => {
                    tracing::error!(events, "the audit webhook refused events: {why}");
                    break;
                }
                Err((why, true)) => why,
            };
            tracing::warn!(events, attempt, "audit events could not be sent: {why}");
            if attempt < TRIES {
                tokio::time::sleep(pause).await;
                pause = pause.mul_f64(BACKOFF_FACTOR);
            }
        }
        self.lose(events);
        false
    }

    /// One try; the error says whether another makes sense.
    async fn once(&self, body: Bytes) -> Result<(), (String, bool)> {
        let request = Request::post(&self.path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| (e.to_string(), false))?;
        let response = match tokio::time::timeout(TIMEOUT, self.api.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => return Err((e.to_string(), true)),
            Err(_) => return Err(("no answer in time".into(), true)),
        };
        let code = response.status();
        match code.as_u16() {
            200..=299 => Ok(()),
            429 | 500..=599 => Err((code.to_string(), true)),
            _ => Err((code.to_string(), false)),
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
        Settings {
            batch: true,
            strict: false,
            buffer_events: 4,
            batch_events: 2,
            batch_wait: Duration::from_secs(30),
            rate: 0.0,
            burst: 1,
            initial_backoff: Duration::from_secs(10),
            limits: None,
        }
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
        let hook = Webhook::start(fake.clone(), "/".into(), settings(), CancellationToken::new());
        ["/a", "/b", "/c"].iter().for_each(|u| assert!(hook.write(&event(u))));
        tokio::time::sleep(Duration::from_secs(120)).await;
        let mut got = fake.got.lock().clone();
        got.sort_by_key(|l| uris(l).len());
        assert_eq!((uris(&got[0]), uris(&got[1])), (vec!["/c"], vec!["/a", "/b"]));
        assert!(got[0]["items"][0].get("kind").is_none() && got[0]["kind"] == "EventList");
        assert_eq!(hook.lost(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_server_costs_no_more_than_the_buffer() {
        let fake = Arc::new(Fake::default());
        *fake.failures.lock() = u32::MAX;
        let hook = Webhook::start(fake.clone(), "/".into(), settings(), CancellationToken::new());
        for _ in 0..100 {
            hook.write(&event("/x"));
        }
        assert_eq!(hook.lost(), 96);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(hook.lost(), 100);
    }
}
