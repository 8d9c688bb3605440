//! The container's filesystem: overlay, kernel filesystems, volumes, masks.
//!
//! Invariant: volumes are opened and cloned outside, where their sources are; in here only descriptors are attached,
//! at places resolved inside the root.

use super::{Prepared, device};
use crate::runtime::{ContainerSpec, Mount, Propagation};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use sys::cgroup;
use sys::error::{Error, Result};
use sys::mount::{self, Attributes, Spread};
use sys::rooted::{self, Missing};

/// upstream: containerd's defaults for an unprivileged container.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A volume, cloned and ready to attach.
#[derive(Debug)]
pub struct PreparedMount {
    target: String,
    tree: OwnedFd,
    directory: bool,
}

/// Opens a volume's source (below its sub path, if any) and clones the mount there. Runs outside of the container.
pub fn prepare_mount(m: &Mount) -> Result<PreparedMount> {
    let source = mount::open_place(&m.source)?;
    let source = match m.sub_path.as_deref() {
        Some(sub) if !sub.is_empty() => {
            let mode = rooted::mode_of(&source)?;
            rooted::make_sub_place(&source, sub, mode)?
        }
        _ => source,
    };
    if m.propagation == Propagation::Bidirectional && !mount::is_shared(&m.source)? {
        return Err(Error::check(format!(
            "path {:?} is mounted on a mount that is not shared: mount propagation Bidirectional needs a shared one",
            m.source
        )));
    }
    let directory = rooted::is_directory(&source)?;
    let tree = mount::clone_tree(&source, true)?;
    let spread = match m.propagation {
        Propagation::None => Spread::Private,
        Propagation::HostToContainer => Spread::Slave,
        Propagation::Bidirectional => Spread::Shared,
    };
    mount::set_attributes(&tree, Attributes::NONE, Some(spread), true)?;
    if m.read_only {
        mount::set_attributes(&tree, Attributes::READ_ONLY, None, m.recursive_read_only)?;
    }
    Ok(PreparedMount { target: m.target.clone(), tree, directory })
}

/// Makes the container's filesystem, enters it and makes its working directory.
pub fn enter(p: &Prepared<'_>) -> Result<()> {
    let spec = p.spec;
    // Nothing that is mounted from here on may go out to the host.
    mount::spread_below(Path::new("/"), Spread::Slave)?;
    let rootfs = p.dir.join("rootfs");
    mount::overlay(&spec.layers, &p.dir.join("upper"), &p.dir.join("work"), &rootfs, &p.dir.join("names"))?;
    let root = mount::open_place(&rootfs)?;
    mount::set_attributes(&root, Attributes::NONE, Some(Spread::Private), false)?;
    let privileged = spec.security.privileged;
    attach_at(&root, "/proc", mount::filesystem("proc", &[], Attributes::INERT)?, true)?;
    system(&root, privileged)?;
    let dev = device::populate(&root, p)?;
    // Opened while nothing of the image or the volumes can lie over it (CVE-2025-31133).
    let null = rooted::place_without_links(&dev, "null")?;
    // Outer mounts before inner ones, so that none hides another.
    let mut volumes: Vec<&PreparedMount> = p.mounts.iter().collect();
    volumes.sort_by_key(|m| m.target.split('/').filter(|c| !c.is_empty()).count());
    for m in volumes {
        attach_at(&root, &m.target, &m.tree, m.directory)?;
    }
    if !privileged && !spec.security.unmasked_proc {
        mask(&root, &null)?;
    }
    rooted::make_place(&root, working_directory(spec), Missing::Directory)?;
    if spec.security.read_only_root {
        mount::set_attributes(&root, Attributes::READ_ONLY, None, false)?;
    }
    mount::pivot_into(root)
}

fn working_directory(spec: &ContainerSpec) -> &str {
    if spec.cwd.is_empty() { "/" } else { &spec.cwd }
}

fn attach_at(root: &OwnedFd, target: &str, mount: impl AsFd, directory: bool) -> Result<()> {
    let missing = if directory { Missing::Directory } else { Missing::File };
    let attach = || {
        let place = rooted::make_place(root, target, missing)?;
        if rooted::is_directory(&place)? != directory {
            return Err(Error::check("not a directory: a directory is mounted on a file or the reverse"));
        }
        mount::attach(mount, place)
    };
    attach().map_err(|e| Error { what: format!("mount {target}: {}", e.what), errno: e.errno })
}

/// /sys, and below it the container's own view of its cgroup.
fn system(root: &OwnedFd, privileged: bool) -> Result<()> {
    let attributes = Attributes { read_only: !privileged, ..Attributes::INERT };
    attach_at(root, "/sys", mount::filesystem("sysfs", &[], attributes)?, true)?;
    let groups = cgroup::machine()?;
    let at = "/sys/fs/cgroup";
    if rooted::place(root, at).is_err() {
        return Ok(()); // a kernel without cgroups in sysfs
    }
    if groups.version() == 2 {
        return attach_at(root, at, mount::filesystem("cgroup2", &[], attributes)?, true);
    }
    let top = mount::filesystem("tmpfs", &[("mode", Some("755"))], Attributes::INERT)?;
    attach_at(root, at, &top, true)?;
    for controllers in groups.v1_hierarchies() {
        let options: Vec<(&str, Option<&str>)> = controllers
            .iter()
            .flat_map(|c| match c.split_once('=') {
                Some((key, value)) => vec![("none", None), (key, Some(value))],
                None => vec![(c.as_str(), None)],
            })
            .collect();
        let name = controllers.join(",");
        let name = name.strip_prefix("name=").unwrap_or(&name);
        let view = mount::filesystem("cgroup", &options, attributes)?;
        mount::attach(view, rooted::make_place(&top, name, Missing::Directory)?)?;
    }
    mount::set_attributes(&top, attributes, None, false)
}

fn mask(root: &OwnedFd, null: &OwnedFd) -> Result<()> {
    if !sys::devices::is_null(null)? {
        return Err(Error::check("the container's /dev/null is not the null device"));
    }
    for path in MASKED {
        let Ok(place) = rooted::place_without_links(root, path) else { continue };
        let cover = if rooted::is_directory(&place)? {
            let empty = Attributes { read_only: true, ..Attributes::INERT };
            mount::filesystem("tmpfs", &[("size", Some("4k")), ("nr_inodes", Some("2"))], empty)?
        } else {
            mount::clone_tree(null, false)?
        };
        mount::attach(cover, place)?;
    }
    for path in READ_ONLY {
        let Ok(place) = rooted::place_without_links(root, path) else { continue };
        let tree = mount::clone_tree(&place, true)?;
        mount::set_attributes(&tree, Attributes::READ_ONLY, None, true)?;
        mount::attach(tree, place)?;
    }
    Ok(())
}
