//! What the agent knows of one pod: the part that survives a restart ([`Record`]) and the part that does not.
//!
//! The model is data only; [`super::plan`] decides on it, [`super::status`] shows it, the worker changes it.

use super::admission::Refusal;
use super::users::User;
use crate::backoff::Backoff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// How one started instance of a container stands. Times are Unix nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Being started; after a crash of the agent it may or may not run.
    Created,
    Running {
        started_ns: i64,
    },
    Exited(Exit),
}

/// The end of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 when it never ran.
    pub started_ns: i64,
    pub finished_ns: i64,
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    pub message: String,
}

/// One start of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub name: String,
    pub restart_count: i32,
    /// Which sandbox of the pod it ran in.
    pub sandbox: u32,
    pub state: State,
    /// The image as the specification named it: another one there means a restart.
    pub spec_image: String,
    /// The image in full, and its digest or id.
    pub image: String,
    pub image_ref: String,
    pub user: User,
    pub log_path: PathBuf,
    /// Host side of the termination message file.
    pub termination_log: Option<PathBuf>,
}

impl Instance {
    pub fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Started or being started.
    pub fn alive(&self) -> bool {
        !matches!(self.state, State::Exited(_))
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(e) => Some(e),
            _ => None,
        }
    }
}

/// What is written to disk, so that a restarted agent goes on where it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    pub pod: Pod,
    /// Counts the pod's sandboxes from 1; 0 before the first.
    pub sandbox: u32,
    pub ips: Vec<IpAddr>,
    /// At most two per container, the older first.
    pub instances: Vec<Instance>,
    /// The pod was refused or ended as a whole.
    pub failed: Option<Refusal>,
    /// Volumes and sandbox are gone for good.
    pub finished: bool,
}

impl Record {
    /// The latest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().rev().find(|i| i.name == name)
    }

    pub fn latest_mut(&mut self, name: &str) -> Option<&mut Instance> {
        self.instances.iter_mut().rev().find(|i| i.name == name)
    }

    /// The latest instance in the current sandbox.
    pub fn active(&self, name: &str) -> Option<&Instance> {
        self.latest(name).filter(|i| i.sandbox == self.sandbox)
    }

    /// The one before the latest.
    pub fn previous(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().rev().filter(|i| i.name == name).nth(1)
    }

    pub fn by_id_mut(&mut self, id: &str) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|i| i.id == id)
    }

    /// Adds an instance and returns those that are too old to keep.
    pub fn push(&mut self, instance: Instance) -> Vec<Instance> {
        let name = instance.name.clone();
        self.instances.push(instance);
        let mut surplus = self.instances.iter().filter(|i| i.name == name).count().saturating_sub(2);
        let (mut dropped, mut kept) = (Vec::new(), Vec::new());
        for i in self.instances.drain(..) {
            if surplus > 0 && i.name == name && !i.alive() {
                surplus -= 1;
                dropped.push(i);
            } else {
                kept.push(i);
            }
        }
        self.instances = kept;
        dropped
    }

    pub fn any_alive(&self) -> bool {
        self.instances.iter().any(Instance::alive)
    }
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// What is being done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Starting,
    /// With this many seconds from the signal to the kill.
    Stopping {
        grace: u64,
    },
}

/// A failed pull that is being waited out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFailure {
    pub at: Timestamp,
    pub image: String,
    /// `ErrImagePull: …`
    pub error: String,
}

/// What is known of a container only as long as the agent runs.
#[derive(Debug, Clone, Default)]
pub struct Track {
    pub busy: Option<Busy>,
    /// Result of the last failed start; none after a good one.
    pub waiting: Option<Waiting>,
    /// No start before this.
    pub retry_at: Option<Timestamp>,
    pub crash: Backoff,
    pub pull: Backoff,
    pub pull_failure: Option<PullFailure>,
    /// Startup probe of the running instance: none before its first verdict.
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: bool,
    /// Start again whatever the policy says: the definition changed.
    pub force: bool,
}

/// Where a one-off step stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Step {
    #[default]
    Todo,
    Busy,
    Done,
    /// Failed; tried again then.
    Retry(Timestamp),
}

impl Step {
    /// Whether it can be started now; the time to come back otherwise.
    pub fn due(self, now: Timestamp) -> Result<(), Option<Timestamp>> {
        match self {
            Self::Todo => Ok(()),
            Self::Retry(at) if at <= now => Ok(()),
            Self::Retry(at) => Err(Some(at)),
            Self::Busy | Self::Done => Err(None),
        }
    }
}

/// The whole world of one pod.
#[derive(Debug, Clone, Default)]
pub struct Local {
    pub record: Record,
    pub tracks: BTreeMap<String, Track>,
    pub volumes: Step,
    pub sandbox: Step,
    /// Removal of the sandbox and the network.
    pub teardown: Step,
    /// Unmounting of the volumes.
    pub cleanup: Step,
    /// Final report and deletion.
    pub farewell: Step,
    /// The pod is being stopped for good.
    pub stopping: bool,
    /// The pod is gone from the API.
    pub gone: bool,
    /// The sandbox was found gone after containers had been started in it.
    pub sandbox_lost: bool,
}

impl Local {
    pub fn track(&self, name: &str) -> Option<&Track> {
        self.tracks.get(name)
    }

    pub fn track_mut(&mut self, name: &str) -> &mut Track {
        self.tracks.entry(name.to_owned()).or_default()
    }

    pub fn busy(&self) -> bool {
        self.tracks.values().any(|t| t.busy.is_some())
            || self.volumes == Step::Busy
            || self.sandbox == Step::Busy
    }

    /// Whether containers may be running: the pod must not be shown as ended.
    pub fn could_run(&self) -> bool {
        self.record.any_alive() || self.tracks.values().any(|t| t.busy.is_some())
    }
}

/// Unix nanoseconds of a time.
pub fn to_ns(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

/// The time of Unix nanoseconds.
pub fn from_ns(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}
