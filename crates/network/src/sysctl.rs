//! Kernel settings of the node's network namespace, with their old values kept for the way back.
//!
//! Invariant: the old value is on disk before a setting changes, and is never overwritten by a later start.

use crate::error::{Error, Result};
use crate::ipam::replace;
use std::collections::BTreeMap;
use std::path::Path;

const ROOT: &str = "/proc/sys/net";

/// Makes the calling thread's namespace forward packets. Where a link takes its routes from router advertisements,
/// it goes on doing so (the kernel would stop that with forwarding on).
pub fn enable_forwarding(state_file: &Path) -> Result<()> {
    let mut wanted: Vec<(String, &str)> = vec![("ipv4/ip_forward".into(), "1")];
    if exists("ipv6/conf/all/forwarding") {
        for link in advertised_links() {
            wanted.push((format!("ipv6/conf/{link}/accept_ra"), "2"));
        }
        wanted.push(("ipv6/conf/all/forwarding".into(), "1"));
    }
    let mut old = load(state_file)?;
    let mut changes = vec![];
    for (name, value) in wanted {
        let current = read(&name)?;
        if current != value {
            old.entry(name.clone()).or_insert(current);
            changes.push((name, value));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec(&old).map_err(|e| Error::check(format!("encode settings: {e}")))?;
    replace(state_file, &text)?;
    changes.into_iter().try_for_each(|(name, value)| write(&name, value))
}

/// Puts the old values back and removes the file. Settings whose link is gone are skipped.
pub fn restore(state_file: &Path) -> Result<()> {
    for (name, value) in load(state_file)? {
        if exists(&name) {
            write(&name, &value)?;
        }
    }
    match std::fs::remove_file(state_file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file(format!("remove {}", state_file.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Sets one setting of the calling thread's namespace, by its path below `net`.
pub fn write(name: &str, value: &str) -> Result<()> {
    std::fs::write(Path::new(ROOT).join(name), value)
        .map_err(|e| Error::file(format!("set net/{name} to {value}"), &e))
}

/// Whether the calling thread's namespace has the setting.
pub fn exists(name: &str) -> bool {
    Path::new(ROOT).join(name).exists()
}

fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(Path::new(ROOT).join(name))
        .map(|text| text.trim().to_owned())
        .map_err(|e| Error::file(format!("read net/{name}"), &e))
}

fn advertised_links() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new(ROOT).join("ipv6/conf")) else { return vec![] };
    entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|link| !matches!(link.as_str(), "all" | "default" | "lo"))
        .filter(|link| read(&format!("ipv6/conf/{link}/accept_ra")).is_ok_and(|v| v == "1"))
        .collect()
}

fn load(state_file: &Path) -> Result<BTreeMap<String, String>> {
    match std::fs::read(state_file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::check(format!("settings file {} is damaged: {e}", state_file.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(Error::file(format!("read {}", state_file.display()), &e)),
    }
}
