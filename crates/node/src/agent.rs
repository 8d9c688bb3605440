//! The agent of one node: finds what a former agent left, gives each pod its task, keeps node and lease.
//!
//! Invariant: stopping the agent, by shutdown or by dropping its handle, ends tasks only; containers run on and are
//! found again by the next agent.

use crate::config::NodeConfig;
use crate::context::NodeContext;
use crate::pod::admission::{self, Node as AdmissionNode, Refusal};
use crate::pod::model::Record;
use crate::pod::status::is_terminal;
use crate::pod::worker::{self, Begin, MAILBOX, Message, PodView, Views};
use crate::pod::{record, spec};
use crate::ports::{Images, NodeApi, PodChange, PodNet, Reference};
use crate::runtime::{Runtime, RuntimeEvent};
use crate::{lease, logs, machine, node_status};
use base::clock::SharedClock;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The entry of this crate.
pub struct NodeAgent;

/// A running agent. Dropping it stops the agent and leaves containers running.
pub struct NodeHandle {
    context: Arc<NodeContext>,
    views: Views,
    node: watch::Receiver<Option<Node>>,
    main: Option<tokio::task::JoinHandle<()>>,
    shutdown: CancellationToken,
    _guard: DropGuard,
}

impl NodeAgent {
    /// Starts the agent in the current tokio runtime. `shutdown` ends it.
    ///
    /// # Errors
    /// Directories that cannot be made.
    pub fn start(
        config: NodeConfig,
        api: Arc<dyn NodeApi>,
        runtime: Arc<dyn Runtime>,
        images: Arc<dyn Images>,
        net: Arc<dyn PodNet>,
        clock: SharedClock,
        shutdown: &CancellationToken,
    ) -> Result<NodeHandle, String> {
        for dir in [&config.root_dir, &config.pod_logs_dir] {
            std::fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
        }
        let facts = machine::facts(&config.root_dir);
        let sizes = node_status::sizes(&config, &facts);
        let mut context = NodeContext::new(config, api, runtime, images, net, clock);
        let memory = spec::quantity(Some(&sizes.capacity), "memory")
            .map_or(facts.memory, |q| q.value().unsigned_abs());
        context.memory_capacity = memory.max(1);
        *context.allocatable.write() = sizes.allocatable;
        let context = Arc::new(context);
        let (node_tx, node) = watch::channel(None);
        let (views, shutdown) = (Views::default(), shutdown.child_token());
        let pods = Pods::new(context.clone(), views.clone(), shutdown.clone());
        let (ctx, log_views, stop, node_rx) =
            (context.clone(), views.clone(), shutdown.clone(), node.clone());
        let main = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            tasks.spawn(node_status::run(ctx.clone(), facts, node_tx));
            tasks.spawn(lease::run(ctx.clone(), node_rx));
            tasks.spawn(logs::run(ctx, log_views));
            pods.run().await;
            stop.cancelled().await;
        });
        let guard = shutdown.clone().drop_guard();
        Ok(NodeHandle { context, views, node, main: Some(main), shutdown, _guard: guard })
    }
}

impl NodeHandle {
    /// The pods of this node, with their containers and log files.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// The pod of that name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        self.views.by_name(namespace, name)
    }

    /// What the agent's parts share: configuration, runtime, images.
    pub fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// The Node object as last read or written (pod CIDRs are in its specification); none before it is registered.
    pub fn node(&self) -> watch::Receiver<Option<Node>> {
        self.node.clone()
    }

    /// Stops the agent and waits until its tasks have ended. Containers run on.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(main) = self.main.take()
            && let Err(e) = main.await
        {
            tracing::error!("the node agent ended badly: {e}");
        }
    }
}

struct Entry {
    inbox: mpsc::Sender<Message>,
    pod: Arc<Pod>,
    refused: bool,
}

/// The tasks of all pods.
struct Pods {
    ctx: Arc<NodeContext>,
    views: Views,
    shutdown: CancellationToken,
    entries: HashMap<String, Entry>,
    tasks: JoinSet<String>,
    /// Uids whose tasks have ended but which the API still shows.
    ended: HashSet<String>,
}

impl Pods {
    fn new(ctx: Arc<NodeContext>, views: Views, shutdown: CancellationToken) -> Self {
        Self { ctx, views, shutdown, entries: HashMap::new(), tasks: JoinSet::new(), ended: HashSet::new() }
    }

    async fn run(mut self) {
        let mut runtime_events = self.ctx.runtime.events();
        let mut object_changes = self.ctx.api.object_changes();
        let mut changes = self.ctx.api.pod_changes();
        tokio::select! {
            () = self.shutdown.cancelled() => return,
            () = self.ctx.api.synced() => {}
        }
        self.recover().await;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                change = changes.recv() => match change {
                    Some(change) => self.pod_change(change).await,
                    None => {
                        tracing::error!("the watch on pods has ended");
                        break;
                    }
                },
                event = runtime_events.recv() => if !self.runtime_event(event).await {
                    break;
                },
                change = object_changes.recv() => self.object_change(change).await,
                Some(ended) = self.tasks.join_next() => self.task_ended(ended),
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Gives every pod its task: those of the API, and those that only this machine knows any more.
    async fn recover(&mut self) {
        let root = self.ctx.config.root_dir.clone();
        let pods = self.ctx.api.pods();
        let uids: HashSet<&str> = pods.iter().map(|p| spec::uid(p)).collect();
        let mut left: BTreeSet<String> =
            record::uids(&root).into_iter().filter(|u| !uids.contains(u.as_str())).collect();
        match self.ctx.runtime.sandboxes().await {
            Ok(list) => {
                left.extend(list.into_iter().map(|s| s.pod_uid).filter(|u| !uids.contains(u.as_str())))
            }
            Err(e) => tracing::error!("finding the pods that run failed: {e}"),
        }
        for uid in left {
            match record::load(&self.ctx.config.pod_dir(&uid)) {
                Some(record) => {
                    let pod = Arc::new(record.pod.clone());
                    tracing::info!(pod = spec::display(&pod), "ending a pod that is gone from the API");
                    self.start(pod, Some(record), None, true);
                }
                None => self.remove_stranger(&uid).await,
            }
        }
        // Running pods first: what they use counts when others are admitted.
        let mut pods = pods;
        pods.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        let (known, fresh): (Vec<_>, Vec<_>) = pods
            .into_iter()
            .partition(|p| self.ctx.config.pod_dir(spec::uid(p)).join("record.json").exists());
        for pod in known.into_iter().chain(fresh) {
            self.applied(pod).await;
        }
    }

    /// A sandbox or directory that nothing is known of.
    async fn remove_stranger(&self, uid: &str) {
        tracing::info!(pod_uid = uid, "removing what is left of an unknown pod");
        if let Err(e) = self.ctx.runtime.remove_sandbox(uid).await {
            tracing::warn!(pod_uid = uid, "{e}");
        }
        if let Err(e) = self.ctx.net.teardown(uid).await {
            tracing::warn!(pod_uid = uid, "{e}");
        }
        let dir = self.ctx.config.pod_dir(uid);
        match crate::volumes::tear_down(&dir).await {
            Ok(()) => {
                let _ = tokio::fs::remove_dir_all(&dir).await;
            }
            Err(e) => tracing::warn!(pod_uid = uid, "{e}"),
        }
    }

    async fn pod_change(&mut self, change: PodChange) {
        match change {
            PodChange::Applied(pod) => self.applied(pod).await,
            PodChange::Deleted(pod) => {
                let uid = spec::uid(&pod).to_owned();
                if let Some(inbox) = self.entries.get(&uid).map(|e| e.inbox.clone()) {
                    // The last state may bring a shorter grace period.
                    let _ = inbox.send(Message::Pod(pod)).await;
                }
                self.deleted(&uid).await;
            }
            PodChange::Resync => {
                let pods = self.ctx.api.pods();
                let uids: HashSet<String> = pods.iter().map(|p| spec::uid(p).to_owned()).collect();
                let gone: Vec<String> = self.entries.keys().filter(|u| !uids.contains(*u)).cloned().collect();
                for uid in gone {
                    self.deleted(&uid).await;
                }
                self.ended.retain(|u| uids.contains(u));
                for pod in pods {
                    self.applied(pod).await;
                }
            }
        }
    }

    async fn applied(&mut self, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        if self.ended.contains(&uid) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&uid) {
            if entry.pod.metadata.resource_version == pod.metadata.resource_version {
                return;
            }
            entry.pod = pod.clone();
            let inbox = entry.inbox.clone();
            // The task takes its messages at once: this waits only for one that is far behind.
            let _ = inbox.send(Message::Pod(pod)).await;
            return;
        }
        let record = record::load(&self.ctx.config.pod_dir(&uid));
        let over = spec::deleted(&pod) || is_terminal(pod.status.as_ref().and_then(|s| s.phase.as_deref()));
        let refusal = if record.is_some() || over { None } else { self.admit(&pod).err() };
        self.start(pod, record, refusal, false);
    }

    fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let active = self.entries.iter().filter(|(uid, e)| {
            let phase = self.views.by_uid(uid).and_then(|v| v.status.phase.clone());
            !e.refused && !is_terminal(phase.as_deref())
        });
        let allocatable = self.ctx.allocatable.read();
        let allocatable = allocatable
            .keys()
            .filter_map(|name| Some((name.clone(), spec::quantity(Some(&allocatable), name)?)))
            .collect();
        let node = AdmissionNode {
            allocatable: &allocatable,
            allowed_unsafe_sysctls: &self.ctx.config.allowed_unsafe_sysctls,
        };
        admission::admit(pod, active.map(|(_, e)| &*e.pod), &node)
    }

    fn start(&mut self, pod: Arc<Pod>, record: Option<Record>, refusal: Option<Refusal>, gone: bool) {
        let uid = spec::uid(&pod).to_owned();
        let (outbox, inbox) = mpsc::channel(MAILBOX);
        self.entries.insert(
            uid.clone(),
            Entry { inbox: outbox.clone(), pod: pod.clone(), refused: refusal.is_some() },
        );
        let begin = Begin {
            ctx: self.ctx.clone(),
            views: self.views.clone(),
            pod,
            record,
            refusal,
            gone,
            inbox,
            outbox,
            shutdown: self.shutdown.clone(),
        };
        self.tasks.spawn(async move {
            worker::run(begin).await;
            uid
        });
    }

    async fn deleted(&mut self, uid: &str) {
        self.ended.remove(uid);
        if let Some(inbox) = self.entries.get(uid).map(|e| e.inbox.clone()) {
            let _ = inbox.send(Message::Gone).await;
        }
    }

    /// Whether to go on.
    async fn runtime_event(&mut self, event: Result<RuntimeEvent, broadcast::error::RecvError>) -> bool {
        match event {
            Ok(event) => {
                if let Some(inbox) = self.entries.get(&event.pod_uid).map(|e| e.inbox.clone()) {
                    let _ = inbox.send(Message::Runtime).await;
                }
                true
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "runtime events were missed: asking for every pod");
                for inbox in self.entries.values().map(|e| e.inbox.clone()).collect::<Vec<_>>() {
                    let _ = inbox.send(Message::Runtime).await;
                }
                true
            }
            Err(broadcast::error::RecvError::Closed) => {
                tracing::error!("the runtime is gone");
                false
            }
        }
    }

    async fn object_change(&mut self, change: Result<Reference, broadcast::error::RecvError>) {
        let reference = match change {
            Ok(reference) => Some(reference),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => {
                // No more changes will come; do not spin.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                return;
            }
        };
        for entry in self.entries.values() {
            let references = crate::volumes::references(&entry.pod);
            let concerned = match &reference {
                Some(r) => references.contains(r).then(|| r.clone()),
                None => references.first().cloned(),
            };
            if let Some(r) = concerned {
                let _ = entry.inbox.send(Message::Object(r)).await;
            }
        }
    }

    fn task_ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.entries.remove(&uid);
                let shown = self.ctx.api.pods().iter().any(|p| spec::uid(p) == uid);
                if shown {
                    self.ended.insert(uid);
                }
            }
            Err(e) => tracing::error!("a pod's task ended badly: {e}"),
        }
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
