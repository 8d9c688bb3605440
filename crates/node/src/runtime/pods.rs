//! [`Runtime`] over shims: starts them, talks to them, finds them again, buries what they leave.
//!
//! Invariant: what is true of a pod is with its shim while that lives and on disk afterwards; this side keeps nothing
//! that a restart would lose.

mod link;
mod recover;
mod spawn;

use super::disk::{self, PodDir};
use super::shim::shim_group;
use super::wire::{Answer, Request};
use super::{
    ContainerSpec, ContainerState, ExecSpec, Resources, Runtime, RuntimeError, RuntimeEvent, SandboxSpec,
    Streams, Usage,
};
use async_trait::async_trait;
use base::clock::{SharedClock, SystemClock};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sys::cgroup;
use tokio::sync::broadcast;

/// Events that wait for a slow reader.
const EVENTS_MAX: usize = 4096;
/// Output kept of a short command, in bytes.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// How long the output of a command that has ended may still come from processes that it left.
const OUTPUT_LINGER: Duration = Duration::from_millis(200);

/// The process of some shim below a runtime's directory that still runs.
pub fn living_shim(root: &Path) -> Option<i32> {
    let pods = std::fs::read_dir(root).ok()?.flatten().map(|e| PodDir::at(e.path()));
    pods.filter_map(|p| p.shim().ok().flatten()).find(disk::ShimRecord::alive).map(|s| s.pid)
}

/// The shims of one node, below one directory.
pub struct ShimRuntime {
    root: PathBuf,
    /// This program, on a mount of its own that nothing can write to.
    program: OwnedFd,
    events: broadcast::Sender<RuntimeEvent>,
    /// Pods whose shim is listened to.
    watched: Arc<Mutex<HashSet<String>>>,
    /// One at a time starts, buries or removes a pod's sandbox.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    clock: SharedClock,
}

fn error(what: impl Into<String>, why: impl ToString) -> RuntimeError {
    RuntimeError { what: what.into(), why: why.to_string(), container_fault: false }
}

/// Runs what may block away from the async threads.
async fn blocking<T: Send + 'static>(
    what: &str,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(|e| error(what, e)),
        Err(e) => Err(error(what, e)),
    }
}

impl ShimRuntime {
    /// `root` holds one directory per pod and is made if missing; `program` is this program's own file, which must
    /// call [`super::shim_main`] when its first argument is `__shim`. To be called within a tokio runtime: shims that
    /// still run are listened to from here on.
    ///
    /// # Errors
    /// When the directory cannot be made or the program's mount cannot be cloned (needs root).
    pub fn new(root: impl Into<PathBuf>, program: impl AsRef<Path>) -> Result<Arc<Self>, RuntimeError> {
        let root = root.into();
        let making = || format!("make {}", root.display());
        std::fs::create_dir_all(&root).map_err(|e| error(making(), e))?;
        let root = std::fs::canonicalize(&root).map_err(|e| error(making(), e))?;
        let program =
            sys::mount::sealed_program(program.as_ref()).map_err(|e| error("seal the program", e))?;
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let runtime = Arc::new(Self {
            root,
            program,
            events,
            watched: Arc::default(),
            locks: Mutex::default(),
            clock: SystemClock::shared(),
        });
        for pod_uid in runtime.pod_uids()? {
            runtime.watch(&pod_uid);
        }
        Ok(runtime)
    }

    fn pod(&self, pod_uid: &str) -> Result<PodDir, RuntimeError> {
        if disk::plain_name(pod_uid) {
            return Ok(PodDir::new(&self.root, pod_uid));
        }
        Err(error("find the pod", format!("bad pod uid {pod_uid:?}")))
    }

    fn pod_uids(&self) -> Result<Vec<String>, RuntimeError> {
        let fail = |e: io::Error| error(format!("read {}", self.root.display()), e);
        let mut uids = vec![];
        for entry in std::fs::read_dir(&self.root).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
            if disk::plain_name(&name) {
                uids.push(name);
            }
        }
        Ok(uids)
    }

    fn spec(&self, pod_uid: &str) -> Result<Option<SandboxSpec>, RuntimeError> {
        self.pod(pod_uid)?.spec().map_err(|e| error(format!("read the sandbox of pod {pod_uid}"), e))
    }

    async fn call(&self, pod_uid: &str, what: &str, request: Request) -> Result<Answer, RuntimeError> {
        let answer = link::ask(&self.pod(pod_uid)?, request).await.map_err(|e| error(what, e))?;
        checked(what, answer)
    }

    /// The cgroup of a pod or of one of its containers.
    fn group(&self, pod_uid: &str, id: Option<&str>) -> Result<String, RuntimeError> {
        let spec =
            self.spec(pod_uid)?.ok_or_else(|| error(format!("find pod {pod_uid}"), "no such sandbox"))?;
        Ok(match id {
            Some(id) => format!("{}/{id}", spec.cgroup),
            None => spec.cgroup,
        })
    }

    /// Two locks never nest, so the order of taking them does not matter.
    fn lock(&self, pod_uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.locks.lock().entry(pod_uid.to_owned()).or_default().clone()
    }

    /// Both streams of a command to its end; what is beyond the bound is read and dropped, so that it never blocks.
    async fn collect(&self, pod_uid: &str, streams: Streams) -> Result<(i32, Vec<u8>), RuntimeError> {
        let mut output = vec![];
        let code = {
            let both = [streams.stdout, streams.stderr].into_iter().flatten();
            let mut read = std::pin::pin!(link::read_all(both.collect(), &mut output, OUTPUT_BYTES_MAX));
            let mut wait = std::pin::pin!(self.exec_wait(pod_uid, &streams.exec_id));
            tokio::select! {
                code = &mut wait => {
                    let _ = tokio::time::timeout(OUTPUT_LINGER, read).await;
                    code?
                }
                () = &mut read => wait.await?,
            }
        };
        Ok((code, output))
    }
}

/// A shim's refusal as an error.
fn checked(what: &str, answer: Answer) -> Result<Answer, RuntimeError> {
    match answer {
        Answer::Failed { why, container_fault } => {
            Err(RuntimeError { what: what.to_owned(), why, container_fault })
        }
        answer => Ok(answer),
    }
}

fn unexpected(what: &str, answer: &Answer) -> RuntimeError {
    error(what, format!("unexpected answer {answer:?}"))
}

#[async_trait]
impl Runtime for ShimRuntime {
    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<(), RuntimeError> {
        let lock = self.lock(&spec.pod_uid);
        let _held = lock.lock().await;
        let pod = self.pod(&spec.pod_uid)?;
        if link::ask(&pod, Request::State).await.is_ok() {
            self.watch(&spec.pod_uid);
            return Ok(());
        }
        self.bury(&pod, &spec.pod_uid).await?;
        let written = || pod.create().and_then(|()| pod.write_spec(spec));
        written().map_err(|e| error("write the pod's sandbox", e))?;
        let started = spawn::shim(&self.program, &pod).await;
        if let Err(e) = started {
            // Nothing of it may stay: without a shim there are no containers.
            let cgroup = spec.cgroup.clone();
            blocking("clean up the pod's cgroup", move || recover::remove_groups(&cgroup)).await?;
            return Err(e);
        }
        self.watch(&spec.pod_uid);
        Ok(())
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let lock = self.lock(pod_uid);
        let held = lock.lock().await;
        let pod = self.pod(pod_uid)?;
        if !pod.path().exists() {
            self.locks.lock().remove(pod_uid);
            return Ok(());
        }
        // Whatever it answers, what is left is ended from here.
        let asked = link::ask(&pod, Request::Shutdown).await;
        if let Ok(Answer::Failed { why, .. }) = asked {
            tracing::warn!(pod = pod_uid, "the shim did not end its containers: {why}");
        }
        let spec = self.spec(pod_uid)?;
        let what = format!("remove the sandbox of pod {pod_uid}");
        blocking(&what, move || recover::remove(&pod, spec.as_ref())).await?;
        drop(held);
        self.locks.lock().remove(pod_uid);
        Ok(())
    }

    async fn start_container(
        &self,
        pod_uid: &str,
        spec: &ContainerSpec,
    ) -> Result<ContainerState, RuntimeError> {
        let what = "failed to start container";
        match self.call(pod_uid, what, Request::Start(Box::new(spec.clone()))).await? {
            Answer::Started(state) => Ok(state),
            other => Err(unexpected(what, &other)),
        }
    }

    async fn stop_container(&self, pod_uid: &str, id: &str, grace_seconds: u64) -> Result<(), RuntimeError> {
        let request = Request::Stop { id: id.to_owned(), grace_seconds };
        match self.call(pod_uid, "stop the container", request).await {
            // A shim that is gone takes its containers with it.
            Err(e) => match self.state(pod_uid).await {
                Ok(None) => Ok(()),
                Ok(Some(all)) if all.iter().all(|c| c.id != id || c.phase == super::Phase::Exited) => Ok(()),
                _ => Err(e),
            },
            Ok(_) => Ok(()),
        }
    }

    async fn remove_container(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        let what = "remove the container";
        match self.state(pod_uid).await? {
            None => return Ok(()),
            Some(all) if all.iter().any(|c| c.id == id && c.phase != super::Phase::Exited) => {
                self.stop_container(pod_uid, id, 0).await?;
            }
            Some(_) => {}
        }
        let pod = self.pod(pod_uid)?;
        match link::ask(&pod, Request::Remove { id: id.to_owned() }).await {
            Ok(answer) => checked(what, answer).map(drop),
            Err(_) if disk::plain_name(id) => {
                let dir = pod.container(id);
                blocking(what, move || disk::remove_tree(&dir)).await
            }
            Err(e) => Err(error(what, e)),
        }
    }

    async fn update_container(
        &self,
        pod_uid: &str,
        id: &str,
        resources: &Resources,
    ) -> Result<(), RuntimeError> {
        let (group, limits) = (self.group(pod_uid, Some(id))?, cgroup::Limits::from(resources));
        let groups = cgroup::machine().map_err(|e| error("find the cgroups", e))?;
        if !groups.exists(&group) {
            return Err(error("update the container's limits", format!("container {id} is not running")));
        }
        groups.set_limits(&group, &limits).map_err(|e| error("update the container's limits", e))
    }

    async fn state(&self, pod_uid: &str) -> Result<Option<Vec<ContainerState>>, RuntimeError> {
        let pod = self.pod(pod_uid)?;
        if self.spec(pod_uid)?.is_none() {
            return Ok(None);
        }
        match link::ask(&pod, Request::State).await {
            Ok(Answer::State(all)) => {
                self.watch(pod_uid);
                return Ok(Some(all));
            }
            Ok(other) => return Err(unexpected("ask for containers", &other)),
            Err(_) => {}
        }
        let lock = self.lock(pod_uid);
        let _held = lock.lock().await;
        self.bury(&pod, pod_uid).await?;
        pod.states().map(Some).map_err(|e| error(format!("read the containers of pod {pod_uid}"), e))
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxSpec>, RuntimeError> {
        let mut found = vec![];
        for pod_uid in self.pod_uids()? {
            found.extend(self.spec(&pod_uid)?);
        }
        Ok(found)
    }

    async fn exec(&self, pod_uid: &str, spec: &ExecSpec) -> Result<Streams, RuntimeError> {
        link::streams(&self.pod(pod_uid)?, "failed to exec in container", Request::Exec(spec.clone())).await
    }

    async fn exec_wait(&self, pod_uid: &str, exec_id: &str) -> Result<i32, RuntimeError> {
        let what = "wait for the command";
        match self.call(pod_uid, what, Request::ExecWait { exec_id: exec_id.to_owned() }).await? {
            Answer::Exited(code) => Ok(code),
            other => Err(unexpected(what, &other)),
        }
    }

    async fn exec_sync(
        &self,
        pod_uid: &str,
        container_id: &str,
        args: &[String],
        timeout: Duration,
    ) -> Result<(i32, Vec<u8>), RuntimeError> {
        let spec =
            ExecSpec { container_id: container_id.to_owned(), args: args.to_vec(), tty: false, stdin: false };
        let streams = self.exec(pod_uid, &spec).await?;
        let exec_id = streams.exec_id.clone();
        if let Ok(done) = tokio::time::timeout(timeout, self.collect(pod_uid, streams)).await {
            return done;
        }
        self.call(pod_uid, "end the command", Request::ExecKill { exec_id }).await?;
        let why = format!("command {:?} timed out", args.join(" "));
        Err(RuntimeError { what: "failed to exec in container".into(), why, container_fault: true })
    }

    async fn attach(&self, pod_uid: &str, container_id: &str) -> Result<Streams, RuntimeError> {
        let request = Request::Attach { id: container_id.to_owned() };
        link::streams(&self.pod(pod_uid)?, "failed to attach to container", request).await
    }

    async fn resize(
        &self,
        pod_uid: &str,
        exec_id: &str,
        columns: u16,
        rows: u16,
    ) -> Result<(), RuntimeError> {
        let request = Request::Resize { exec_id: exec_id.to_owned(), columns, rows };
        self.call(pod_uid, "resize the terminal", request).await.map(drop)
    }

    async fn reopen_log(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        self.call(pod_uid, "reopen the log", Request::ReopenLog { id: id.to_owned() }).await.map(drop)
    }

    async fn usage(&self, pod_uid: &str, id: Option<&str>) -> Result<Usage, RuntimeError> {
        let group = self.group(pod_uid, id)?;
        let groups = cgroup::machine().map_err(|e| error("find the cgroups", e))?;
        groups.usage(&group).map(Usage::from).map_err(|e| error("read usage", e))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}
