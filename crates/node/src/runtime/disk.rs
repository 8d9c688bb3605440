//! A pod's directory: where what must survive the program (and the shim) is kept.
//!
//! Invariant: a record is replaced whole (written beside, then renamed), so a reader finds the old or the new one.

use super::{ContainerState, Phase, SandboxSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use sys::process;

/// Most containers read back from one pod's directory.
const CONTAINERS_MAX: usize = 10_000;

/// The directory of one pod.
#[derive(Debug, Clone)]
pub struct PodDir(PathBuf);

/// Which process a pod's shim is; pid and start time name it for good within one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    pub pid: i32,
    pub start_time: u64,
    pub boot_id: String,
}

impl ShimRecord {
    /// This process.
    pub fn own() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        Self { pid, start_time: process::start_time(pid).unwrap_or(0), boot_id: boot_id() }
    }

    pub fn alive(&self) -> bool {
        self.boot_id == boot_id() && process::start_time(self.pid) == Some(self.start_time)
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl PodDir {
    pub fn new(root: &Path, pod_uid: &str) -> Self {
        Self(root.join(pod_uid))
    }

    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory, readable by its owner only: specs hold secrets.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.container_root())?;
        fs::set_permissions(&self.0, Permissions::from_mode(0o700))
    }

    /// tmpfs that the pod's containers share as /dev/shm.
    pub fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// Empty root of the pod's reaper.
    pub fn reaper(&self) -> PathBuf {
        self.0.join("reaper")
    }

    /// What a shim has to say when it cannot say it over its socket.
    pub fn log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    fn container_root(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.container_root().join(id)
    }

    /// The socket by a path that is short enough whatever the directory is called; usable while the descriptor lives.
    pub fn socket(&self) -> io::Result<(OwnedFd, PathBuf)> {
        let dir = sys::rooted::open_root(&self.0)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd()));
        Ok((dir, path))
    }

    pub fn write_spec(&self, spec: &SandboxSpec) -> io::Result<()> {
        write(&self.0.join("sandbox.json"), spec)
    }

    /// `None` when there is no such sandbox.
    pub fn spec(&self) -> io::Result<Option<SandboxSpec>> {
        read(&self.0.join("sandbox.json"))
    }

    pub fn write_shim(&self, shim: &ShimRecord) -> io::Result<()> {
        write(&self.0.join("shim.json"), shim)
    }

    pub fn shim(&self) -> io::Result<Option<ShimRecord>> {
        read(&self.0.join("shim.json"))
    }

    pub fn write_state(&self, state: &ContainerState) -> io::Result<()> {
        write(&self.container(&state.id).join("state.json"), state)
    }

    /// Every container that was started and not removed.
    pub fn states(&self) -> io::Result<Vec<ContainerState>> {
        let entries = match fs::read_dir(self.container_root()) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            other => other?,
        };
        let mut found: Vec<ContainerState> = vec![];
        for entry in entries.take(CONTAINERS_MAX) {
            found.extend(read::<ContainerState>(&entry?.path().join("state.json"))?);
        }
        found.sort_by(|a, b| (a.started_ns, &a.id).cmp(&(b.started_ns, &b.id)));
        Ok(found)
    }

    /// Marks what was running as killed, after its shim was lost; returns the ids.
    pub fn bury(&self, now_ns: i64) -> io::Result<Vec<String>> {
        let mut buried = vec![];
        for mut state in self.states()? {
            if state.phase == Phase::Exited {
                continue;
            }
            state.phase = Phase::Exited;
            state.finished_ns = now_ns;
            state.exit_code = 137;
            state.signal = 9;
            self.write_state(&state)?;
            buried.push(state.id);
        }
        Ok(buried)
    }

    /// Removes mounts and files of the pod; nothing there is no error.
    pub fn remove(&self) -> io::Result<()> {
        for point in sys::mount::below(&self.0)? {
            sys::mount::unmount(&point)?;
        }
        remove_tree(&self.0)
    }
}

/// Removes a directory with all in it; nothing there is no error.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(named(e, path)),
        _ => Ok(()),
    }
}

/// A pod's or container's name as a directory: a plain component.
pub fn plain_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 200 && name.chars().all(fine) && !name.starts_with('.')
}

fn named(e: io::Error, path: &Path) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    fs::write(&beside, serde_json::to_vec(record)?).map_err(|e| named(e, &beside))?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    fs::rename(&beside, path).map_err(|e| named(e, path))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| named(e.into(), path)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(named(e, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burying_touches_only_what_ran() {
        let dir = tempfile::tempdir().unwrap();
        let pod = PodDir::new(dir.path(), "u1");
        pod.create().unwrap();
        for (id, phase) in [("a", Phase::Running), ("b", Phase::Exited)] {
            fs::create_dir(pod.container(id)).unwrap();
            let state = ContainerState {
                id: id.into(),
                name: id.into(),
                phase,
                pid: 5,
                started_ns: 1,
                finished_ns: 0,
                exit_code: 0,
                signal: 0,
                oom_killed: false,
            };
            pod.write_state(&state).unwrap();
        }
        assert_eq!(pod.bury(9).unwrap(), ["a"]);
        let codes: Vec<_> = pod.states().unwrap().iter().map(|s| (s.exit_code, s.finished_ns)).collect();
        assert_eq!(codes, [(137, 9), (0, 0)]);
        assert!(pod.bury(10).unwrap().is_empty());
    }

    #[test]
    fn a_record_names_one_process() {
        let own = ShimRecord::own();
        assert!(own.alive());
        assert!(!ShimRecord { start_time: own.start_time + 1, ..own.clone() }.alive());
        assert!(!ShimRecord { boot_id: "other".into(), ..own }.alive());
    }

    #[test]
    fn names_are_plain() {
        assert!(plain_name("0a1b-22") && plain_name("a.b_c"));
        for bad in ["", "..", ".x", "a/b", "a\0", "a b"] {
            assert!(!plain_name(bad), "{bad:?}");
        }
    }
}
