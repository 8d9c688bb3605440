//! The disk as a parameter: what the store asks of a file system, small enough to be simulated.
//!
//! Invariant: everything that the store does to files goes through [`Disk`], so a simulated crash sees every write,
//! sync and rename.

mod direct;
mod real;
#[cfg(any(test, feature = "testing"))]
pub mod sim;

pub use real::RealDisk;

use std::io;
use std::ops::Range;
use std::path::Path;

/// Bytes of zeros written at a time.
const ZERO_BLOCK_BYTES: usize = 512 << 10;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A new file, to read and write; an existing one is an error.
    Create,
}

/// A file system. Only what is said to be durable is durable.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory and its parents, durably; an existing one is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>>;

    /// Replaces `to` in one step; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: created, renamed, removed.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that an ordinary user may still write in the file system of a directory.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Takes a lock that ends with the returned value or with the process; `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    fn size(&self) -> io::Result<u64>;

    /// Fills the buffer from an offset; `UnexpectedEof` when the file is shorter.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of the data, growing the file when needed. After an error any part of it may be written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of the data within the file's size, durably, at once; what stands behind it in its block may become zero.
    /// `false` when that is not to be had here, and nothing is known of what was written: then [`DiskFile::write_at`]
    /// and [`DiskFile::sync_data`] are the way.
    ///
    /// # Errors
    /// What is on the disk is not known.
    fn write_through(&self, _data: &[u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    /// Takes room for the first `bytes` bytes; new ones read as zero.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;

    /// Writes zeros over a part. A file system notes of preallocated room that nothing was written there;
    /// the first sync of each block then has to change that note too, which takes its journal twice as long.
    fn write_zeros(&self, part: Range<u64>) -> io::Result<()> {
        with_zeros(part, &mut |zeros, at| self.write_at(zeros, at))
    }

    /// Makes the contents and the size durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Calls `write` with zeros for one piece of a part of a file after the other, and where it begins.
fn with_zeros(part: Range<u64>, write: &mut dyn FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
    let memory = vec![0; ZERO_BLOCK_BYTES + direct::BLOCK_BYTES];
    let zeros = &memory[memory.as_ptr().align_offset(direct::BLOCK_BYTES)..];
    let mut at = part.start;
    while at < part.end {
        let bytes = ZERO_BLOCK_BYTES.min((part.end - at) as usize);
        write(&zeros[..bytes], at)?;
        at += bytes as u64;
    }
    Ok(())
}

/// Whether an error says that the disk has no room, so that the write can be refused and tried again later.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads a whole file.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.size()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
