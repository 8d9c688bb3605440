//! Events in, bindings out.

use crate::decide::{Decision, Rejection, decide};
use crate::pod::PodInfo;
use crate::queue::{Change, Queue, Taken};
use crate::snapshot::Snapshot;
use base::clock::SharedClock;
use base::rng::Rng;
use client::events::{EventType, Flavor, Recorder, reference};
use client::informer::{self, Informer, Informers};
use client::{Client, Kind, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meta::Status;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Bindings under way at once.
const BINDINGS: usize = 64;

/// Counters since the start (`scheduler_schedule_attempts_total` by result).
#[derive(Debug, Default)]
pub struct Metrics {
    pub scheduled: AtomicU64,
    pub unschedulable: AtomicU64,
    pub errors: AtomicU64,
    /// Time in decisions, in microseconds.
    pub deciding_micros: AtomicU64,
}

/// A running scheduler.
pub struct Handle {
    pub metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Handle {
    /// Numbers of active, backing-off, unschedulable and gated pods (`scheduler_pending_pods`).
    pub fn pending(&self) -> [usize; 4] {
        self.shared.state.lock().queue.counts()
    }

    /// Waits for the end, after its token was cancelled.
    pub async fn stopped(self) {
        if let Err(e) = self.task.await
            && e.is_panic()
        {
            tracing::error!("the scheduler ended by a panic");
        }
    }
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    client: Client,
    recorder: Recorder,
    clock: SharedClock,
    rng: Arc<Rng>,
    metrics: Arc<Metrics>,
    bindings: Arc<Semaphore>,
}

/// Starts the scheduler. `client` is `system:kube-scheduler`; `host` names this machine in events.
pub fn start(
    client: Client,
    informers: &Informers,
    host: &str,
    clock: SharedClock,
    rng: Arc<Rng>,
    cancel: CancellationToken,
) -> Handle {
    let recorder = Recorder::new(client.clone(), crate::NAME, host, Flavor::Events, clock.clone());
    let metrics = Arc::new(Metrics::default());
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        wake: Notify::new(),
        client,
        recorder,
        clock,
        rng,
        metrics: metrics.clone(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
    });
    let (pods, nodes, namespaces) = (informers.of::<Pod>(), informers.of::<Node>(), informers.of::<Namespace>());
    let worker = shared.clone();
    let task = tokio::spawn(async move {
        let feeds = async {
            tokio::join!(worker.feed_nodes(&nodes), worker.feed_pods(&pods), worker.feed_namespaces(&namespaces))
        };
        let decisions = async {
            nodes.synced().await;
            pods.synced().await;
            namespaces.synced().await;
            // what was listed has been announced; let the feeds take it in
            tokio::task::yield_now().await;
            worker.clone().decide_all().await;
        };
        tokio::select! {
            _ = feeds => {}
            () = decisions => {}
            () = cancel.cancelled() => {}
        }
        // bindings under way end first
        let _ = worker.bindings.acquire_many(BINDINGS as u32).await;
    });
    Handle { metrics, shared, task }
}

impl Shared {
    fn changed(&self, f: impl FnOnce(&mut State, Duration)) {
        f(&mut self.state.lock(), self.clock.monotonic());
        self.wake.notify_one();
    }

    async fn feed_nodes(&self, nodes: &Informer<Node>) {
        let mut events = nodes.subscribe();
        while let Some(event) = events.next_change().await {
            let changes = match event {
                Some(change) => vec![change],
                None => {
                    let all = nodes.store().list();
                    self.changed(|s, _| {
                        let there: HashSet<&str> = all.iter().map(|n| n.name()).collect();
                        let gone = |n: &&Arc<Node>| !there.contains(n.name());
                        let gone: Vec<String> =
                            s.snapshot.nodes().map(|(n, _)| n).filter(gone).map(|n| n.name().to_owned()).collect();
                        gone.iter().for_each(|n| s.snapshot.remove_node(n));
                    });
                    all.into_iter().map(|n| informer::Change { old: None, new: Some(n) }).collect()
                }
            };
            for change in changes {
                self.changed(|s, now| match (change.old, change.new) {
                    (old, Some(new)) => {
                        let news = old.is_none_or(|o| facts(&o) != facts(&new));
                        s.snapshot.set_node(new);
                        if news {
                            s.queue.changed(Change::Node, now);
                        }
                    }
                    (Some(old), None) => s.snapshot.remove_node(old.name()),
                    (None, None) => {}
                });
            }
        }
    }

    async fn feed_pods(&self, pods: &Informer<Pod>) {
        let mut events = pods.subscribe();
        while let Some(event) = events.next_change().await {
            match event {
                Some(change) => self.changed(|s, now| match (change.old, change.new) {
                    (_, Some(new)) => s.pod_seen(new, now),
                    (Some(old), None) => s.pod_gone(&old, now),
                    (None, None) => {}
                }),
                None => {
                    let all = pods.store().list();
                    self.changed(|s, now| {
                        let there: HashSet<&str> = all.iter().map(|p| p.uid()).collect();
                        let gone = |uid: &&str| !there.contains(uid) && !s.snapshot.is_assumed(uid);
                        let gone: Vec<String> = s.snapshot.pods().filter(gone).map(str::to_owned).collect();
                        gone.iter().for_each(|uid| s.snapshot.remove_pod(uid));
                        all.iter().for_each(|p| s.pod_seen(p.clone(), now));
                    });
                }
            }
        }
    }

    async fn feed_namespaces(&self, namespaces: &Informer<Namespace>) {
        let mut events = namespaces.subscribe();
        while events.next_change().await.is_some() {
            let all = namespaces.store().list();
            let labels = all.iter().map(|n| (n.name().to_owned(), n.metadata.labels.clone().unwrap_or_default()));
            self.state.lock().snapshot.namespaces = labels.collect();
        }
    }

    async fn decide_all(self: Arc<Self>) {
        loop {
            let woken = self.wake.notified();
            let now = self.clock.monotonic();
            let taken = self.state.lock().queue.take(now);
            match taken {
                Some(taken) => {
                    self.clone().one(taken).await;
                    // events and bindings get their turn also while many pods wait
                    tokio::task::yield_now().await;
                }
                None => {
                    let due = self.state.lock().queue.next_due();
                    match due {
                        None => woken.await,
                        Some(at) => {
                            let wait = at.saturating_sub(now).max(Duration::from_millis(1));
                            let _ = tokio::time::timeout(wait, woken).await;
                        }
                    }
                }
            }
        }
    }

    async fn one(self: Arc<Self>, taken: Taken) {
        let pod = taken.pod;
        if pod.pod.is_deleting() {
            let (ns, name) = (pod.pod.namespace(), pod.pod.name());
            let text = format!("skip schedule deleting pod: {ns}/{name}");
            self.recorder.action(&reference(&*pod.pod), EventType::Warning, "FailedScheduling", "Scheduling", text);
            self.state.lock().queue.remove(pod.uid());
            return;
        }
        // decided and assumed under one lock, so that no two pods get the same room
        let decision = {
            let mut state = self.state.lock();
            let started = self.clock.monotonic();
            let decision = decide(&state.snapshot, &pod, &mut |n| self.rng.below(n as u64) as usize);
            let took = self.clock.monotonic().saturating_sub(started);
            self.metrics.deciding_micros.fetch_add(took.as_micros() as u64, Relaxed);
            if let Decision::Node(node) = &decision {
                state.snapshot.assume(pod.clone(), node);
            }
            decision
        };
        match decision {
            Decision::Node(node) => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    self.bind(&pod, &node).await;
                    drop(permit);
                });
            }
            Decision::Rejected(Rejection { message, plugins }) => {
                self.metrics.unschedulable.fetch_add(1, Relaxed);
                // with no nodes at all only a node helps
                let plugins = if plugins.is_empty() { BTreeSet::from(["NodeName"]) } else { plugins };
                self.changed(|s, now| s.queue.failed(pod.uid(), plugins, now));
                self.report(&pod.pod, "Unschedulable", &message).await;
            }
        }
    }

    async fn bind(&self, pod: &Arc<PodInfo>, node: &str) {
        let (ns, name) = (pod.pod.namespace(), pod.pod.name());
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": ns, "uid": pod.uid()},
            "target": {"kind": "Node", "name": node},
        });
        match self.client.create_subresource::<Pod>(ns, name, "binding", &body).await {
            Ok(_) => {
                self.metrics.scheduled.fetch_add(1, Relaxed);
                self.state.lock().queue.remove(pod.uid());
                let text = format!("Successfully assigned {ns}/{name} to {node}");
                self.recorder.action(&reference(&*pod.pod), EventType::Normal, "Scheduled", "Binding", text);
            }
            Err(e) => {
                self.metrics.errors.fetch_add(1, Relaxed);
                self.changed(|s, now| {
                    s.snapshot.forget(pod.uid());
                    s.queue.changed(Change::PodGone, now);
                    if e.is_not_found() {
                        s.queue.remove(pod.uid());
                    } else {
                        s.queue.failed(pod.uid(), BTreeSet::new(), now);
                    }
                });
                if !e.is_not_found() {
                    tracing::warn!(pod = %format!("{ns}/{name}"), node, "binding failed: {e}");
                    let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {e}");
                    self.report(&pod.pod, "SchedulerError", &message).await;
                }
            }
        }
    }

    /// Tells people, and the pod's condition, why it waits.
    async fn report(&self, pod: &Pod, reason: &str, message: &str) {
        self.recorder.action(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", message);
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let old = conditions.into_iter().find(|c| c.type_ == "PodScheduled");
        let said = old.is_some_and(|c| {
            c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
        });
        if said {
            return;
        }
        let now = Time(Timestamp::from_second(self.clock.now().as_second()).unwrap_or_default());
        let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone()).unwrap_or(now);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": pod.metadata.generation,
        });
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        let result: Result<Pod, Status> =
            self.client.patch(pod.namespace(), pod.name(), Some("status"), Patch::Strategic(patch)).await;
        if let Err(e) = result
            && !e.is_not_found()
            && !e.is_conflict()
        {
            tracing::warn!(pod = %format!("{}/{}", pod.namespace(), pod.name()), "condition not written: {e}");
        }
    }
}

impl State {
    fn pod_seen(&mut self, pod: Arc<Pod>, now: Duration) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let ended = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        if ended {
            return self.pod_gone(&pod, now);
        }
        if node.is_empty() {
            let ours = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == crate::NAME);
            // an assumed pod is on its way already
            if ours && !self.snapshot.is_assumed(pod.uid()) {
                self.queue.put(pod, now);
            }
            return;
        }
        self.queue.remove(pod.uid());
        let known = self.snapshot.has_pod(pod.uid());
        let info = Arc::new(PodInfo::new(pod));
        self.snapshot.set_pod(info, &node);
        if !known {
            self.queue.changed(Change::PodPlaced, now);
        }
    }

    fn pod_gone(&mut self, pod: &Pod, now: Duration) {
        self.queue.remove(pod.uid());
        if self.snapshot.has_pod(pod.uid()) {
            self.snapshot.remove_pod(pod.uid());
            self.queue.changed(Change::PodGone, now);
        }
    }
}

/// What of a node decisions look at.
fn facts(n: &Node) -> impl PartialEq + use<> {
    let spec = n.spec.as_ref().map(|s| (s.unschedulable, s.taints.clone()));
    let status = n.status.as_ref().map(|s| (s.allocatable.clone(), s.declared_features.clone()));
    (n.metadata.labels.clone(), spec, status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock::SystemClock;
    use client::fake::FakeApi;

    async fn until(what: &str, check: impl Fn() -> bool) {
        for _ in 0..500 {
            if check() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    fn seed_pod(api: &FakeApi, name: &str, cpu: &str) {
        let c = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        let v = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"containers": c}});
        api.seed("/api/v1/namespaces/n/pods", &v);
    }

    fn seed_node(api: &FakeApi, name: &str) {
        let allocatable = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
        api.seed("/api/v1/nodes", &json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}}));
    }

    #[tokio::test]
    async fn pods_are_bound_and_those_that_do_not_fit_say_why() {
        let api = Arc::new(FakeApi::new());
        seed_node(&api, "one");
        seed_pod(&api, "small", "600m");
        let client = Client::new(api.clone());
        let clock = SystemClock::shared();
        let informers = Informers::new(client.clone(), clock.clone());
        let cancel = CancellationToken::new();
        let handle = start(client, &informers, "host", clock, Arc::new(Rng::seeded(1)), cancel.clone());
        let pod = |name: &str| api.object(&format!("/api/v1/namespaces/n/pods/{name}")).unwrap();
        until("bound", || pod("small")["spec"]["nodeName"] == "one").await;
        seed_pod(&api, "second", "600m");
        let condition = || pod("second")["status"]["conditions"][0].clone();
        until("refused", || condition()["status"] == "False").await;
        assert_eq!(
            condition()["message"],
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
             found for incoming pod."
        );
        seed_node(&api, "two");
        until("bound to the new node", || pod("second")["spec"]["nodeName"] == "two").await;
        let reasons = || {
            let all = api.objects("/apis/events.k8s.io/v1/namespaces/n/events");
            all.iter().map(|e| e["reason"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        until("events", || reasons().len() == 3).await;
        assert_eq!(reasons().iter().filter(|r| *r == "Scheduled").count(), 2);
        assert_eq!(handle.pending(), [0, 0, 0, 0]);
        cancel.cancel();
        handle.stopped().await;
    }
}
