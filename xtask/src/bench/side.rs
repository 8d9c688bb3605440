//! A server under measurement: started in a namespace and a directory of its own, and ended with them.

use rustls::ClientConfig;
use serde_json::Value;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pin of the namespace at the other end of the default route.
const ROUTER: &str = "router";
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Side {
    /// Holds the namespace's pin and the server's files.
    home: tempfile::TempDir,
    pub address: SocketAddr,
    pub token: String,
    pub tls: Arc<ClientConfig>,
    /// Spawn to the first good answer of /readyz.
    pub ready_ms: f64,
    pub started: Instant,
    kind: Kind,
}

enum Kind {
    Taffrail { process: Child, program: PathBuf },
    Peers { script: PathBuf },
}

impl Side {
    pub fn taffrail(program: &Path, flags: &[&OsStr]) -> Result<Self, String> {
        let program = std::fs::canonicalize(program)
            .map_err(|e| format!("{}: {e}; build it with cargo build --release", program.display()))?;
        let home = home()?;
        let data = home.path().join("data");
        if !flags.is_empty() {
            // without a node of its own it leaves the network, loopback too, as it is
            runtime()?
                .block_on(default_route(home.path()))
                .map_err(|e| format!("prepare the namespace: {e}"))?;
        }
        let started = Instant::now();
        let process = inside(home.path(), || {
            Command::new(&program)
                .args(["up", "--no-kubeconfig", "--data-dir"])
                .arg(&data)
                .args(flags)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|e| format!("start {}: {e}", program.display()))
        })??;
        let token = data.join("pki/admin.token");
        let address = SocketAddr::from(([127, 0, 0, 1], 6443));
        let kind = Kind::Taffrail { process, program };
        let mut side =
            Self { home, address, token: String::new(), tls: tls()?, ready_ms: 0.0, started, kind };
        side.token = wait(started, || std::fs::read_to_string(&token).ok().filter(|t| !t.is_empty()))?;
        side.ready()?;
        Ok(side)
    }

    /// `policy` is the file of an audit policy; without one the real one keeps no record.
    pub fn peers(script: &Path, policy: Option<&Path>) -> Result<Self, String> {
        let home = home()?;
        runtime()?.block_on(default_route(home.path())).map_err(|e| format!("prepare the namespace: {e}"))?;
        let state = home.path().join("state");
        let started = Instant::now();
        let out = inside(home.path(), || {
            Command::new(script).arg("start").args(policy).env("STATE", &state).stderr(Stdio::null()).output()
        })?
        .map_err(|e| format!("run {}: {e}", script.display()))?;
        let kind = Kind::Peers { script: script.to_owned() };
        let address = SocketAddr::from(([127, 0, 0, 1], 16443));
        let token = "admintoken".to_owned();
        let mut side = Self { home, address, token, tls: tls()?, ready_ms: 0.0, started, kind };
        if !out.status.success() {
            return Err(format!("{} start failed", script.display()));
        }
        side.ready()?;
        Ok(side)
    }

    fn ready(&mut self) -> Result<(), String> {
        let started = self.started;
        self.ready_ms = self.with(async |side: &Self| {
            loop {
                let asked = match super::connection::Connection::open(side).await {
                    Ok(mut c) => c.get("/readyz").await,
                    Err(e) => Err(e),
                };
                match asked {
                    Ok(_) => return Ok(started.elapsed().as_secs_f64() * 1000.0),
                    Err(e) if started.elapsed() > START_TIMEOUT => {
                        return Err(format!("the server on {} did not become ready: {e}", side.address));
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })?;
        Ok(())
    }

    /// Runs work inside the server's namespace.
    pub fn with<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Self) -> Result<T, String> + Send,
    ) -> Result<T, String> {
        inside(self.home.path(), || runtime()?.block_on(work(self)))?
    }

    /// The server's processes; for ours, with those of its pods.
    fn processes(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Taffrail { process, .. } => vec![process.id()],
            Kind::Peers { .. } => ["apiserver", "etcd"]
                .iter()
                .filter_map(|n| std::fs::read_to_string(self.home.path().join(format!("state/{n}.pid"))).ok())
                .filter_map(|t| t.trim().parse().ok())
                .collect(),
        }
    }

    /// CPU time that the server has used.
    pub fn cpu(&self) -> Duration {
        let of = |pid: &u32| sys::process::cpu_time(i32::try_from(*pid).ok()?).ok();
        self.processes().iter().filter_map(of).sum()
    }

    /// Resident and proportional memory in MB of the server and of every process that it started (shims).
    pub fn memory_mb(&self) -> (f64, f64) {
        let home = self.home.path().to_string_lossy().into_owned();
        let mut pids = self.processes();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&home) && !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        let sum = |field: &str| -> f64 {
            let of = |pid: &u32| -> Option<f64> {
                let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
                let line = text.lines().find_map(|l| l.strip_prefix(field))?;
                line.split_whitespace().next()?.parse::<f64>().ok()
            };
            pids.iter().filter_map(of).sum::<f64>() / 1024.0
        };
        (sum("Rss:"), sum("Pss:"))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let home = self.home.path().to_owned();
        let _ = match &mut self.kind {
            Kind::Taffrail { process, program } => inside(&home, || {
                let _ = process.kill();
                let _ = process.wait();
                Command::new(program)
                    .args(["reset", "--yes", "--data-dir"])
                    .arg(home.join("data"))
                    .output()
                    .map(drop)
            }),
            Kind::Peers { script } => inside(&home, || {
                Command::new(script).arg("stop").env("STATE", home.join("state")).output().map(drop)
            }),
        };
        for pin in ["netns", ROUTER] {
            let _ = sys::netns::delete(&home.join(pin));
        }
    }
}

fn home() -> Result<tempfile::TempDir, String> {
    let home = tempfile::tempdir().map_err(|e| format!("make a directory: {e}"))?;
    sys::netns::create(&home.path().join("netns")).map_err(|e| format!("{e}; the bench needs root"))?;
    Ok(home)
}

/// kube-apiserver wants a default route: one to a namespace that leads nowhere.
async fn default_route(home: &Path) -> network::Result<()> {
    let router = home.join(ROUTER);
    sys::netns::create(&router)?;
    let gateway: network::Cidr = "192.0.2.1/24".parse()?;
    let link = network::NodeLink::ensure(Some(&router), "bench0", &[gateway]).await?;
    link.attach(&home.join("netns"), "eth0", &["192.0.2.2/24".parse()?], &[gateway.address]).await
}

fn inside<T: Send>(home: &Path, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    sys::netns::run_in(Some(&home.join("netns")), work).map_err(|e| e.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())
}

fn wait<T>(since: Instant, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    loop {
        if let Some(found) = ask() {
            return Ok(found);
        }
        if since.elapsed() > START_TIMEOUT {
            return Err("the server did not start".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads a JSON line of a stream.
pub fn parse(line: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(line).map_err(|e| format!("an answer is no JSON: {e}"))
}

/// Both servers are ours, in a namespace without a way out.
fn tls() -> Result<Arc<ClientConfig>, String> {
    let mut config = tls::to_any_server().map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
