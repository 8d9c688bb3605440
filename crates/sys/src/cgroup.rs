//! Control groups, v1 and v2 behind one face.
//!
//! Invariant: a group is named by a relative path of plain components below the root of each hierarchy, so no call
//! reaches outside what its caller named.

mod limits;
mod oom;
mod usage;

pub use limits::Limits;
pub use oom::OomWatch;
pub use usage::Usage;

use crate::devices::DeviceRule;
use crate::error::{Context, Error, Result};
use crate::process;
use rustix::fs::OFlags;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Rounds of killing or removing before giving up, and the pause between them.
const ROUNDS_MAX: u32 = 200;
const ROUND_PAUSE: Duration = Duration::from_millis(5);
/// v1 hierarchies that groups are made in. cpuset is left out: a new group there takes no process until configured.
const V1_WANTED: [&str; 9] =
    ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio", "name=systemd", "hugetlb"];

/// The machine's control groups.
#[derive(Debug)]
pub struct Cgroups {
    version: u8,
    /// v1: controllers of a hierarchy and its mount point; v2: one entry.
    hierarchies: Vec<(Vec<String>, PathBuf)>,
}

/// The machine's control groups, found once.
pub fn machine() -> Result<&'static Cgroups> {
    static FOUND: OnceLock<std::result::Result<Cgroups, Error>> = OnceLock::new();
    FOUND.get_or_init(|| detect(Path::new("/sys/fs/cgroup"))).as_ref().map_err(Clone::clone)
}

fn detect(root: &Path) -> Result<Cgroups> {
    let stat = rustix::fs::statfs(root).what(|| format!("stat {}", root.display()))?;
    if stat.f_type as u64 == CGROUP2_MAGIC {
        return Ok(Cgroups { version: 2, hierarchies: vec![(vec![], root.into())] });
    }
    let text = std::fs::read_to_string("/proc/self/mountinfo").what(|| "read mountinfo".into())?;
    let mut hierarchies: Vec<(Vec<String>, PathBuf)> = vec![];
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        if right.next() != Some("cgroup") {
            continue;
        }
        let Some(point) = left.split(' ').nth(4) else { continue };
        let options = right.nth(1).unwrap_or_default();
        let names: Vec<String> =
            options.split(',').filter(|o| V1_WANTED.contains(o)).map(String::from).collect();
        if !names.is_empty() && !hierarchies.iter().any(|(n, _)| *n == names) {
            hierarchies.push((names, point.into()));
        }
    }
    if hierarchies.is_empty() {
        return Err(Error::check("no control groups are mounted below /sys/fs/cgroup"));
    }
    Ok(Cgroups { version: 1, hierarchies })
}

fn checked(group: &str) -> Result<&str> {
    let plain = |c: &str| !c.is_empty() && c != "." && c != ".." && !c.contains(['\0', '\n']);
    if group.split('/').all(plain) {
        Ok(group)
    } else {
        Err(Error::check(format!("bad cgroup name {group:?}")))
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).what(|| format!("write {value:?} to {}", path.display()))
}

impl Cgroups {
    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Controllers that can be used: v1 those mounted, v2 those of the root.
    pub fn controllers(&self) -> Vec<String> {
        match self.version {
            2 => std::fs::read_to_string(self.hierarchies[0].1.join("cgroup.controllers"))
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(String::from)
                .collect(),
            _ => self.hierarchies.iter().flat_map(|(names, _)| names.clone()).collect(),
        }
    }

    /// v1: the mount options of each hierarchy, for mounting a view of it in a container.
    pub fn v1_hierarchies(&self) -> Vec<Vec<String>> {
        if self.version == 1 { self.hierarchies.iter().map(|(n, _)| n.clone()).collect() } else { vec![] }
    }

    fn paths(&self, group: &str) -> Result<Vec<PathBuf>> {
        let group = checked(group)?;
        Ok(self.hierarchies.iter().map(|(_, root)| root.join(group)).collect())
    }

    /// The group's directory in the hierarchy of a controller.
    fn path(&self, controller: &str, group: &str) -> Result<PathBuf> {
        let group = checked(group)?;
        self.hierarchies
            .iter()
            .find(|(names, _)| self.version == 2 || names.iter().any(|n| n == controller))
            .map(|(_, root)| root.join(group))
            .ok_or_else(|| Error::check(format!("cgroup controller {controller} is not mounted")))
    }

    pub fn exists(&self, group: &str) -> bool {
        self.paths(group).is_ok_and(|paths| paths.iter().any(|p| p.exists()))
    }

    /// Makes the group and its parents; on v2 hands the controllers cpu, memory and pids down to it.
    pub fn create(&self, group: &str) -> Result<()> {
        for path in self.paths(group)? {
            std::fs::create_dir_all(&path).what(|| format!("make cgroup {}", path.display()))?;
        }
        if self.version == 2 {
            let mut at = self.hierarchies[0].1.clone();
            for part in group.split('/') {
                let have = std::fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
                let on = std::fs::read_to_string(at.join("cgroup.subtree_control")).unwrap_or_default();
                for c in ["cpu", "memory", "pids", "io"] {
                    let lists = |text: &str| text.split_ascii_whitespace().any(|h| h == c);
                    if lists(&have) && !lists(&on) {
                        write(&at.join("cgroup.subtree_control"), &format!("+{c}"))?;
                    }
                }
                at = at.join(part);
            }
        }
        Ok(())
    }

    /// v2: the group as a descriptor for [`process::spawn`]; `None` on v1.
    pub fn open(&self, group: &str) -> Result<Option<OwnedFd>> {
        if self.version == 1 {
            return Ok(None);
        }
        let path = self.path("", group)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
            .what(|| format!("open cgroup {}", path.display()))?;
        Ok(Some(fd))
    }

    /// Moves a process into the group, in every hierarchy.
    pub fn join(&self, group: &str, pid: i32) -> Result<()> {
        self.paths(group)?.iter().try_for_each(|p| write(&p.join("cgroup.procs"), &pid.to_string()))
    }

    /// Every process in the group and below it, as seen from this pid namespace.
    pub fn processes(&self, group: &str) -> Result<Vec<i32>> {
        let path = self.path("pids", group).or_else(|_| self.path("memory", group))?;
        let mut pids = vec![];
        collect_processes(&path, &mut pids);
        Ok(pids)
    }

    /// Kills every process in the group and below it and waits (at most a second) until none is left.
    pub fn kill(&self, group: &str) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            if self.kill_once(group)? == 0 {
                return Ok(());
            }
            std::thread::sleep(ROUND_PAUSE);
        }
        Err(Error::check(format!("processes of cgroup {group} do not end (in uninterruptible sleep?)")))
    }

    /// Sends SIGKILL to every process in the group and below it; returns how many there were.
    pub fn kill_once(&self, group: &str) -> Result<usize> {
        let pids = self.processes(group)?;
        if self.version == 2 && !pids.is_empty() {
            let path = self.path("", group)?.join("cgroup.kill");
            if std::fs::write(path, "1").is_ok() {
                return Ok(pids.len());
            }
        }
        for pid in pids.iter().filter(|p| **p > 1) {
            process::signal_pid(*pid, libc::SIGKILL)?;
        }
        Ok(pids.len())
    }

    /// Removes the group and those below it in one attempt; an error means that something is still in it.
    pub fn try_remove(&self, group: &str) -> Result<()> {
        self.paths(group)?.iter().try_for_each(|p| remove_tree(p))
    }

    /// Removes the group and those below it, waiting (at most a second) for ended processes to leave it.
    pub fn remove(&self, group: &str) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..ROUNDS_MAX {
            last = self.try_remove(group);
            if last.is_ok() {
                return last;
            }
            std::thread::sleep(ROUND_PAUSE);
        }
        last
    }

    /// Restricts devices to the rules; `None` allows all.
    pub fn allow_devices(&self, group: &str, rules: Option<&[DeviceRule]>) -> Result<()> {
        let Some(rules) = rules else { return Ok(()) };
        if self.version == 2 {
            let group = self.path("", group)?;
            return crate::devices::attach_filter(&group, rules);
        }
        let Ok(path) = self.path("devices", group) else { return Ok(()) };
        write(&path.join("devices.deny"), "a")?;
        rules.iter().try_for_each(|r| write(&path.join("devices.allow"), &r.to_string()))
    }
}

fn collect_processes(path: &Path, pids: &mut Vec<i32>) {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_processes(&entry.path(), pids);
        }
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).what(|| format!("remove cgroup {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for bad in ["", "/", "/abs", "a/../b", "..", "a//b", "a/./b", "a\nb"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        assert!(checked("kubepods/burstable/pod1").is_ok());
    }
}
