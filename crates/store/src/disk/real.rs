//! The operating system's files.
//!
//! Files are made with mode 0600 and directories with 0700: the store holds secrets.

use super::direct::{self, Direct, Failed};
use super::{Disk, DiskFile, Mode, with_zeros};
use parking_lot::Mutex;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        match dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            Mode::Read => {}
            Mode::Write => {
                options.write(true);
            }
            Mode::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(Box::new(RealFile { file: options.open(path)?, through: Mutex::default() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

struct RealFile {
    file: File,
    through: Mutex<Through>,
}

/// Whether a file can be written past the page cache.
#[derive(Default)]
enum Through {
    #[default]
    Untried,
    Open(Direct),
    Unfit,
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn write_through(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        let mut through = self.through.lock();
        if matches!(*through, Through::Untried) {
            *through = Direct::open(&self.file).map_or(Through::Unfit, Through::Open);
        }
        let Through::Open(direct) = &mut *through else { return Ok(false) };
        match direct.write(data, offset) {
            Ok(()) => Ok(true),
            Err(Failed::Unfit) => {
                *through = Through::Unfit;
                Ok(false)
            }
            Err(Failed::Disk(e)) => Err(e),
        }
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let size = self.size()?;
                self.write_zeros(size..bytes.max(size))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn write_zeros(&self, part: Range<u64>) -> io::Result<()> {
        // What was preallocated is written past the page cache too: nobody is to read it there.
        if part.end <= self.size()? && direct::write_zeros(&self.file, part.clone()) {
            return Ok(());
        }
        with_zeros(part, &mut |zeros, at| self.write_at(zeros, at))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_written_through_is_what_other_readers_see(
            parts in prop::collection::vec((1..9000_usize, any::<u8>(), prop::bool::weighted(0.2)), 1..12),
        ) {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("log");
            let file = RealDisk.open(&path, Mode::Create)?;
            file.preallocate(100_000)?;
            let mut expected = vec![0; 100_000];
            let mut at = 0;
            for (bytes, byte, ordinary) in parts {
                if at + bytes > 90_000 {
                    break;
                }
                let data = vec![byte; bytes];
                if ordinary || !file.write_through(&data, at as u64)? {
                    file.write_at(&data, at as u64)?;
                    file.sync_data()?;
                }
                expected[at..at + bytes].copy_from_slice(&data);
                at += bytes;
                prop_assert_eq!(&std::fs::read(&path)?, &expected);
            }
        }
    }

    #[test]
    fn zeros_are_written_over_any_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = RealDisk.open(&path, Mode::Create).unwrap();
        for part in [0..8192, 4096..8192, 100..5000, 4096..1 << 20] {
            file.write_at(&vec![7; 1 << 20], 0).unwrap();
            file.write_zeros(part.clone()).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let zero = |at: &u64| bytes[*at as usize] == 0;
            assert!((0..1 << 20).all(|at| zero(&at) == part.contains(&at)), "{part:?}");
        }
    }

    #[test]
    fn the_end_of_a_file_that_ends_within_a_block_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("log"), Mode::Create).unwrap();
        file.preallocate(5000).unwrap();
        assert!(!file.write_through(b"x", 4999).unwrap());
        assert_eq!(file.size().unwrap(), 5000);
    }
}
