//! Namespaces: entering, leaving and naming them.
//!
//! Invariant: these calls change the calling thread only; callers are single-threaded or on a thread of their own.

use crate::error::{Context, Error, Result};
use crate::process::check;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

pub const MOUNT: i32 = libc::CLONE_NEWNS;
pub const NET: i32 = libc::CLONE_NEWNET;
pub const PID: i32 = libc::CLONE_NEWPID;
pub const IPC: i32 = libc::CLONE_NEWIPC;
pub const UTS: i32 = libc::CLONE_NEWUTS;
pub const CGROUP: i32 = libc::CLONE_NEWCGROUP;
pub const USER: i32 = libc::CLONE_NEWUSER;

/// Enters the namespaces `kinds` of a namespace file or a pidfd. For PID, only future children are affected.
pub fn enter(fd: impl AsFd, kinds: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(i64::from(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) }), "enter namespaces")
}

/// Enters the namespace that the file `path` pins.
pub fn enter_path(path: &Path, kind: i32) -> Result<()> {
    let file = File::open(path).what(|| format!("open namespace {}", path.display()))?;
    enter(file, kind).map_err(|e| Error { what: format!("enter namespace {}", path.display()), ..e })
}

/// Moves this thread into new namespaces.
pub fn unshare(kinds: i32) -> Result<()> {
    // SAFETY: none of the flags used here makes memory unshared or unsafe.
    check(i64::from(unsafe { libc::unshare(kinds) }), "unshare namespaces")
}

/// Sets the host name of the current UTS namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).what(|| format!("set host name {name}"))
}
