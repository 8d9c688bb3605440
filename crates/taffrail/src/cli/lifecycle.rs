//! `down`, `reset`, `status`: a running cluster from outside.

use super::DataDir;
use super::remote;
use crate::up::pid_file;
use clap::Args;
use http::Method;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a stopping cluster may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Reset {
    #[command(flatten)]
    dir: DataDir,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// An error with its causes, in one line.
pub fn chain(e: impl std::error::Error + 'static) -> String {
    base::error::chain(&e)
}

/// The running cluster's process.
fn running(data_dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(pid_file(data_dir)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    // The number may be another program's by now.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    (test_kill_process(pid).is_ok() && name.trim().starts_with("taffrail")).then_some(pid)
}

pub fn down(data_dir: &Path) -> Result<(), String> {
    let pid = running(data_dir);
    if pid.is_none() && !data_dir.join("nodes").exists() {
        return Err(format!("no cluster runs from {}", data_dir.display()));
    }
    if let Some(pid) = pid {
        stop(data_dir, pid)?;
    }
    clean(data_dir)?;
    println!("the cluster is down");
    Ok(())
}

/// Ends what a stopped cluster leaves running.
fn clean(data_dir: &Path) -> Result<(), String> {
    if !data_dir.join("nodes").exists() {
        return Ok(());
    }
    remote::block(crate::node::cleanup::run(data_dir))
        .map_err(|e| format!("not everything could be ended: {e}"))
}

fn stop(data_dir: &Path, pid: Pid) -> Result<(), String> {
    kill_process(pid, Signal::TERM)
        .map_err(|e| format!("cannot stop process {}: {e}", pid.as_raw_nonzero()))?;
    let end = Instant::now() + STOP_TIMEOUT;
    while running(data_dir).is_some() {
        if Instant::now() > end {
            return Err(format!("process {} did not stop within a minute", pid.as_raw_nonzero()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub fn reset(r: &Reset) -> Result<(), String> {
    let dir = &r.dir.data_dir;
    if !r.yes {
        eprint!(
            "Remove the cluster in {} with everything in it, its audit record too? [y/N] ",
            dir.display()
        );
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|e| e.to_string())?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err("nothing was removed".into());
        }
    }
    if let Some(pid) = running(dir) {
        stop(dir, pid)?;
    }
    clean(dir)?;
    // Only a directory that a cluster made is removed.
    if dir.exists() && !(dir.join("store").exists() || dir.join("pki").exists()) {
        return Err(format!("{} is not a cluster's data directory", dir.display()));
    }
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| format!("cannot remove {}: {e}", dir.display()))?;
    }
    println!("nothing is left");
    Ok(())
}

pub fn status(data_dir: &Path) -> Result<(), String> {
    let pid = running(data_dir);
    let client = remote::client(data_dir)?;
    let (ready, nodes, pods) = remote::block(async move {
        let ready = client.stream("/readyz", None).await.map(drop);
        let count =
            |v: Result<serde_json::Value, meta::Status>| v.map(|v| v["items"].as_array().map_or(0, Vec::len));
        let nodes = count(client.raw(Method::GET, "/api/v1/nodes", None).await);
        let pods = count(client.raw(Method::GET, "/api/v1/pods", None).await);
        Ok((ready, nodes, pods))
    })?;
    ready.map_err(|e| format!("the API server is not ready: {e}"))?;
    let process = pid.map_or_else(|| "elsewhere".to_owned(), |p| format!("process {}", p.as_raw_nonzero()));
    println!("cluster: up ({process}), Kubernetes {}", apiserver::version::KUBERNETES);
    println!("nodes:   {}", nodes.map_err(|e| e.to_string())?);
    println!("pods:    {}", pods.map_err(|e| e.to_string())?);
    Ok(())
}
