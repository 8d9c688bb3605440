//! Mounts by descriptor: new filesystems, clones of subtrees, overlay roots, pivoting into a new root.
//!
//! Invariant: a mount target that a container could have prepared is only ever given as a descriptor; path targets
//! are the runtime's own directories.

use crate::error::{Context, Error, Result};
use rustix::fs::{CWD, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Attributes of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    pub no_exec: bool,
}

impl Attributes {
    pub const NONE: Self = Self { read_only: false, no_suid: false, no_dev: false, no_exec: false };
    pub const READ_ONLY: Self = Self { read_only: true, ..Self::NONE };
    /// nosuid, nodev, noexec: for kernel filesystems.
    pub const INERT: Self = Self { read_only: false, no_suid: true, no_dev: true, no_exec: true };

    fn bits(self) -> u64 {
        u64::from(self.read_only)
            | u64::from(self.no_suid) << 1
            | u64::from(self.no_dev) << 2
            | u64::from(self.no_exec) << 3
    }
}

/// How mounts spread between this mount and its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Private,
    Slave,
    Shared,
}

/// Makes a new, not yet attached mount of filesystem `kind`; an option without value is a flag.
pub fn filesystem(kind: &str, options: &[(&str, Option<&str>)], attributes: Attributes) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .what(|| format!("open filesystem {kind}"))?;
    // Shown in mountinfo; some filesystems take no source, and none needs it.
    let _ = rustix::mount::fsconfig_set_string(context.as_fd(), "source", kind);
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value),
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), *key),
        }
        .what(|| format!("{kind} option {key}={}", value.unwrap_or_default()))?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).what(|| format!("create filesystem {kind}"))?;
    let flags = MountAttrFlags::from_bits_retain(attributes.bits() as u32);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
        .what(|| format!("mount {kind}"))
}

/// A detached copy of the mount (with all below it when `recursive`) at an open file or directory.
pub fn clone_tree(source: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(source, "", flags).what(|| "clone mount".into())
}

/// Sets attributes (those that are true; none is cleared) and spreading of a mount.
pub fn set_attributes(
    mount: impl AsFd,
    set: Attributes,
    spread: Option<Spread>,
    recursive: bool,
) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attr = MountAttr {
        set: set.bits(),
        clear: 0,
        propagation: match spread {
            None => 0,
            Some(Spread::Private) => libc::MS_PRIVATE,
            Some(Spread::Slave) => libc::MS_SLAVE,
            Some(Spread::Shared) => libc::MS_SHARED,
        },
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty NUL-terminated string and `attr` a valid mount_attr of the given size.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    };
    if r < 0 { Err(Error::last("set mount attributes")) } else { Ok(()) }
}

/// Attaches a detached mount on top of an open file or directory.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags).what(|| "attach mount".into())
}

/// Opens a path of our own without following a final link, as a place to clone from or attach to.
pub fn open_place(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .what(|| format!("open {}", path.display()))
}

/// Mounts an overlay at `target`: `layers` uppermost first, changes go to `upper`. `names` is an empty directory of
/// our own, used for short layer names where the kernel cannot take layers one by one (before 6.8).
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path, names: &Path) -> Result<()> {
    if layers.is_empty() {
        return Err(Error::check("an overlay needs at least one layer"));
    }
    if let Some(missing) = layers.iter().find(|l| !l.is_dir()) {
        return Err(Error { what: format!("image layer {}", missing.display()), errno: libc::ENOENT });
    }
    match overlay_by_context(layers, upper, work) {
        Ok(mount) => attach(mount, open_place(target)?),
        Err(_) => overlay_by_option_page(layers, upper, work, target, names),
    }
}

fn overlay_by_context(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd> {
    let context =
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).what(|| "open overlay".into())?;
    let set = |key: &str, value: &Path| {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)
            .what(|| format!("overlay option {key}"))
    };
    for layer in layers {
        set("lowerdir+", layer)?;
    }
    let _ = rustix::mount::fsconfig_set_string(context.as_fd(), "source", "overlay");
    set("upperdir", upper)?;
    set("workdir", work)?;
    rustix::mount::fsconfig_create(context.as_fd()).what(|| "create overlay".into())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .what(|| "mount overlay".into())
}

/// mount(2) takes one page of options: layers get one-character links in `names`, the current directory meanwhile.
fn overlay_by_option_page(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    names: &Path,
) -> Result<()> {
    for (i, layer) in layers.iter().enumerate() {
        let link = names.join(i.to_string());
        match std::os::unix::fs::symlink(layer, &link) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).what(|| format!("link {}", link.display()));
            }
            _ => {}
        }
    }
    let back = open_place(Path::new("."))?;
    rustix::process::chdir(names).what(|| format!("enter {}", names.display()))?;
    let lower: Vec<String> = (0..layers.len()).map(|i| i.to_string()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let result = CString::new(options).map_err(|_| Error::check("a NUL byte in an overlay path")).and_then(
        |options| {
            rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
                .what(|| "mount overlay".into())
        },
    );
    rustix::process::fchdir(back).what(|| "return to the directory before".into())?;
    result
}

/// Mounts a filesystem at a directory of our own.
pub fn mount_at(
    kind: &str,
    options: &[(&str, Option<&str>)],
    attributes: Attributes,
    target: &Path,
) -> Result<()> {
    attach(filesystem(kind, options, attributes)?, open_place(target)?)
}

/// Sets the spreading of all mounts below a path.
pub fn spread_below(path: &Path, spread: Spread) -> Result<()> {
    let flags = match spread {
        Spread::Private => MountPropagationFlags::PRIVATE,
        Spread::Slave => MountPropagationFlags::DOWNSTREAM,
        Spread::Shared => MountPropagationFlags::SHARED,
    };
    rustix::mount::mount_change(path, flags | MountPropagationFlags::REC)
        .what(|| format!("set propagation of {}", path.display()))
}

/// Makes `root` (a mount point) the root of this mount namespace, drops the old one, and goes to `/`.
pub fn pivot_into(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(root).what(|| "enter the new root".into())?;
    rustix::process::pivot_root(".", ".").what(|| "pivot_root".into())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).what(|| "drop the old root".into())?;
    rustix::process::chdir("/").what(|| "enter /".into())
}

/// Detaches the mount at a path of our own; nothing mounted there is no error.
pub fn unmount(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        other => other.what(|| format!("unmount {}", path.display())),
    }
}

/// Whether a path lies on a tmpfs.
pub fn is_tmpfs(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == TMPFS_MAGIC)
}

/// Mount points at or below `path`, deepest first, from `/proc/self/mountinfo`.
pub fn below(path: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").what(|| "read mountinfo".into())?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(unescape)
        .filter(|p| p.starts_with(path))
        .collect();
    found.reverse();
    Ok(found)
}

/// Whether the mount that holds `path` spreads to peers, from `/proc/self/mountinfo`.
pub fn is_shared(path: &Path) -> Result<bool> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").what(|| "read mountinfo".into())?;
    let path = std::fs::canonicalize(path).what(|| format!("resolve {}", path.display()))?;
    let mut best: Option<(usize, bool)> = None;
    for line in text.lines() {
        let mut fields = line.split(' ').skip(4);
        let Some(point) = fields.next().map(unescape) else { continue };
        let length = point.as_os_str().len();
        // A later line is mounted over an earlier one at the same point.
        if path.starts_with(&point) && best.is_none_or(|(l, _)| length >= l) {
            best = Some((length, fields.skip(1).take_while(|f| *f != "-").any(|f| f.starts_with("shared:"))));
        }
    }
    Ok(best.is_some_and(|(_, shared)| shared))
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let bytes = field.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = field.get(i + 1..i + 4).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (bytes[i], octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                i += 4;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out))
}

/// A descriptor of this program's own file on a private read-only mount: executing it through `/proc/self/fd/N`
/// leaves nothing that a container could write to through `/proc/<pid>/exe` (CVE-2019-5736).
pub fn sealed_program(program: &Path) -> Result<OwnedFd> {
    let tree = rustix::mount::open_tree(
        CWD,
        program,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .what(|| format!("clone mount of {}", program.display()))?;
    let attributes = Attributes { read_only: true, no_suid: true, ..Attributes::NONE };
    set_attributes(&tree, attributes, Some(Spread::Private), false)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape("/plain\\"), PathBuf::from("/plain\\"));
    }

    #[test]
    fn an_overlay_needs_its_layers() {
        let p = Path::new("/nonexistent");
        assert!(overlay(&[], p, p, p, p).is_err());
        let e = overlay(&[p.into()], p, p, p, p).unwrap_err();
        assert_eq!(e.errno, libc::ENOENT);
    }
}
