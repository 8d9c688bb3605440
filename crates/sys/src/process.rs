//! Processes: clone3 with a pidfd, waiting, signals, process attributes, exec.
//!
//! Invariant: a child is only made from a single-threaded process, because a forked child of a threaded one may
//! find locks held by threads that it does not have. [`spawn`] and [`daemonize`] check this.

use crate::error::{Context, Error, Result};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 + the signal.
    pub code: i32,
    /// The signal that killed it, else 0.
    pub signal: i32,
}

/// A new child process.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn require_one_thread() -> Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").what(|| "list own threads".into())?.count();
    if threads == 1 {
        return Ok(());
    }
    Err(Error::check(format!("a process of {threads} threads must not fork")))
}

/// Runs `child` in a new process in new namespaces (`CLONE_NEW*` flags) and, on cgroup v2, directly in `cgroup`.
/// What `child` returns becomes the exit code; it must leave by returning or by exec. Errors if this process has
/// more than one thread.
pub fn spawn(namespaces: i32, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> i32) -> Result<Child> {
    require_one_thread()?;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.cast_unsigned()) | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: the arguments are a valid clone_args of the given size, no memory is shared with the child (no
    // CLONE_VM), and the process has one thread, so the child's copy of every lock is free.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<CloneArgs>()) };
    match r {
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(125);
            // SAFETY: _exit takes any value and does not return; exit() would run the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        r if r > 0 => Ok(Child {
            pid: r as i32,
            // SAFETY: on success the kernel has stored a new descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(Error::last("clone3")),
    }
}

/// Becomes a process that is nobody's child, in a session of its own: the calling process ends with status 0 and
/// its child goes on. Errors if this process has more than one thread.
pub fn daemonize() -> Result<()> {
    require_one_thread()?;
    // SAFETY: one thread, see `spawn`.
    match unsafe { libc::fork() } {
        0 => new_session(),
        // SAFETY: see `spawn`.
        pid if pid > 0 => unsafe { libc::_exit(0) },
        _ => Err(Error::last("fork")),
    }
}

/// setsid.
pub fn new_session() -> Result<()> {
    // SAFETY: no memory is involved.
    check(i64::from(unsafe { libc::setsid() }), "setsid")
}

pub(crate) fn check(r: i64, what: &str) -> Result<()> {
    if r < 0 { Err(Error::last(what)) } else { Ok(()) }
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        Exit { code: 128 + signal, signal }
    } else {
        Exit { code: libc::WEXITSTATUS(status), signal: 0 }
    }
}

/// Reaps one child that has ended, if there is one.
pub fn reap() -> Option<(i32, Exit)> {
    let mut status = 0;
    // SAFETY: the status is written to a local of the right type.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (pid, exit_of(status)))
}

/// Waits for the child `pid` to end.
pub fn wait(pid: i32) -> Result<Exit> {
    loop {
        let mut status = 0;
        // SAFETY: the status is written to a local of the right type.
        let r = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if r == pid {
            return Ok(exit_of(status));
        }
        let e = Error::last(format!("wait for process {pid}"));
        if e.errno != libc::EINTR {
            return Err(e);
        }
    }
}

/// A descriptor of a process, readable once it has ended.
pub fn open_pidfd(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers; the result is checked before it is owned.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(Error::last(format!("open process {pid}")));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal; a process that has already ended is no error.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo is allowed and means "as kill(2)".
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0) };
    match check(r, &format!("send signal {signal}")) {
        Err(e) if e.errno != libc::ESRCH => Err(e),
        _ => Ok(()),
    }
}

/// Sends a signal by number; only for processes found in a cgroup of ours. One that is gone is no error.
pub fn signal_pid(pid: i32, signal: i32) -> Result<()> {
    if pid <= 1 {
        return Err(Error::check(format!("refusing to signal process {pid}")));
    }
    // SAFETY: plain integers.
    match check(i64::from(unsafe { libc::kill(pid, signal) }), &format!("signal process {pid}")) {
        Err(e) if e.errno != libc::ESRCH => Err(e),
        _ => Ok(()),
    }
}

/// When a process started, in clock ticks since boot: with the pid it names a process for good. `None`: no such
/// process, or only its remains.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 2..];
    let mut fields = after_name.split(' ');
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The CPU time that a process has used with all its threads, also those that have ended.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    // As `clock_getcpuclockid` makes it: the process's number inverted, and the kind of clock that the scheduler keeps.
    let clock = (!pid << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing during the call.
    let r = unsafe { libc::clock_gettime(clock, &raw mut time) };
    check(i64::from(r), &format!("ask for the CPU time of process {pid}"))?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn prctl(option: i32, value: usize, what: &str) -> Result<()> {
    // SAFETY: only options that take plain integers come here.
    check(i64::from(unsafe { libc::prctl(option, value, 0usize, 0usize, 0usize) }), what)
}

/// Orphaned descendants become children of this process.
pub fn set_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, "become subreaper")
}

/// Whether others of the same user may trace this process and look through its descriptors.
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, usize::from(on), "set dumpable")
}

pub fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "set no_new_privs")
}

/// Capabilities survive the next change of user id.
pub fn set_keep_capabilities(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, usize::from(on), "set keepcaps")
}

/// Have the kernel send `signal` to this process when its parent ends.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as usize, "set parent death signal")
}

/// Ignores a signal in this process (and, until [`reset_signals`], in its children).
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition for any signal number; a bad number only fails.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks SIGCHLD and returns a non-blocking descriptor that is readable when a child has ended.
pub fn child_signal_fd() -> Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; the descriptor is checked before it is owned.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(
            i64::from(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())),
            "block SIGCHLD",
        )?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(i64::from(fd), "signalfd")?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Default dispositions and an empty mask, as a new program expects them.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is valid for every signal (KILL and STOP only fail); the set is initialised before use.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Sets the own OOM score as near to `wanted` as is allowed (lowering needs CAP_SYS_RESOURCE) and returns what it is.
pub fn set_oom_score_adj(wanted: i32) -> Result<i32> {
    const PATH: &str = "/proc/self/oom_score_adj";
    let wanted = wanted.clamp(-1000, 1000);
    if std::fs::write(PATH, wanted.to_string()).is_ok() {
        return Ok(wanted);
    }
    let text = std::fs::read_to_string(PATH).what(|| format!("read {PATH}"))?;
    text.trim().parse().map_err(|_| Error::check(format!("{PATH} holds {text:?}")))
}

/// Every descriptor from 3 up closes at exec.
pub fn close_on_exec_from_three() -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: only sets a flag on descriptors.
    let r = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(r, "close_range")
}

/// Closes every descriptor from 3 up. For a fresh child that owns none of them by an `OwnedFd` that it will drop.
pub fn close_from_three() -> Result<()> {
    // SAFETY: the caller is a fresh child that returns without dropping the parent's descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) }, "close_range")
}

/// Puts `fd` in the place of standard stream `number` (0 to 2).
pub fn set_standard_stream(fd: impl AsFd, number: i32) -> Result<()> {
    if !(0..=2).contains(&number) {
        return Err(Error::check(format!("{number} is no standard stream")));
    }
    // SAFETY: both are descriptor numbers; the standard streams are not owned by any OwnedFd of ours.
    check(i64::from(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }), "dup2")
}

/// Sets user, group and supplementary groups by raw calls, for this (single-threaded) process.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    // SAFETY: the group list is valid for the given length; the rest are plain integers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), "setgroups")?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid), &format!("set group id {gid}"))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), &format!("set user id {uid}"))
    }
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask) };
}

fn c_string(s: &[u8]) -> Result<CString> {
    CString::new(s).map_err(|_| Error::check("a NUL byte in an argument or environment variable"))
}

/// Replaces this process by the program at `path`. Only returns on failure.
pub fn exec(path: &OsStr, args: &[String], env: &[String]) -> Error {
    let run = || -> Result<std::convert::Infallible> {
        let program = c_string(path.as_bytes())?;
        let args = args.iter().map(|a| c_string(a.as_bytes())).collect::<Result<Vec<_>>>()?;
        let env = env.iter().map(|a| c_string(a.as_bytes())).collect::<Result<Vec<_>>>()?;
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&args), pointers(&env));
        // SAFETY: NUL-terminated strings in NULL-terminated arrays, alive through the call.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        Err(Error::last(""))
    };
    match run() {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

/// Enters a directory and checks that it lies inside the current root: a directory reached over a descriptor from
/// outside has no path here (CVE-2024-21626).
pub fn enter_directory(path: &str) -> Result<()> {
    rustix::process::chdir(path).what(|| format!("enter working directory {path:?}"))?;
    let cwd = rustix::process::getcwd(Vec::new()).what(|| "read the current directory".into())?;
    // The kernel writes "(unreachable)" before paths outside of the root.
    if cwd.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Error::check(format!("current working directory {path:?} is outside of the container's root")))
    }
}

/// This process's user id.
pub fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A name for this process as shown by `ps` (at most 15 bytes).
pub fn set_name(name: &str) -> Result<()> {
    let name = c_string(name.as_bytes())?;
    rustix::thread::set_name(&name).what(|| "set process name".into())
}

/// Waits for a signal that ends the wait; for a process that only reaps.
pub fn reap_for_ever() -> ! {
    loop {
        let mut status = 0;
        // SAFETY: the status is a local; sigsuspend-like pause has no memory effects.
        unsafe {
            if libc::waitpid(-1, &raw mut status, 0) < 0
                && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
            {
                // No child now: adopted ones announce themselves by SIGCHLD; a bounded sleep needs no handler.
                libc::poll(std::ptr::null_mut(), 0, 1000);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_names_a_process() {
        let me = start_time(std::process::id() as i32).unwrap();
        assert!(me > 0);
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn a_threaded_process_may_not_fork() {
        let (keep, done) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || done.recv().is_ok());
        assert!(spawn(0, None, || 0).is_err());
        drop(keep);
        other.join().unwrap();
    }

    #[test]
    fn signals_never_go_to_everybody() {
        assert!(signal_pid(0, 9).is_err() && signal_pid(-1, 9).is_err() && signal_pid(1, 9).is_err());
    }
}
