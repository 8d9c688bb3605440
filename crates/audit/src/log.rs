//! The log backend: one line per event, rotated files (upstream: apiserver `plugin/pkg/audit/log`).
//!
//! Invariant: an event that is not in the log is counted, by the part that lost it.

mod legacy;
mod rotate;

use crate::batch::{Batch, Bucket, Mode, Waiting};
use crate::event::Event;
use crate::truncate;
use rotate::Rotated;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the end waits for the lines of a batch log.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The `--audit-log-*` flags.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `-` is standard output.
    pub path: String,
    /// 0 is any age.
    pub max_age_days: u32,
    /// 0 is any number.
    pub max_backups: u32,
    /// 0 never rotates.
    pub max_size_mib: u32,
    /// `legacy` instead of `json`.
    pub legacy: bool,
    pub compress: bool,
    /// Larger events lose their bodies; `None` keeps all.
    pub max_event_bytes: Option<usize>,
    pub mode: Mode,
    pub batch: Batch,
}

/// Events that were lost, by upstream's names of the parts that lose them.
#[derive(Debug, Default)]
pub struct Counters {
    pub log: AtomicU64,
    pub buffered: AtomicU64,
    pub truncate: AtomicU64,
}

enum Queued {
    Line(Vec<u8>),
    /// Everything before it is to be written, then told.
    End(SyncSender<()>),
}

/// What the writer of a batch log shares with those who fill it.
struct Shared {
    file: Mutex<Rotated>,
    counters: Counters,
    waiting: Waiting,
}

pub struct LogBackend {
    options: LogOptions,
    shared: Arc<Shared>,
    queue: Option<SyncSender<Queued>>,
}

impl LogBackend {
    /// # Errors
    /// The file cannot be opened, in words.
    pub fn open(options: LogOptions) -> Result<Self, String> {
        let wrong = |e: io::Error| format!("cannot open the audit log {}: {e}", options.path);
        let file = Mutex::new(Rotated::open(options.clone()).map_err(wrong)?);
        let shared = Arc::new(Shared { file, counters: Counters::default(), waiting: Waiting::default() });
        let mut queue = None;
        if options.mode == Mode::Batch {
            let (sender, lines) = sync_channel(options.batch.buffer_events.max(1));
            let (shared, batch) = (shared.clone(), options.batch.clone());
            let work = move || write_batches(&shared, &lines, &batch);
            std::thread::Builder::new().name("audit-log".into()).spawn(work).map_err(wrong)?;
            queue = Some(sender);
        }
        Ok(Self { options, shared, queue })
    }

    /// Writes an event. `false` only in strict mode, when it could not be written.
    pub fn write(&self, event: &Event) -> bool {
        let fitting = match self.options.max_event_bytes {
            Some(max) => truncate::fit(event, max),
            None => Some(std::borrow::Cow::Borrowed(event)),
        };
        let Some(event) = fitting else {
            self.counters().truncate.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let mut line = if self.options.legacy { legacy::line(&event).into_bytes() } else { event.to_line() };
        line.push(b'\n');
        let Some(queue) = &self.queue else {
            return self.shared.write(&line, 1) || self.options.mode != Mode::BlockingStrict;
        };
        let bytes = line.len();
        let room = self.shared.waiting.enter(bytes);
        if !room || queue.try_send(Queued::Line(line)).is_err() {
            if room {
                self.shared.waiting.leave(bytes);
            }
            self.counters().buffered.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Writes what waits.
    pub fn close(&self) {
        let Some(queue) = &self.queue else { return };
        let (tell, told) = sync_channel(1);
        if queue.send(Queued::End(tell)).is_ok() {
            let _ = told.recv_timeout(END_TIMEOUT);
        }
    }
}

impl Shared {
    fn write(&self, lines: &[u8], events: u64) -> bool {
        let written = self.file.lock().unwrap_or_else(PoisonError::into_inner).write(lines);
        if written.is_err() {
            self.counters.log.fetch_add(events, Ordering::Relaxed);
        }
        written.is_ok()
    }
}

/// Writes batches until the log is dropped: by number, or when the first has waited long enough.
fn write_batches(shared: &Shared, queue: &Receiver<Queued>, batch: &Batch) {
    let begun = Instant::now();
    let mut bucket = batch.throttle.map(|t| Bucket::new(t, begun.elapsed()));
    while let Ok(first) = queue.recv() {
        let (mut lines, mut events, mut end) = (Vec::new(), 0, None);
        let deadline = Instant::now() + batch.max_wait;
        let mut next = Some(first);
        while let Some(queued) = next.take() {
            match queued {
                Queued::Line(line) => {
                    shared.waiting.leave(line.len());
                    lines.extend_from_slice(&line);
                    events += 1;
                }
                Queued::End(tell) => {
                    end = Some(tell);
                    break;
                }
            }
            if events < batch.batch_events {
                next = queue.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
            }
        }
        if events > 0 {
            if let Some(bucket) = bucket.as_mut().filter(|_| end.is_none()) {
                std::thread::sleep(bucket.take(begun.elapsed()));
            }
            shared.write(&lines, events as u64);
        }
        if let Some(tell) = end {
            let _ = tell.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rotate::backups;
    use super::*;
    use crate::context::{Arrival, AuditContext};
    use crate::event::{Level, Stage};
    use crate::policy::RuleDecision;
    use jiff::Timestamp;
    use std::fs;
    use std::path::Path;

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
            batch: Batch {
                buffer_events: 4,
                batch_events: 1,
                max_wait: Duration::from_millis(50),
                throttle: None,
            },
        }
    }

    fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(10), "in time");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn files_rotate_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogBackend::open(LogOptions { compress: true, ..options(dir.path()) }).expect("opened");
        let big = event(&"x".repeat(600 << 10));
        for _ in 0..5 {
            assert!(log.write(&big));
            std::thread::sleep(Duration::from_millis(2));
        }
        let zipped = |all: &[(String, std::path::PathBuf)]| {
            all.iter().all(|(_, p)| p.extension().is_some_and(|e| e == "gz"))
        };
        until(|| {
            let all = backups(&dir.path().join("audit.log"));
            all.len() == 2 && zipped(&all)
        });
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

    #[test]
    fn a_batch_log_writes_all_before_it_ends_and_counts_what_does_not_fit() {
        let dir = tempfile::tempdir().expect("a directory");
        let batch = Batch { batch_events: 3, max_wait: Duration::from_secs(60), ..options(dir.path()).batch };
        let log =
            LogBackend::open(LogOptions { mode: Mode::Batch, batch, ..options(dir.path()) }).expect("opened");
        for i in 0..2 {
            assert!(log.write(&event(&format!("e{i}"))));
        }
        log.close();
        let text = fs::read_to_string(dir.path().join("audit.log")).expect("there");
        assert_eq!(text.lines().count(), 2);
        // The writer is held up: as many as fit wait.
        let held = log.shared.file.lock().expect("held");
        for i in 0..50 {
            assert!(log.write(&event(&format!("f{i}"))));
        }
        drop(held);
        log.close();
        let lost = log.counters().buffered.load(Ordering::Relaxed) as usize;
        let text = fs::read_to_string(dir.path().join("audit.log")).expect("there");
        assert!(lost >= 50 - 8 && text.lines().count() == 52 - lost, "{lost}");
    }

    #[test]
    fn what_is_too_large_is_counted_where_it_was_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogBackend::open(LogOptions { max_event_bytes: Some(50), ..options(dir.path()) })
            .expect("opened");
        assert!(log.write(&event("a")));
        assert_eq!(log.counters().truncate.load(Ordering::Relaxed), 1);
    }
}
