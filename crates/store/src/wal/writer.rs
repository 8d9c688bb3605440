//! Writing the log: frames into the current segment, and new segments when it is full.
//!
//! Invariant: when [`Writer::append`] returns `Ok` the frame is durable; when it returns [`AppendError::Full`] the log
//! is as it was before; after any other error nobody knows, and the process must not go on.

use super::frame::{self, Seed};
use super::segment::{self, Header, Position};
use crate::Revision;
use crate::disk::{Disk, DiskFile, Mode, is_full};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a frame is not durable.
#[derive(Debug)]
pub enum AppendError {
    /// There is no room; nothing was changed.
    Full(String),
    /// What is on the disk is not known any more.
    Fatal(String),
}

/// The names of preallocated files, shared with the thread that adds to them.
pub type FreeList = Arc<Mutex<Vec<String>>>;

/// The log's end.
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    free: FreeList,
    seed: Seed,
    file: Box<dyn DiskFile>,
    size: u64,
    offset: u64,
    position: Position,
}

/// Where to go on writing.
pub struct Resume {
    pub seed: Seed,
    pub offset: u64,
    pub position: Position,
}

impl Writer {
    /// Goes on at the end of an existing log, whose last frames become durable by this if they were not.
    pub fn resume(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
        free: FreeList,
        at: Resume,
    ) -> io::Result<Self> {
        let file = disk.open(&dir.join(segment::segment_name(at.seed.segment)), Mode::Write)?;
        file.sync_data()?;
        disk.sync_dir(dir)?;
        let size = file.size()?;
        let Resume { seed, offset, position } = at;
        Ok(Self { disk, dir: dir.to_owned(), segment_bytes, free, seed, file, size, offset, position })
    }

    pub fn position(&self) -> Position {
        self.position
    }

    pub fn store(&self) -> [u8; 16] {
        self.seed.store
    }

    pub fn segment(&self) -> u64 {
        self.seed.segment
    }

    /// Whether more than half of the segment is used: its successor is to be made.
    pub fn is_half_full(&self) -> bool {
        self.offset > self.size / 2
    }

    /// Writes and syncs a frame made with [`frame::begin`].
    pub fn append(&mut self, buffer: &mut [u8], revision: Revision, now_ms: u64) -> Result<(), AppendError> {
        if self.offset + buffer.len() as u64 > self.size {
            self.rotate(buffer.len() as u64, now_ms)?;
        }
        let Position { sequence, hash, .. } = self.position;
        let hash = frame::seal(buffer, self.seed, self.offset, sequence, revision, &hash);
        if !self.file.write_through(buffer, self.offset).map_err(|e| self.fatal("write", &e))? {
            self.file.write_at(buffer, self.offset).map_err(|e| self.failed("write", &e))?;
            self.file.sync_data().map_err(|e| self.fatal("sync", &e))?;
        }
        self.offset += buffer.len() as u64;
        self.position = Position { sequence: sequence + 1, revision, hash };
        Ok(())
    }

    /// Begins a new segment with room for a frame.
    pub fn rotate(&mut self, frame_bytes: u64, now_ms: u64) -> Result<(), AppendError> {
        let seed = Seed { segment: self.seed.segment + 1, ..self.seed };
        let bytes = self.segment_bytes.max(segment::HEADER_BYTES + frame_bytes);
        let (file, name) = self.blank(bytes).map_err(|e| self.failed("make the next segment", &e))?;
        let header = Header { seed, start: self.position, bytes, made_ms: now_ms };
        let file = install(&*self.disk, &self.dir, file, &name, &header);
        self.file = file.map_err(|e| self.failed("begin the next segment", &e))?;
        self.size = self.file.size().map_err(|e| self.fatal("measure the segment", &e))?;
        self.seed = seed;
        self.offset = segment::HEADER_BYTES;
        Ok(())
    }

    /// A preallocated file of at least this size.
    fn blank(&self, bytes: u64) -> io::Result<(Box<dyn DiskFile>, String)> {
        while let Some(name) = { self.free.lock().pop() } {
            let path = self.dir.join(&name);
            // A file that went missing or is too small is no loss: make another.
            match self.disk.open(&path, Mode::Write) {
                Ok(file) if file.size()? >= bytes => return Ok((file, name)),
                Ok(_) => self.disk.remove(&path)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let name = segment::free_name(self.seed.segment + 1);
        // Commits wait for this one.
        Ok((preallocate(&*self.disk, &self.dir.join(&name), bytes, false)?, name))
    }

    fn failed(&self, what: &str, error: &io::Error) -> AppendError {
        let text = self.text(what, error);
        if is_full(error) { AppendError::Full(text) } else { AppendError::Fatal(text) }
    }

    fn fatal(&self, what: &str, error: &io::Error) -> AppendError {
        AppendError::Fatal(self.text(what, error))
    }

    fn text(&self, what: &str, error: &io::Error) -> String {
        let path = self.dir.join(segment::segment_name(self.seed.segment));
        format!("could not {what} in the log at {}: {error}", path.display())
    }
}

/// A new file with room, or nothing at all. With `zeroed`, its room has been written, so that syncs of it are quick: making
/// it takes as long as writing it.
pub fn preallocate(disk: &dyn Disk, path: &Path, bytes: u64, zeroed: bool) -> io::Result<Box<dyn DiskFile>> {
    let file = match disk.open(path, Mode::Create) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // Left by a crash.
            disk.remove(path)?;
            disk.open(path, Mode::Create)?
        }
        other => other?,
    };
    let zeros = || if zeroed { file.write_zeros(0..bytes).and_then(|()| file.sync_data()) } else { Ok(()) };
    match file.preallocate(bytes).and_then(|()| zeros()) {
        Ok(()) => Ok(file),
        Err(e) => {
            drop(file);
            let _ = disk.remove(path);
            Err(e)
        }
    }
}

/// Makes a blank file the segment that the header describes, durably.
pub fn install(
    disk: &dyn Disk,
    dir: &Path,
    file: Box<dyn DiskFile>,
    name: &str,
    header: &Header,
) -> io::Result<Box<dyn DiskFile>> {
    file.write_at(&header.write(), 0)?;
    // A sync that finds no room is not a refusal: nobody knows what was written.
    file.sync_data().map_err(|e| if is_full(&e) { io::Error::other(e) } else { e })?;
    disk.rename(&dir.join(name), &dir.join(segment::segment_name(header.seed.segment)))?;
    disk.sync_dir(dir).map_err(|e| if is_full(&e) { io::Error::other(e) } else { e })?;
    Ok(file)
}
