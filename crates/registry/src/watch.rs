//! Watch: changes as the client's selectors see them, with bookmarks
//! (upstream: apiserver `pkg/storage/cacher/cache_watcher.go`).

use crate::read::{ListQuery, Listed, Match, Selectors, parse_revision};
use crate::{Registry, encode};
use bytes::Bytes;
use futures::FutureExt as _;
use kinds::KindDef;
use meta::object;
use meta::permit::Permit;
use meta::status::{Result, Status};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use store::{Burst, Change, Event, Revision, Watched, Watcher};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

impl WatchEventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// One event with its object's bytes.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub kind: WatchEventType,
    pub object: Bytes,
    pub revision: Revision,
}

#[derive(Clone, Debug)]
pub struct WatchQuery {
    pub selectors: Selectors,
    pub resource_version: String,
    /// `sendInitialEvents`: the state first, then a marked bookmark.
    pub initial_events: Option<bool>,
    pub bookmarks: bool,
}

/// Objects of the initial state that are read at a time: a client that does not read costs no more than these.
const INITIAL_PAGE: usize = 500;

/// What is left of the initial state, read page by page at one revision.
struct Initial {
    permit: Permit,
    namespace: Option<String>,
    query: ListQuery,
    revision: Revision,
    /// A bookmark tells its end.
    marked: bool,
}

/// How one client sees changes.
struct Seen {
    registry: Arc<Registry>,
    kind: Arc<KindDef>,
    selectors: Selectors,
    /// Changes up to here are not asked for.
    after: Revision,
}

/// A running watch.
pub struct Watching {
    seen: Seen,
    /// A page of the initial state that is not handed out yet.
    ready: VecDeque<WatchEvent>,
    /// Changes that are known, and how many of them were handed out.
    changes: Option<(Burst, usize)>,
    initial: Option<Initial>,
    watcher: Box<dyn Watcher>,
}

impl Registry {
    pub async fn watch(
        self: &Arc<Self>,
        permit: &Permit,
        kind: &Arc<KindDef>,
        namespace: Option<&str>,
        query: &WatchQuery,
    ) -> Result<Watching> {
        query.selectors.check(kind)?;
        let fresh = match self.fresh(&query.resource_version).await {
            Err(e) if e.code != 504 => return Err(e),
            fresh => fresh,
        };
        let asked = parse_revision(&query.resource_version)?;
        let unset = query.resource_version.is_empty();
        // Without a version (or with 0) the watch starts with the state, as synthetic ADDED events.
        let state_first = query.initial_events.unwrap_or(unset || asked == 0);
        // A watch of changes after a version that is not there yet waits for it, and sees none before.
        if state_first {
            fresh?;
        }
        let (mut ready, mut initial) = (VecDeque::new(), None);
        let mut from = asked.min(self.store.revision());
        if state_first {
            let list = ListQuery {
                selectors: query.selectors.clone(),
                limit: INITIAL_PAGE,
                resume: None,
                resource_version: query.resource_version.clone(),
                matching: Match::NotOlderThan,
            };
            let listed = self.list(permit, kind, namespace, &list).await?;
            from = listed.revision;
            let mut rest = Initial {
                permit: *permit,
                namespace: namespace.map(str::to_owned),
                query: list,
                revision: from,
                marked: query.initial_events == Some(true) && query.bookmarks,
            };
            initial = rest.take(kind, listed, &mut ready).then_some(rest);
        } else if asked == 0 {
            from = self.store.revision();
        }
        let prefix = match namespace {
            Some(ns) if kind.namespaced() => format!("{}{ns}/", kind.key_prefix()),
            _ => kind.key_prefix(),
        };
        let watcher = self.store.watch(&prefix, from).map_err(|e| match e {
            store::ReadError::Compacted { asked, oldest } => too_old(asked, oldest),
            store::ReadError::Future { asked, current } => {
                Status::timeout(format!("Too large resource version: {asked}, current: {current}"), 1)
            }
        })?;
        let selectors = query.selectors.clone();
        let seen = Seen {
            registry: self.clone(),
            kind: kind.clone(),
            selectors,
            after: if state_first { 0 } else { asked },
        };
        Ok(Watching { seen, ready, changes: None, initial, watcher })
    }
}

fn too_old(asked: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {asked} ({oldest})"))
}

impl Initial {
    /// Makes events of a page; whether there are more pages.
    fn take(&mut self, kind: &KindDef, page: Listed, ready: &mut VecDeque<WatchEvent>) -> bool {
        let revision = self.revision;
        let added = |object| WatchEvent { kind: WatchEventType::Added, object, revision };
        ready.extend(page.items.into_iter().map(added));
        if page.next.is_some() {
            // All pages show the revision of the first.
            (self.query.resume, self.query.resource_version) = (page.next, "0".to_owned());
            return true;
        }
        if self.marked {
            ready.push_back(bookmark(kind, revision, true));
        }
        false
    }
}

impl Watching {
    /// The next event; an error ends the watch and is sent to the client as an ERROR event. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        while self.wait().await? {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            // A change is handed out when it is translated: until then, this may be dropped at any await.
            if let Some(change) = self.change() {
                let event = self.seen.translate(&change).await?;
                self.skip(1);
                if event.is_some() {
                    return Ok(event);
                }
            }
        }
        Ok(None)
    }

    /// Waits for something to hand out; `false` when the watch is over. An error ends it, as with [`Self::next`]. Cancel safe.
    pub async fn wait(&mut self) -> Result<bool> {
        loop {
            if !self.ready.is_empty() {
                return Ok(true);
            }
            if let Some(initial) = &mut self.initial {
                let Initial { permit, namespace, query, revision, .. } = &*initial;
                let page =
                    self.seen.registry.list(permit, &self.seen.kind, namespace.as_deref(), query).await;
                // The client was so slow that the revision is gone.
                let page = page.map_err(|e| if e.code == 410 { too_old(*revision, 0) } else { e })?;
                if !initial.take(&self.seen.kind, page, &mut self.ready) {
                    self.initial = None;
                }
                continue;
            }
            if self.changes.is_some() {
                return Ok(true);
            }
            match self.watcher.next().await {
                Watched::Events(events) => self.changes = Some((events, 0)),
                Watched::Lagged { oldest } => return Err(too_old(self.watcher.progress(), oldest)),
                Watched::Closed => return Ok(false),
            }
        }
    }

    /// An event that is ready now, without waiting.
    pub fn buffered(&mut self) -> Option<WatchEvent> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        while let Some(change) = self.change() {
            let Some(Ok(event)) = self.seen.translate(&change).now_or_never() else { return None };
            self.skip(1);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// Changes that wait, and the first that does, when all who watch without a selector see them alike and others may
    /// watch them too.
    pub fn alike(&self) -> Option<(&Burst, usize)> {
        let (burst, at) = self.changes.as_ref().filter(|_| self.ready.is_empty())?;
        let shared = Arc::strong_count(burst) > 1 && burst[*at].revision > self.seen.after;
        let plain = self.seen.selectors.is_empty() && !self.seen.kind.reads_through;
        (shared && plain).then_some((burst, *at))
    }

    /// The event of one of the changes of [`Self::alike`]; `None` when it takes time to find out.
    pub fn event_of(&self, change: &Event) -> Option<WatchEvent> {
        self.seen.translate(change).now_or_never()?.ok()?
    }

    /// Changes that were handed out.
    pub fn skip(&mut self, changes: usize) {
        if let Some((burst, at)) = &mut self.changes {
            *at += changes;
            if *at >= burst.len() {
                self.changes = None;
            }
        }
    }

    fn change(&self) -> Option<Arc<Event>> {
        self.changes.as_ref().map(|(burst, at)| burst[*at].clone())
    }

    /// A bookmark at the point up to which everything was handed out; `None` while events wait.
    pub fn bookmark(&self) -> Option<WatchEvent> {
        let idle = self.ready.is_empty() && self.changes.is_none() && self.initial.is_none();
        idle.then(|| bookmark(&self.seen.kind, self.watcher.progress(), false))
    }
}

impl Seen {
    /// How the selectors see a change: an object that leaves them is deleted, one that enters them is added.
    async fn translate(&self, e: &Event) -> Result<Option<WatchEvent>> {
        if e.revision <= self.after || self.is_other(&e.key) {
            return Ok(None);
        }
        let previous = match &e.previous {
            Some(bytes) => Some(in_version(&self.registry, &self.kind, bytes).await?),
            None => None,
        };
        let matches = |bytes: &Bytes| self.selectors.matches(&self.kind, bytes);
        let was = previous.as_ref().is_some_and(&matches);
        let (Change::Put(bytes) | Change::Delete(bytes)) = &e.change;
        let bytes = in_version(&self.registry, &self.kind, bytes).await?;
        let (kind, object) = match &e.change {
            Change::Put(_) => match (was, matches(&bytes)) {
                (false, true) => (WatchEventType::Added, bytes),
                (true, true) => (WatchEventType::Modified, bytes),
                (true, false) => (WatchEventType::Deleted, self.last_seen(e.revision, previous, bytes)?),
                (false, false) => return Ok(None),
            },
            Change::Delete(_) if was || self.selectors.is_empty() => (WatchEventType::Deleted, bytes),
            Change::Delete(_) => return Ok(None),
        };
        Ok(Some(WatchEvent { kind, object, revision: e.revision }))
    }

    /// Whether the key is that of an object that the selectors leave out by its name.
    fn is_other(&self, key: &str) -> bool {
        let wanted = self.selectors.fields.requires_exact("metadata.name");
        wanted.is_some_and(|name| key.rsplit('/').next() != Some(name))
    }

    /// The object as the selectors last saw it, at the revision at which it left them.
    fn last_seen(&self, revision: Revision, previous: Option<Bytes>, new: Bytes) -> Result<Bytes> {
        let Some(previous) = previous else { return Ok(new) };
        let mut obj: Value = serde_json::from_slice(&previous).map_err(Status::internal)?;
        object::set_meta(&mut obj, "resourceVersion", revision.to_string());
        Ok(encode::reencode(&self.kind, &obj).into())
    }
}

/// As [`Registry::in_version`], at no cost for what is in the version already.
async fn in_version(registry: &Registry, kind: &KindDef, bytes: &Bytes) -> Result<Bytes> {
    if !kind.reads_through && encode::is_own(kind, bytes) {
        return Ok(bytes.clone());
    }
    registry.in_version(kind, bytes.clone()).await
}

fn bookmark(kind: &KindDef, revision: Revision, initial_events_end: bool) -> WatchEvent {
    let mut metadata = serde_json::json!({"resourceVersion": revision.to_string()});
    if initial_events_end {
        metadata["annotations"] = serde_json::json!({"k8s.io/initial-events-end": "true"});
    }
    let obj = serde_json::json!({"metadata": metadata});
    WatchEvent { kind: WatchEventType::Bookmark, object: encode::reencode(kind, &obj).into(), revision }
}
