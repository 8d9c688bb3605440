//! Appending to the chain, and following it.

use crate::chain::{Entry, GENESIS, hash, read_line, segments};
use crate::line::LineWriter;
use crate::recent::{self, Place, Recent};
use audit::Event;
use base::clock::SharedClock;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Size at which a new segment begins.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How often appended entries are made durable.
const SYNC_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
#[error("the audit trail {}: {source}", path.display())]
pub struct TrailError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Told the store's record numbers whose events are durable.
pub type Finished = Box<dyn Fn(u64) + Send + Sync>;

struct State {
    file: File,
    size: u64,
    seq: u64,
    prev: String,
    waiting: Waiting,
    /// Records in written entries that are not synced yet.
    unsynced: Vec<u64>,
    dirty: bool,
    /// The file has part of an entry behind `size`.
    torn: bool,
    /// Events that could not be written since the last entry.
    lost: u64,
    /// The first sequence number of the segment that is written.
    segment: u64,
    recent: Recent,
    closed: bool,
}

/// Entries that are gathered for one write: those of the store's records, which the store still has when a crash takes them.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    records: Vec<u64>,
    /// Size, newest number and its hash as the file has them.
    before: Option<(u64, u64, String)>,
}

/// An open trail. Durability follows within [`SYNC_EVERY`]; an entry that nothing else has a copy of is in the file, which
/// outlives the process, when its append returns.
pub struct Trail {
    dir: PathBuf,
    clock: SharedClock,
    state: Mutex<State>,
    changed: Condvar,
    finished: Finished,
    /// Record numbers found when the trail was opened.
    recorded: HashSet<u64>,
}

impl Trail {
    pub fn open(dir: &Path, clock: SharedClock, finished: Finished) -> Result<Arc<Self>, TrailError> {
        let fail = |source| TrailError { path: dir.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        let all = segments(dir).map_err(fail)?;
        let mut tail = Tail { seq: 0, prev: GENESIS.to_owned(), cut: 0, recorded: HashSet::new() };
        // The newest two segments hold every record that the store may still ask about.
        for segment in all.iter().rev().take(2).rev() {
            tail.read(segment).map_err(fail)?;
        }
        let path = all.last().cloned().unwrap_or_else(|| segment_path(dir, 1));
        let file = open_segment(&path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let state = State {
            file,
            size,
            seq: tail.seq,
            prev: tail.prev,
            waiting: Waiting::default(),
            unsynced: Vec::new(),
            dirty: false,
            torn: false,
            lost: 0,
            segment: path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).unwrap_or(1),
            recent: Recent::default(),
            closed: false,
        };
        let trail = Arc::new(Self {
            dir: dir.into(),
            clock,
            state: Mutex::new(state),
            changed: Condvar::new(),
            finished,
            recorded: tail.recorded,
        });
        if tail.cut > 0 {
            let note =
                format!("{{\"gap\":\"{} bytes of an unfinished entry were lost in a crash\"}}", tail.cut);
            trail.append_with(None, &mut |out| out.write_all(note.as_bytes())).map_err(fail)?;
        }
        let syncer = trail.clone();
        std::thread::Builder::new()
            .name("trail-sync".into())
            .spawn(move || syncer.sync_loop())
            .map_err(fail)?;
        Ok(trail)
    }

    /// Whether the store's record was completed before the trail was opened.
    pub fn has_record(&self, record: u64) -> bool {
        self.recorded.contains(&record)
    }

    /// Appends an event; `record` is the store's number of the commit that it describes.
    ///
    /// # Errors
    /// The disk did not take it; the next entry will say that it is missing.
    pub fn append(&self, event: &Event, record: Option<u64>) -> io::Result<u64> {
        self.append_with(record, &mut |out| event.write_line(out))
    }

    /// `event` writes the event's JSON.
    fn append_with(
        &self,
        record: Option<u64>,
        event: &mut dyn FnMut(&mut LineWriter<'_>) -> io::Result<()>,
    ) -> io::Result<u64> {
        let received = meta::time::rfc3339_micro(self.clock.now());
        let mut s = self.state.lock();
        let written = self
            .after_losses(&mut s, &received)
            .and_then(|()| self.write_entry(&mut s, &received, record, event));
        if written.is_err() {
            s.lost += 1;
        }
        drop(s);
        self.changed.notify_all();
        written
    }

    /// Takes away what a failed write left, and says in the chain how many events are missing there.
    fn after_losses(&self, s: &mut State, received: &str) -> io::Result<()> {
        if s.torn {
            // A full disk takes part of a line.
            s.file.set_len(s.size)?;
            s.torn = false;
        }
        if s.lost > 0 {
            let note = format!("{{\"gap\":\"{} events could not be written to the disk\"}}", s.lost);
            self.write_entry(s, received, None, &mut |out| out.write_all(note.as_bytes()))?;
            s.lost = 0;
        }
        Ok(())
    }

    fn write_entry(
        &self,
        s: &mut State,
        received: &str,
        record: Option<u64>,
        event: &mut dyn FnMut(&mut LineWriter<'_>) -> io::Result<()>,
    ) -> io::Result<u64> {
        let seq = s.seq + 1;
        if s.size > SEGMENT_BYTES {
            s.flush()?;
            s.file.sync_data()?;
            s.file = open_segment(&segment_path(&self.dir, seq))?;
            (s.size, s.segment) = (0, seq);
        }
        let begin = s.waiting.bytes.len();
        let mut line = LineWriter::new(&s.file, &mut s.waiting.bytes);
        let written = line.entry(seq, &s.prev, received, record, event);
        let (spilled, length) = (line.spilled, line.length);
        match written {
            Ok(link) => {
                s.recent.push(seq, Place { segment: s.segment, offset: s.size, length });
                s.waiting.records.extend(record);
                if s.waiting.bytes.is_empty() {
                    s.is_written();
                } else if s.waiting.before.is_none() {
                    s.waiting.before = Some((s.size, s.seq, s.prev.clone()));
                }
                s.size += length + 1;
                (s.seq, s.prev) = (seq, link);
                Ok(seq)
            }
            Err(e) => {
                match spilled {
                    true => s.give_up(),
                    false => s.waiting.bytes.truncate(begin),
                }
                Err(e)
            }
        }
    }

    /// Gives the file what waits for it, before it is read.
    ///
    /// # Errors
    /// The disk did not take it; the next entry will say that it is missing.
    pub fn flush(&self) -> io::Result<()> {
        self.state.lock().flush()
    }

    /// Lines after a sequence number, some of them when they are long; waits up to `wait` when there are none. A follower
    /// that fell behind goes on at the oldest line that is remembered.
    pub fn follow(&self, after: u64, wait: Duration) -> Vec<(u64, Arc<[u8]>)> {
        let found = {
            let mut s = self.state.lock();
            if s.seq <= after && !s.closed {
                self.changed.wait_for(&mut s, wait);
            }
            // What the disk does not take is not in the chain any more.
            let _ = s.flush();
            s.recent.after(after)
        };
        recent::read(&self.dir, found)
    }

    /// The newest sequence number.
    pub fn last(&self) -> u64 {
        self.state.lock().seq
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes everything durable and stops the thread.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.sync();
    }

    fn sync_loop(&self) {
        loop {
            std::thread::sleep(SYNC_EVERY);
            self.sync();
            if self.state.lock().closed {
                return;
            }
        }
    }

    fn sync(&self) {
        let (file, records) = {
            let mut s = self.state.lock();
            // What it did not take is counted, and told of by the next entry.
            let _ = s.flush();
            if !std::mem::take(&mut s.dirty) {
                return;
            }
            (s.file.try_clone(), std::mem::take(&mut s.unsynced))
        };
        // Records stay unfinished when the disk fails: they are completed at the next start.
        if file.and_then(|f| f.sync_data()).is_ok() {
            records.into_iter().for_each(|r| (self.finished)(r));
        }
    }
}

impl State {
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.waiting.bytes);
        match &written {
            Ok(()) => self.is_written(),
            Err(_) => self.give_up(),
        }
        written
    }

    /// The file has all entries.
    fn is_written(&mut self) {
        self.waiting.bytes.clear();
        self.waiting.before = None;
        self.unsynced.append(&mut self.waiting.records);
        self.dirty = true;
    }

    /// The file has none of the waiting entries, or a part of them: the chain goes on before them. Their records stay
    /// unfinished, and are completed at the next start.
    fn give_up(&mut self) {
        self.torn = true;
        let waiting = std::mem::take(&mut self.waiting);
        if let Some((size, seq, prev)) = waiting.before {
            self.lost += self.seq - seq;
            (self.size, self.seq, self.prev) = (size, seq, prev);
            self.recent.forget_after(seq);
        }
    }
}

struct Tail {
    seq: u64,
    prev: String,
    cut: u64,
    recorded: HashSet<u64>,
}

impl Tail {
    /// Reads a segment's lines, and cuts off a last one that a crash left unfinished.
    fn read(&mut self, segment: &Path) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(segment)?);
        let mut line = Vec::new();
        let mut good = 0;
        while read_line(&mut reader, &mut line)? {
            good += line.len() as u64 + 1;
            let entry: Entry = serde_json::from_slice(&line).map_err(|e| {
                io::Error::other(format!("{}: {e}; run `taffrail audit verify`", segment.display()))
            })?;
            self.seq = entry.seq;
            self.recorded.extend(entry.record);
            self.prev = hash(&line);
        }
        let size = fs::metadata(segment)?.len();
        if size > good {
            self.cut = size - good;
            OpenOptions::new().write(true).open(segment)?.set_len(good)?;
        }
        Ok(())
    }
}

pub(crate) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.jsonl"))
}

fn open_segment(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::verify;
    use base::clock::SystemClock;

    fn open(dir: &Path) -> Arc<Trail> {
        Trail::open(dir, SystemClock::shared(), Box::new(|_| {})).expect("opened")
    }

    fn add(trail: &Trail, n: usize) {
        for i in 0..n {
            let event = format!("{{\"auditID\":\"{i}\"}}");
            trail.append_with(Some(i as u64), &mut |out| out.write_all(event.as_bytes())).expect("appended");
        }
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        add(&trail, 3);
        trail.close();
        let segment = segments(dir.path()).expect("listed").remove(0);
        let mut file = OpenOptions::new().append(true).open(&segment).expect("opened");
        file.write_all(b"{\"seq\":4,\"pr").expect("torn");
        let again = open(dir.path());
        assert!(again.has_record(2) && !again.has_record(7));
        add(&again, 1);
        again.close();
        let report = verify(dir.path()).expect("whole");
        assert_eq!((report.entries, report.gaps, report.last), (5, 1, 5));
    }

    #[test]
    fn a_line_that_the_disk_cut_short_is_taken_away_and_told_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        add(&trail, 2);
        {
            let mut s = trail.state.lock();
            s.flush().expect("written");
            s.file.write_all(b"{\"seq\":3,\"pr").expect("torn");
            (s.torn, s.lost) = (true, 1);
        }
        add(&trail, 1);
        trail.close();
        let report = verify(dir.path()).expect("whole");
        assert_eq!((report.entries, report.gaps, report.last), (4, 1, 4));
    }

    #[test]
    fn only_what_the_store_has_too_waits_for_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        let lines =
            || fs::read_to_string(&segments(dir.path()).expect("listed")[0]).expect("read").lines().count();
        add(&trail, 3);
        assert_eq!((lines(), trail.last(), trail.follow(0, Duration::ZERO).len()), (0, 3, 3));
        trail.append_with(None, &mut |out| out.write_all(b"{}")).expect("appended");
        assert_eq!(lines(), 4);
        add(&trail, 1);
        trail.flush().expect("written");
        assert_eq!(lines(), 5);
        // A line that is longer than what is gathered goes behind what waits.
        add(&trail, 1);
        let long = format!("\"{}\"", "x".repeat(300_000));
        trail.append_with(Some(9), &mut |out| out.write_all(long.as_bytes())).expect("appended");
        assert_eq!(lines(), 7);
        trail.close();
        assert_eq!(verify(dir.path()).expect("whole").entries, 7);
    }

    #[test]
    fn an_event_that_cannot_be_told_takes_nothing_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        add(&trail, 2);
        let failed = trail.append_with(Some(2), &mut |out| {
            out.write_all(b"{\"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err());
        add(&trail, 1);
        assert_eq!(trail.follow(0, Duration::ZERO).len(), 4);
        trail.close();
        let report = verify(dir.path()).expect("whole");
        assert_eq!((report.entries, report.gaps, report.last), (4, 1, 4));
    }

    #[test]
    fn what_waited_for_a_disk_that_failed_is_counted_and_its_records_stay_unfinished() {
        let dir = tempfile::tempdir().expect("a directory");
        let done: Arc<Mutex<Vec<u64>>> = Arc::default();
        let sink = done.clone();
        let trail = Trail::open(dir.path(), SystemClock::shared(), Box::new(move |r| sink.lock().push(r)))
            .expect("opened");
        let path = segments(dir.path()).expect("listed").remove(0);
        trail.append_with(Some(7), &mut |out| out.write_all(b"{}")).expect("appended");
        trail.flush().expect("written");
        {
            // One that takes nothing, before its thread can look again.
            let mut s = trail.state.lock();
            s.file = File::open(&path).expect("opened");
            drop(s);
            add(&trail, 2);
            assert!(trail.append_with(None, &mut |out| out.write_all(b"{}")).is_err());
            trail.state.lock().file = open_segment(&path).expect("opened");
        }
        assert_eq!((trail.last(), trail.follow(0, Duration::ZERO).len()), (1, 1));
        add(&trail, 1);
        trail.close();
        let report = verify(dir.path()).expect("whole");
        assert_eq!((report.entries, report.gaps, report.last), (3, 1, 3));
        let told = fs::read_to_string(&path).expect("read");
        assert!(told.contains("3 events could not be written"), "{told}");
        assert_eq!(*done.lock(), [7, 0]);
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        add(&trail, 4);
        trail.close();
        let segment = segments(dir.path()).expect("listed").remove(0);
        let good = fs::read(&segment).expect("read");
        // The newest line has nothing after it that vouches for it: its hash is the head, which witnesses keep.
        let head = verify(dir.path()).expect("whole").head;
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs::write(&segment, &bad).expect("written");
            let seen = verify(dir.path()).map_or(true, |r| r.head != head);
            assert!(seen, "byte {i}");
        }
    }

    #[test]
    fn records_are_finished_once_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let done: Arc<Mutex<Vec<u64>>> = Arc::default();
        let sink = done.clone();
        let trail = Trail::open(dir.path(), SystemClock::shared(), Box::new(move |r| sink.lock().push(r)))
            .expect("opened");
        add(&trail, 2);
        trail.close();
        assert_eq!(*done.lock(), [0, 1]);
    }
}
