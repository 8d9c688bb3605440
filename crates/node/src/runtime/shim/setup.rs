//! Making the shim: its own process attributes, the pod's cgroup, namespaces, shared memory and reaper, its socket.
//!
//! Invariant: the shim stays in the mount namespace it was started in, where the volumes are mounted; network, IPC and
//! UTS namespaces are the pod's, so that containers inherit them.

use super::{Shim, container, own};
use crate::runtime::SandboxSpec;
use crate::runtime::disk::{PodDir, ShimRecord};
use base::clock::SystemClock;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use sys::error::{Error, Result};
use sys::mount::{self, Attributes};
use sys::process::{self, Child};
use sys::{cgroup, devices, fd, namespace};

/// Where the shim would like to stand with the out-of-memory killer: just above what must never be killed.
const OOM_SCORE_ADJ: i32 = -998;
const SIGHUP: i32 = 1;
const SIGPIPE: i32 = 13;

/// The word that tells the starter that the socket is there.
pub const READY: &str = "ready\n";

/// Everything up to the first turn of the loop.
pub fn prepare(pod: PodDir) -> Result<Shim> {
    process::reset_signals();
    process::ignore_signal(SIGPIPE);
    process::ignore_signal(SIGHUP);
    let children = process::child_signal_fd()?;
    process::set_subreaper()?;
    process::set_dumpable(false)?;
    process::set_oom_score_adj(OOM_SCORE_ADJ)?;
    process::set_name("taffrail-shim")?;
    process::set_umask(0o022);
    let sandbox = pod
        .spec()
        .map_err(own("read the sandbox"))?
        .ok_or_else(|| Error::check(format!("{} holds no sandbox", pod.path().display())))?;
    let null = devices::open_null()?;
    let own_pid_namespace: OwnedFd =
        std::fs::File::open("/proc/self/ns/pid").map_err(own("open own pid namespace"))?.into();
    groups(&sandbox)?;
    namespaces(&sandbox)?;
    shared_memory(&pod)?;
    let reaper = if sandbox.share_pid { Some(reaper(&pod, &sandbox)?) } else { None };
    let listener = listen(&pod)?;
    pod.write_shim(&ShimRecord::own()).map_err(own("write shim.json"))?;
    let mut shim = Shim {
        pod,
        sandbox,
        listener,
        children,
        own_pid_namespace,
        null,
        reaper,
        clients: BTreeMap::new(),
        next_client: 0,
        containers: BTreeMap::new(),
        execs: BTreeMap::new(),
        next_exec: 0,
        filters: vec![],
        clock: SystemClock::new(),
        over: false,
    };
    for state in shim.pod.states().map_err(own("read containers"))? {
        shim.containers.insert(state.id.clone(), container::Container::past(state));
    }
    Ok(shim)
}

/// Tells the starter and lets go of its pipe.
pub fn ready() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(READY.as_bytes()).and_then(|()| out.flush()).map_err(own("say ready"))?;
    process::set_standard_stream(devices::open_null()?, 1)
}

/// The cgroup that a shim is in itself: beside the pod's, so that the pod's limits are not the shim's.
pub fn shim_group(pod_group: &str) -> String {
    format!("{pod_group}-shim")
}

fn groups(sandbox: &SandboxSpec) -> Result<()> {
    let groups = cgroup::machine()?;
    let shim = shim_group(&sandbox.cgroup);
    groups.create(&shim)?;
    groups.join(&shim, i32::try_from(std::process::id()).unwrap_or(0))?;
    groups.create(&sandbox.cgroup)?;
    groups.set_limits(&sandbox.cgroup, &(&sandbox.resources).into())
}

fn namespaces(sandbox: &SandboxSpec) -> Result<()> {
    if let Some(netns) = &sandbox.netns {
        namespace::enter_path(netns, namespace::NET)?;
    }
    if !sandbox.host_ipc {
        namespace::unshare(namespace::IPC)?;
    }
    if !sandbox.hostname.is_empty() {
        namespace::unshare(namespace::UTS)?;
        namespace::set_hostname(&sandbox.hostname)?;
    }
    for (name, value) in &sandbox.sysctls {
        sysctl(name, value)?;
    }
    Ok(())
}

/// Names were checked against the allow list; a separator or a dot path would still lead elsewhere (CVE-2022-0811).
fn sysctl(name: &str, value: &str) -> Result<()> {
    if name.split('.').any(|part| part.is_empty() || part.contains('/')) {
        return Err(Error::check(format!("bad sysctl name {name:?}")));
    }
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(path, value).map_err(own(&format!("set sysctl {name}")))
}

fn shared_memory(pod: &PodDir) -> Result<()> {
    let shm = pod.shm();
    std::fs::create_dir_all(&shm).map_err(own("make the shared memory directory"))?;
    if mount::is_tmpfs(&shm) && mount::below(&shm)?.contains(&shm) {
        return Ok(()); // of a shim before this one
    }
    let options = [("mode", Some("1777")), ("size", Some("65536k"))];
    mount::mount_at("tmpfs", &options, Attributes::INERT, &shm)
}

/// A process that only reaps, as first of the pod's pid namespace, with nothing to see or to take.
fn reaper(pod: &PodDir, sandbox: &SandboxSpec) -> Result<Child> {
    let root = pod.reaper();
    std::fs::create_dir_all(&root).map_err(own("make the reaper's root"))?;
    let groups = cgroup::machine()?;
    let group = format!("{}/reaper", sandbox.cgroup);
    groups.create(&group)?;
    let (told_read, told_write) = fd::pipe()?;
    let into = groups.open(&group)?;
    let into = into.as_ref().map(std::os::fd::AsFd::as_fd);
    let child = process::spawn(namespace::PID | namespace::MOUNT, into, || {
        let lock_up = || -> Result<()> {
            process::set_parent_death_signal(super::SIGKILL)?;
            process::set_name("pause")?;
            let null = devices::open_null()?;
            for stream in 0..3 {
                process::set_standard_stream(&null, stream)?;
            }
            mount::spread_below(Path::new("/"), mount::Spread::Slave)?;
            mount::mount_at("tmpfs", &[("size", Some("4k"))], Attributes::READ_ONLY, &root)?;
            mount::pivot_into(mount::open_place(&root)?)?;
            let none = sys::capability::parse(&[])?;
            sys::capability::bound_to(&none)?;
            sys::capability::drop_to(&none)
        };
        if let Err(e) = lock_up() {
            let _ = fd::write(&told_write, e.to_string().as_bytes());
            return 1;
        }
        let _ = process::close_from_three();
        process::reap_for_ever()
    })?;
    drop(told_write);
    if groups.version() == 1 {
        groups.join(&group, child.pid)?;
    }
    let mut told = [0u8; 512];
    match fd::read(&told_read, &mut told) {
        Ok(0) => Ok(child),
        Ok(n) => Err(Error::check(format!(
            "start the pod's first process: {}",
            String::from_utf8_lossy(&told[..n])
        ))),
        Err(e) => Err(own("start the pod's first process")(e)),
    }
}

fn listen(pod: &PodDir) -> Result<UnixListener> {
    let (_dir, path) = pod.socket().map_err(own("open the pod's directory"))?;
    let _ = std::fs::remove_file(&path); // of a shim before this one
    process::set_umask(0o177);
    let listener = UnixListener::bind(&path).map_err(own("bind the shim's socket"));
    process::set_umask(0o022);
    let listener = listener?;
    listener.set_nonblocking(true).map_err(own("set up the shim's socket"))?;
    Ok(listener)
}
