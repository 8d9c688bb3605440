//! Keeps the authorisers' snapshots in step with the store: roles, bindings, pods.

use auth::node::NodeGraph;
use auth::rbac::Rbac;
use registry::Registry;
use serde_json::Value;
use std::sync::Arc;
use store::{Change, Range, Watched};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// The kinds that authorisation reads.
const FED: &[(&str, &str)] = &[
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("", "pods"),
];

struct Feed {
    rbac: Arc<Rbac>,
    nodes: Arc<NodeGraph>,
}

impl Feed {
    fn apply_all(&self, objects: &[Value]) {
        let (pods, others): (Vec<_>, Vec<_>) = objects.iter().partition(|o| o["kind"] == "Pod");
        pods.into_iter().for_each(|p| self.nodes.apply_pod(p));
        if !others.is_empty() {
            self.rbac.apply_all(others);
        }
    }

    fn apply(&self, obj: &Value) {
        if obj["kind"] == "Pod" { self.nodes.apply_pod(obj) } else { self.rbac.apply(obj) }
    }

    fn remove(&self, obj: &Value) {
        if obj["kind"] == "Pod" { self.nodes.remove_pod(obj) } else { self.rbac.remove(obj) }
    }
}

/// Loads what is stored, then follows every change.
pub fn start(
    registry: &Arc<Registry>,
    rbac: &Arc<Rbac>,
    nodes: &Arc<NodeGraph>,
    cancel: CancellationToken,
) -> Result<(), String> {
    for (group, plural) in FED {
        let Some(row) = registry.kinds().resource(group, "v1", plural) else { continue };
        let prefix = row.key_prefix();
        let feed = Feed { rbac: rbac.clone(), nodes: nodes.clone() };
        let registry = registry.clone();
        let from = load(&registry, &prefix, &feed)?;
        tokio::spawn(follow(registry, prefix, from, feed, cancel.clone()));
    }
    Ok(())
}

fn load(registry: &Registry, prefix: &str, feed: &Feed) -> Result<u64, String> {
    let page = registry.store().list(&Range { prefix, ..Range::default() }).map_err(|e| e.to_string())?;
    let parse =
        |e: &store::Entry| serde_json::from_slice(&e.value).map_err(|why| format!("{}: {why}", e.key));
    let objects: Vec<Value> = page.entries.iter().map(parse).collect::<Result<_, _>>()?;
    feed.apply_all(&objects);
    Ok(page.revision)
}

async fn follow(
    registry: Arc<Registry>,
    prefix: String,
    mut from: u64,
    feed: Feed,
    cancel: CancellationToken,
) {
    loop {
        let Ok(mut watcher) = registry.store().watch(&prefix, from) else {
            // Too far behind: what is stored now is what counts.
            match load(&registry, &prefix, &feed) {
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
                    for e in events {
                        from = e.revision;
                        let (bytes, gone) = match &e.change {
                            Change::Put(bytes) => (bytes, false),
                            Change::Delete(bytes) => (bytes, true),
                        };
                        let Ok(obj) = serde_json::from_slice::<Value>(bytes) else { continue };
                        if gone { feed.remove(&obj) } else { feed.apply(&obj) }
                    }
                }
                Watched::Lagged { .. } => break,
                Watched::Closed => return,
            }
        }
    }
}
