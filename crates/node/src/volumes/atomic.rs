//! Files that change all at once (upstream: `pkg/volume/util/atomic_writer.go`).
//!
//! Invariant: a reader that opens `..data` once sees one whole payload: files are written into a fresh hidden
//! directory, `..data` is switched by a rename, and the names users see are links through `..data`.

use super::directory;
use super::payload::{File, Payload};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `dir` show exactly `payload`; whether anything changed. Files go to `fs_group` when given.
///
/// # Errors
/// The operating system's; what was shown before is shown still.
pub fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    let old = std::fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload, fs_group)?
    {
        // A crash may have come between the switch and the links.
        link_names(dir, payload)?;
        return Ok(false);
    }
    let fresh = fresh_dir(dir, now)?;
    let fresh_path = dir.join(&fresh);
    let written = fill(&fresh_path, payload, fs_group);
    if let Err(e) = written {
        let _ = std::fs::remove_dir_all(&fresh_path);
        return Err(e);
    }
    let _ = std::fs::remove_file(dir.join(NEW_DATA));
    symlink(&fresh, dir.join(NEW_DATA))?;
    std::fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        match std::fs::remove_dir_all(dir.join(old)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(true)
}

fn fresh_dir(dir: &Path, now: Timestamp) -> io::Result<String> {
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S").to_string();
    for n in 0..1000u32 {
        let name = format!("..{stamp}.{}", now.subsec_nanosecond().unsigned_abs() as u64 + u64::from(n));
        match std::fs::create_dir(dir.join(&name)) {
            Ok(()) => {
                std::fs::set_permissions(dir.join(&name), Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("no free name for a new data directory"))
}

fn fill(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<()> {
    for (path, file) in payload {
        let at = dir.join(path);
        if let Some(parent) = at.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&at, &file.data)?;
        std::fs::set_permissions(&at, Permissions::from_mode(file.mode))?;
        if let Some(uid) = file.user {
            directory::give(&at, uid)?;
        }
    }
    match fs_group {
        Some(gid) => directory::own(dir, gid, true).map_err(io::Error::other),
        None => Ok(()),
    }
}

fn wanted_mode(file: &File, fs_group: Option<u32>) -> u32 {
    if fs_group.is_some() { file.mode | 0o440 } else { file.mode }
}

/// Whether a data directory holds the payload already.
fn same(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<bool> {
    let mut seen = BTreeSet::new();
    if !dir.is_dir() {
        return Ok(false);
    }
    files(dir, dir, &mut seen)?;
    if seen.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        if !seen.contains(path) {
            return Ok(false);
        }
        let at = dir.join(path);
        let meta = std::fs::metadata(&at)?;
        let owner = file.user.is_none_or(|u| meta.uid() == u);
        if meta.mode() & 0o777 != wanted_mode(file, fs_group) & 0o777
            || !owner
            || std::fs::read(&at)? != file.data
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn files(root: &Path, dir: &Path, out: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(root, &entry.path(), out)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            out.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Links the first parts of the payload's paths, and unlinks names that are no more.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &names {
        let at = dir.join(name);
        if std::fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(name), at)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            std::fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, t)| ((*p).to_owned(), File { data: t.as_bytes().to_vec(), mode: 0o644, user: None }))
            .collect()
    }

    fn hidden(dir: &Path) -> usize {
        let names = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
        names.filter(|n| n.starts_with("..2") || n.starts_with("..1")).count()
    }

    #[test]
    fn switches_at_once_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let t = Timestamp::UNIX_EPOCH;
        assert!(write(d, &payload(&[("a", "1"), ("sub/b", "2")]), None, t).unwrap());
        assert_eq!(std::fs::read_to_string(d.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(d.join("sub/b")).unwrap(), "2");
        assert_eq!(std::fs::read_link(d.join("a")).unwrap(), Path::new("..data/a"));
        let before = std::fs::read_link(d.join(DATA)).unwrap();
        assert!(!write(d, &payload(&[("a", "1"), ("sub/b", "2")]), None, t).unwrap(), "nothing changed");
        assert_eq!(std::fs::read_link(d.join(DATA)).unwrap(), before);
        assert!(write(d, &payload(&[("a", "3")]), None, t).unwrap());
        assert_eq!(std::fs::read_to_string(d.join("a")).unwrap(), "3");
        assert!(std::fs::symlink_metadata(d.join("sub")).is_err(), "the stale name is gone");
        assert_eq!(hidden(d), 1, "old data is removed");
        assert!(write(d, &Payload::new(), None, t).unwrap());
        assert!(std::fs::symlink_metadata(d.join("a")).is_err());
    }

    #[test]
    fn a_changed_mode_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = payload(&[("a", "1")]);
        write(dir.path(), &p, None, Timestamp::UNIX_EPOCH).unwrap();
        p.get_mut("a").unwrap().mode = 0o400;
        assert!(write(dir.path(), &p, None, Timestamp::UNIX_EPOCH).unwrap());
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().mode() & 0o777, 0o400);
    }
}
