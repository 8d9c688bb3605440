//! The running scheduler: changes come in from the informers, decisions go out as bindings.

mod bind;
mod lookup;

use crate::cache::Cache;
use crate::decide::{Decision, decide};
use crate::pod::PodInfo;
use crate::queue::{Hint, Queue};
use base::clock::SharedClock;
use base::rng::Rng;
use bind::{Binder, Outcome};
use client::Client;
use client::informer::{Change, Informer, Informers, Subscription};
use k8s_openapi::api::core::v1::{Node, Pod};
use lookup::Lookup;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// The name that pods ask for.
const NAME: &str = "default-scheduler";
/// Bindings under way at a time.
const MAX_BINDING: usize = 100;
/// Changes taken in before the next pod is placed.
const CHANGES_AT_ONCE: usize = 256;
/// Longest sleep; the queue wakes earlier when it knows why.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Starts scheduling; ends after `cancel`, with the bindings under way finished. `client` writes as the scheduler;
/// `informers` are shared with the rest of the process.
pub fn start(
    client: Client,
    informers: Informers,
    clock: SharedClock,
    rng: Arc<Rng>,
    cancel: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (pods, nodes) = (informers.of::<Pod>(), informers.of::<Node>());
        let lookup = Lookup::new(&informers);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = async { pods.synced().await; nodes.synced().await; lookup.synced().await } => {}
        }
        tracing::info!("started");
        let scheduler = Scheduler {
            cache: Cache::default(),
            queue: Queue::default(),
            binder: Binder::new(client, clock.clone()),
            binding: JoinSet::new(),
            pods,
            nodes,
            lookup,
            clock,
            rng,
        };
        scheduler.run(cancel).await;
    })
}

struct Scheduler {
    cache: Cache,
    queue: Queue,
    binder: Binder,
    binding: JoinSet<Outcome>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    lookup: Lookup,
    clock: SharedClock,
    rng: Arc<Rng>,
}

impl Scheduler {
    async fn run(mut self, cancel: CancellationToken) {
        let (mut pods, mut nodes) = (self.pods.subscribe(), self.nodes.subscribe());
        // nodes first: the first pods shall not be refused for want of them
        if nodes.next_change().await.is_some() {
            self.resync_nodes();
        }
        loop {
            let now = self.clock.monotonic();
            let room = self.binding.len() < MAX_BINDING;
            let ready = room && self.queue.is_ready(now);
            // without room the end of a binding wakes
            let wake = self.queue.next_wake().filter(|_| room);
            let sleep = wake.map_or(LONGEST_SLEEP, |at| at.saturating_sub(now).min(LONGEST_SLEEP));
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(done) = self.binding.join_next(), if !self.binding.is_empty() => {
                    if let Ok(outcome) = done {
                        self.bound(outcome);
                    }
                }
                change = nodes.next_change() => match change {
                    Some(change) => self.node_changed(change),
                    None => break,
                },
                change = pods.next_change() => match change {
                    Some(change) => {
                        self.take_in(change, &mut pods).await;
                        // a stream of changes must not keep pods waiting
                        if ready {
                            self.place_one();
                        }
                    }
                    None => break,
                },
                () = std::future::ready(()), if ready => {
                    self.place_one();
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep(sleep), if !ready => {}
            }
            if self.queue.take_overflow() {
                self.resync_pods();
            }
        }
        while let Some(done) = self.binding.join_next().await {
            if let Ok(outcome) = done {
                self.bound(outcome);
            }
        }
        tracing::info!("stopped");
    }

    /// Takes in a change and those that are there already, up to a limit.
    async fn take_in(&mut self, first: Option<Change<Pod>>, pods: &mut Subscription<Pod>) {
        self.pod_changed(first);
        for _ in 1..CHANGES_AT_ONCE {
            tokio::select! {
                biased;
                Some(change) = pods.next_change() => self.pod_changed(change),
                () = std::future::ready(()) => return,
            }
        }
    }

    fn node_changed(&mut self, change: Option<Change<Node>>) {
        let now = self.clock.monotonic();
        match change {
            None => self.resync_nodes(),
            Some(Change { old, new: Some(new) }) => {
                let helps = old.is_none_or(|old| node_differs(&old, &new));
                self.cache.set_node(new);
                if helps {
                    self.queue.moved(Hint::Room, now);
                }
            }
            Some(Change { old: Some(old), new: None }) => {
                self.cache.remove_node(old.metadata.name.as_deref().unwrap_or(""));
                // spread constraints may count fewer domains now
                self.queue.moved(Hint::Neighbour, now);
            }
            Some(_) => {}
        }
    }

    fn resync_nodes(&mut self) {
        let there = self.nodes.store().list();
        let gone: Vec<String> = self.cache.snapshot().nodes().iter().map(|n| n.name().to_owned()).collect();
        for name in gone.iter().filter(|n| self.nodes.store().get("", n).is_none()) {
            self.cache.remove_node(name);
        }
        there.into_iter().for_each(|n| self.cache.set_node(n));
        self.queue.moved(Hint::Room, self.clock.monotonic());
    }

    fn pod_changed(&mut self, change: Option<Change<Pod>>) {
        match change {
            None => self.resync_pods(),
            Some(Change { old, new: Some(new) }) => {
                // the same name may be another pod now
                if let Some(old) = old.filter(|o| o.metadata.uid != new.metadata.uid) {
                    self.pod_gone(&old);
                }
                self.pod_there(new);
            }
            Some(Change { old: Some(old), new: None }) => self.pod_gone(&old),
            Some(_) => {}
        }
    }

    fn pod_there(&mut self, pod: Arc<Pod>) {
        let now = self.clock.monotonic();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if has_ended(&pod) {
            return self.pod_gone(&pod);
        }
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
        if let Some(node) = node {
            self.queue.remove(&uid);
            let before = self.cache.get(&uid).filter(|_| !self.cache.is_assumed(&uid));
            let hint = match before {
                None => Hint::Neighbour,
                Some(old) if matters(&old.pod, &pod) => Hint::Room,
                Some(_) => return,
            };
            self.cache.confirm(Arc::new(PodInfo::new(pod)), &node);
            self.queue.moved(hint, now);
            return;
        }
        let ours = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(NAME) == NAME;
        if !ours || pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(&uid);
        } else if !self.cache.is_assumed(&uid) {
            self.queue.put(pod, now);
        }
    }

    fn pod_gone(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        self.queue.remove(uid);
        if self.cache.remove(uid) {
            self.queue.moved(Hint::Room, self.clock.monotonic());
        }
    }

    fn resync_pods(&mut self) {
        let there = self.pods.store().list();
        let known: std::collections::HashSet<&str> =
            there.iter().filter_map(|p| p.metadata.uid.as_deref()).collect();
        for uid in self.queue.uids().iter().filter(|u| !known.contains(u.as_str())) {
            self.queue.remove(uid);
        }
        for uid in self.cache.confirmed().iter().filter(|u| !known.contains(u.as_str())) {
            self.cache.remove(uid);
        }
        there.into_iter().for_each(|p| self.pod_there(p));
        self.queue.moved(Hint::Room, self.clock.monotonic());
    }

    /// Decides about the next pod and begins to carry it out.
    fn place_one(&mut self) {
        let Some(pod) = self.queue.pop(self.clock.monotonic()) else { return };
        let info = PodInfo::new(pod.clone());
        let surroundings = self.lookup.surroundings(&info);
        let info = info.within(surroundings);
        let decision = decide(self.cache.snapshot(), &info, &self.rng);
        let message = decision.message().unwrap_or_default();
        if let Decision::Node(node) = decision {
            tracing::info!(pod = %bind::key(&pod), node, "placed");
            self.cache.assume(Arc::new(info), &node);
            self.binding.spawn(self.binder.clone().bind(pod, node));
            return;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        self.queue.unschedulable(uid, info.looks_at_others(), self.clock.monotonic());
        tracing::info!(pod = %bind::key(&pod), "no node: {message}");
        self.binding.spawn(self.binder.clone().refuse(pod, "Unschedulable", message));
    }

    fn bound(&mut self, outcome: Outcome) {
        let Outcome::Failed { pod, message } = outcome else { return };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (ns, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
        self.cache.forget(&uid);
        // what was promised to it is free again
        self.queue.moved(Hint::Room, self.clock.monotonic());
        let now_there = self.pods.store().get(ns.unwrap_or(""), name.unwrap_or(""));
        let waits = now_there.is_some_and(|p| p.metadata.uid == pod.metadata.uid && !has_node(&p));
        if !waits {
            self.queue.remove(&uid);
            return;
        }
        self.queue.failed(&uid, self.clock.monotonic());
        self.binding.spawn(self.binder.clone().refuse(pod, "SchedulerError", message));
    }
}

fn has_node(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty())
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a change of a placed pod changes what others can do.
fn matters(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
}

/// Whether a change of a node can make pods placeable; conditions and heartbeats cannot.
fn node_differs(old: &Node, new: &Node) -> bool {
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.unschedulable, s.taints.clone()));
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels
        || spec(old) != spec(new)
        || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests;
