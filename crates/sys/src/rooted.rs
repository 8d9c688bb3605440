//! Paths below a root that somebody else may have filled with links.
//!
//! Invariant: no result lies outside the root, whatever links it holds: each step is taken from a descriptor, links
//! are read and resolved against the root, and the kernel is told to resolve below it (openat2).

use crate::error::{Context, Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Most links followed in one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Directory,
    File,
}

/// Opens an existing directory by path, as a root.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).what(|| format!("open {}", path.display()))
}

/// Opens `path` as a process whose root is `root` would, with `flags` (for example `OFlags::PATH`).
fn open_in(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    retry(|| rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
        .what(|| format!("open {path}"))
}

/// openat2 answers EAGAIN when a rename races with a lookup that is confined; a bounded number of retries settles it.
fn retry(mut f: impl FnMut() -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    for _ in 0..32 {
        match f() {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
    f()
}

/// A place (O_PATH) at `path` as seen from `root`.
pub fn place(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    open_in(root, path, OFlags::PATH)
}

/// Opens `path` as seen from `root` for reading.
pub fn open_file(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    open_in(root, path, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// A place at `path` as seen from `root` that is reached over no link at all.
pub fn place_without_links(root: impl AsFd, path: &str) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    retry(|| rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve))
        .what(|| format!("open {path}"))
}

/// A place at `path` as seen from `root`; what is missing on the way is made as directories (mode 0755), the end as
/// asked. Links, also dangling ones, lead to where they would lead inside the root.
pub fn make_place(root: impl AsFd, path: &str, missing: Missing) -> Result<OwnedFd> {
    let root = root.as_fd();
    let mut todo: Vec<String> = components(path).rev().map(String::from).collect();
    let mut here: Vec<OwnedFd> = vec![dup(root)?];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if here.len() > 1 {
                here.pop();
            }
            continue;
        }
        let directory = here.last().map_or(root, AsFd::as_fd);
        let next = match open_entry(directory, &name) {
            Ok(fd) => fd,
            Err(e) if e.errno == libc::ENOENT => {
                let end = todo.is_empty() && missing == Missing::File;
                make_entry(directory, &name, end)?;
                open_entry(directory, &name)?
            }
            Err(e) => return Err(e),
        };
        if file_type(&next)? == FileType::Symlink {
            links += 1;
            if links > LINKS_MAX {
                return Err(Error { what: format!("resolve {path}"), errno: libc::ELOOP });
            }
            let target =
                rustix::fs::readlinkat(&next, "", Vec::new()).what(|| format!("read link {name}"))?;
            let target =
                target.into_string().map_err(|_| Error::check(format!("link {name} is not UTF-8")))?;
            if target.starts_with('/') {
                here.truncate(1);
            }
            todo.extend(components(&target).rev().map(String::from));
            continue;
        }
        here.push(next);
    }
    here.pop().ok_or_else(|| Error::check("empty path"))
}

/// A place at the relative path `sub` below `volume`; no link and no `..` may lead out of it, and what is missing is
/// made as directories with `mode`.
pub fn make_sub_place(volume: impl AsFd, sub: &str, mode: u32) -> Result<OwnedFd> {
    let volume = volume.as_fd();
    if sub.starts_with('/') || components(sub).any(|c| c == "..") {
        return Err(Error::check(format!("subPath {sub:?} must be relative and without \"..\"")));
    }
    let below = |path: &str| -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat2(volume, path, flags, Mode::empty(), resolve)) {
            Err(rustix::io::Errno::XDEV) => {
                Err(Error::check(format!("subPath {sub:?} leads out of its volume")))
            }
            other => other.what(|| format!("open subPath {sub:?}")),
        }
    };
    let mut path = String::new();
    let mut at = dup(volume)?;
    for name in components(sub) {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(name);
        at = match below(&path) {
            Err(e) if e.errno == libc::ENOENT => {
                // The parent is held by descriptor; a dangling link makes mkdirat fail, as it must.
                rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(mode))
                    .what(|| format!("make subPath {sub:?}"))?;
                let made = below(&path)?;
                let chmod = rustix::fs::chmodat(&at, name, Mode::from_raw_mode(mode), AtFlags::empty());
                chmod.what(|| format!("set mode of subPath {sub:?}"))?;
                made
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Makes a symbolic link in a directory; one that is there already is left.
pub fn make_link(directory: impl AsFd, name: &str, target: &str) -> Result<()> {
    match rustix::fs::symlinkat(target, directory, name) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other.what(|| format!("link {name}")),
    }
}

/// Looks at a file of the current root before it is executed. `Ok(false)`: it cannot be, for lack of an execute bit.
pub fn is_executable(path: &str) -> Result<bool> {
    let stat = rustix::fs::stat(path).what(|| format!("stat {path}"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Error { what: String::new(), errno: libc::EISDIR });
    }
    Ok(stat.st_mode & 0o111 != 0)
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|c| !c.is_empty() && *c != ".")
}

fn dup(fd: impl AsFd) -> Result<OwnedFd> {
    crate::fd::duplicate(fd)
}

/// One component, a link itself rather than where it leads. Magic links cannot be followed this way either.
fn open_entry(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).what(|| format!("open {name}"))
}

fn make_entry(directory: impl AsFd, name: &str, file: bool) -> Result<()> {
    let made = if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    } else {
        rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))
    };
    match made {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other.what(|| format!("make {name}")),
    }
}

fn file_type(fd: impl AsFd) -> Result<FileType> {
    let stat = rustix::fs::fstat(fd).what(|| "stat".into())?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

pub fn is_directory(fd: impl AsFd) -> Result<bool> {
    Ok(file_type(fd)? == FileType::Directory)
}

/// Permission bits and owner.
pub fn mode_of(fd: impl AsFd) -> Result<u32> {
    Ok(rustix::fs::fstat(fd).what(|| "stat".into())?.st_mode & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn made_places_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("var")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("abs")).unwrap();
        symlink("../../outside", root.join("up")).unwrap();
        symlink("/run", root.join("var/run")).unwrap(); // dangling inside the root
        symlink("loop", root.join("loop")).unwrap();
        let fd = open_root(&root).unwrap();
        for path in ["/abs/x", "/up/y", "/../../../z"] {
            make_place(&fd, path, Missing::Directory).unwrap();
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(root.join("z").is_dir());
        make_place(&fd, "/var/run/pid/file", Missing::File).unwrap();
        assert!(root.join("run/pid/file").is_file());
        assert_eq!(make_place(&fd, "/loop", Missing::File).unwrap_err().errno, libc::ELOOP);
    }

    #[test]
    fn sub_places_never_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("real")).unwrap();
        symlink("/etc", volume.join("abs")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink("real", volume.join("fine")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        let fd = open_root(&volume).unwrap();
        for bad in ["abs", "abs/passwd", "up/x", "../x", "/etc", "dangling/x", "a/../../b"] {
            assert!(make_sub_place(&fd, bad, 0o755).is_err(), "{bad}");
        }
        make_sub_place(&fd, "fine/new/deep", 0o750).unwrap();
        assert!(volume.join("real/new/deep").is_dir());
        assert!(!dir.path().join("x").exists());
    }
}
