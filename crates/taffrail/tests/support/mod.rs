//! A cluster of the test's own: its program in a network namespace and a data directory that go with the test.

// Each test program uses a part of it.
#![allow(dead_code)]

mod etcd;

use client::https::{HttpsApi, Token};
use client::{Client, kubeconfig};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use etcd::Etcd;

/// How long anything may take on a machine that does other things as well.
pub const SOON: Duration = Duration::from_secs(120);

/// How much of each log a failed test shows.
const LOG_LINES: usize = 60;

/// Whether tests that need root can run; says so when not.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
    }
    root
}

/// Asks until the answer is there.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a cluster keeps its objects in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Embedded,
    Etcd,
}

impl Backend {
    /// Those that tests run on: real etcd too, when its program is there.
    pub fn all() -> Vec<Self> {
        let etcd = Etcd::program().map(|_| Self::Etcd);
        std::iter::once(Self::Embedded).chain(etcd).collect()
    }
}

pub struct Cluster {
    /// Holds the data directory, and the namespace's pin unless another cluster's has it.
    home: tempfile::TempDir,
    netns: PathBuf,
    etcd: Option<Arc<Etcd>>,
    /// In which every step runs, as sockets belong to the namespace of the thread that makes them.
    process: Option<Child>,
    started: Instant,
}

impl Cluster {
    /// A place for a cluster; nothing runs yet.
    pub fn new() -> Self {
        Self::on(Backend::Embedded)
    }

    /// As [`Self::new`]; an etcd runs already.
    pub fn on(backend: Backend) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let netns = home.path().join("netns");
        sys::netns::create(&netns).expect("a namespace");
        let etcd = (backend == Backend::Etcd).then(|| Arc::new(Etcd::start(&netns)));
        Self { home, netns, etcd, process: None, started: Instant::now() }
    }

    /// A place for one more server, on the same etcd and network.
    pub fn another(&self) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let (netns, etcd) = (self.netns.clone(), self.etcd.clone());
        Self { home, netns, etcd, process: None, started: Instant::now() }
    }

    /// Takes the keys of another server of the cluster, as its operator would.
    pub fn copy_keys_of(&self, other: &Self) {
        let (from, to) = (other.data_dir().join("pki"), self.data_dir().join("pki"));
        std::fs::create_dir_all(&to).expect("made");
        for file in std::fs::read_dir(from).expect("keys").flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }

    pub fn etcd(&self) -> &Etcd {
        self.etcd.as_ref().expect("an etcd")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Puts the data directory on a disk of that size, such as `64m`.
    pub fn on_disk_of(&self, size: &str) {
        std::fs::create_dir(self.data_dir()).expect("made");
        let none = sys::mount::Attributes::default();
        sys::mount::mount_at("tmpfs", &[("size", Some(size))], none, &self.data_dir()).expect("mounted");
    }

    /// Puts the data directory on a disk that nothing can be written to.
    pub fn on_read_only_disk(&self) {
        std::fs::create_dir(self.data_dir()).expect("made");
        let attributes = sys::mount::Attributes::READ_ONLY;
        sys::mount::mount_at("tmpfs", &[("size", Some("4k"))], attributes, &self.data_dir())
            .expect("mounted");
    }

    /// Runs work inside the namespace, with a client of the cluster's administrator.
    pub fn with<T: Send>(&self, work: impl AsyncFnOnce(Client) -> T + Send) -> T {
        self.with_token(None, work)
    }

    /// As [`Self::with`], with the token of somebody else.
    pub fn as_bearer<T: Send>(&self, token: &str, work: impl AsyncFnOnce(Client) -> T + Send) -> T {
        self.with_token(Some(token), work)
    }

    fn with_token<T: Send>(&self, token: Option<&str>, work: impl AsyncFnOnce(Client) -> T + Send) -> T {
        self.run(async || work(self.client(token)).await)
    }

    /// A client of the administrator, or of whom a token is; to be used inside the namespace.
    pub fn client(&self, token: Option<&str>) -> Client {
        let file = self.data_dir().join("admin.kubeconfig");
        let mut config = kubeconfig::load(&file, None).expect("a kubeconfig");
        if let Some(token) = token {
            config.token = Token::Bearer(token.to_owned());
        }
        Client::new(Arc::new(HttpsApi::new(&config).expect("a client")))
    }

    /// Gives the namespace a link with an address (`10.77.0.9/24`), and what is local its own: a cluster without nodes
    /// makes no network.
    pub fn link(&self, address: &str) {
        let address: network::Cidr = address.parse().expect("an address");
        self.run(async || {
            network::NodeLink::ensure(Some(&self.netns), etcd::LINK, &[address]).await.expect("a link")
        });
    }

    /// Runs async work inside the namespace.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.inside(move || {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
            tokio.block_on(work())
        })
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        sys::netns::run_in(Some(&self.netns), work).expect("inside the namespace")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taffrail"));
        command.args(args).env("TAFFRAIL_DATA_DIR", self.data_dir()).env_remove("KUBECONFIG");
        command
    }

    /// Runs a command of the program to its end.
    pub fn taffrail(&self, args: &[&str]) -> Output {
        self.inside(|| self.command(args).output().expect("run"))
    }

    /// As [`Self::taffrail`], for what must succeed: its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.taffrail(args);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }

    /// Starts the cluster and waits until it says that it is up.
    pub fn up(&mut self, args: &[&str]) {
        let log = std::fs::File::create(self.home.path().join("up.log")).expect("a log");
        let all = self.up_args(args);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.started = Instant::now();
        let child = self.inside(|| {
            self.command(&all)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("started")
        });
        self.process = Some(child);
        while !self.said().contains("The cluster is up") {
            let ended = self.process.as_mut().and_then(|p| p.try_wait().ok().flatten());
            assert!(ended.is_none(), "the cluster ended: {}", self.said());
            assert!(self.started.elapsed() < SOON, "not up: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn up_args(&self, more: &[&str]) -> Vec<String> {
        let data = self.data_dir().display().to_string();
        let own = ["up", "--no-kubeconfig", "--data-dir", &data].map(str::to_owned);
        let store = self.etcd.as_ref().map(|e| e.flags()).unwrap_or_default();
        own.into_iter().chain(store).chain(more.iter().map(|a| (*a).to_owned())).collect()
    }

    /// What a start that must fail says last.
    pub fn refused(&self, args: &[&str]) -> String {
        let all = self.up_args(args);
        let out = self.taffrail(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!out.status.success(), "{args:?}");
        String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or("").to_owned()
    }

    /// Prints the end of every log of the cluster: why a test failed is often only there.
    fn tell(&self) {
        let data = self.data_dir();
        let nodes = std::fs::read_dir(data.join("nodes")).into_iter().flatten().flatten();
        for dir in nodes.map(|n| n.path()).chain([data]) {
            for log in std::fs::read_dir(dir.join("logs")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(LOG_LINES).collect();
                let _ = writeln!(std::io::stderr(), "--- {}", log.path().display());
                for line in lines.iter().rev() {
                    let _ = writeln!(std::io::stderr(), "{line}");
                }
            }
        }
    }

    /// Memory of the program that is resident, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.process.as_ref().map(Child::id).expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// What `up` has printed.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.home.path().join("up.log")).unwrap_or_default()
    }

    /// Ends the program as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    /// Waits for the program after `down` or `reset` has ended it.
    pub fn ended(&mut self) {
        if let Some(mut process) = self.process.take() {
            assert!(process.wait().expect("ended").success());
        }
    }

    /// Everything of this cluster that is on the machine, but for files.
    pub fn residue(&self) -> BTreeSet<String> {
        let home = std::fs::canonicalize(self.home.path()).expect("a path");
        let home = home.to_str().expect("a path").to_owned();
        let mut found = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let own = format!("{home}/netns");
        let points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
        found.extend(points.filter(|p| p.starts_with(&home) && **p != own).map(|p| format!("mount {p}")));
        for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&home) {
                found.insert(format!("process {command}"));
            }
        }
        walk(Path::new("/sys/fs/cgroup"), 4, &mut |dir| {
            let text = dir.to_string_lossy().into_owned();
            if text.contains(&taffrail_group(&self.data_dir())) {
                found.insert(format!("cgroup {text}"));
            }
        });
        let links = self.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default());
        let names = links.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim);
        found.extend(names.filter(|n| !["lo", etcd::LINK].contains(n)).map(|n| format!("link {n}")));
        for (family, table) in
            sys::nft::Family::BOTH.into_iter().flat_map(|f| [(f, "taffrail"), (f, "taffrail-pods")])
        {
            // There is no list to read: a table that is not there cannot be deleted.
            let mut batch = sys::nft::Batch::new();
            batch.delete_table(family, table);
            if self.inside(|| batch.commit(&sys::nft::Socket::open().expect("netlink"))).is_ok() {
                found.insert(format!("table {table} of {family:?}"));
            }
        }
        found
    }
}

/// The name of the cgroup of a data directory's nodes.
fn taffrail_group(data_dir: &Path) -> String {
    let path = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    format!("taffrail-{:08x}", base::hash::fnv1a(path.as_os_str().as_encoded_bytes()) >> 32)
}

fn walk(dir: &Path, depth: u32, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            each(&entry.path());
            if depth > 0 {
                walk(&entry.path(), depth - 1, each);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        self.kill();
        let _ = self.taffrail(&["reset", "--yes"]);
        let _ = sys::mount::unmount(&self.data_dir());
        if self.netns.starts_with(self.home.path()) {
            let _ = sys::netns::delete(&self.netns);
        }
    }
}
