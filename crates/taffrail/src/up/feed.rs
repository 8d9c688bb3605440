//! Keeps the authorisers' snapshots in step with the store: roles, bindings, pods.
//!
//! Invariant: after changes were missed, what is stored replaces what was known; a binding that is gone grants nothing.

use auth::node::{NodeAuthorizer, NodeGraph};
use auth::rbac::Rbac;
use registry::Registry;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Change, Range, Watched};
use tokio_util::sync::CancellationToken;
use tracing::error;

const RBAC: &str = auth::rbac::GROUP;
/// The kinds that authorisation reads.
const FED: &[(&str, &str)] = &[
    (RBAC, "clusterroles"),
    (RBAC, "clusterrolebindings"),
    (RBAC, "roles"),
    (RBAC, "rolebindings"),
    ("", "pods"),
];

/// One kind's way into the snapshots.
struct Feed {
    registry: Arc<Registry>,
    prefix: String,
    kind: String,
    rbac: Arc<Rbac>,
    nodes: Arc<NodeGraph>,
    /// The revision up to which the snapshots have everything.
    applied: Arc<AtomicU64>,
}

/// Loads what is stored, then follows every change.
pub fn start(
    registry: &Arc<Registry>,
    rbac: &Arc<Rbac>,
    nodes: &Arc<NodeAuthorizer>,
    cancel: CancellationToken,
) -> Result<(), String> {
    for (group, plural) in FED {
        let Some(row) = registry.kinds().resource(group, "v1", plural) else { continue };
        let feed = Feed {
            registry: registry.clone(),
            prefix: row.key_prefix(),
            kind: row.kind.to_string(),
            rbac: rbac.clone(),
            nodes: nodes.graph.clone(),
            applied: Arc::default(),
        };
        let from = feed.load()?;
        if *plural == "pods" {
            nodes.on_miss(feed.catch_up());
        }
        tokio::spawn(feed.follow(from, cancel.clone()));
    }
    Ok(())
}

impl Feed {
    /// Takes over all that is stored; the revision that it was read at.
    fn load(&self) -> Result<u64, String> {
        let range = Range { prefix: &self.prefix, ..Range::default() };
        let page = self.registry.store().list(&range).map_err(|e| e.to_string())?;
        let parse =
            |e: &store::Entry| serde_json::from_slice(&e.value).map_err(|why| format!("{}: {why}", e.key));
        let all: Vec<Value> = page.entries.iter().map(parse).collect::<Result<_, _>>()?;
        match self.kind.as_str() {
            "Pod" => self.nodes.replace(&all),
            kind => self.rbac.replace(kind, &all),
        }
        self.applied.store(page.revision, Ordering::Release);
        Ok(page.revision)
    }

    /// Takes over the pods of a namespace that changed since the last event that was applied.
    fn catch_up(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (registry, prefix) = (self.registry.clone(), self.prefix.clone());
        let (nodes, applied) = (self.nodes.clone(), self.applied.clone());
        move |namespace| {
            let since = applied.load(Ordering::Acquire);
            let prefix = format!("{prefix}{namespace}/");
            let Ok(page) = registry.store().list(&Range { prefix: &prefix, ..Range::default() }) else {
                return;
            };
            for entry in page.entries.iter().filter(|e| e.modified > since) {
                if let Ok(pod) = serde_json::from_slice(&entry.value) {
                    nodes.apply_pod(&pod);
                }
            }
        }
    }

    fn apply(&self, obj: &Value, gone: bool) {
        let (namespace, name) = (meta::object::namespace(obj), meta::object::name(obj));
        match (self.kind.as_str(), gone) {
            ("Pod", false) => self.nodes.apply_pod(obj),
            ("Pod", true) => self.nodes.remove_pod(namespace, name),
            (kind, false) => self.rbac.apply(kind, obj),
            (kind, true) => self.rbac.remove(kind, namespace, name),
        }
    }

    async fn follow(self, mut from: u64, cancel: CancellationToken) {
        loop {
            let Ok(mut watcher) = self.registry.store().watch(&self.prefix, from) else {
                // Too far behind: what is stored now is what counts.
                match self.load() {
                    Ok(revision) => from = revision,
                    Err(error) => return error!(%error, "authorisation can no longer follow the store"),
                }
                continue;
            };
            loop {
                let watched = tokio::select! {
                    () = cancel.cancelled() => return,
                    watched = watcher.next() => watched,
                };
                match watched {
                    Watched::Events(events) => {
                        for e in events.iter() {
                            from = e.revision;
                            let (bytes, gone) = match &e.change {
                                Change::Put(bytes) => (bytes, false),
                                Change::Delete(bytes) => (bytes, true),
                            };
                            let Ok(obj) = serde_json::from_slice::<Value>(bytes) else { continue };
                            self.apply(&obj, gone);
                        }
                        self.applied.fetch_max(from, Ordering::AcqRel);
                    }
                    Watched::Lagged { .. } => break,
                    Watched::Closed => return,
                }
            }
        }
    }
}
