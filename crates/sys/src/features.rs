//! What the kernel offers, probed by use rather than by version, for the `doctor` command.
//!
//! Invariant: a probe changes nothing that outlives it.

use crate::{cgroup, mount, namespace};
use rustix::net::netlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub present: bool,
    /// Without it nothing works; else something named in `detail` is lost.
    pub required: bool,
    /// What was found or what went wrong.
    pub detail: String,
    /// What to do when absent.
    pub fix: &'static str,
}

fn feature(name: &'static str, required: bool, fix: &'static str, found: Result<String, String>) -> Feature {
    let (present, detail) = match found {
        Ok(detail) => (true, detail),
        Err(why) => (false, why),
    };
    Feature { name, present, required, detail, fix }
}

/// Probes everything. Takes some milliseconds; needs root to tell the whole truth.
pub fn probe() -> Vec<Feature> {
    let namespaces = |name, kind, fix| feature(name, true, fix, in_thread(move || unshare(kind)));
    vec![
        feature("root", true, "run as root (sudo)", root()),
        feature(
            "cgroups",
            true,
            "mount cgroup2 at /sys/fs/cgroup (systemd does), with cpu, memory and pids",
            cgroups(),
        ),
        feature(
            "overlayfs",
            true,
            "enable CONFIG_OVERLAY_FS or run `modprobe overlay`",
            filesystem("overlay"),
        ),
        feature("new mount API", true, "use a kernel of 5.12 or newer", new_mounts()),
        feature("clone3", true, "use a kernel of 5.7 or newer", clone3()),
        feature("openat2", true, "use a kernel of 5.6 or newer", openat2()),
        namespaces("mount namespaces", namespace::MOUNT, "enable CONFIG_NAMESPACES"),
        namespaces("network namespaces", namespace::NET, "enable CONFIG_NET_NS"),
        namespaces("pid namespaces", namespace::PID, "enable CONFIG_PID_NS"),
        namespaces(
            "ipc and uts namespaces",
            namespace::IPC | namespace::UTS,
            "enable CONFIG_IPC_NS and CONFIG_UTS_NS",
        ),
        feature("user namespaces", false, "set user.max_user_namespaces above 0", user_namespaces()),
        feature("seccomp", true, "enable CONFIG_SECCOMP_FILTER", seccomp()),
        feature("nf_tables", true, "enable CONFIG_NF_TABLES or run `modprobe nf_tables`", nf_tables()),
        feature("veth", true, "enable CONFIG_VETH or run `modprobe veth`", in_thread(veth)),
        feature("ipv6", false, "enable CONFIG_IPV6 and unset ipv6.disable", ipv6()),
        feature(
            "CAP_SYS_RESOURCE",
            false,
            "grant CAP_SYS_RESOURCE: without it nothing is shielded from the out-of-memory killer",
            capability("CAP_SYS_RESOURCE"),
        ),
    ]
}

/// Namespaces belong to a thread: a thread of its own takes them with it when it ends.
fn in_thread(f: impl FnOnce() -> Result<String, String> + Send + 'static) -> Result<String, String> {
    std::thread::spawn(f).join().unwrap_or_else(|_| Err("the probe failed".into()))
}

fn text(e: crate::Error) -> String {
    e.to_string()
}

fn root() -> Result<String, String> {
    match crate::process::own_uid() {
        0 => Ok("uid 0".into()),
        uid => Err(format!("uid {uid}")),
    }
}

fn capability(name: &str) -> Result<String, String> {
    if crate::capability::have(name) { Ok("held".into()) } else { Err("not held".into()) }
}

fn cgroups() -> Result<String, String> {
    let machine = cgroup::machine().map_err(text)?;
    let controllers = machine.controllers();
    let missing: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|c| !controllers.iter().any(|h| h == c)).collect();
    let found = format!("v{} with {}", machine.version(), controllers.join(", "));
    if missing.is_empty() { Ok(found) } else { Err(format!("{found}; missing {}", missing.join(", "))) }
}

fn filesystem(kind: &str) -> Result<String, String> {
    match rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok("known to the kernel".into()),
        Err(e) => Err(crate::errno_text(e.raw_os_error())),
    }
}

fn new_mounts() -> Result<String, String> {
    let fd = mount::filesystem("tmpfs", &[("size", Some("64k"))], mount::Attributes::INERT).map_err(text)?;
    mount::set_attributes(fd, mount::Attributes::READ_ONLY, None, false).map_err(text)?;
    Ok("fsopen, fsmount, mount_setattr".into())
}

fn clone3() -> Result<String, String> {
    // SAFETY: a too small structure makes the kernel answer EINVAL (known call) or ENOSYS without cloning.
    let r = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize) };
    match crate::Error::last("").errno {
        libc::ENOSYS | libc::EPERM if r < 0 => Err("not available (old kernel or a seccomp filter)".into()),
        _ => Ok("known to the kernel".into()),
    }
}

fn openat2() -> Result<String, String> {
    let root = crate::rooted::open_root(std::path::Path::new("/")).map_err(text)?;
    crate::rooted::place(root, "/proc").map(|_| "RESOLVE_IN_ROOT".into()).map_err(text)
}

fn unshare(kind: i32) -> Result<String, String> {
    namespace::unshare(kind).map(|()| "made one".into()).map_err(text)
}

fn user_namespaces() -> Result<String, String> {
    let path = "/proc/sys/user/max_user_namespaces";
    let max = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    match max.trim() {
        "0" => Err(format!("{path} is 0")),
        n => Ok(format!("at most {n}")),
    }
}

fn seccomp() -> Result<String, String> {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    let actions = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    if actions.contains("errno") {
        Ok(actions.trim().into())
    } else {
        Err(format!("only {}", actions.trim()))
    }
}

fn ipv6() -> Result<String, String> {
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None);
    socket.map(|_| "sockets work".into()).map_err(|e| crate::errno_text(e.raw_os_error()))
}

/// Sends one netlink message (`None`: to the routing family) with an acknowledgement request and returns the kernel's error number.
fn netlink_error(
    protocol: Option<rustix::net::Protocol>,
    kind: u16,
    flags: u16,
    body: &[u8],
) -> Result<i32, String> {
    let fail = |e: rustix::io::Errno| crate::errno_text(e.raw_os_error());
    let family = AddressFamily::NETLINK;
    let socket =
        rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map_err(fail)?;
    let mut message = vec![];
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | 5).to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    message.extend([0u8; 8]);
    message.extend(body);
    rustix::net::send(&socket, &message, SendFlags::empty()).map_err(fail)?;
    let mut answer = [0u8; 4096];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).map_err(fail)?;
    let is_error = length >= 20 && answer[4..6] == 2u16.to_ne_bytes();
    let code = [answer[16], answer[17], answer[18], answer[19]];
    Ok(if is_error { -i32::from_ne_bytes(code) } else { 0 })
}

fn nf_tables() -> Result<String, String> {
    const GET_GENERATION: u16 = 10 << 8 | 16;
    match netlink_error(Some(netlink::NETFILTER), GET_GENERATION, 0, &[0, 0, 0, 0])? {
        0 => Ok("answers".into()),
        e => Err(crate::errno_text(e)),
    }
}

/// Makes a pair in a network namespace that ends with this thread.
fn veth() -> Result<String, String> {
    const NEW_LINK: u16 = 16;
    const CREATE_EXCLUSIVE: u16 = 0x600;
    namespace::unshare(namespace::NET).map_err(text)?;
    let attribute = |kind: u16, payload: &[u8]| {
        let mut a = vec![];
        a.extend((4 + payload.len() as u16).to_ne_bytes());
        a.extend(kind.to_ne_bytes());
        a.extend(payload);
        a.resize(a.len().next_multiple_of(4), 0);
        a
    };
    let mut body = vec![0u8; 16]; // ifinfomsg
    body.extend(attribute(18, &attribute(1, b"veth"))); // IFLA_LINKINFO { IFLA_INFO_KIND }
    match netlink_error(None, NEW_LINK, CREATE_EXCLUSIVE, &body)? {
        0 => Ok("made a pair".into()),
        e => Err(crate::errno_text(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_answers() {
        let features = probe();
        for f in &features {
            println!("{:<24} {:<5} {}", f.name, f.present, f.detail);
            assert!(!f.detail.is_empty() && !f.fix.is_empty(), "{}", f.name);
        }
        if crate::process::own_uid() == 0 {
            let absent: Vec<_> = features.iter().filter(|f| f.required && !f.present).collect();
            assert!(absent.is_empty(), "{absent:?}");
        }
    }
}
