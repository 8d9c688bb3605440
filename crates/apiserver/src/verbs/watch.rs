//! Watch: events as they happen, framed for the client's format, over HTTP or a WebSocket
//! (upstream: apiserver `pkg/endpoints/handlers/watch.go`).

use super::read::{invalid_options, selectors};
use crate::bursts::{Bursts, Key, Piece};
use crate::codec;
use crate::context::Context;
use crate::encoded::Encoded;
use crate::negotiate::{Accepted, Format, View};
use crate::reply::{Reply, response, streaming, wire};
use crate::table::{TableView, partial_bytes};
use crate::websocket;
use base::clock::SharedClock;
use bytes::{Bytes, BytesMut};
use client::BoxError;
use futures::{Stream, StreamExt as _};
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::status::{Result, Status};
use registry::{WatchEvent, WatchQuery, Watching};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use store::Change;

/// Watches end after this long at least, up to twice as long, so that clients spread over servers
/// (upstream: `--min-request-timeout`).
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// Longer than any watch lasts; what is asked for beyond could not be added to a time.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);
/// How often a quiet watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Upstream sends the last bookmark of a watch this long before its end, and none in a shorter one.
const LAST_BOOKMARK_BEFORE: Duration = Duration::from_secs(2);
/// Larger objects are sent from where they are stored; smaller ones are copied together.
const SHARED_OVER_BYTES: usize = 32 << 10;
/// About what is sent around an object.
const FRAME_BYTES: usize = 64;

pub async fn watch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let q = &ctx.info.query;
    let initial_events = q.has("sendInitialEvents").then(|| q.flag("sendInitialEvents"));
    let bookmarks = q.flag("allowWatchBookmarks");
    let seconds = super::read::integer(ctx, "timeoutSeconds")?.unwrap_or(0);
    super::read::integer(ctx, "limit")?;
    let selectors = selectors(ctx)?;
    check_options(ctx, initial_events)?;
    let query = WatchQuery {
        selectors,
        resource_version: q.get("resourceVersion").to_owned(),
        initial_events,
        bookmarks,
    };
    let timeout = match u64::try_from(seconds) {
        Ok(0) => TIMEOUT_MIN.mul_f64(1.0 + ctx.server.rng.fraction()),
        Ok(seconds) => Duration::from_secs(seconds).min(TIMEOUT_MAX),
        // a time that is over
        Err(_) => Duration::ZERO,
    };
    let watching = ctx.server.registry.watch(&ctx.permit, kind, ctx.namespace(kind), &query).await?;
    let mut accepted = ctx.accepted;
    if accepted.encoding.format == Format::Protobuf && accepted.view == View::Object && kind.is_custom() {
        if !accepted.or_json {
            return Err(Status::not_acceptable(crate::negotiate::OBJECT_TYPES));
        }
        accepted.encoding.format = Format::Json;
    }
    let to_websocket = websocket::wanted(ctx);
    let framing = Framing {
        kind: kind.clone(),
        accepted,
        include_object: q.get("includeObject").to_owned(),
        clock: ctx.server.clock.clone(),
        headers: AtomicBool::new(true),
        // A message of a WebSocket is an event.
        piece_bytes: if to_websocket { 0 } else { wire::PIECE_BYTES },
        encoded: ctx.server.encoded.clone(),
        bursts: ctx.server.bursts.clone(),
        sent: ctx.server.metrics.watch_events(&kind.group, &kind.version, &kind.plural),
    };
    let shutdown = ctx.server.draining.child_token();
    let pieces = events(watching, framing, bookmarks, timeout, shutdown);
    if to_websocket {
        let text = accepted.encoding.format == Format::Json;
        return websocket::messages(ctx, streaming(pieces), text);
    }
    let content_type = accepted.encoding.format.watch_type();
    // The initial events may be many (upstream: `WatchListCompression`).
    if accepted.encoding.gzip && initial_events == Some(true) && bookmarks {
        let mut out = response(200, content_type, streaming(wire::gzip_stream(pieces)));
        wire::mark_gzip(out.headers_mut());
        return Ok(Reply::Raw(out));
    }
    Ok(Reply::Stream { content_type, body: streaming(pieces) })
}

/// Refuses a watch by its options.
pub fn check(ctx: &Context) -> Result<()> {
    super::read::integer(ctx, "timeoutSeconds")?;
    super::read::integer(ctx, "limit")?;
    selectors(ctx)?;
    let q = &ctx.info.query;
    check_options(ctx, q.has("sendInitialEvents").then(|| q.flag("sendInitialEvents")))
}

fn check_options(ctx: &Context, initial_events: Option<bool>) -> Result<()> {
    let q = &ctx.info.query;
    let at = Path::new("resourceVersionMatch");
    let mut matching = q.get("resourceVersionMatch");
    let mut initial_events = initial_events;
    // upstream: `SetListOptionsDefaults`, which puts what a watch from nowhere means into the options that ask for it
    if matching.is_empty() && initial_events.is_none() && matches!(q.get("resourceVersion"), "" | "0") {
        (matching, initial_events) = ("NotOlderThan", Some(true));
    }
    let mut errors = Vec::new();
    if initial_events.is_some() && matching != "NotOlderThan" {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(Error::forbidden(&at, detail));
    }
    if !matching.is_empty() {
        if initial_events.is_none() {
            let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(Error::forbidden(&at, detail));
        }
        if matching != "NotOlderThan" {
            errors.push(Error::not_supported(&at, matching, &["NotOlderThan"]));
        }
        if !q.get("continue").is_empty() {
            errors.push(Error::forbidden(&at, "resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    invalid_options(errors)
}

/// How events are written for one client.
struct Framing {
    kind: Arc<KindDef>,
    accepted: Accepted,
    include_object: String,
    clock: SharedClock,
    /// The next table is the first, which alone has the column definitions.
    headers: AtomicBool,
    piece_bytes: usize,
    encoded: Arc<Encoded>,
    bursts: Arc<Bursts>,
    /// Events of the kind that were sent.
    sent: Arc<AtomicU64>,
}

/// What is to be sent next.
enum Next {
    Event(WatchEvent),
    /// Events that are written already.
    Piece(Bytes),
}

impl Framing {
    /// Waits for what is to be sent next; `None` when the watch is over. Cancel safe.
    async fn next(&self, watching: &mut Watching) -> Result<Option<Next>> {
        if !watching.wait().await? {
            return Ok(None);
        }
        if let Some(piece) = self.alike(watching) {
            watching.skip(piece.events);
            self.sent.fetch_add(piece.events as u64, Ordering::Relaxed);
            return Ok(Some(Next::Piece(piece.bytes)));
        }
        Ok(watching.next().await?.map(Next::Event))
    }

    /// A piece of changes that others may be sent as well; `None` when there are no such changes.
    fn alike(&self, watching: &Watching) -> Option<Piece> {
        let (burst, at) = watching.alike()?;
        let format = self.accepted.encoding.format;
        if self.accepted.view != View::Object || self.piece_bytes == 0 {
            return None;
        }
        let key = Key { burst: burst.clone(), at, kind: self.kind.clone(), format };
        self.bursts.piece(key, || {
            let length = |change: &Change| match change {
                Change::Put(value) | Change::Delete(value) => FRAME_BYTES + value.len(),
            };
            let all: usize = burst[at..].iter().map(|e| length(&e.change)).sum();
            let mut out = wire::piece_memory(all.min(self.piece_bytes));
            let mut events = 0;
            for change in &burst[at..] {
                if events > 0 && out.len() + length(&change.change) > self.piece_bytes {
                    break;
                }
                self.write(&mut out, &watching.event_of(change)?).ok()?;
                events += 1;
            }
            Some(Piece { bytes: out.freeze(), events })
        })
    }

    fn write(&self, out: &mut BytesMut, event: &WatchEvent) -> Result<()> {
        let (name, format) = (event.kind.as_str(), self.accepted.encoding.format);
        if self.accepted.view == View::Object {
            return codec::stored_event(format, name, &self.kind, &event.object, &self.encoded, out);
        }
        let version = self.accepted.view_version();
        let shown = match self.accepted.view {
            View::Table => {
                let obj = serde_json::from_slice(&event.object).map_err(Status::internal)?;
                TableView::new(&self.kind, version, &self.include_object, self.clock.now())
                    .of(obj, self.headers.swap(false, Ordering::Relaxed))
                    .to_string()
                    .into()
            }
            _ => partial_bytes(&event.object, version)?,
        };
        codec::watch_event(format, name, &shown, out)
    }

    /// What goes before an object that is sent as it is stored; `None` for what is to be written first.
    fn shared(&self, event: &WatchEvent) -> Option<Bytes> {
        let json = matches!(self.accepted.encoding.format, Format::Json | Format::Yaml);
        let plain = self.accepted.view == View::Object && self.piece_bytes > 0;
        let shared = json && plain && event.object.len() > SHARED_OVER_BYTES;
        shared.then(|| format!("{{\"type\":\"{}\",\"object\":", event.kind.as_str()).into())
    }

    /// The end of a watch by an error, as the client's last event.
    fn error(&self, status: &Status) -> Bytes {
        let mut out = BytesMut::new();
        let object = Bytes::from(serde_json::to_vec(status).unwrap_or_default());
        // A Status has every form.
        let _ = codec::watch_event(self.accepted.encoding.format, "ERROR", &object, &mut out);
        out.freeze()
    }
}

fn events(
    mut watching: Watching,
    framing: Framing,
    bookmarks: bool,
    timeout: Duration,
    shutdown: tokio_util::sync::CancellationToken,
) -> impl Stream<Item = std::result::Result<Bytes, BoxError>> + Send {
    let mut deadline = Box::pin(tokio::time::sleep(timeout));
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    let stream = async_stream::stream! {
        loop {
            let mut next = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = deadline.as_mut() => {
                    // A last bookmark lets the client go on from here instead of listing again.
                    let last = (bookmarks && timeout > LAST_BOOKMARK_BEFORE).then(|| watching.bookmark()).flatten();
                    if let Some(event) = last {
                        let mut out = BytesMut::new();
                        if framing.write(&mut out, &event).is_ok() {
                            yield Ok(out.freeze());
                        }
                    }
                    return;
                }
                next = framing.next(&mut watching) => match next {
                    Ok(Some(Next::Piece(piece))) => {
                        yield Ok(piece);
                        continue;
                    }
                    Ok(Some(Next::Event(event))) => Some(event),
                    Ok(None) => return,
                    Err(status) => {
                        yield Ok(framing.error(&status));
                        return;
                    }
                },
                _ = tick.tick(), if bookmarks => match watching.bookmark() {
                    Some(event) => Some(event),
                    // Events are on their way, which say as much.
                    None => continue,
                },
            };
            // Upstream cannot encode an event's object as a list, and ends the watch over it.
            if framing.accepted.view == View::PartialList {
                return;
            }
            let mut out = BytesMut::new();
            while let Some(event) = next.take() {
                framing.sent.fetch_add(1, Ordering::Relaxed);
                if let Some(head) = framing.shared(&event) {
                    out.extend_from_slice(&head);
                    yield Ok(std::mem::take(&mut out).freeze());
                    yield Ok(event.object);
                    out.extend_from_slice(b"}\n");
                } else if let Err(status) = framing.write(&mut out, &event) {
                    yield Ok(framing.error(&status));
                    return;
                }
                if out.len() < framing.piece_bytes {
                    next = watching.buffered();
                }
            }
            yield Ok(out.freeze());
        }
    };
    stream.boxed()
}
