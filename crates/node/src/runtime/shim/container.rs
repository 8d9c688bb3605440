//! A container's life in the shim: start, stop, end.
//!
//! Invariant: a container that has ended has its record on disk before anybody hears of it, and nothing of it runs.

use super::launch::{self, Plan};
use super::serve::Reply;
use super::streams::Streams;
use super::{CLEANUP_PAUSE, SIGKILL, Shim, own};
use crate::runtime::child::{self, Failure, Prepared, PreparedMount};
use crate::runtime::wire::Answer;
use crate::runtime::{ContainerSpec, ContainerState, Phase, PidNamespace, disk};
use base::clock::Clock as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use sys::cgroup::{self, OomWatch};
use sys::devices::{self, DeviceNode, DeviceRule};
use sys::error::{Error, Result};
use sys::mount;
use sys::process::{self, Exit};

/// Attempts to remove an ended container's cgroup before it is left to `Remove`.
const CLEANUPS_MAX: u32 = 100;

pub struct Container {
    pub state: ContainerState,
    /// `None` for a container of a shim before this one.
    pub spec: Option<ContainerSpec>,
    /// While it runs.
    pub pidfd: Option<OwnedFd>,
    pub streams: Streams,
    pub oom: Option<OomWatch>,
    /// When SIGKILL is due, by the monotonic clock.
    kill_at: Option<Duration>,
    /// Clients that wait for the end.
    waiting: Vec<u64>,
    /// An ended container's cgroup that is still there, and attempts left to remove it.
    leftover: Option<(String, u32)>,
    cleanup_at: Duration,
}

impl Container {
    /// One that ended before this shim came.
    pub fn past(state: ContainerState) -> Self {
        Self {
            state,
            spec: None,
            pidfd: None,
            streams: Streams::closed(),
            oom: None,
            kill_at: None,
            waiting: vec![],
            leftover: None,
            cleanup_at: Duration::ZERO,
        }
    }

    pub fn runs(&self) -> bool {
        self.pidfd.is_some()
    }

    pub fn runs_as(&self, pid: i32) -> bool {
        self.runs() && self.state.pid == pid
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        let cleanup = self.leftover.as_ref().map(|_| self.cleanup_at);
        [self.kill_at, self.streams.next_deadline(), cleanup].into_iter().flatten().min()
    }

    pub fn tick(&mut self, now: Duration) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            if let Some(pidfd) = &self.pidfd {
                // It fails only for a process that has ended.
                let _ = process::signal(pidfd, SIGKILL);
            }
        }
        self.streams.tick(now);
        if let Some((group, left)) = &mut self.leftover
            && self.cleanup_at <= now
        {
            *left = left.saturating_sub(1);
            let removed = cgroup::machine().is_ok_and(|g| {
                let _ = g.kill_once(group);
                g.try_remove(group).is_ok()
            });
            if removed || *left == 0 {
                self.leftover = None;
            }
            self.cleanup_at = now + CLEANUP_PAUSE;
        }
    }
}

impl Shim {
    pub(super) fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::check(format!("container {id} does not exist")))
    }

    /// Starts a container; one that was started already is answered with its state.
    pub(super) fn start(&mut self, spec: ContainerSpec) -> std::result::Result<ContainerState, Failure> {
        if let Some(c) = self.containers.get(&spec.id) {
            return Ok(c.state.clone());
        }
        if !disk::plain_name(&spec.id) {
            return Err(Error::check(format!("bad container id {:?}", spec.id)).into());
        }
        let id = spec.id.clone();
        match self.try_start(spec) {
            Ok(container) => {
                let state = container.state.clone();
                self.containers.insert(id.clone(), container);
                self.tell(&id);
                Ok(state)
            }
            Err(failure) => {
                let cleaned = self.clean(&id);
                // A failed start leaves nothing; what cannot be removed now goes with the pod.
                cleaned.err().map_or(Err(failure), |e| {
                    eprintln!("shim: clean up after container {id}: {e}");
                    Err(Failure { why: e.to_string(), container: false })
                })
            }
        }
    }

    fn clean(&self, id: &str) -> Result<()> {
        let (groups, group) = (cgroup::machine()?, self.group(id));
        if groups.exists(&group) {
            groups.kill(&group)?;
            groups.remove(&group)?;
        }
        disk::remove_tree(&self.pod.container(id)).map_err(own("remove the container's files"))
    }

    fn try_start(&mut self, spec: ContainerSpec) -> std::result::Result<Container, Failure> {
        let dir = self.pod.container(&spec.id);
        for name in ["rootfs", "upper", "work", "names"] {
            std::fs::create_dir_all(dir.join(name)).map_err(own("make the container's directory"))?;
        }
        let group = self.group(&spec.id);
        let groups = cgroup::machine()?;
        groups.create(&group)?;
        groups.set_limits(&group, &(&spec.resources).into())?;
        let devices = if spec.security.privileged {
            devices::host_devices()
        } else {
            spec.devices.iter().map(|d| DeviceNode::at(d)).collect::<Result<_>>()?
        };
        groups.allow_devices(&group, device_rules(&spec, &devices).as_deref())?;
        let mounts: Vec<PreparedMount> =
            spec.mounts.iter().map(child::prepare_mount).collect::<Result<_>>()?;
        let shm = if self.sandbox.host_ipc { Path::new("/dev/shm").to_path_buf() } else { self.pod.shm() };
        let shm = mount::clone_tree(mount::open_place(&shm)?, false)?;
        let filter = self.filter(&spec.security)?;
        let streams_log = super::log::ContainerLog::open(&spec.log_path)?;
        let hostname = self.sandbox.hostname.clone();
        let prepared = Prepared { spec: &spec, dir: dir.clone(), shm, mounts, devices, hostname };
        let plan = Plan {
            namespaces: sys::namespace::MOUNT | own_pid_namespace(&spec.pid),
            pid_namespace: self.pid_namespace(&spec.pid)?,
            own_pid_namespace: &self.own_pid_namespace,
            group: &group,
            tty: spec.tty,
            stdin: spec.stdin,
            null: &self.null,
        };
        let launched = launch::launch(&plan, |ends| child::become_container(&prepared, ends, &filter))?;
        drop(prepared);
        let state = ContainerState {
            id: spec.id.clone(),
            name: spec.name.clone(),
            phase: Phase::Running,
            pid: launched.child.pid,
            started_ns: self.now_ns(),
            finished_ns: 0,
            exit_code: 0,
            signal: 0,
            oom_killed: false,
        };
        self.pod.write_state(&state).map_err(own("write the container's state"))?;
        let streams = Streams::new(
            streams_log,
            launched.stdin,
            launched.stdout,
            launched.stderr,
            spec.tty,
            spec.stdin_once,
        )?;
        // Without the memory controller there is no notice and nothing to be noticed.
        let oom = groups.watch_oom(&group).ok();
        let pidfd = Some(launched.child.pidfd);
        Ok(Container { spec: Some(spec), pidfd, streams, oom, ..Container::past(state) })
    }

    fn pid_namespace(&self, wanted: &PidNamespace) -> Result<Option<BorrowedFd<'_>>> {
        match wanted {
            PidNamespace::Own | PidNamespace::Host => Ok(None),
            PidNamespace::Pod => {
                let reaper = self.reaper.as_ref();
                let reaper =
                    reaper.ok_or_else(|| Error::check("the pod has no process namespace of its own"))?;
                Ok(Some(reaper.pidfd.as_fd()))
            }
            PidNamespace::Container(id) => {
                let pidfd = self.containers.get(id).and_then(|c| c.pidfd.as_ref());
                Ok(Some(
                    pidfd
                        .ok_or_else(|| Error::check(format!("target container {id} is not running")))?
                        .as_fd(),
                ))
            }
        }
    }

    /// Sends the stop signal; the client hears when the container has ended.
    pub(super) fn stop(&mut self, client: u64, id: &str, grace_seconds: u64) -> Result<Reply> {
        let now = self.clock.monotonic();
        let Some(c) = self.containers.get_mut(id) else { return Ok(Reply::Now(Answer::Done)) };
        let Some(pidfd) = &c.pidfd else { return Ok(Reply::Now(Answer::Done)) };
        if grace_seconds == 0 {
            process::signal(pidfd, SIGKILL)?;
        } else {
            let at = now.saturating_add(Duration::from_secs(grace_seconds));
            if c.kill_at.is_none() {
                let signal = c.spec.as_ref().map_or(15, |s| s.stop_signal);
                process::signal(pidfd, if signal > 0 { signal } else { 15 })?;
            }
            // A second stop may shorten the grace, never prolong it.
            c.kill_at = Some(c.kill_at.map_or(at, |before| before.min(at)));
        }
        c.waiting.push(client);
        Ok(Reply::Later)
    }

    pub(super) fn oom(&mut self, id: &str) {
        let group = self.group(id);
        let Some(c) = self.containers.get_mut(id) else { return };
        if let Some(oom) = &c.oom {
            oom.clear();
        }
        if !c.state.oom_killed && cgroup::machine().is_ok_and(|g| g.oom_kills(&group) > 0) {
            c.state.oom_killed = true;
            self.tell(id);
        }
    }

    pub(super) fn container_ended(&mut self, id: &str, exit: Exit) {
        let (group, now, now_ns) = (self.group(id), self.clock.monotonic(), self.now_ns());
        let Some(c) = self.containers.get_mut(id) else { return };
        c.pidfd = None;
        c.kill_at = None;
        // Removing the group would wake the watch for ever.
        c.oom = None;
        if let Ok(groups) = cgroup::machine() {
            c.state.oom_killed |= groups.oom_kills(&group) > 0;
            // In a shared pid namespace the container's other processes do not end by themselves.
            let _ = groups.kill_once(&group);
            if groups.try_remove(&group).is_err() {
                c.leftover = Some((group, CLEANUPS_MAX));
                c.cleanup_at = now + CLEANUP_PAUSE;
            }
        }
        c.streams.drain(now);
        c.state.phase = Phase::Exited;
        c.state.finished_ns = now_ns;
        c.state.exit_code = exit.code;
        c.state.signal = exit.signal;
        let waiting = std::mem::take(&mut c.waiting);
        if let Err(e) = self.pod.write_state(&self.containers[id].state) {
            eprintln!("shim: write the state of container {id}: {e}");
        }
        for client in waiting {
            self.answer(client, &Answer::Done);
        }
        self.tell(id);
    }
}

fn own_pid_namespace(wanted: &PidNamespace) -> i32 {
    if *wanted == PidNamespace::Own { sys::namespace::PID } else { 0 }
}

/// `None`: all devices.
fn device_rules(spec: &ContainerSpec, devices: &[DeviceNode]) -> Option<Vec<DeviceRule>> {
    if spec.security.privileged {
        return None;
    }
    Some(devices::DEFAULT_RULES.iter().copied().chain(devices.iter().map(DeviceNode::rule)).collect())
}
