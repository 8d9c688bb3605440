//! A container's /dev: a tmpfs with the standard nodes, terminals, shared memory, message queues.

use super::Prepared;
use std::os::fd::OwnedFd;
use sys::devices::{DeviceKind, DeviceNode};
use sys::error::Result;
use sys::mount::{self, Attributes};
use sys::rooted::{self, Missing};

const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];
const NO_SUID_NO_EXEC: Attributes = Attributes { no_suid: true, no_exec: true, ..Attributes::NONE };

/// Attaches /dev and returns it.
pub fn populate(root: &OwnedFd, p: &Prepared<'_>) -> Result<OwnedFd> {
    let options = [("mode", Some("755")), ("size", Some("65536k"))];
    let dev = mount::filesystem("tmpfs", &options, Attributes { no_suid: true, ..Attributes::NONE })?;
    mount::attach(&dev, rooted::make_place(root, "/dev", Missing::Directory)?)?;
    for (name, major, minor) in NODES {
        let path = format!("/dev/{name}").into();
        let kind = DeviceKind::Character;
        DeviceNode { path, kind, major, minor, mode: 0o666, uid: 0, gid: 0 }.make(&dev, name)?;
    }
    let standard =
        |n: &DeviceNode| NODES.iter().any(|(name, ..)| n.path.strip_prefix("/dev").is_ok_and(|p| p == *name));
    for node in p.devices.iter().filter(|n| !standard(n)) {
        extra(root, node)?;
    }
    let pts = [("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some("5"))];
    let sub = |name: &str| rooted::make_place(&dev, name, Missing::Directory);
    mount::attach(mount::filesystem("devpts", &pts, NO_SUID_NO_EXEC)?, sub("pts")?)?;
    mount::attach(&p.shm, sub("shm")?)?;
    mount::attach(mount::filesystem("mqueue", &[], Attributes::INERT)?, sub("mqueue")?)?;
    for (name, target) in LINKS {
        rooted::make_link(&dev, name, target)?;
    }
    Ok(dev)
}

/// A node at the same path as on the host.
fn extra(root: &OwnedFd, node: &DeviceNode) -> Result<()> {
    let (Some(parent), Some(name)) = (node.path.parent().and_then(|p| p.to_str()), node.path.file_name())
    else {
        return Ok(());
    };
    let directory = rooted::make_place(root, parent, Missing::Directory)?;
    node.make(directory, &name.to_string_lossy())
}

/// Binds the terminal to /dev/console, by descriptor on both sides (CVE-2025-52565).
pub fn console(slave: &OwnedFd) -> Result<()> {
    let root = rooted::open_root("/".as_ref())?;
    let place = rooted::make_place(&root, "/dev/console", Missing::File)?;
    mount::attach(mount::clone_tree(slave, false)?, place)
}
