//! Ends what nodes leave running on purpose: containers, links, tables, mounts, cgroups. Files stay.

use super::{NODE_PIN, network_state, pins, shims};
use network::PodNetwork;
use node::runtime::{Runtime as _, ShimRuntime};
use std::fs;
use std::path::{Path, PathBuf};
use sys::{cgroup, mount, netns};

/// The cgroup below which everything of a data directory's nodes is: a machine may have several, and other kubelets.
pub fn cgroup_root(data_dir: &Path) -> String {
    let path = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    format!("taffrail-{:08x}", base::hash::fnv1a(path.as_os_str().as_encoded_bytes()) >> 32)
}

/// Cleans up after the nodes of a data directory, of which none may run any more. What fails is told at the end, and
/// does not keep the rest from being done.
pub async fn run(data_dir: &Path) -> Result<(), String> {
    let mut failures = Vec::new();
    let nodes = data_dir.join("nodes");
    let mut dirs: Vec<PathBuf> =
        fs::read_dir(&nodes).into_iter().flatten().flatten().map(|e| e.path()).collect();
    dirs.sort();
    for dir in &dirs {
        failures.extend(sandboxes(dir).await.err());
        failures.extend(netns::delete(&dir.join(NODE_PIN)).err().map(|e| e.to_string()));
        for pin in fs::read_dir(pins(dir)).into_iter().flatten().flatten() {
            failures.extend(netns::delete(&pin.path()).err().map(|e| e.to_string()));
        }
    }
    if let Some(first) = dirs.first() {
        let cleaned = PodNetwork::cleanup_node(None, &network_state(first)).await;
        failures.extend(cleaned.err().map(|e| format!("clean the network up: {e}")));
    }
    failures.extend(mounts(data_dir).err());
    failures.extend(cgroups(&cgroup_root(data_dir)).err());
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

async fn sandboxes(dir: &Path) -> Result<(), String> {
    let shims = shims(dir);
    if !shims.exists() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|e| format!("find this program's file: {e}"))?;
    let runtime = ShimRuntime::new(&shims, program).map_err(|e| e.to_string())?;
    let mut failures = Vec::new();
    for entry in fs::read_dir(&shims).into_iter().flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        failures.extend(runtime.remove_sandbox(&uid).await.err().map(|e| e.to_string()));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

fn mounts(data_dir: &Path) -> Result<(), String> {
    let Ok(path) = fs::canonicalize(data_dir) else { return Ok(()) };
    let all = mount::below(&path).map_err(|e| e.to_string())?;
    // The data directory may itself be a mount: that is not ours.
    for point in all.iter().filter(|p| **p != path) {
        mount::unmount(point).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn cgroups(root: &str) -> Result<(), String> {
    let groups = cgroup::machine().map_err(|e| e.to_string())?;
    if groups.exists(root) {
        groups.kill(root).and_then(|()| groups.remove(root)).map_err(|e| e.to_string())?;
    }
    Ok(())
}
