//! The clone itself: pipes, the new process, its cgroup, and word of whether its program runs.
//!
//! Invariant: when [`launch`] fails, no process of it is left.

use super::SIGKILL;
use crate::runtime::child::{Ends, Failure};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use sys::error::{Error, Result};
use sys::fd::{self, Interest};
use sys::process::{self, Child};
use sys::{cgroup, namespace};

/// How long a new process may take until its program runs (a volume on a dead server may block it).
const LAUNCH_MAX: Duration = Duration::from_secs(60);
/// Longest word of failure, in bytes.
const WHY_BYTES_MAX: usize = 8 << 10;

/// What is cloned, and into what.
pub struct Plan<'a> {
    /// New namespaces.
    pub namespaces: i32,
    /// A pid namespace to be born in.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    pub own_pid_namespace: &'a OwnedFd,
    pub group: &'a str,
    pub tty: bool,
    pub stdin: bool,
    pub null: &'a OwnedFd,
}

/// A process whose program runs.
pub struct Launched {
    pub child: Child,
    pub stdin: Option<OwnedFd>,
    /// With a terminal, that is `stdout` and there is no `stderr`.
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
}

/// Clones, and waits until the program runs. `become_it` runs in the child and returns only if it failed.
pub fn launch(
    plan: &Plan<'_>,
    become_it: impl FnOnce(&Ends<'_>) -> Failure,
) -> std::result::Result<Launched, Failure> {
    let groups = cgroup::machine()?;
    let (in_read, in_write) = fd::pipe()?;
    let (out_read, out_write) = fd::pipe()?;
    let (err_read, err_write) = fd::pipe()?;
    let (go_read, go_write) = fd::pipe()?;
    let (told_read, told_write) = fd::pipe()?;
    let (terminal_here, terminal_there) = fd::socket_pair()?;
    let ends = Ends {
        stdin: if plan.stdin { &in_read } else { plan.null },
        stdout: &out_write,
        stderr: &err_write,
        terminal: plan.tty.then_some(&terminal_there),
    };
    let into = groups.open(plan.group)?;
    let into = into.as_ref().map(AsFd::as_fd);
    let child = in_pid_namespace(plan, || {
        process::spawn(plan.namespaces, into, || {
            let failure = match wait_for_go(&go_read) {
                Ok(()) => become_it(&ends),
                Err(e) => e.into(),
            };
            let mark = if failure.container { 'c' } else { 'n' };
            let _ = fd::write(&told_write, format!("{mark}{}", failure.why).as_bytes());
            127
        })
    })?;
    drop(told_write);
    let joined = if into.is_none() { groups.join(plan.group, child.pid) } else { Ok(()) };
    let told = joined.and_then(|()| {
        fd::write(&go_write, b"g").map_err(|e| Error::check(format!("let the new process go: {e}")))?;
        read_told(&told_read)
    });
    let failure = match told {
        Ok(told) => word_of_failure(&told),
        Err(e) => Some(e.into()),
    };
    if let Some(failure) = failure {
        process::signal(&child.pidfd, SIGKILL)?;
        process::wait(child.pid)?;
        return Err(failure);
    }
    if !plan.tty {
        let stdin = plan.stdin.then_some(in_write);
        return Ok(Launched { child, stdin, stdout: out_read, stderr: Some(err_read) });
    }
    let mut fds = vec![];
    fd::recv_with_fds(&terminal_here, &mut [0; 8], &mut fds)
        .map_err(|e| Error::check(format!("receive the terminal: {e}")))?;
    let master = fds.pop().ok_or_else(|| Error::check("no terminal came"))?;
    let stdin = if plan.stdin { Some(fd::duplicate(&master)?) } else { None };
    Ok(Launched { child, stdin, stdout: master, stderr: None })
}

/// Children are born in the namespace that this process has chosen for them; it goes back to its own at once.
fn in_pid_namespace(plan: &Plan<'_>, f: impl FnOnce() -> Result<Child>) -> Result<Child> {
    let Some(target) = plan.pid_namespace else { return f() };
    namespace::enter(target, namespace::PID)?;
    let child = f();
    namespace::enter(plan.own_pid_namespace, namespace::PID)?;
    child
}

/// In the child: everything waits until it is in its cgroup. It ends with the shim, should that end now.
fn wait_for_go(go: &OwnedFd) -> Result<()> {
    process::set_parent_death_signal(SIGKILL)?;
    process::reset_signals();
    match fd::read(go, &mut [0]) {
        Ok(1) => Ok(()),
        _ => Err(Error::check("the shim went away")),
    }
}

/// Empty when the program was executed, which closes the pipe.
fn read_told(told: &OwnedFd) -> Result<Vec<u8>> {
    let mut text = vec![];
    let mut chunk = [0u8; 1024];
    while text.len() < WHY_BYTES_MAX {
        let ready = fd::poll(&[(told.as_fd(), Interest::Read)], Some(LAUNCH_MAX))?;
        if !ready[0].read && !ready[0].hangup {
            return Err(Error::check(format!("the process was not ready after {} s", LAUNCH_MAX.as_secs())));
        }
        match fd::read(told, &mut chunk) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&chunk[..n]),
            Err(e) => return Err(Error::check(format!("hear from the new process: {e}"))),
        }
    }
    Ok(text)
}

fn word_of_failure(told: &[u8]) -> Option<Failure> {
    let (mark, why) = told.split_first()?;
    Some(Failure { why: String::from_utf8_lossy(why).into_owned(), container: *mark == b'c' })
}
