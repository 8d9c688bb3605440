//! A place for one test: a runtime below a directory of its own, cgroups below a group of their own, and a check that
//! nothing of it stays.

use node::pod::security::DEFAULT_CAPABILITIES;
use node::runtime::{
    ContainerSpec, ContainerState, Phase, PidNamespace, Resources, Runtime as _, RuntimeError, SandboxSpec,
    Seccomp, Security, ShimRuntime,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use sys::cgroup;

pub const POD: &str = "pod-1";
/// An image layer that holds this program at /bin/act.
pub struct Layer(tempfile::TempDir);

impl Layer {
    pub fn make() -> Self {
        let layer = tempfile::tempdir().expect("a directory");
        let put = |from: &Path, to: &str| {
            let to = layer.path().join(to.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().expect("a parent")).expect("made");
            std::fs::copy(from, &to).expect("copied");
        };
        put(&std::env::current_exe().expect("own file"), "/bin/act");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let mut seen: Vec<&str> = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).collect();
        seen.sort_unstable();
        seen.dedup();
        for library in seen.into_iter().filter(|p| p.contains(".so")) {
            put(Path::new(library), library);
            for interpreter in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
                if library
                    .ends_with(Path::new(interpreter).file_name().and_then(|n| n.to_str()).expect("a name"))
                {
                    put(Path::new(library), interpreter);
                }
            }
            // Where the interpreter looks without a cache.
            if let Some(name) = Path::new(library).file_name().and_then(|n| n.to_str()) {
                put(Path::new(library), &format!("/lib/{name}"));
            }
        }
        for dir in ["etc", "tmp", "proc", "sys"] {
            std::fs::create_dir_all(layer.path().join(dir)).expect("made");
        }
        std::fs::write(
            layer.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv:/x\n",
        )
        .expect("written");
        Self(layer)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

pub struct World {
    pub tokio: tokio::runtime::Runtime,
    pub runtime: Arc<ShimRuntime>,
    dir: tempfile::TempDir,
    layer: PathBuf,
    pub group: String,
    next: AtomicU32,
}

impl World {
    pub fn new(layer: &Layer, name: &str) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("tokio");
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio.block_on(async { new_runtime(&dir.path().join("pods")) });
        let group = format!("taffrail-test-{}-{}", std::process::id(), name.len());
        Self { tokio, runtime, dir, layer: layer.path().into(), group, next: AtomicU32::new(0) }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pods(&self) -> PathBuf {
        self.dir().join("pods")
    }

    pub fn sandbox(&self) -> SandboxSpec {
        sandbox(&self.group)
    }

    /// Starts the pod.
    pub fn start_pod(&self) {
        self.start_pod_with(|_| {});
    }

    pub fn start_pod_with(&self, change: impl FnOnce(&mut SandboxSpec)) {
        let mut spec = self.sandbox();
        change(&mut spec);
        self.tokio.block_on(self.runtime.start_sandbox(&spec)).expect("a sandbox");
    }

    /// A container that does these acts.
    pub fn container(&self, acts: &str) -> ContainerSpec {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        container(&self.layer, self.dir(), &format!("c{n}"), acts)
    }

    pub fn start(&self, spec: &ContainerSpec) -> Result<ContainerState, RuntimeError> {
        self.tokio.block_on(self.runtime.start_container(POD, spec))
    }

    /// Starts a container and waits for its end: state and log.
    pub fn run(&self, spec: &ContainerSpec) -> (ContainerState, String) {
        self.start(spec).unwrap_or_else(|e| panic!("start {:?}: {e}", spec.args));
        (self.wait(&spec.id), self.log(spec))
    }

    /// Output of a container that does these acts, to stdout.
    pub fn output(&self, spec: &ContainerSpec) -> String {
        let (state, log) = self.run(spec);
        assert_eq!(state.exit_code, 0, "{log}");
        log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(|l| format!("{l}\n")).collect()
    }

    pub fn state(&self, id: &str) -> ContainerState {
        let all = self.tokio.block_on(self.runtime.state(POD)).expect("states").expect("a sandbox");
        all.into_iter().find(|c| c.id == id).unwrap_or_else(|| panic!("no container {id}"))
    }

    pub fn wait(&self, id: &str) -> ContainerState {
        let mut found = None;
        eventually("the container ends", || {
            let state = self.state(id);
            let ended = state.phase == Phase::Exited;
            found = ended.then_some(state);
            ended
        });
        found.expect("an end")
    }

    pub fn log(&self, spec: &ContainerSpec) -> String {
        std::fs::read_to_string(&spec.log_path).unwrap_or_default()
    }

    pub fn wait_for_log(&self, spec: &ContainerSpec, text: &str) {
        eventually(&format!("the log says {text}"), || self.log(spec).contains(text));
    }

    pub fn exec(&self, id: &str, acts: &str) -> (i32, String) {
        let (code, output) = self.try_exec(id, &words(acts)).unwrap_or_else(|e| panic!("exec {acts}: {e}"));
        (code, String::from_utf8_lossy(&output).into_owned())
    }

    pub fn try_exec(&self, id: &str, args: &[String]) -> Result<(i32, Vec<u8>), RuntimeError> {
        self.tokio.block_on(self.runtime.exec_sync(POD, id, args, Duration::from_secs(5)))
    }

    /// Removes the pod and everything; what is left all the same.
    pub fn remove(self) -> Vec<String> {
        let mut left = vec![];
        if let Err(e) = self.tokio.block_on(self.runtime.remove_sandbox(POD)) {
            left.push(format!("remove_sandbox: {e}"));
        }
        let groups = cgroup::machine().expect("cgroups");
        if !groups.processes(&self.group).unwrap_or_default().is_empty() {
            left.push("processes".into());
        }
        let path = self.dir().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        left.extend(mounts.lines().filter(|l| l.contains(&path)).map(|l| format!("mount {l}")));
        for entry in std::fs::read_dir(self.pods()).into_iter().flatten().flatten() {
            left.push(format!("{}", entry.path().display()));
        }
        left.extend(find_groups(&self.group).into_iter().filter(|g| !g.ends_with(&self.group)));
        for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            if line.contains(&path) && line.contains("__shim") {
                left.push(format!("process {line:?}"));
            }
        }
        if let Err(e) = groups.remove(&self.group) {
            left.push(format!("cgroup: {e}"));
        }
        left
    }
}

fn find_groups(group: &str) -> Vec<String> {
    let mut found = vec![];
    let mut todo: Vec<PathBuf> = vec!["/sys/fs/cgroup".into()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if entry.path().to_string_lossy().contains(group) {
                    found.push(entry.path().to_string_lossy().into_owned());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}

pub fn new_runtime(root: &Path) -> Arc<ShimRuntime> {
    ShimRuntime::new(root, std::env::current_exe().expect("own file")).expect("a runtime")
}

fn sandbox(group: &str) -> SandboxSpec {
    SandboxSpec {
        pod_uid: POD.into(),
        namespace: "default".into(),
        name: "pod".into(),
        hostname: "the-pod".into(),
        netns: None,
        host_pid: false,
        host_ipc: false,
        share_pid: false,
        cgroup: format!("{group}/{POD}"),
        resources: Resources::default(),
        sysctls: BTreeMap::new(),
    }
}

pub fn words(acts: &str) -> Vec<String> {
    ["act", "__act"].into_iter().chain(acts.split_whitespace()).map(String::from).collect()
}

fn container(layer: &Path, dir: &Path, id: &str, acts: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.into(),
        name: id.into(),
        layers: vec![layer.into()],
        args: words(acts),
        env: vec![],
        cwd: String::new(),
        mounts: vec![],
        devices: vec![],
        security: Security {
            uid: 0,
            gid: 0,
            groups: vec![],
            capabilities: DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_string()).collect(),
            privileged: false,
            read_only_root: false,
            no_new_privileges: false,
            seccomp: Seccomp::RuntimeDefault,
            unmasked_proc: false,
        },
        resources: Resources::default(),
        pid: PidNamespace::Own,
        oom_score_adj: 0,
        log_path: dir.join("logs").join(id).join("0.log"),
        tty: false,
        stdin: false,
        stdin_once: false,
        stop_signal: 15,
    }
}

/// Waits for at most ten seconds.
pub fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !f() {
        assert!(Instant::now() < end, "it never happened that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that starts a pod with a ticking container and then hangs, to be killed.
pub fn parent(pods: &str, layer: &str) {
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    let group = std::env::args().nth(4).expect("a group");
    tokio.block_on(async {
        let runtime = new_runtime(Path::new(pods));
        runtime.start_sandbox(&sandbox(&group)).await.expect("a sandbox");
        let dir = Path::new(pods).parent().expect("a parent");
        let spec = container(Path::new(layer), dir, "survivor", "tick");
        runtime.start_container(POD, &spec).await.expect("a container");
        println!("started");
        std::future::pending::<()>().await;
    });
}

impl World {
    pub fn layer(&self) -> &Path {
        &self.layer
    }
}
