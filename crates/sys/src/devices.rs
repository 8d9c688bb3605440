//! Devices: rules of what a container may use, the v2 filter program, and checks of device nodes.
//!
//! Invariant: a node counts as a device only by its type and numbers, never by its name.

use crate::error::{Context, Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Most device nodes that a privileged container gets.
const HOST_DEVICES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Character,
    Block,
}

/// Allows access to devices. `None` as a number means all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Making nodes only, without reading or writing.
    pub make_only: bool,
}

impl DeviceRule {
    const fn character(major: u32, minor: Option<u32>) -> Self {
        Self { kind: DeviceKind::Character, major: Some(major), minor, make_only: false }
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_string(), |n| n.to_string());
        let kind = if self.kind == DeviceKind::Character { 'c' } else { 'b' };
        let access = if self.make_only { "m" } else { "rwm" };
        write!(f, "{kind} {}:{} {access}", number(self.major), number(self.minor))
    }
}

/// What every container may use: null, zero, full, random, urandom, tty, console, ptmx, its terminals; nodes of any
/// other kind may be made but not opened.
pub const DEFAULT_RULES: [DeviceRule; 11] = [
    DeviceRule { kind: DeviceKind::Character, major: None, minor: None, make_only: true },
    DeviceRule { kind: DeviceKind::Block, major: None, minor: None, make_only: true },
    DeviceRule::character(1, Some(3)),
    DeviceRule::character(1, Some(5)),
    DeviceRule::character(1, Some(7)),
    DeviceRule::character(1, Some(8)),
    DeviceRule::character(1, Some(9)),
    DeviceRule::character(5, Some(0)),
    DeviceRule::character(5, Some(1)),
    DeviceRule::character(5, Some(2)),
    DeviceRule::character(136, None),
];

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl DeviceNode {
    /// The node at a host path. Errors if it is no device.
    pub fn at(path: &Path) -> Result<Self> {
        let stat = rustix::fs::stat(path).what(|| format!("device {}", path.display()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => DeviceKind::Character,
            FileType::BlockDevice => DeviceKind::Block,
            _ => return Err(Error::check(format!("{} is no device", path.display()))),
        };
        Ok(Self {
            path: path.into(),
            kind,
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        })
    }

    pub fn rule(&self) -> DeviceRule {
        DeviceRule { kind: self.kind, major: Some(self.major), minor: Some(self.minor), make_only: false }
    }

    /// Makes the node as `name` in a directory.
    pub fn make(&self, directory: impl AsFd, name: &str) -> Result<()> {
        let kind = match self.kind {
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
        };
        let device = rustix::fs::makedev(self.major, self.minor);
        let fail = || format!("make device {name}");
        rustix::fs::mknodat(&directory, name, kind, Mode::from_raw_mode(self.mode), device).what(fail)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.uid), rustix::fs::Gid::from_raw(self.gid));
        rustix::fs::chownat(&directory, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .what(fail)
    }
}

/// All devices below `/dev`, without terminals and shared memory.
pub fn host_devices() -> Vec<DeviceNode> {
    let mut found = vec![];
    let mut todo = vec![PathBuf::from("/dev")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            let skip = ["pts", "shm", "mqueue", "fd", "console", "ptmx"]
                .iter()
                .any(|s| path == Path::new("/dev").join(s));
            if skip || kind.is_symlink() || found.len() >= HOST_DEVICES_MAX {
                continue;
            }
            if kind.is_dir() {
                todo.push(path);
            } else if let Ok(node) = DeviceNode::at(&path) {
                found.push(node);
            }
        }
    }
    found
}

/// Whether an open file is the null device (character 1:3).
pub fn is_null(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).what(|| "stat".into())?;
    let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && numbers == (1, 3))
}

/// The host's null device, checked to be one.
pub fn open_null() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()).what(|| "open /dev/null".into())?;
    if is_null(&fd)? { Ok(fd) } else { Err(Error::check("/dev/null is not the null device")) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// Access bits of the kernel's device check.
const MAKE: i32 = 1;
const READ_WRITE_MAKE: i32 = 7;

/// The filter: r2 kind, r3 access, r4 major, r5 minor; each rule falls through to the next where it does not match.
fn filter_program(rules: &[DeviceRule]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const MOVE: u8 = 0xbf;
    const SET: u8 = 0xb7;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let mut p = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE, 3, 2, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == DeviceKind::Block { 1 } else { 2 };
        let mut body = vec![op(JUMP_NOT_EQUAL, 2, 0, 0, kind)];
        body.push(op(MOVE, 6, 3, 0, 0));
        body.push(op(AND, 6, 0, 0, if rule.make_only { MAKE } else { READ_WRITE_MAKE }));
        body.push(op(JUMP_NOT_EQUAL_REGISTER, 6, 3, 0, 0));
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(n) = number {
                body.push(op(JUMP_NOT_EQUAL, register, 0, 0, n.cast_signed()));
            }
        }
        body.push(op(SET, 0, 0, 0, 1));
        body.push(op(EXIT, 0, 0, 0, 0));
        let length = body.len() as i16;
        for (i, instruction) in body.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
                instruction.offset = length - i as i16 - 1;
            }
        }
        p.extend(body);
    }
    p.extend([op(SET, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    p
}

fn bpf(command: i32, attributes: &[u8], what: &str) -> Result<i32> {
    // SAFETY: the attribute block is valid for its length; the kernel treats missing fields as zero.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    if r < 0 { Err(Error::last(what)) } else { Ok(r as i32) }
}

/// Attaches the device filter to a v2 group, given its directory.
pub fn attach_filter(group: &Path, rules: &[DeviceRule]) -> Result<()> {
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let program = filter_program(rules);
    let licence = c"Apache-2.0";
    let mut load = vec![];
    load.extend(TYPE_CGROUP_DEVICE.to_ne_bytes());
    load.extend((program.len() as u32).to_ne_bytes());
    load.extend((program.as_ptr() as u64).to_ne_bytes());
    load.extend((licence.as_ptr() as u64).to_ne_bytes());
    load.extend([0u8; 40]); // no log, any kernel version, no flags, no name
    let fd = bpf(PROG_LOAD, &load, "load device filter")?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target =
        rustix::fs::open(group, flags, Mode::empty()).what(|| format!("open cgroup {}", group.display()))?;
    let mut attach = vec![];
    attach.extend(target.as_raw_fd().to_ne_bytes());
    attach.extend(fd.as_raw_fd().to_ne_bytes());
    attach.extend(ATTACH_CGROUP_DEVICE.to_ne_bytes());
    attach.extend(ALLOW_MULTI.to_ne_bytes());
    bpf(PROG_ATTACH, &attach, "attach device filter").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_as_v1_wants_them() {
        assert_eq!(DEFAULT_RULES[0].to_string(), "c *:* m");
        assert_eq!(DEFAULT_RULES[2].to_string(), "c 1:3 rwm");
        assert_eq!(DEFAULT_RULES[10].to_string(), "c 136:* rwm");
    }

    #[test]
    fn null_is_known_by_its_numbers() {
        assert!(is_null(open_null().unwrap()).unwrap());
        assert!(!is_null(std::fs::File::open("/dev/zero").unwrap()).unwrap());
        assert!(DeviceNode::at(Path::new("/proc/self/stat")).is_err());
    }

    /// The filter works on a v2 group without any controller, which hybrid machines have as well.
    #[test]
    fn the_kernel_accepts_and_obeys_the_filter() {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let root = roots
            .iter()
            .map(Path::new)
            .find(|r| r.join("cgroup.procs").exists() && r.join("cgroup.subtree_control").exists());
        let (Some(root), 0) = (root, crate::process::own_uid()) else {
            println!("skipped: needs root and a cgroup v2 mount");
            return;
        };
        let group = root.join(format!("taffrail-test-devices-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let attached = attach_filter(&group, &DEFAULT_RULES);
        let mut out = vec![];
        if attached.is_ok() {
            for node in ["/dev/null", "/dev/zero", "/dev/kmsg"] {
                let script = format!("echo $$ > {}/cgroup.procs && : < {node}", group.display());
                let mut shell = std::process::Command::new("sh");
                shell.args(["-c", &script]).stderr(std::process::Stdio::null());
                out.push(shell.status().unwrap().success());
            }
        }
        for _ in 0..100 {
            if std::fs::remove_dir(&group).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        attached.unwrap();
        assert_eq!(out, [true, true, false]);
    }
}
