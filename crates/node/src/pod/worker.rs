//! One task per pod: takes in what happened, plans, starts what the plan says, shows the result.
//!
//! Invariant: only this task changes the pod's [`Local`]; everything slow runs in jobs whose ends come back as
//! messages, and a job is marked as under way before it starts.

mod act;
mod done;
mod observe;
mod probes;
mod view;

pub use view::{ContainerView, PodView, Views};

use super::admission::Refusal;
use super::model::{Instance, Local, Record, Step, Waiting};
use super::plan::{self, Plan};
use super::references::pod_reference;
use super::status::{self, Inputs, is_terminal};
use super::status_writer::StatusWriter;
use super::{record, sandbox, spec, start};
use crate::context::NodeContext;
use crate::ports::Reference;
use crate::probe::Verdict;
use crate::volumes::{Mounted, VolumeError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Messages that wait for a pod's task.
pub const MAILBOX: usize = 256;
/// Rounds of planning without a pause; a plan that asks for more has a fault and is let wait.
const ROUNDS_MAX: usize = 64;

/// Something that happened to a pod.
#[derive(Debug)]
pub enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The pod is gone from the API.
    Gone,
    /// The runtime has news: ask it.
    Runtime,
    Probe(Verdict),
    /// An object that the pod reads has changed.
    Object(Reference),
    Done(Done),
}

impl From<Verdict> for Message {
    fn from(v: Verdict) -> Self {
        Self::Probe(v)
    }
}

/// The end of a job.
#[derive(Debug)]
pub enum Done {
    Prepared(Result<Mounted, Vec<VolumeError>>),
    Refreshed(Result<Mounted, Vec<VolumeError>>),
    Sandbox(Result<Vec<IpAddr>, sandbox::Failure>),
    /// The container runs, its postStart hook is about to.
    Launched(Box<Instance>),
    Started(String, start::Outcome),
    Killed(String, Result<(), String>),
    TornDown(Result<(), String>),
    CleanedUp(Result<(), String>),
    Farewell {
        deleted: bool,
        result: Result<(), String>,
    },
}

/// How the task begins.
pub struct Begin {
    pub ctx: Arc<NodeContext>,
    pub views: Views,
    pub pod: Arc<Pod>,
    /// What was on disk about the pod.
    pub record: Option<Record>,
    pub refusal: Option<Refusal>,
    /// The API does not have the pod (any more).
    pub gone: bool,
    pub inbox: mpsc::Receiver<Message>,
    pub outbox: mpsc::Sender<Message>,
    pub shutdown: CancellationToken,
}

struct Worker {
    ctx: Arc<NodeContext>,
    views: Views,
    pod: Arc<Pod>,
    local: Local,
    outbox: mpsc::Sender<Message>,
    jobs: JoinSet<()>,
    writer: StatusWriter,
    status: PodStatus,
    shown: Option<PodStatus>,
    probes: probes::Probes,
    running: watch::Sender<BTreeSet<String>>,
    /// Ids of containers that are being started.
    starting: BTreeMap<String, String>,
    /// Ends starts when the pod is stopped.
    cancel: CancellationToken,
    refresh_at: Option<Timestamp>,
    refreshing: bool,
    /// An object changed while volumes were being written.
    refresh_again: bool,
    /// Failures in a row, for growing pauses.
    failures: BTreeMap<&'static str, u32>,
    dirty: bool,
    look: bool,
    finished: bool,
    waiting: BTreeMap<String, Waiting>,
}

/// Runs a pod until it is gone or the agent stops; in that case its containers run on.
pub async fn run(begin: Begin) {
    let uid = spec::uid(&begin.pod).to_owned();
    let (inbox, shutdown) = (begin.inbox, begin.shutdown.clone());
    let views = begin.views.clone();
    let mut worker = Worker::new(begin.ctx, begin.views, begin.pod, begin.outbox, begin.record, begin.gone);
    worker.begin(begin.refusal).await;
    worker.turn(inbox, shutdown).await;
    if worker.finished {
        views.remove(&uid);
    }
}

impl Worker {
    fn new(
        ctx: Arc<NodeContext>,
        views: Views,
        pod: Arc<Pod>,
        outbox: mpsc::Sender<Message>,
        record: Option<Record>,
        gone: bool,
    ) -> Self {
        let writer = StatusWriter::start(ctx.api.clone(), &pod);
        let status = pod.status.clone().unwrap_or_default();
        let local = Local { record: record.unwrap_or_default(), gone, ..Local::default() };
        Self {
            ctx,
            views,
            pod,
            local,
            outbox,
            jobs: JoinSet::new(),
            writer,
            status,
            shown: None,
            probes: probes::Probes::default(),
            running: watch::channel(BTreeSet::new()).0,
            starting: BTreeMap::new(),
            cancel: CancellationToken::new(),
            refresh_at: None,
            refreshing: false,
            refresh_again: false,
            failures: BTreeMap::new(),
            dirty: true,
            look: false,
            finished: false,
            waiting: BTreeMap::new(),
        }
    }

    /// Takes over what a former agent left, or notes a refusal.
    async fn begin(&mut self, refusal: Option<Refusal>) {
        if let Some(refusal) = refusal {
            self.event(true, &refusal.reason, &refusal.message);
            let message = format!("Pod was rejected: {}", refusal.message);
            self.local.record.failed = Some(Refusal { message, ..refusal });
            self.local.stopping = true;
            (self.local.teardown, self.local.cleanup) = (Step::Done, Step::Done);
            return;
        }
        if self.local.record.finished {
            self.local.stopping = true;
            (self.local.teardown, self.local.cleanup) = (Step::Done, Step::Done);
        } else if is_terminal(self.status.phase.as_deref()) || self.local.record.failed.is_some() {
            self.local.stopping = true;
        }
        self.track_objects();
        if self.local.record.sandbox > 0 && !self.local.record.finished {
            self.adopt().await;
        }
    }

    async fn turn(&mut self, mut inbox: mpsc::Receiver<Message>, shutdown: CancellationToken) {
        loop {
            let wake = self.advance();
            if self.finished {
                return;
            }
            let pause = wake.map(|at| at.duration_since(self.ctx.clock.now()));
            let pause =
                pause.map_or(Duration::from_secs(3600), |d| Duration::try_from(d).unwrap_or_default());
            let message = tokio::select! {
                () = shutdown.cancelled() => return,
                message = inbox.recv() => message,
                () = tokio::time::sleep(pause) => None,
            };
            message.into_iter().for_each(|m| self.take(m));
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
            while self.jobs.try_join_next().is_some() {}
            if std::mem::take(&mut self.look) {
                self.observe().await;
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.new_pod(pod),
            Message::Gone => {
                self.local.gone = true;
                self.local.stopping = true;
            }
            Message::Runtime => self.look = true,
            Message::Probe(verdict) => self.verdict(&verdict),
            Message::Object(_) => self.object_changed(),
            Message::Done(done) => self.job_done(done),
        }
    }

    fn new_pod(&mut self, pod: Arc<Pod>) {
        let labels = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if labels(&pod) != labels(&self.pod) && self.has_downward_api() {
            self.refresh_at = Some(self.ctx.clock.now());
        }
        self.pod = pod;
        self.track_objects();
    }

    fn track_objects(&self) {
        if self.local.stopping {
            return;
        }
        self.ctx.api.track(spec::uid(&self.pod), crate::volumes::references(&self.pod));
    }

    fn object_changed(&mut self) {
        if self.refreshing {
            self.refresh_again = true;
        }
        let now = self.ctx.clock.now();
        if self.local.volumes == Step::Done {
            self.refresh_at = Some(now);
        } else if matches!(self.local.volumes, Step::Retry(_)) {
            self.local.volumes = Step::Todo;
        }
        for track in self.local.tracks.values_mut() {
            if track.waiting.as_ref().is_some_and(|w| w.reason == "CreateContainerConfigError") {
                track.retry_at = None;
            }
        }
    }

    /// Plans and acts until nothing more can be done now; the time to come back.
    fn advance(&mut self) -> Option<Timestamp> {
        let mut wake = None;
        for _ in 0..ROUNDS_MAX {
            if (spec::deleted(&self.pod) || self.local.gone) && !self.local.stopping {
                self.local.stopping = true;
            }
            if self.local.stopping {
                self.cancel.cancel();
            }
            let now = self.ctx.clock.now();
            let plan = plan::plan(&self.pod, &self.local, now);
            wake = plan.wake;
            let more = self.follow(plan);
            if !more || self.finished {
                break;
            }
        }
        self.sync_probes();
        self.show();
        if is_terminal(self.status.phase.as_deref()) && !self.local.stopping {
            self.local.stopping = true;
            wake = Some(self.ctx.clock.now());
        }
        let refresh = self.refresh_volumes();
        if self.dirty && !self.finished {
            self.save();
        }
        [wake, refresh].into_iter().flatten().min()
    }

    /// Does what the plan says; whether to plan again at once.
    fn follow(&mut self, plan: Plan) -> bool {
        for (name, waiting) in &plan.waiting {
            if self.waiting.get(name) != Some(waiting) {
                self.waiting_event(name, waiting);
            }
        }
        self.waiting = plan.waiting;
        let over = plan.over && !self.local.stopping;
        if over {
            self.local.stopping = true;
        }
        let mut more = over;
        for action in plan.actions {
            more |= self.act(action);
        }
        more
    }

    fn waiting_event(&self, name: &str, waiting: &Waiting) {
        let about = super::references::container_reference(&self.pod, name);
        match waiting.reason.as_str() {
            "CrashLoopBackOff" => {
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    spec::display(&self.pod)
                );
                self.ctx.api.event(&about, true, "BackOff", &text);
            }
            "ImagePullBackOff" => {
                let image = spec::find(&self.pod, name).and_then(|(_, c)| c.image).unwrap_or_default();
                self.ctx.api.event(&about, false, "BackOff", &format!("Back-off pulling image {image:?}"));
                self.ctx.api.event(&about, true, "Failed", "Error: ImagePullBackOff");
            }
            _ => {}
        }
    }

    /// Makes the status and hands it on when it changed.
    fn show(&mut self) {
        let running =
            self.local.record.instances.iter().filter(|i| i.alive()).map(|i| i.name.clone()).collect();
        self.running.send_if_modified(|r| {
            let changed = *r != running;
            *r = running;
            changed
        });
        let status = status::generate(&Inputs {
            pod: &self.pod,
            local: &self.local,
            old: &self.status,
            waiting: &self.waiting,
            host_ips: &self.ctx.config.node_ips,
            now: self.ctx.clock.now(),
        });
        if self.shown.as_ref() != Some(&status) {
            if !self.local.gone {
                self.writer.set(status.clone());
            }
            self.shown = Some(status.clone());
            self.dirty = true;
        }
        self.status = status;
        self.views.set(PodView::of(&self.pod, &self.local, &self.status));
    }

    fn save(&mut self) {
        self.dirty = false;
        let mut pod = (*self.pod).clone();
        pod.metadata.managed_fields = None;
        pod.status = Some(self.status.clone());
        self.local.record.pod = pod;
        let dir = self.ctx.config.pod_dir(spec::uid(&self.pod));
        if let Err(e) = record::save(&dir, &self.local.record) {
            tracing::error!(pod = spec::display(&self.pod), "{e}");
        }
    }

    fn event(&self, warning: bool, reason: &str, text: &str) {
        self.ctx.api.event(&pod_reference(&self.pod), warning, reason, text);
    }

    /// The time after another failure of `what`: it doubles from `first` to `most`.
    fn pause_after(&mut self, what: &'static str, first: Duration, most: Duration) -> Timestamp {
        let n = self.failures.entry(what).or_default();
        let pause = first.saturating_mul(1 << (*n).min(16)).min(most);
        *n = n.saturating_add(1);
        let now = self.ctx.clock.now();
        now.saturating_add(jiff::SignedDuration::try_from(pause).unwrap_or_default()).unwrap_or(now)
    }
}
