//! The log backend: one line per event, rotated files (upstream: `plugin/pkg/audit/log`, lumberjack).

use crate::event::Event;
use jiff::Timestamp;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// Events that wait in batch mode (upstream: `--audit-log-batch-buffer-size`).
const BUFFER_EVENTS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Blocking,
    BlockingStrict,
    Batch,
}

/// The `--audit-log-*` flags.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `-` is standard output.
    pub path: String,
    pub max_age_days: u32,
    pub max_backups: u32,
    /// 0 never rotates.
    pub max_size_mib: u32,
    /// `json` or `legacy`.
    pub legacy: bool,
    pub compress: bool,
    /// Larger events lose their bodies; `None` keeps all.
    pub max_event_bytes: Option<usize>,
    pub mode: Mode,
}

/// Counters of the backend.
#[derive(Debug, Default)]
pub struct Counters {
    pub errors: AtomicU64,
    pub dropped: AtomicU64,
}

pub struct LogBackend {
    options: LogOptions,
    file: std::sync::Arc<Mutex<Rotated>>,
    queue: Option<SyncSender<Vec<u8>>>,
    pub counters: std::sync::Arc<Counters>,
}

impl LogBackend {
    pub fn open(options: LogOptions) -> Result<Self, String> {
        let file = Rotated::open(options.clone())
            .map_err(|e| format!("cannot open the audit log {}: {e}", options.path))?;
        let file = std::sync::Arc::new(Mutex::new(file));
        let counters = std::sync::Arc::new(Counters::default());
        let queue = (options.mode == Mode::Batch).then(|| {
            let (sender, receiver) = sync_channel::<Vec<u8>>(BUFFER_EVENTS);
            let (file, counters) = (file.clone(), counters.clone());
            std::thread::spawn(move || {
                for line in receiver {
                    if write(&file, &line).is_err() {
                        counters.errors.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            sender
        });
        Ok(Self { options, file, queue, counters })
    }

    /// Writes an event. `false` only in strict mode, when it could not be written.
    pub fn write(&self, event: &Event) -> bool {
        let line = match (self.options.legacy, self.options.max_event_bytes) {
            (true, _) => Some(legacy(event).into_bytes()),
            (false, Some(max)) => crate::truncate::line(event, max),
            (false, None) => Some(event.to_line()),
        };
        let Some(mut line) = line else {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        line.push(b'\n');
        if let Some(queue) = &self.queue {
            if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(line) {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return true;
        }
        if write(&self.file, &line).is_err() {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
            return self.options.mode != Mode::BlockingStrict;
        }
        true
    }
}

fn write(file: &Mutex<Rotated>, line: &[u8]) -> io::Result<()> {
    file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(line)
}

/// A file that moves aside when it is full.
struct Rotated {
    options: LogOptions,
    /// `None` is standard output.
    file: Option<File>,
    size: u64,
    inode: u64,
}

impl Rotated {
    fn open(options: LogOptions) -> io::Result<Self> {
        let mut out = Self { options, file: None, size: 0, inode: 0 };
        if out.options.path != "-" {
            out.reopen()?;
        }
        Ok(out)
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

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return io::stdout().lock().write_all(line);
        }
        let max = u64::from(self.options.max_size_mib) << 20;
        if max > 0 && self.size + line.len() as u64 > max && self.size > 0 {
            self.rotate()?;
        }
        // A file that somebody deleted would swallow the record.
        if fs::metadata(&self.options.path).map(|m| m.ino()).ok() != Some(self.inode) {
            self.reopen()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(line)?;
        }
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        #[allow(clippy::disallowed_methods)] // a backup's name is the machine's time
        let now = Timestamp::now();
        let path = PathBuf::from(&self.options.path);
        let backup = backup_name(&path, now);
        fs::rename(&path, &backup)?;
        if self.options.compress {
            compress(&backup)?;
        }
        self.prune(&path, now);
        self.reopen()
    }

    /// Removes backups beyond the count or the age asked for.
    fn prune(&self, path: &Path, now: Timestamp) {
        let mut all = backups(path);
        all.sort();
        all.reverse();
        let age = jiff::SignedDuration::from_hours(24 * i64::from(self.options.max_age_days));
        let oldest = now.saturating_sub(age).unwrap_or(now);
        for (i, (time, file)) in all.into_iter().enumerate() {
            let too_many = self.options.max_backups > 0 && i >= self.options.max_backups as usize;
            let too_old = self.options.max_age_days > 0 && time < stamp(oldest);
            if too_many || too_old {
                let _ = fs::remove_file(file);
            }
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
fn backups(path: &Path) -> Vec<(String, PathBuf)> {
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

/// The line format of old (upstream: `audit.EventString`).
fn legacy(e: &Event) -> String {
    let or = |t: &str, none: &'static str| if t.is_empty() { none.to_owned() } else { t.to_owned() };
    let groups = |g: &[String]| {
        if g.is_empty() {
            "\"<none>\"".to_owned()
        } else {
            g.iter().map(|g| format!("{g:?}")).collect::<Vec<_>>().join(",")
        }
    };
    let as_user = e.impersonated_user.as_ref();
    let namespace = e.object_ref.as_ref().map_or("", |r| r.namespace.as_str());
    let response = e.response_status.as_ref().map_or("<deferred>".to_owned(), |s| s.code.to_string());
    format!(
        "{} AUDIT: id=\"{}\" stage=\"{:?}\" ip=\"{}\" method=\"{}\" user=\"{}\" groups={} as=\"{}\" asgroups={} user-agent=\"{}\" namespace=\"{}\" uri=\"{}\" response=\"{response}\"",
        e.request_received_timestamp,
        e.audit_id,
        e.stage,
        e.source_ips.first().map_or("<unknown>", String::as_str),
        e.verb,
        or(&e.user.username, "<none>"),
        groups(&e.user.groups),
        as_user.map_or("<self>".to_owned(), |u| or(&u.username, "<self>")),
        as_user.map_or("\"<lookup>\"".to_owned(), |u| groups(&u.groups)),
        e.user_agent,
        or(namespace, "<none>"),
        e.request_uri,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Arrival, AuditContext};
    use crate::event::{Level, Stage};
    use crate::policy::RuleDecision;

    fn event(id: &str) -> Event {
        let arrival = Arrival { audit_id: id.into(), ..Arrival::default() };
        let mut c =
            AuditContext::begin(arrival, RuleDecision { level: Level::Metadata, ..RuleDecision::default() });
        c.stage(Stage::ResponseComplete, Timestamp::UNIX_EPOCH).expect("sent").clone()
    }

    fn options(dir: &Path) -> LogOptions {
        LogOptions {
            path: dir.join("audit.log").display().to_string(),
            max_age_days: 0,
            max_backups: 2,
            max_size_mib: 1,
            legacy: false,
            compress: false,
            max_event_bytes: None,
            mode: Mode::Blocking,
        }
    }

    #[test]
    fn files_rotate_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogBackend::open(options(dir.path())).expect("opened");
        let big = event(&"x".repeat(600 << 10));
        for _ in 0..5 {
            assert!(log.write(&big));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(backups(&dir.path().join("audit.log")).len(), 2);
    }

    #[test]
    fn a_deleted_file_is_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogBackend::open(options(dir.path())).expect("opened");
        log.write(&event("a"));
        fs::remove_file(dir.path().join("audit.log")).expect("removed");
        log.write(&event("b"));
        let text = fs::read_to_string(dir.path().join("audit.log")).expect("there");
        assert!(text.contains("\"auditID\":\"b\""));
    }
}
