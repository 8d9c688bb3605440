//! The container runtime as the node agent sees it.
//!
//! One shim process per pod owns the pod's containers, so that they outlive this program. All calls are
//! idempotent where a retry can happen: starting what runs or removing what is gone succeeds.

mod child;
mod disk;
mod pods;
mod shim;
mod wire;

pub use pods::{ShimRuntime, living_shim};
pub use shim::shim_main;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A runtime failure: what was being done, to what, and why it failed.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{what}: {why}")]
pub struct RuntimeError {
    pub what: String,
    pub why: String,
    /// The container's own fault (no such command, no such user): not worth an immediate retry.
    pub container_fault: bool,
}

/// A pod's sandbox: its shim, cgroup and namespaces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub pod_uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    /// File that pins the pod's network namespace; `None` for hostNetwork.
    pub netns: Option<PathBuf>,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// shareProcessNamespace: the shim starts a reaper as pid 1 that all containers join.
    pub share_pid: bool,
    /// Parent cgroup, relative to the root: `kubepods/burstable/pod<uid>`.
    pub cgroup: String,
    pub resources: Resources,
    /// Namespaced sysctls, already checked against the allow list.
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub memory_limit_bytes: Option<u64>,
    /// CFS quota in microseconds per 100 ms period.
    pub cpu_quota_us: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub pids_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    None,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    /// Path below `source`, resolved so that no link leads out of it; made as a directory when missing.
    pub sub_path: Option<String>,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Seccomp {
    RuntimeDefault,
    Unconfined,
    /// Content of a Localhost profile (the Docker/OCI JSON format).
    Profile(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Security {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Final capability set, names with `CAP_`.
    pub capabilities: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// procMount: Unmasked.
    pub unmasked_proc: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    Own,
    /// The pod's (shareProcessNamespace).
    Pod,
    Host,
    /// Another container's of the pod (ephemeral containers).
    Container(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique in the node's life: a random hex id, one per start attempt.
    pub id: String,
    pub name: String,
    /// Unpacked image layers, uppermost first; the runtime adds the writable one.
    pub layers: Vec<PathBuf>,
    pub args: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    pub cwd: String,
    pub mounts: Vec<Mount>,
    /// Device nodes to make, host paths.
    pub devices: Vec<PathBuf>,
    pub security: Security,
    pub resources: Resources,
    pub pid: PidNamespace,
    pub oom_score_adj: i32,
    /// CRI log file.
    pub log_path: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// Signal of a graceful stop (image or pod spec), default SIGTERM (15).
    pub stop_signal: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Created,
    Running,
    Exited,
}

/// What is known of a container. Times are Unix nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub name: String,
    pub phase: Phase,
    pub pid: i32,
    pub started_ns: i64,
    pub finished_ns: i64,
    /// 128 + signal when killed by one.
    pub exit_code: i32,
    pub signal: i32,
    pub oom_killed: bool,
}

/// Something happened in a pod; ask [`Runtime::state`] what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    pub pod_uid: String,
    pub container_id: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    pub container_id: String,
    pub args: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
}

/// A running exec or attach: the ends of its streams. With a tty, `stdin` and `stdout` are the same terminal.
#[derive(Debug)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// Names the exec in [`Runtime::exec_wait`] and [`Runtime::resize`].
    pub exec_id: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
}

#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Starts the pod's shim if it does not run.
    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<(), RuntimeError>;

    /// Ends every process of the pod and removes its cgroup, mounts and files.
    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError>;

    /// Creates and starts a container; returns once its program has been executed, or why not.
    async fn start_container(
        &self,
        pod_uid: &str,
        spec: &ContainerSpec,
    ) -> Result<ContainerState, RuntimeError>;

    /// Sends the stop signal and, after `grace_seconds`, SIGKILL. Returns when the container has ended.
    async fn stop_container(&self, pod_uid: &str, id: &str, grace_seconds: u64) -> Result<(), RuntimeError>;

    async fn remove_container(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError>;

    /// Changes limits of a running container.
    async fn update_container(
        &self,
        pod_uid: &str,
        id: &str,
        resources: &Resources,
    ) -> Result<(), RuntimeError>;

    /// All containers of the pod that were started and not removed; `None` when there is no sandbox.
    async fn state(&self, pod_uid: &str) -> Result<Option<Vec<ContainerState>>, RuntimeError>;

    /// Pods with a sandbox on this machine, found again after a restart, with the spec that they were started from.
    async fn sandboxes(&self) -> Result<Vec<SandboxSpec>, RuntimeError>;

    /// Runs a command in a running container.
    async fn exec(&self, pod_uid: &str, spec: &ExecSpec) -> Result<Streams, RuntimeError>;

    /// The exit code of an exec, once its process ended.
    async fn exec_wait(&self, pod_uid: &str, exec_id: &str) -> Result<i32, RuntimeError>;

    /// Runs a command to its end with bounded output (probes, hooks): exit code and combined output, at most 16 KiB.
    async fn exec_sync(
        &self,
        pod_uid: &str,
        container_id: &str,
        args: &[String],
        timeout: std::time::Duration,
    ) -> Result<(i32, Vec<u8>), RuntimeError>;

    /// Joins the standard streams of a running container.
    async fn attach(&self, pod_uid: &str, container_id: &str) -> Result<Streams, RuntimeError>;

    async fn resize(&self, pod_uid: &str, exec_id: &str, columns: u16, rows: u16)
    -> Result<(), RuntimeError>;

    /// The container's log file was moved away: open a new one at its path.
    async fn reopen_log(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError>;

    async fn usage(&self, pod_uid: &str, id: Option<&str>) -> Result<Usage, RuntimeError>;

    /// Events of all pods; a slow reader may miss some and resynchronises by [`Runtime::state`].
    fn events(&self) -> tokio::sync::broadcast::Receiver<RuntimeEvent>;
}

impl From<&Resources> for sys::cgroup::Limits {
    fn from(r: &Resources) -> Self {
        Self {
            memory_bytes: r.memory_limit_bytes,
            cpu_quota_us: r.cpu_quota_us,
            cpu_shares: r.cpu_shares,
            processes: r.pids_limit,
        }
    }
}

impl From<sys::cgroup::Usage> for Usage {
    fn from(u: sys::cgroup::Usage) -> Self {
        Self {
            cpu_ns: u.cpu_ns,
            memory_bytes: u.memory_bytes,
            working_set_bytes: u.working_set_bytes,
            rss_bytes: u.rss_bytes,
            page_faults: u.page_faults,
            major_page_faults: u.major_page_faults,
            pids: u.processes,
        }
    }
}
