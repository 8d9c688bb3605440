//! A disk in memory that can lose power: before any chosen operation everything stops, and what was not synced is
//! kept, dropped or torn by sector.
//!
//! Invariant: after [`SimDisk::after_crash`] a file shows what its last sync covered, plus an arbitrary part (by the
//! chosen [`Loss`]) of what came later; names follow the last directory sync plus some of the later changes.

use super::{Disk, DiskFile, Mode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// What happens to unsynced changes at a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All are on the disk.
    None,
    /// None is.
    All,
    /// Whole writes and the first of the changes of names, by this seed.
    Writes(u64),
    /// Single sectors of writes and any changes of names, by this seed.
    Sectors(u64),
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<NameChange>,
    files: Vec<FileState>,
    locked: BTreeSet<PathBuf>,
    operations: u64,
    crash_at: Option<u64>,
    capacity_bytes: Option<u64>,
    read_only: bool,
    fail_sync: bool,
}

#[derive(Clone)]
enum NameChange {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct FileState {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Data(u64, Vec<u8>),
    Grow(u64),
}

impl SimDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk stops working before its `operation`th change (counted from 0).
    pub fn crash_at(&self, operation: u64) {
        self.0.lock().crash_at = Some(operation);
    }

    /// Changes made so far: writes, syncs, names.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Room for all files together; `None` is endless.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    /// Every sync from now on fails.
    pub fn set_fail_sync(&self, fail: bool) {
        self.0.lock().fail_sync = fail;
    }

    /// Bytes that all files take.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// The disk that a machine finds after a power loss now.
    pub fn after_crash(&self, loss: Loss) -> SimDisk {
        let s = self.0.lock();
        let mut rng = fastrand_lite(loss);
        let mut names = s.durable_names.clone();
        let first = rng() % (s.changes.len() as u64 + 1);
        for (n, change) in s.changes.iter().enumerate() {
            let keep = match loss {
                Loss::None => true,
                Loss::All => false,
                Loss::Writes(_) => (n as u64) < first,
                Loss::Sectors(_) => rng().is_multiple_of(2),
            };
            if keep {
                apply_name(&mut names, change);
            }
        }
        let files = s.files.iter().map(|f| f.after_crash(loss, &mut rng)).collect();
        SimDisk(Arc::new(Mutex::new(State {
            durable_names: names.clone(),
            names,
            files,
            ..State::default()
        })))
    }

    /// The disk that the next process finds when this one is killed: nothing is lost, and nothing more is durable.
    pub fn after_kill(&self) -> SimDisk {
        let s = self.0.lock();
        SimDisk(Arc::new(Mutex::new(State {
            names: s.names.clone(),
            durable_names: s.durable_names.clone(),
            changes: s.changes.clone(),
            files: s.files.clone(),
            ..State::default()
        })))
    }

    /// A copy with nothing unsynced, to damage on purpose.
    pub fn copy(&self) -> SimDisk {
        self.after_crash(Loss::None)
    }

    /// Changes bytes of a file behind everybody's back.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut s = self.0.lock();
        if let Some(&id) = s.names.get(path) {
            let file = &mut s.files[id];
            change(&mut file.now);
            file.durable = file.now.clone();
            file.unsynced.clear();
        }
    }

    /// The bytes of a file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let s = self.0.lock();
        s.names.get(path).map(|&id| s.files[id].now.clone())
    }
}

/// A small deterministic generator, so that the simulation needs no crate beyond the tests'.
fn fastrand_lite(loss: Loss) -> impl FnMut() -> u64 {
    let mut x = match loss {
        Loss::Writes(seed) | Loss::Sectors(seed) => seed,
        Loss::None | Loss::All => 0,
    };
    move || {
        // splitmix64
        x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = x;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Add(path, id) => {
            names.insert(path.clone(), *id);
        }
        NameChange::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

impl FileState {
    fn after_crash(&self, loss: Loss, rng: &mut impl FnMut() -> u64) -> FileState {
        let mut bytes = self.durable.clone();
        for write in &self.unsynced {
            let keep = match loss {
                Loss::None => true,
                Loss::All => false,
                Loss::Writes(_) => rng().is_multiple_of(2),
                Loss::Sectors(_) => true,
            };
            match write {
                Write::Grow(size) if keep => {
                    let size = (*size as usize).max(bytes.len());
                    bytes.resize(size, 0);
                }
                Write::Data(offset, data) if keep => {
                    let end = offset + data.len() as u64;
                    let mut from = *offset;
                    while from < end {
                        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                        if !matches!(loss, Loss::Sectors(_)) || rng().is_multiple_of(2) {
                            write_into(
                                &mut bytes,
                                from,
                                &data[(from - offset) as usize..(to - offset) as usize],
                            );
                        }
                        from = to;
                    }
                }
                Write::Grow(_) | Write::Data(..) => {}
            }
        }
        FileState { now: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|&id| self.files[id].now.len() as u64).sum()
    }

    /// Counts a change, and fails it when the power is gone.
    fn change(&mut self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let now = self.operations;
        self.operations += 1;
        if self.crash_at.is_some_and(|at| now >= at) {
            return Err(io::Error::other("simulated power loss"));
        }
        Ok(())
    }

    fn grow(&self, id: usize, size: u64) -> io::Result<()> {
        let more = size.saturating_sub(self.files[id].now.len() as u64);
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        let s = self.0.lock();
        if s.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let s = self.0.lock();
        let names = s.names.keys().filter(|p| p.parent() == Some(dir));
        Ok(names.filter_map(|p| p.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut s = self.0.lock();
        let id = match (s.names.get(path).copied(), mode) {
            (Some(_), Mode::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(id), _) => id,
            (None, Mode::Create) => {
                s.change()?;
                s.files.push(FileState::default());
                let id = s.files.len() - 1;
                s.names.insert(path.to_owned(), id);
                s.changes.push(NameChange::Add(path.to_owned(), id));
                id
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        if mode == Mode::Write && s.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(Box::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut s = self.0.lock();
        s.change()?;
        if !s.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        apply_name(&mut s.names, &change);
        s.changes.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut s = self.0.lock();
        s.change()?;
        if s.names.remove(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        s.changes.push(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut s = self.0.lock();
        s.change()?;
        s.durable_names = s.names.clone();
        s.changes.clear();
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let s = self.0.lock();
        Ok(s.capacity_bytes.map_or(u64::MAX, |c| c.saturating_sub(s.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut s = self.0.lock();
        if s.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if !s.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.0.lock().locked.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    id: usize,
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.id].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let s = self.disk.0.lock();
        let from = offset as usize;
        let bytes = s.files[self.id].now.get(from..from + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut s = self.disk.0.lock();
        s.change()?;
        let mut part = data;
        let full = s.grow(self.id, offset + data.len() as u64);
        if full.is_err() {
            // As a real disk: the part that fits is written.
            let size = s.files[self.id].now.len() as u64;
            part = &data[..(size.saturating_sub(offset) as usize).min(data.len())];
        }
        let file = &mut s.files[self.id];
        write_into(&mut file.now, offset, part);
        file.unsynced.push(Write::Data(offset, part.to_vec()));
        full
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let mut s = self.disk.0.lock();
        s.change()?;
        s.grow(self.id, bytes)?;
        let file = &mut s.files[self.id];
        let size = (bytes as usize).max(file.now.len());
        file.now.resize(size, 0);
        file.unsynced.push(Write::Grow(bytes));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut s = self.disk.0.lock();
        s.change()?;
        if s.fail_sync {
            return Err(io::Error::other("simulated input/output error"));
        }
        let file = &mut s.files[self.id];
        file.durable = file.now.clone();
        file.unsynced.clear();
        Ok(())
    }
}
