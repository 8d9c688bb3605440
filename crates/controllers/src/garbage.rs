//! The garbage collector: objects whose owners are gone go too; deletions that wait for, or orphan, what they own.
//!
//! Invariant: nothing is deleted on the word of a local copy: the object and each of its owners are read live first, and
//! the deletion is bound to the uid that was read.
//! upstream: `pkg/controller/garbagecollector`

mod act;
mod graph;
#[cfg(test)]
mod tests;

pub use graph::{Graph, Identity, Work};

use crate::all_kinds::AllKinds;
use crate::start::Setup;
use act::Collector;
use client::ApiResource;
use client::controller::{Controller, Handle, Queue, RateLimiter};
use client::informer::{Event, Informer, Informers, MetaObject};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 8;
/// How often the served kinds are looked up (upstream: `Sync` period).
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// Wait after a failed look-up.
const DISCOVERY_RETRY: Duration = Duration::from_secs(2);
/// How long kinds may take to be read for the first time.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Kinds that nobody owns or that own nothing (upstream: `DefaultIgnoredResources`).
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

type Feeds = BTreeMap<ApiResource, tokio::task::JoinHandle<()>>;

pub(crate) fn start(setup: &Setup) -> Handle {
    let client = setup.client("generic-garbage-collector");
    // its informers read under its own identity: nobody else may see every kind
    let informers = Informers::new(client.clone(), setup.clock.clone());
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue = Arc::new(Queue::new(setup.clock.clone(), RateLimiter::default()));
    let collector = Arc::new(Collector::new(client.clone(), graph.clone(), queue.clone()));
    let (cancel, clock, rng) = (setup.cancel.clone(), setup.clock.clone(), setup.rng.clone());
    let all = setup.all_kinds.clone();
    let task = tokio::spawn(async move {
        let feeds = Arc::new(Mutex::new(Feeds::new()));
        let work = async {
            let mut controller = None;
            loop {
                let wait = match client.discover().await {
                    Ok(found) => {
                        let unknown = found.failures.into_iter().map(|(gv, _)| gv).collect();
                        collector.set_resources(&found.resources);
                        let new = watch(&feeds, &informers, found.resources, &unknown, &graph, &queue, &all);
                        // One that does not answer must not hold up all others.
                        let synced = futures::future::join_all(new.iter().map(Informer::synced));
                        if tokio::time::timeout(SYNC_TIMEOUT, synced).await.is_err() {
                            tracing::warn!("not all kinds could be read in time");
                        }
                        if controller.is_none() {
                            let c = Controller::new("garbage-collector", collector.clone(), clock.clone());
                            controller =
                                Some(c.with_queue(queue.clone()).workers(WORKERS).start(cancel.clone()));
                        }
                        // not always at the same time as other periodic work
                        DISCOVERY_PERIOD.mul_f64(1.0 + rng.fraction() / 10.0)
                    }
                    Err(e) => {
                        tracing::warn!("served kinds not known: {e}");
                        DISCOVERY_RETRY
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = cancel.cancelled() => break,
                }
            }
            if let Some(c) = controller {
                c.stopped().await;
            }
        };
        tokio::select! {
            () = work => {}
            () = async { cancel.cancelled().await; tokio::time::sleep(Duration::from_secs(5)).await } => {}
        }
        informers.stop();
        feeds.lock().values().for_each(tokio::task::JoinHandle::abort);
    });
    Handle::of_task("garbage-collector", task)
}

/// Starts a feed for each kind that has none, and stops those of kinds no longer served: of a group version that is
/// unknown, as its server does not answer, nothing is forgotten (upstream: `GetDeletableResources`, `Sync`).
fn watch(
    feeds: &Mutex<Feeds>,
    informers: &Informers,
    resources: Vec<ApiResource>,
    unknown: &HashSet<String>,
    graph: &Arc<Mutex<Graph>>,
    queue: &Arc<Queue<Work>>,
    all: &Arc<AllKinds>,
) -> Vec<Informer<MetaObject>> {
    let watched = |r: &ApiResource| {
        let ignored = IGNORED.contains(&(r.group.as_str(), r.plural.as_str()));
        !ignored && ["delete", "list", "watch"].iter().all(|v| r.can(v))
    };
    let wanted: HashSet<ApiResource> = resources.into_iter().filter(watched).collect();
    let mut feeds = feeds.lock();
    feeds.retain(|r, feed| {
        let keep = wanted.contains(r) || unknown.contains(&r.api_version());
        if !keep {
            feed.abort();
            all.remove(r);
            let work = graph.lock().forget_kind(&r.api_version(), &r.kind);
            work.into_iter().for_each(|w| queue.add(w));
        }
        keep
    });
    let mut new = Vec::new();
    for r in wanted {
        if feeds.contains_key(&r) {
            continue;
        }
        let informer = informers.metadata_of(&r);
        all.add(&r, informer.clone());
        let feed = tokio::spawn(feed(r.clone(), informer.clone(), graph.clone(), queue.clone(), all.clone()));
        feeds.insert(r, feed);
        new.push(informer);
    }
    new
}

/// Carries the changes of one kind into the graph.
async fn feed(
    r: ApiResource,
    informer: Informer<MetaObject>,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<Work>>,
    all: Arc<AllKinds>,
) {
    let (api_version, mut subscription) = (r.api_version(), informer.subscribe());
    while let Some(event) = subscription.next().await {
        let work = match event {
            Event::Applied(o) => graph.lock().apply(&api_version, &r.kind, &o.metadata),
            Event::Deleted(o) => {
                all.tell_deleted(&r, o.metadata.namespace.as_deref().unwrap_or(""));
                graph.lock().remove(o.metadata.uid.as_deref().unwrap_or(""))
            }
            Event::Resync => {
                let all = informer.store().list();
                let mut graph = graph.lock();
                let mut work = graph.retain_kind(&api_version, &r.kind, &|uid| {
                    all.iter().any(|o| o.metadata.uid.as_deref() == Some(uid))
                });
                for o in all {
                    work.extend(graph.apply(&api_version, &r.kind, &o.metadata));
                }
                work
            }
        };
        work.into_iter().for_each(|w| queue.add(w));
    }
}
