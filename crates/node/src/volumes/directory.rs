//! Directories that volumes live in: on disk or in memory, with the pod's group (upstream: `pkg/volume/emptydir`,
//! `volume_linux.go#SetVolumeOwnership`).

use crate::pod::resources;
use crate::pod::spec::{self, ResourceList};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

/// What an emptyDir is kept on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// tmpfs of at most so many bytes.
    Memory(Option<u64>),
}

impl Medium {
    /// # Errors
    /// A medium that this node does not have.
    pub fn of(e: &EmptyDirVolumeSource, pod: &Pod, allocatable: &ResourceList) -> Result<Self, String> {
        match e.medium.as_deref().unwrap_or_default() {
            "" => Ok(Self::Disk),
            "Memory" => {
                let asked = e.size_limit.as_ref().and_then(|q| meta::quantity::Quantity::parse(&q.0).ok());
                let asked = asked.map(|q| q.value()).filter(|v| *v > 0).and_then(|v| u64::try_from(v).ok());
                let node =
                    spec::quantity(Some(allocatable), "memory").and_then(|q| u64::try_from(q.value()).ok());
                let limit = resources::pod_cgroup(pod, None).memory_limit_bytes;
                Ok(Self::Memory([asked, node, limit].into_iter().flatten().min()))
            }
            other => Err(format!("unknown storage medium {other:?}")),
        }
    }
}

/// Makes an emptyDir; one that is there is left as it is.
///
/// # Errors
/// What could not be done, with its path.
pub fn empty_dir(dir: &Path, medium: &Medium, fs_group: Option<u32>) -> Result<(), String> {
    let fresh = !dir.exists();
    make(dir)?;
    if let Medium::Memory(limit) = medium {
        memory(dir, *limit)?;
    }
    if !fresh {
        return Ok(());
    }
    mode(dir, 0o777)?;
    match fs_group {
        Some(gid) => own(dir, gid, false),
        None => Ok(()),
    }
}

/// Makes the directory that files are projected into.
///
/// # Errors
/// What could not be done, with its path.
pub fn projection_dir(dir: &Path, in_memory: bool) -> Result<(), String> {
    make(dir)?;
    if in_memory {
        memory(dir, None)?;
    }
    mode(dir, 0o777)
}

/// Gives a tree to a group: read and write (or only read) for the group, set-gid on directories.
///
/// # Errors
/// What could not be done, with its path.
pub fn own(path: &Path, gid: u32, read_only: bool) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("give {} to group {gid}: {e}", path.display());
    let meta = std::fs::symlink_metadata(path).map_err(fail)?;
    lchown(path, None, Some(gid)).map_err(fail)?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut bits = if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        bits |= 0o2110;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(meta.mode() & 0o7777 | bits))
        .map_err(fail)?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(fail)? {
            own(&entry.map_err(fail)?.path(), gid, read_only)?;
        }
    }
    Ok(())
}

/// Gives a file to a user.
///
/// # Errors
/// The operating system's.
pub fn give(path: &Path, uid: u32) -> std::io::Result<()> {
    chown(path, Some(uid), None)
}

/// Unmounts all below `dir` and removes it; one that is gone is no error.
///
/// # Errors
/// A mount that stays, or what could not be removed.
pub fn remove(dir: &Path) -> Result<(), String> {
    if !dir.exists() {
        return Ok(());
    }
    for mount in sys::mount::below(dir).map_err(|e| e.to_string())? {
        sys::mount::unmount(&mount).map_err(|e| e.to_string())?;
    }
    // Never delete through a mount that came back: it may be somebody's data.
    if let Some(left) = sys::mount::below(dir).map_err(|e| e.to_string())?.first() {
        return Err(format!("{} is still mounted", left.display()));
    }
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("remove {}: {e}", dir.display())),
        _ => Ok(()),
    }
}

fn make(dir: &Path) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))
}

fn mode(dir: &Path, mode: u32) -> Result<(), String> {
    let meta = std::fs::metadata(dir).map_err(|e| format!("look at {}: {e}", dir.display()))?;
    if meta.mode() & 0o777 == mode {
        return Ok(());
    }
    let wanted = meta.mode() & 0o7000 | mode;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(wanted))
        .map_err(|e| format!("set mode of {}: {e}", dir.display()))
}

/// Mounts a tmpfs at `dir` unless something is mounted there.
fn memory(dir: &Path, limit: Option<u64>) -> Result<(), String> {
    let device =
        |p: &Path| std::fs::metadata(p).map(|m| m.dev()).map_err(|e| format!("look at {}: {e}", p.display()));
    let parent = dir.parent().unwrap_or(dir);
    if device(dir)? != device(parent)? {
        return Ok(());
    }
    let size = limit.map(|l| l.to_string());
    let mut options = vec![("mode", Some("0777"))];
    options.extend(size.as_deref().map(|s| ("size", Some(s))));
    sys::mount::mount_at("tmpfs", &options, sys::mount::Attributes::NONE, dir).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_ownership() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().join("v");
        empty_dir(&d, &Medium::Disk, Some(4242)).unwrap();
        let m = std::fs::metadata(&d).unwrap();
        assert_eq!((m.gid(), m.mode() & 0o7777), (4242, 0o2777));
        std::fs::write(d.join("f"), "x").unwrap();
        std::fs::set_permissions(d.join("f"), std::fs::Permissions::from_mode(0o600)).unwrap();
        own(&d, 4242, false).unwrap();
        assert_eq!(std::fs::metadata(d.join("f")).unwrap().mode() & 0o777, 0o660);
        remove(&d).unwrap();
        remove(&d).unwrap();
        assert!(!d.exists());
    }
}
