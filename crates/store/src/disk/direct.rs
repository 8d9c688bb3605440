//! Writes that go past the page cache and are durable when they return.
//!
//! Why: a small frame of the log that is written and then synced takes half as much processor time again as this, for the
//! kernel first copies it to a page and then looks for pages to write.
//!
//! Invariant: whole blocks are written, and what stands before the data in its first block is what the file has there.

use super::with_zeros;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

/// What file systems want places in memory and in files to be multiples of, at most.
pub const BLOCK_BYTES: usize = 4096;
/// The memory of a write is given back when it is more than this.
const MEMORY_BYTES_MAX: usize = 1 << 20;

/// A second way into an open file.
pub struct Direct {
    file: File,
    /// Its size when it was opened. To ask at each write would let the kernel give each write a time of its own
    /// (multigrain timestamps), which each would have to make durable.
    size: u64,
    /// Where the last data ended, and what stands before that in its block.
    last: Option<(u64, Vec<u8>)>,
    /// The memory of writes.
    memory: Vec<u8>,
}

/// Why direct writes failed.
pub enum Failed {
    /// This file, or its file system, cannot have them; or there is no room. The ordinary way says which.
    Unfit,
    /// What is on the disk is not known.
    Disk(io::Error),
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        let unfit = [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported];
        if unfit.contains(&e.kind()) || super::is_full(&e) { Self::Unfit } else { Self::Disk(e) }
    }
}

/// Opens a file again; `None` where that cannot be done.
fn again(file: &File, more: OFlags) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC | more;
    // By its number: the file may have another name by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Some(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?.into())
}

/// Writes zeros over whole blocks of a file, within its size; they are not durable yet. `false` when the ordinary way has
/// to be taken.
pub fn write_zeros(file: &File, part: Range<u64>) -> bool {
    let whole = |at: u64| at.is_multiple_of(BLOCK_BYTES as u64);
    let Some(file) = again(file, OFlags::empty()).filter(|_| whole(part.start) && whole(part.end)) else {
        return false;
    };
    with_zeros(part, &mut |zeros, at| file.write_all_at(zeros, at)).is_ok()
}

impl Direct {
    /// Opens a file again; `None` where that cannot be done.
    pub fn open(file: &File) -> Option<Self> {
        let file = again(file, OFlags::DSYNC)?;
        let size = file.metadata().ok()?.len();
        Some(Self { file, size, last: None, memory: Vec::new() })
    }

    /// Writes within the size that the file had, and zeros behind the data to the end of its block.
    ///
    /// # Errors
    /// After any, the data may be written or not.
    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Failed> {
        if data.is_empty() {
            return Ok(());
        }
        let before = (offset % BLOCK_BYTES as u64) as usize;
        let begin = offset - before as u64;
        let end = before + data.len();
        let bytes = end.next_multiple_of(BLOCK_BYTES);
        if begin + bytes as u64 > self.size {
            return Err(Failed::Unfit);
        }
        if self.memory.len() < bytes + BLOCK_BYTES {
            self.memory = vec![0; (bytes + BLOCK_BYTES).next_power_of_two()];
        }
        let aligned = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        let buffer = &mut self.memory[aligned..aligned + bytes];
        let mut block = match self.last.take() {
            Some((at, block)) if at == offset => {
                buffer[..before].copy_from_slice(&block);
                block
            }
            _ => {
                self.file.read_exact_at(&mut buffer[..BLOCK_BYTES], begin)?;
                Vec::with_capacity(BLOCK_BYTES)
            }
        };
        buffer[before..end].copy_from_slice(data);
        buffer[end..].fill(0);
        self.file.write_all_at(buffer, begin)?;
        block.clear();
        block.extend_from_slice(&buffer[end / BLOCK_BYTES * BLOCK_BYTES..end]);
        self.last = Some((offset + data.len() as u64, block));
        if self.memory.len() > MEMORY_BYTES_MAX {
            self.memory = Vec::new();
        }
        Ok(())
    }
}
