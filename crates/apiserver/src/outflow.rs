//! Bodies on their way to clients, and the end of those that nobody reads.
//!
//! Invariant: what was made for clients and not taken by them is at most [`UNREAD_BYTES_MAX`], and none of it is older
//! than a minute where upstream would not keep it either: a watcher that does not read loses its connection (upstream:
//! `cacheWatcher`'s terminated slow watchers), and so does who takes longer for an answer than the request may take.

use bytes::Bytes;
use client::{Body, BoxError};
use http_body::Frame;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes of pieces that connections have taken from bodies and not sent yet, of all clients together.
const UNREAD_BYTES_MAX: usize = 256 << 20;
/// How long a piece may wait for a client that reads nothing.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How often it is looked for bodies that are to end.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// How long a body may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// All of it is to be taken in this time.
    Within(Duration),
    /// It goes on while the client reads.
    WhileRead,
    /// It goes on (logs, proxied bodies, which wait at their source too).
    Open,
}

/// The bodies that are being sent.
pub struct Outflow {
    begun: Instant,
    bodies: Mutex<HashMap<u64, Weak<Sending>>>,
    next: AtomicU64,
    unread_bytes: AtomicUsize,
    full: Notify,
    cut: AtomicU64,
}

struct Sending {
    /// Taken when it is cut.
    body: Mutex<Option<Body>>,
    /// Since when a piece waits for the client, in milliseconds; 0 while the body waits for data.
    since_ms: AtomicU64,
    /// When it must be over; 0 is never.
    deadline_ms: u64,
    stalls: bool,
    unread_bytes: AtomicUsize,
    /// Ends the client's connection.
    connection: CancellationToken,
    done: AtomicBool,
}

impl Outflow {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            bodies: Mutex::default(),
            next: AtomicU64::new(0),
            unread_bytes: AtomicUsize::new(0),
            full: Notify::new(),
            cut: AtomicU64::new(0),
        })
    }

    /// The body, under watch; `connection` ends the client's connection.
    pub fn watch(self: &Arc<Self>, body: Body, patience: Patience, connection: CancellationToken) -> Body {
        let deadline_ms = match patience {
            Patience::Within(time) => self.now_ms() + time.as_millis() as u64,
            _ => 0,
        };
        let sending = Arc::new(Sending {
            body: Mutex::new(Some(body)),
            since_ms: AtomicU64::new(0),
            deadline_ms,
            stalls: patience != Patience::Open,
            unread_bytes: AtomicUsize::new(0),
            connection,
            done: AtomicBool::new(false),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.bodies.lock().insert(id, Arc::downgrade(&sending));
        Watched { outflow: self.clone(), id, sending }.boxed_unsync()
    }

    /// Ends what is to end, until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
                () = self.full.notified() => {}
            }
            self.sweep();
        }
    }

    /// Bodies that were cut since the start.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        // 0 means that nothing waits.
        self.begun.elapsed().as_millis() as u64 + 1
    }

    fn sweep(&self) {
        let now = self.now_ms();
        let mut waiting: Vec<(u64, Arc<Sending>)> = Vec::new();
        let all: Vec<Arc<Sending>> = self.bodies.lock().values().filter_map(Weak::upgrade).collect();
        for sending in all {
            if sending.done.load(Ordering::Relaxed) {
                continue;
            }
            let since = sending.since_ms.load(Ordering::Relaxed);
            let stalled =
                sending.stalls && since > 0 && now.saturating_sub(since) > STALL_MAX.as_millis() as u64;
            let late = sending.deadline_ms > 0 && now > sending.deadline_ms;
            if stalled || late {
                self.end(&sending, if late { "it took too long" } else { "nobody reads it" });
            } else if since > 0 {
                waiting.push((since, sending));
            }
        }
        // Over the limit, those go that have waited longest, down to half of it.
        let mut total: usize = waiting.iter().map(|(_, s)| s.unread_bytes.load(Ordering::Relaxed)).sum();
        if total <= UNREAD_BYTES_MAX {
            return;
        }
        waiting.sort_by_key(|(since, _)| *since);
        for (_, sending) in waiting {
            if total <= UNREAD_BYTES_MAX / 2 {
                return;
            }
            total -= sending.unread_bytes.load(Ordering::Relaxed).min(total);
            self.end(&sending, "too much is unread");
        }
    }

    fn end(&self, sending: &Sending, why: &str) {
        sending.done.store(true, Ordering::Relaxed);
        sending.body.lock().take();
        sending.connection.cancel();
        self.cut.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(why, "a response was cut off with its connection");
    }

    /// A piece of so many bytes is the connection's now, instead of the one before.
    fn hand_over(&self, sending: &Sending, bytes: usize) {
        let before = sending.unread_bytes.swap(bytes, Ordering::Relaxed);
        self.unread_bytes.fetch_sub(before, Ordering::Relaxed);
        if self.unread_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > UNREAD_BYTES_MAX {
            self.full.notify_one();
        }
    }
}

struct Watched {
    outflow: Arc<Outflow>,
    id: u64,
    sending: Arc<Sending>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (outflow, sending) = (&self.outflow, &self.sending);
        // Who asks for the next piece has sent the last.
        sending.since_ms.store(0, Ordering::Relaxed);
        let mut body = sending.body.lock();
        let Some(inner) = body.as_mut() else {
            return Poll::Ready(Some(Err("the response was cut off".into())));
        };
        let polled = Pin::new(inner).poll_frame(cx);
        let bytes = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        outflow.hand_over(sending, bytes);
        let frame = ready!(polled);
        if bytes > 0 {
            sending.since_ms.store(outflow.now_ms(), Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.sending.body.lock().as_ref().is_some_and(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.sending.body.lock().as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.outflow.bodies.lock().remove(&self.id);
        self.outflow.hand_over(&self.sending, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn endless(piece: usize) -> Body {
        let bytes = Bytes::from(vec![0; piece]);
        crate::reply::streaming(stream::repeat_with(move || Ok(bytes.clone())))
    }

    fn quiet() -> Body {
        crate::reply::streaming(stream::pending())
    }

    fn start() -> (Arc<Outflow>, CancellationToken) {
        let (outflow, cancel) = (Outflow::new(), CancellationToken::new());
        tokio::spawn(outflow.clone().run(cancel.clone()));
        (outflow, cancel)
    }

    async fn seconds(n: u64) {
        tokio::time::sleep(Duration::from_secs(n)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_cut_and_who_waits_is_not() {
        let (outflow, _cancel) = start();
        let connections: Vec<CancellationToken> = (0..4).map(|_| CancellationToken::new()).collect();
        let watch = |i: usize, body, patience| outflow.watch(body, patience, connections[i].clone());
        let mut unread = watch(0, endless(10), Patience::WhileRead);
        assert!(unread.frame().await.is_some_and(|f| f.is_ok()));
        let mut log = watch(1, endless(10), Patience::Open);
        assert!(log.frame().await.is_some_and(|f| f.is_ok()));
        let mut idle = watch(2, quiet(), Patience::WhileRead);
        assert!(tokio::time::timeout(Duration::from_secs(1), idle.frame()).await.is_err());
        let mut read = watch(3, endless(10), Patience::WhileRead);
        for _ in 0..20 {
            assert!(read.frame().await.is_some_and(|f| f.is_ok()));
            seconds(10).await;
        }
        let cut: Vec<bool> = connections.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(cut, [true, false, false, false]);
        assert!(unread.frame().await.is_some_and(|f| f.is_err()));
        assert_eq!(outflow.cut(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time() {
        let (outflow, _cancel) = start();
        let connection = CancellationToken::new();
        let within = Patience::Within(Duration::from_secs(30));
        let mut slow = outflow.watch(endless(10), within, connection.clone());
        for _ in 0..5 {
            assert!(slow.frame().await.is_some_and(|f| f.is_ok()));
            seconds(5).await;
        }
        assert!(!connection.is_cancelled());
        seconds(15).await;
        assert!(connection.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unread_is_bounded_over_all_clients() {
        let (outflow, _cancel) = start();
        let piece = 1 << 20;
        let mut held = Vec::new();
        for _ in 0..2 * UNREAD_BYTES_MAX / piece {
            let connection = CancellationToken::new();
            let mut body = outflow.watch(endless(piece), Patience::Open, connection.clone());
            if body.frame().await.is_some_and(|f| f.is_ok()) {
                held.push((body, connection));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            held.retain(|(_, c)| !c.is_cancelled());
            assert!(outflow.unread_bytes.load(Ordering::Relaxed) <= UNREAD_BYTES_MAX + piece);
        }
        assert!(outflow.cut() > 0);
        drop(held);
        assert_eq!(outflow.unread_bytes.load(Ordering::Relaxed), 0);
        assert!(outflow.bodies.lock().is_empty());
    }
}
