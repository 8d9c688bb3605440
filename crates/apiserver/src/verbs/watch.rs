//! Watch: events as they happen, framed as JSON lines
//! (upstream: apiserver `pkg/endpoints/handlers/watch.go`).

use super::read::{invalid_options, selectors};
use crate::codec;
use crate::context::Context;
use crate::negotiate::{Accepted, Format, View};
use crate::reply::{Reply, streaming};
use crate::table;
use base::clock::SharedClock;
use bytes::{Bytes, BytesMut};
use client::BoxError;
use futures::{Stream, StreamExt as _};
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::status::{Result, Status};
use registry::{WatchEvent, WatchEventType, WatchQuery, Watching};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Watches end after this long at least, up to twice as long, so that clients spread over servers
/// (upstream: `--min-request-timeout`).
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// Longer than any watch lasts; what is asked for beyond could not be added to a time.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);
/// How often a quiet watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events of one burst are sent in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

pub async fn watch(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let q = &ctx.info.query;
    let initial_events = q.has("sendInitialEvents").then(|| q.flag("sendInitialEvents"));
    let bookmarks = q.flag("allowWatchBookmarks");
    let seconds = super::read::integer(ctx, "timeoutSeconds")?.unwrap_or(0);
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
    if accepted.format == Format::Protobuf && kind.is_custom() {
        if !accepted.or_json {
            return Err(Status::not_acceptable(crate::negotiate::OBJECT_TYPES));
        }
        accepted.format = Format::Json;
    }
    let framing = Framing {
        kind: kind.clone(),
        accepted,
        include_object: q.get("includeObject").to_owned(),
        clock: ctx.server.clock.clone(),
    };
    let shutdown = ctx.server.draining.child_token();
    let pieces = events(watching, framing, bookmarks, timeout, shutdown);
    let content_type = accepted.format.watch_type();
    Ok(Reply::Stream { content_type, body: streaming(pieces) })
}

fn check_options(ctx: &Context, initial_events: Option<bool>) -> Result<()> {
    let q = &ctx.info.query;
    let at = Path::new("resourceVersionMatch");
    let matching = q.get("resourceVersionMatch");
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
}

impl Framing {
    fn write(&self, out: &mut BytesMut, event: &WatchEvent) -> Result<()> {
        let name = event.kind.as_str();
        if self.accepted.view == View::Object {
            codec::watch_event(self.accepted.format, name, &event.object, out)
        } else {
            let mut obj: Value = serde_json::from_slice(&event.object).map_err(Status::internal)?;
            let shown = match (self.accepted.view, event.kind) {
                (View::Table, WatchEventType::Bookmark) => {
                    table::table(&self.kind, &[], obj["metadata"].take(), "", self.clock.now())?
                }
                (View::Table, _) => {
                    let metadata =
                        serde_json::json!({"resourceVersion": meta::object::resource_version(&obj)});
                    table::table(&self.kind, &[obj], metadata, &self.include_object, self.clock.now())?
                }
                _ => table::partial(&mut obj),
            };
            codec::watch_event(self.accepted.format, name, &shown.to_string().into(), out)
        }
    }

    /// The end of a watch by an error, as the client's last event.
    fn error(&self, status: &Status) -> Bytes {
        let mut out = BytesMut::new();
        let object = Bytes::from(serde_json::to_vec(status).unwrap_or_default());
        // A Status has every form.
        let _ = codec::watch_event(self.accepted.format, "ERROR", &object, &mut out);
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
    let deadline = tokio::time::Instant::now() + timeout;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    let stream = async_stream::stream! {
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(deadline) => {
                    // A last bookmark lets the client go on from here instead of listing again.
                    let last = bookmarks.then(|| watching.bookmark()).flatten();
                    if let Some(event) = last {
                        let mut out = BytesMut::new();
                        if framing.write(&mut out, &event).is_ok() {
                            yield Ok(out.freeze());
                        }
                    }
                    return;
                }
                event = watching.next() => event,
                _ = tick.tick(), if bookmarks => Ok(watching.bookmark()),
            };
            let mut out = BytesMut::new();
            let mut next = match event {
                Ok(Some(event)) => Some(event),
                Ok(None) => return,
                Err(status) => {
                    yield Ok(framing.error(&status));
                    return;
                }
            };
            while let Some(event) = next.take() {
                if let Err(status) = framing.write(&mut out, &event) {
                    yield Ok(framing.error(&status));
                    return;
                }
                if out.len() < PIECE_BYTES {
                    next = watching.buffered();
                }
            }
            yield Ok(out.freeze());
        }
    };
    stream.boxed()
}
