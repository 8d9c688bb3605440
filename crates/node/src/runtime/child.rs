//! Inside a new process, between clone and exec: the container's filesystem, its streams, its user and privileges.
//!
//! Invariant: no path of the image is resolved outside of the container's root, and what the container may not have is
//! given up before its program runs.

mod device;
mod program;
mod rootfs;

pub use rootfs::{PreparedMount, prepare_mount};

use super::{ContainerSpec, Seccomp, Security};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use sys::devices::DeviceNode;
use sys::error::{Error, Result};
use sys::seccomp::Filter;
use sys::{capability, fd, namespace, process, tty};

/// Why a process was not started.
#[derive(Debug)]
pub struct Failure {
    pub why: String,
    /// The container's own fault.
    pub container: bool,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self { why: e.to_string(), container: false }
    }
}

/// What is prepared outside, before the clone.
pub struct Prepared<'a> {
    pub spec: &'a ContainerSpec,
    /// The container's own directory: `rootfs`, `upper`, `work`, `names`.
    pub dir: PathBuf,
    /// A clone of what becomes /dev/shm.
    pub shm: OwnedFd,
    pub mounts: Vec<PreparedMount>,
    pub devices: Vec<DeviceNode>,
    pub hostname: String,
}

/// Ends of the process's streams.
pub struct Ends<'a> {
    pub stdin: &'a OwnedFd,
    pub stdout: &'a OwnedFd,
    pub stderr: &'a OwnedFd,
    /// With a terminal: where its master is sent.
    pub terminal: Option<&'a OwnedFd>,
}

/// Becomes a container's first process. Returns only with the reason why not.
pub fn become_container(p: &Prepared<'_>, ends: &Ends<'_>, filter: &Filter) -> Failure {
    let run = || -> std::result::Result<Failure, Failure> {
        let spec = p.spec;
        process::set_oom_score_adj(spec.oom_score_adj)?;
        // Only now, in its own cgroup, so that the container sees that as the root of the hierarchy.
        namespace::unshare(namespace::CGROUP)?;
        rootfs::enter(p)?;
        take_streams(ends, spec.security.uid, true)?;
        Ok(finish(spec, &spec.args, spec.tty, &p.hostname, filter))
    };
    run().unwrap_or_else(|failure| failure)
}

/// Becomes a further process of a running container. Returns only with the reason why not.
pub fn become_exec(
    spec: &ContainerSpec,
    container: &OwnedFd,
    args: &[String],
    hostname: &str,
    ends: &Ends<'_>,
    filter: &Filter,
) -> Failure {
    let run = || -> std::result::Result<Failure, Failure> {
        process::set_oom_score_adj(spec.oom_score_adj)?;
        namespace::enter(container, namespace::MOUNT | namespace::CGROUP)?;
        take_streams(ends, spec.security.uid, false)?;
        Ok(finish(spec, args, ends.terminal.is_some(), hostname, filter))
    };
    run().unwrap_or_else(|failure| failure)
}

fn finish(spec: &ContainerSpec, args: &[String], tty: bool, hostname: &str, filter: &Filter) -> Failure {
    let run = || -> std::result::Result<Failure, Failure> {
        let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
        process::enter_directory(cwd).map_err(|e| Failure { why: e.to_string(), container: true })?;
        let env = program::environment(&spec.env, spec.security.uid, tty, hostname);
        let path = program::find(args, &env).map_err(|why| Failure { why, container: true })?;
        process::close_on_exec_from_three()?;
        process::set_umask(0o022);
        drop_privileges(&spec.security, filter)?;
        // The death of the shim ended this process until here; from here on the container lives by itself.
        process::set_parent_death_signal(0)?;
        let e = process::exec(path.as_ref(), args, &env);
        Ok(Failure { why: program::exec_error(&args[0], &e), container: true })
    };
    run().unwrap_or_else(|failure| failure)
}

/// Standard streams: pipes, or a terminal of the container's own whose master goes to the shim.
fn take_streams(ends: &Ends<'_>, uid: u32, first: bool) -> Result<()> {
    process::new_session()?;
    let Some(socket) = ends.terminal else {
        for (stream, number) in [(ends.stdin, 0), (ends.stdout, 1), (ends.stderr, 2)] {
            fd::give_to(stream, uid)?;
            process::set_standard_stream(stream, number)?;
        }
        return Ok(());
    };
    let (master, slave) = tty::open()?;
    fd::send_with_fds(socket, b"t", &[master.as_fd()])
        .map_err(|e| Error::check(format!("send the terminal: {e}")))?;
    tty::take(&slave)?;
    fd::give_to(&slave, uid)?;
    for number in 0..3 {
        process::set_standard_stream(&slave, number)?;
    }
    if first { device::console(&slave) } else { Ok(()) }
}

/// Gives up what the container may not have. Only exec follows.
fn drop_privileges(s: &Security, filter: &Filter) -> Result<()> {
    let keep = if s.privileged { capability::own()? } else { capability::parse(&s.capabilities)? };
    capability::bound_to(&keep)?;
    if !s.no_new_privileges {
        // Loading without no_new_privs takes CAP_SYS_ADMIN, so it comes before the capabilities go.
        sys::seccomp::load(filter)?;
    }
    process::set_keep_capabilities(true)?;
    process::set_ids(s.uid, s.gid, &s.groups)?;
    process::set_keep_capabilities(false)?;
    if s.uid == 0 {
        capability::drop_to(&keep)?;
    } else {
        capability::drop_to(&capability::parse(&[])?)?;
    }
    if s.no_new_privileges {
        process::set_no_new_privileges()?;
        sys::seccomp::load(filter)?;
    }
    Ok(())
}

/// Compiles a container's filter.
pub fn filter(security: &Security) -> Result<Filter> {
    // upstream: a privileged container is always unconfined.
    if security.privileged {
        return Ok(Filter::unconfined());
    }
    let profile = match &security.seccomp {
        Seccomp::Unconfined => return Ok(Filter::unconfined()),
        Seccomp::RuntimeDefault => sys::seccomp::runtime_default(&security.capabilities),
        Seccomp::Profile(text) => sys::seccomp::parse_profile(text, &security.capabilities)?,
    };
    sys::seccomp::compile(&profile)
}
