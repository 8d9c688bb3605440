//! A file that moves aside when it is full (upstream: lumberjack, which upstream's log backend writes through).
//!
//! Invariant: every line is whole in one file; old files are compressed and removed beside, never while a request waits.

use super::LogOptions;
use jiff::Timestamp;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

pub struct Rotated {
    options: LogOptions,
    /// `None` is standard output.
    file: Option<File>,
    size: u64,
    inode: u64,
    /// Wakes the thread that looks after old files; it ends with this.
    mill: SyncSender<()>,
}

impl Rotated {
    pub fn open(options: LogOptions) -> io::Result<Self> {
        let (mill, wake) = sync_channel(1);
        let mut out = Self { options, file: None, size: 0, inode: 0, mill };
        if out.options.path == "-" {
            return Ok(out);
        }
        out.reopen()?;
        let (options, path) = (out.options.clone(), PathBuf::from(&out.options.path));
        std::thread::Builder::new().name("audit-log-mill".into()).spawn(move || {
            for () in wake {
                #[allow(clippy::disallowed_methods)] // names of backups have the machine's time
                clean(&path, &options, Timestamp::now());
            }
        })?;
        out.wake();
        Ok(out)
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return io::stdout().lock().write_all(lines);
        }
        let max = u64::from(self.options.max_size_mib) << 20;
        if max > 0 && self.size + lines.len() as u64 > max && self.size > 0 {
            self.rotate()?;
        }
        // A file that somebody deleted would swallow the record.
        if fs::metadata(&self.options.path).map(|m| m.ino()).ok() != Some(self.inode) {
            self.reopen()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let path = Path::new(&self.options.path);
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let meta = file.metadata()?;
        (self.size, self.inode, self.file) = (meta.len(), meta.ino(), Some(file));
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        #[allow(clippy::disallowed_methods)] // a backup's name is the machine's time
        let now = Timestamp::now();
        let path = PathBuf::from(&self.options.path);
        fs::rename(&path, backup_name(&path, now))?;
        self.wake();
        self.reopen()
    }

    fn wake(&self) {
        // One that is due anyway will see all files.
        let _ = self.mill.try_send(());
    }
}

/// Removes old files beyond the count or the age asked for, and compresses the others (upstream: `millRunOnce`).
fn clean(path: &Path, options: &LogOptions, now: Timestamp) {
    let mut all = backups(path);
    all.sort();
    all.reverse();
    let age = jiff::SignedDuration::from_hours(24 * i64::from(options.max_age_days));
    let oldest = now.saturating_sub(age).unwrap_or(now);
    let (mut times, mut last) = (0, String::new());
    for (time, file) in all {
        // A file and its compressed form, should both be there, count once.
        if time != last {
            times += 1;
            last.clone_from(&time);
        }
        let too_many = options.max_backups > 0 && times > options.max_backups;
        let too_old = options.max_age_days > 0 && time < stamp(oldest);
        if too_many || too_old {
            let _ = fs::remove_file(file);
        } else if options.compress && file.extension().is_none_or(|e| e != "gz") {
            // What cannot be compressed now is tried again with the next rotation.
            let _ = compress(&file);
        }
    }
}

fn stamp(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string()
}

fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match name.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base.to_owned(), format!(".{extension}")),
        _ => (name, String::new()),
    }
}

fn backup_name(path: &Path, now: Timestamp) -> PathBuf {
    let (base, extension) = parts(path);
    path.with_file_name(format!("{base}-{}{extension}", stamp(now)))
}

/// Backups of a file with the time in their names.
pub fn backups(path: &Path) -> Vec<(String, PathBuf)> {
    let (base, extension) = parts(path);
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain.strip_prefix(&format!("{base}-")).and_then(|t| t.strip_suffix(extension.as_str()));
        if let Some(time) = time.filter(|t| t.len() == "2006-01-02T15-04-05.000".len()) {
            out.push((time.to_owned(), entry.path()));
        }
    }
    out
}

fn compress(path: &Path) -> io::Result<()> {
    let target = PathBuf::from(format!("{}.gz", path.display()));
    let out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&target)?;
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}
