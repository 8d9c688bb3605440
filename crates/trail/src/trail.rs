//! Appending to the chain, and following it.

use crate::chain::{Entry, GENESIS, hash, read_line, segments};
use audit::Event;
use base::clock::SharedClock;
use parking_lot::{Condvar, Mutex};
use serde_json::value::RawValue;
use std::collections::{HashSet, VecDeque};
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
/// Newest lines kept in memory for followers, by number and by bytes: an event may hold a whole list.
const RECENT_LINES: usize = 4096;
const RECENT_BYTES_MAX: usize = 32 << 20;

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
    /// Records in appended entries that are not synced yet.
    unsynced: Vec<u64>,
    dirty: bool,
    /// The file has part of an entry behind `size`.
    torn: bool,
    /// Events that could not be written since the last entry.
    lost: u64,
    recent: VecDeque<(u64, Arc<[u8]>)>,
    recent_bytes: usize,
    closed: bool,
}

/// An open trail. Appends are one write each; durability follows within [`SYNC_EVERY`].
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
            unsynced: Vec::new(),
            dirty: false,
            torn: false,
            lost: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
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
            trail.append_json(note.as_bytes(), None).map_err(fail)?;
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
    pub fn append(&self, event: &Event, record: Option<u64>) -> io::Result<u64> {
        self.append_json(&event.to_line(), record)
    }

    fn append_json(&self, event: &[u8], record: Option<u64>) -> io::Result<u64> {
        let received = meta::time::rfc3339_micro(self.clock.now());
        let raw: &RawValue = serde_json::from_slice(event).map_err(io::Error::other)?;
        let mut s = self.state.lock();
        let written = self
            .after_losses(&mut s, &received)
            .and_then(|()| self.write_entry(&mut s, &received, record, raw));
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
            let note: &RawValue = serde_json::from_str(&note).map_err(io::Error::other)?;
            self.write_entry(s, received, None, note)?;
            s.lost = 0;
        }
        Ok(())
    }

    fn write_entry(
        &self,
        s: &mut State,
        received: &str,
        record: Option<u64>,
        raw: &RawValue,
    ) -> io::Result<u64> {
        let seq = s.seq + 1;
        let entry = Entry { seq, prev: &s.prev, received, record, event: raw };
        let mut line = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        if s.size > SEGMENT_BYTES {
            s.file.sync_data()?;
            s.file = open_segment(&segment_path(&self.dir, seq))?;
            s.size = 0;
        }
        let link = hash(&line);
        line.push(b'\n');
        if let Err(e) = s.file.write_all(&line) {
            s.torn = true;
            return Err(e);
        }
        s.size += line.len() as u64;
        (s.seq, s.prev, s.dirty) = (seq, link, true);
        s.unsynced.extend(record);
        line.pop();
        s.recent_bytes += line.len();
        s.recent.push_back((seq, line.into()));
        // The newest stays, however large it is.
        while s.recent.len() > RECENT_LINES || s.recent_bytes > RECENT_BYTES_MAX && s.recent.len() > 1 {
            let Some((_, oldest)) = s.recent.pop_front() else { break };
            s.recent_bytes -= oldest.len();
        }
        Ok(seq)
    }

    /// Lines after a sequence number; waits up to `wait` when there are none. A follower that fell behind goes on at the
    /// oldest line in memory.
    pub fn follow(&self, after: u64, wait: Duration) -> Vec<(u64, Arc<[u8]>)> {
        let mut s = self.state.lock();
        if s.seq <= after && !s.closed {
            self.changed.wait_for(&mut s, wait);
        }
        s.recent.iter().filter(|(seq, _)| *seq > after).cloned().collect()
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

fn segment_path(dir: &Path, first: u64) -> PathBuf {
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
            trail
                .append_json(format!("{{\"auditID\":\"{i}\"}}").as_bytes(), Some(i as u64))
                .expect("appended");
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
    fn followers_have_no_more_than_the_newest_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        let text = format!("\"{}\"", "x".repeat(RECENT_BYTES_MAX / 3));
        for _ in 0..5 {
            trail.append_json(text.as_bytes(), None).expect("appended");
        }
        let seen: Vec<u64> = trail.follow(0, Duration::ZERO).into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(seen, [4, 5]);
        trail.close();
    }

    #[test]
    fn a_line_that_the_disk_cut_short_is_taken_away_and_told_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = open(dir.path());
        add(&trail, 2);
        {
            let mut s = trail.state.lock();
            s.file.write_all(b"{\"seq\":3,\"pr").expect("torn");
            (s.torn, s.lost) = (true, 1);
        }
        add(&trail, 1);
        trail.close();
        let report = verify(dir.path()).expect("whole");
        assert_eq!((report.entries, report.gaps, report.last), (4, 1, 4));
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
