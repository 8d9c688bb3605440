//! The client: one connection at a time, moved to the next endpoint when it fails.
//!
//! Invariant: of calls that change something, only those are sent again that were never sent.

use crate::config::Endpoint;
use crate::grpc::{self, Messages};
use crate::proto::*;
use crate::transport::{self, Body, Connection};
use crate::{Error, EtcdConfig};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// Commands that a watch may have waiting to be sent.
const WATCH_COMMANDS_MAX: usize = 16;
/// After a failed round over all endpoints nobody tries again for this long: callers that waited for the round share
/// its outcome.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries of one call.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A client; clones share the connection.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: EtcdConfig,
    targets: Vec<Endpoint>,
    current: Mutex<Current>,
    /// The endpoint to try first.
    next: AtomicUsize,
    ids: AtomicU64,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    failed: Option<(Instant, Error)>,
}

/// How often a call may be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It changes nothing.
    Always,
    /// Only when etcd never saw it.
    Unsent,
}

impl Client {
    /// Makes a client without connecting.
    ///
    /// # Errors
    /// The configuration can never work.
    pub fn new(config: EtcdConfig) -> Result<Self, Error> {
        config.check().map_err(|e| Error::Config(e.to_string()))?;
        let targets = config.targets().map_err(|e| Error::Config(e.to_string()))?;
        let inner = Inner {
            config,
            targets,
            current: Mutex::default(),
            next: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
        };
        Ok(Self(Arc::new(inner)))
    }

    pub async fn range(&self, request: &RangeRequest, within: Duration) -> Result<RangeResponse, Error> {
        self.call("/etcdserverpb.KV/Range", request, within, Repeat::Always).await
    }

    /// The newest revision of the cluster, read through its leader: everything committed before the call is in it.
    pub async fn current_revision(&self, within: Duration) -> Result<i64, Error> {
        let nothing =
            RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..RangeRequest::default() };
        let header = self.range(&nothing, within).await?.header;
        header.map(|h| h.revision).ok_or_else(|| Error::Malformed("an answer without a header".into()))
    }

    pub async fn txn(&self, request: &TxnRequest, within: Duration) -> Result<TxnResponse, Error> {
        self.call("/etcdserverpb.KV/Txn", request, within, Repeat::Unsent).await
    }

    /// Deletes a range of keys.
    pub async fn delete(
        &self,
        request: &DeleteRangeRequest,
        within: Duration,
    ) -> Result<DeleteRangeResponse, Error> {
        self.call("/etcdserverpb.KV/DeleteRange", request, within, Repeat::Unsent).await
    }

    /// Forgets history before a revision. Repeating it does no harm.
    pub async fn compact(&self, revision: i64, within: Duration) -> Result<(), Error> {
        let request = CompactionRequest { revision };
        self.call::<_, CompactionResponse>("/etcdserverpb.KV/Compact", &request, within, Repeat::Always)
            .await?;
        Ok(())
    }

    pub async fn status(&self, within: Duration) -> Result<StatusResponse, Error> {
        self.call("/etcdserverpb.Maintenance/Status", &StatusRequest {}, within, Repeat::Always).await
    }

    /// A lease of some seconds; gives its id. A lease that was granted unheard just ends.
    pub async fn grant_lease(&self, seconds: i64, within: Duration) -> Result<i64, Error> {
        let request = LeaseGrantRequest { ttl: seconds };
        let answer: LeaseGrantResponse =
            self.call("/etcdserverpb.Lease/LeaseGrant", &request, within, Repeat::Always).await?;
        Ok(answer.id)
    }

    /// Renews a lease; `false` when it is gone.
    pub async fn keep_lease(&self, id: i64, within: Duration) -> Result<bool, Error> {
        let request = LeaseKeepAliveRequest { id };
        let answer: LeaseKeepAliveResponse =
            self.call("/etcdserverpb.Lease/LeaseKeepAlive", &request, within, Repeat::Always).await?;
        Ok(answer.ttl > 0)
    }

    pub async fn revoke_lease(&self, id: i64, within: Duration) -> Result<(), Error> {
        let request = LeaseRevokeRequest { id };
        self.call::<_, LeaseRevokeResponse>(
            "/etcdserverpb.Lease/LeaseRevoke",
            &request,
            within,
            Repeat::Always,
        )
        .await?;
        Ok(())
    }

    /// The whole database as etcd's own snapshot file, given to `each` in pieces.
    ///
    /// # Errors
    /// The stream broke, or `each` refused a piece.
    pub async fn snapshot(
        &self,
        each: &mut (dyn FnMut(&[u8]) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        let connection = self.connection().await?;
        let body = Body::Once(Some(grpc::frame(&SnapshotRequest {})));
        let mut pieces = grpc::send(&connection, "/etcdserverpb.Maintenance/Snapshot", body, None).await?;
        while let Some(piece) = pieces.next::<SnapshotResponse>().await? {
            each(&piece.blob)?;
        }
        Ok(())
    }

    /// Opens a watch. The first answer is the one that says that it was made.
    pub async fn watch(&self, create: WatchCreateRequest, within: Duration) -> Result<WatchStream, Error> {
        let connection = self.connection().await?;
        let (commands, body) = mpsc::channel(WATCH_COMMANDS_MAX);
        let first = WatchRequest { command: Some(WatchCommand::Create(create)) };
        // There is room: the channel is new.
        let _ = commands.try_send(grpc::frame(&first));
        let sending = grpc::send(&connection, "/etcdserverpb.Watch/Watch", Body::Stream(body), None);
        let sent = tokio::time::timeout(within, sending).await;
        match sent.unwrap_or_else(|_| Err(Error::Timeout(within.as_millis()))) {
            Ok(messages) => {
                Ok(WatchStream { commands, messages, client: self.clone(), connection: connection.id })
            }
            Err(error) => {
                self.leave(connection.id, &error).await;
                Err(error)
            }
        }
    }

    /// A unary call: tried again until the deadline when that is safe.
    async fn call<Q, R>(&self, path: &str, request: &Q, within: Duration, repeat: Repeat) -> Result<R, Error>
    where
        Q: Message,
        R: Message + Default,
    {
        let frame = grpc::frame(request);
        let deadline = Instant::now() + within;
        // A member that is silent must leave time for the others, where asking again does no harm.
        let tries = if repeat == Repeat::Always { self.0.targets.len() } else { 1 };
        let each = within / u32::try_from(tries).unwrap_or(1).max(1);
        loop {
            let until = deadline.min(Instant::now() + each);
            let error = match self.try_call(path, frame.clone(), until, each).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = error.is_not_sent() || (repeat == Repeat::Always && error.is_transient());
            if !again || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_call<R>(
        &self,
        path: &str,
        frame: Bytes,
        deadline: Instant,
        within: Duration,
    ) -> Result<R, Error>
    where
        R: Message + Default,
    {
        let connecting = tokio::time::timeout_at(deadline, self.connection()).await;
        let connection = connecting
            .map_err(|_| Error::Connect(format!("no connection in {} ms", within.as_millis())))??;
        let left = deadline.saturating_duration_since(Instant::now());
        let answer =
            async { grpc::send(&connection, path, Body::Once(Some(frame)), Some(left)).await?.only().await };
        let answer = tokio::time::timeout_at(deadline, answer)
            .await
            .unwrap_or_else(|_| Err(Error::Timeout(within.as_millis())));
        if let Err(error) = &answer
            && error.is_transient()
        {
            self.leave(connection.id, error).await;
        }
        answer
    }

    /// The present connection, or a new one to the first endpoint that answers.
    async fn connection(&self) -> Result<Connection, Error> {
        let inner = &*self.0;
        let mut current = inner.current.lock().await;
        if let Some(connection) = &current.connection
            && !connection.sender.is_closed()
        {
            return Ok(connection.clone());
        }
        current.connection = None;
        if let Some((at, error)) = &current.failed
            && at.elapsed() < CONNECT_PAUSE
        {
            return Err(error.clone());
        }
        let first = inner.next.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for step in 0..inner.targets.len() {
            let at = (first + step) % inner.targets.len();
            let id = inner.ids.fetch_add(1, Ordering::Relaxed);
            match transport::connect(&inner.config, &inner.targets[at], id).await {
                Ok(connection) => {
                    inner.next.store(at, Ordering::Relaxed);
                    current.connection = Some(connection.clone());
                    current.failed = None;
                    return Ok(connection);
                }
                Err(Error::Connect(reason)) => reasons.push(reason),
                Err(error) => return Err(error),
            }
        }
        let error = Error::Connect(reasons.join("; "));
        current.failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    /// Gives up a connection after an error; the next call goes to the next endpoint.
    async fn leave(&self, id: u64, error: &Error) {
        // A member that is too busy is no worse than the others.
        if error.says("too many requests") {
            return;
        }
        let mut current = self.0.current.lock().await;
        if current.connection.as_ref().is_some_and(|c| c.id == id) {
            current.connection = None;
            self.0.next.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An open watch. Dropping it ends it.
pub struct WatchStream {
    commands: mpsc::Sender<Bytes>,
    messages: Messages,
    client: Client,
    connection: u64,
}

impl WatchStream {
    /// The next answer. Cancel safe.
    ///
    /// # Errors
    /// The stream ended, whatever the reason.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        let next = self.messages.next().await;
        match next.and_then(|m| m.ok_or_else(|| Error::Broken("etcd ended the watch".into()))) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.client.leave(self.connection, &error).await;
                Err(error)
            }
        }
    }

    /// Asks for an answer that says up to which revision everything has been sent. Lost when many wait already.
    pub fn ask_progress(&self) {
        let request = WatchRequest { command: Some(WatchCommand::Progress(WatchProgressRequest {})) };
        let _ = self.commands.try_send(grpc::frame(&request));
    }
}
