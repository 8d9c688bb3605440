//! Opening: the newest good snapshot, then the log behind it.
//!
//! Invariants: what is loaded is exactly the durable history up to some point, and that point is the end but for one
//! write that a crash interrupted; anything else that is wrong is an error that names the place, never a guess.

use crate::disk::{Disk, Mode};
use crate::seal::{Seal, SealError};
use crate::snapshot::{self, Record};
use crate::state::{self, Superseded};
use crate::view::View;
use crate::wal::frame::{Body, Seed};
use crate::wal::scan::{self, End, Rest};
use crate::wal::segment::{self, Kind, Position};
use crate::wal::writer::Resume;
use crate::{Event, Revision};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a store could not be opened. Nothing in its directory was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store in {} is in use by another process; stop it first, or choose another --data-dir", dir.display())]
    Locked { dir: PathBuf },
    #[error("the store's directory {} cannot be written; check its owner, its mode and the mount", dir.display())]
    ReadOnly { dir: PathBuf, source: io::Error },
    #[error(
        "the store is damaged: {}, at byte {offset}: {reason}. It was not opened and nothing was changed. \
         `taffrail store verify --data-dir {data}` shows all that is wrong; `taffrail store repair --data-dir {data}` \
         keeps what comes before the damage; `taffrail store restore` brings back a backup",
        file.display(), data = data_dir.display()
    )]
    Corrupt { file: PathBuf, offset: u64, reason: String, data_dir: PathBuf },
    #[error("the store in {} was not opened, and nothing was changed", dir.display())]
    Sealed { dir: PathBuf, source: SealError },
    #[error("could not {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// What opening found, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The revision of the snapshot that was loaded.
    pub snapshot: Option<Revision>,
    /// Groups of commits read from the log.
    pub frames: u64,
    /// Bytes of an interrupted, never acknowledged write that were cut off.
    pub cut_bytes: u64,
    /// Damage that did no harm, such as a bad snapshot with a good one before it.
    pub notes: Vec<String>,
}

/// The store as it was.
pub(crate) struct Loaded {
    pub view: View,
    pub records: BTreeMap<u64, (Revision, bytes::Bytes)>,
    pub next_record: u64,
    /// Changes after the snapshot, the newest ones.
    pub events: VecDeque<Arc<Event>>,
    /// Changes above this revision are in `events`.
    pub events_after: Revision,
    pub superseded: Superseded,
    pub resume: Resume,
    /// Log behind the snapshot.
    pub log_bytes: u64,
    pub recovery: Recovery,
}

/// The store's files.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub segments: BTreeSet<u64>,
    pub snapshots: BTreeSet<u64>,
    pub free: Vec<String>,
    pub unfinished: bool,
}

/// Where a store is, and what the operator calls that place.
pub(crate) struct Place<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a Path,
    pub data_dir: &'a Path,
}

impl Place<'_> {
    pub fn files(&self) -> Result<Files, OpenError> {
        let mut files = Files::default();
        for name in self.disk.list(self.dir).map_err(|e| self.io("list", self.dir, e))? {
            match segment::kind(&name) {
                Some(Kind::Segment(n)) => {
                    files.segments.insert(n);
                }
                Some(Kind::Snapshot(n)) => {
                    files.snapshots.insert(n);
                }
                Some(Kind::Free) => files.free.push(name),
                Some(Kind::Unfinished) => files.unfinished = true,
                None => {}
            }
        }
        Ok(files)
    }

    /// Makes the directory and takes its lock.
    pub fn lock(&self) -> Result<Box<dyn Send + Sync>, OpenError> {
        self.disk.create_dir(self.dir).map_err(|e| self.io("make the directory", self.dir, e))?;
        let path = self.dir.join(segment::LOCK_NAME);
        match self.disk.lock(&path) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Err(OpenError::Locked { dir: self.dir.to_owned() })
            }
            other => other.map_err(|e| self.io("lock", &path, e)),
        }
    }

    pub fn io(&self, what: &'static str, path: &Path, source: io::Error) -> OpenError {
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                OpenError::ReadOnly { dir: self.dir.to_owned(), source }
            }
            _ => OpenError::Io { what, path: path.to_owned(), source },
        }
    }

    pub fn corrupt(&self, name: &str, offset: u64, reason: impl Into<String>) -> OpenError {
        OpenError::Corrupt {
            file: self.dir.join(name),
            offset,
            reason: reason.into(),
            data_dir: self.data_dir.to_owned(),
        }
    }

    /// A segment's header, checked to be that of segment `number`.
    pub fn segment_header(
        &self,
        number: u64,
    ) -> Result<(Box<dyn crate::disk::DiskFile>, segment::Header), OpenError> {
        let name = segment::segment_name(number);
        let path = self.dir.join(&name);
        let file = self.disk.open(&path, Mode::Read).map_err(|e| self.io("open", &path, e))?;
        let header = scan::read_header(&*file).map_err(|e| self.io("read", &path, e))?;
        let header = header.map_err(|reason| self.corrupt(&name, 0, reason))?;
        if header.seed.segment != number {
            return Err(self.corrupt(
                &name,
                0,
                format!("it is segment {} by its header", header.seed.segment),
            ));
        }
        Ok((file, header))
    }

    /// Scans one segment that must go on from a position.
    pub fn scan(
        &self,
        number: u64,
        from: Option<(Position, [u8; 16])>,
        each: &mut dyn FnMut(Body),
    ) -> Result<(Seed, End), OpenError> {
        let name = segment::segment_name(number);
        let (file, header) = self.segment_header(number)?;
        if let Some((position, store)) = from
            && (header.start != position || header.seed.store != store)
        {
            let reason =
                "it does not go on where the log before it ends: something at that end is lost or damaged";
            return Err(self.corrupt(&name, 0, reason));
        }
        let path = self.dir.join(&name);
        let end = scan::scan(&*file, &header, each).map_err(|e| self.io("read", &path, e))?;
        Ok((header.seed, end))
    }
}

/// Bounds of the history that is kept for watchers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryLimits {
    pub events: usize,
    pub bytes: u64,
}

/// Loads a store whose lock is held. `None` when there is none yet. Without a seal, values stay as they are written.
pub(crate) fn load(
    place: &Place,
    limits: HistoryLimits,
    seal: Option<&Seal>,
) -> Result<Option<Loaded>, OpenError> {
    let files = place.files()?;
    if files.segments.is_empty() && files.snapshots.is_empty() {
        return Ok(None);
    }
    let mut recovery = Recovery::default();
    let snapshot = newest_snapshot(place, &files, &mut recovery)?;
    let sealed = |source| OpenError::Sealed { dir: place.dir.to_owned(), source };
    let mut loader = Loader::new(limits, seal);
    let (first, mut from) = match snapshot {
        Some(s) => {
            recovery.snapshot = Some(s.view.revision);
            let from = (s.header.position, s.header.store);
            let first = s.header.segment;
            loader.begin(s).map_err(sealed)?;
            (first, Some(from))
        }
        None => (1, None),
    };
    if from.is_none() && files.segments.contains(&1) {
        // Without a snapshot only a log from the very beginning will do.
        let (_, header) = place.segment_header(1)?;
        from = Some((Position::default(), header.seed.store));
    }
    if !files.segments.contains(&first) {
        return Err(place.corrupt(&segment::segment_name(first), 0, "the file is missing"));
    }
    let last = files.segments.last().copied().unwrap_or(first);
    let mut resume = None;
    let mut log_bytes = 0;
    for number in first..=last {
        let name = segment::segment_name(number);
        if !files.segments.contains(&number) {
            return Err(place.corrupt(&name, 0, "the file is missing"));
        }
        let (seed, end) = place.scan(number, from, &mut |body| loader.take(body))?;
        if let Some(source) = loader.failed.take() {
            return Err(sealed(source));
        }
        match end.rest {
            Rest::Bad(reason) => return Err(place.corrupt(&name, end.offset, reason)),
            Rest::Torn(bytes) if number == last => recovery.cut_bytes = bytes,
            // In an earlier segment: where it ends is in the next one's header, which the next turn checks.
            Rest::Torn(_) | Rest::Nothing => {}
        }
        recovery.frames += end.frames;
        log_bytes += end.offset;
        from = Some((end.position, seed.store));
        resume = Some(Resume { seed, offset: end.offset, position: end.position });
    }
    match resume {
        Some(resume) => Ok(Some(loader.finish(resume, log_bytes, recovery))),
        None => Err(place.corrupt(&segment::segment_name(first), 0, "the file is missing")),
    }
}

/// The newest snapshot that reads back whole. Without any, the log must reach back to the beginning.
fn newest_snapshot(
    place: &Place,
    files: &Files,
    recovery: &mut Recovery,
) -> Result<Option<snapshot::Snapshot>, OpenError> {
    let mut first_damage = None;
    for number in files.snapshots.iter().rev() {
        let name = segment::snapshot_name(*number);
        let path = place.dir.join(&name);
        match snapshot::read(place.disk, &path).map_err(|e| place.io("read", &path, e))? {
            Ok(s) if s.header.segment == *number => return Ok(Some(s)),
            Ok(_) => {
                first_damage.get_or_insert((name.clone(), 0, "it is another one by its header"));
            }
            Err(damage) => {
                first_damage.get_or_insert((name.clone(), damage.offset, damage.reason));
            }
        }
        recovery.notes.push(format!("{} is damaged and was passed over", path.display()));
    }
    match first_damage {
        Some((name, offset, reason)) if !files.segments.contains(&1) => {
            Err(place.corrupt(&name, offset, reason))
        }
        _ => Ok(None),
    }
}

/// Builds the state from bodies.
struct Loader<'a> {
    seal: Option<&'a Seal>,
    /// What could not be opened first; nothing behind it is taken.
    failed: Option<SealError>,
    view: View,
    records: BTreeMap<u64, (Revision, bytes::Bytes)>,
    next_record: u64,
    events: VecDeque<Arc<Event>>,
    events_bytes: u64,
    events_after: Revision,
    superseded: Superseded,
    limits: HistoryLimits,
}

impl<'a> Loader<'a> {
    fn new(limits: HistoryLimits, seal: Option<&'a Seal>) -> Self {
        Self {
            seal,
            failed: None,
            view: View::default(),
            records: BTreeMap::new(),
            next_record: 1,
            events: VecDeque::new(),
            events_bytes: 0,
            events_after: 0,
            superseded: Superseded::new(),
            limits,
        }
    }

    fn begin(&mut self, mut snapshot: snapshot::Snapshot) -> Result<(), SealError> {
        if let Some(seal) = self.seal {
            seal.open_snapshot(&mut snapshot.view, &mut snapshot.records)?;
        }
        self.events_after = snapshot.view.revision;
        self.view = snapshot.view;
        self.next_record = snapshot.header.next_record;
        self.records = snapshot.records.into_iter().map(|(n, r, b)| (n, (r, b))).collect();
        Ok(())
    }

    fn take(&mut self, body: Body) {
        let mut events = Vec::new();
        for mut commit in body.commits {
            if self.failed.is_none() {
                self.failed = self.seal.and_then(|s| s.open_commit(&mut commit).err());
            }
            if self.failed.is_some() {
                return;
            }
            state::apply(&mut self.view, &commit, &mut events, &mut self.superseded);
            if let Some((number, bytes)) = commit.record.take() {
                self.next_record = self.next_record.max(number + 1);
                self.records.insert(number, (commit.revision, bytes));
            }
        }
        self.records = self.records.split_off(&body.finished_below);
        for event in events {
            self.events_bytes += crate::history::event_bytes(&event);
            self.events.push_back(event);
        }
        while self.events.len() > self.limits.events || self.events_bytes > self.limits.bytes {
            let Some(event) = self.events.pop_front() else { break };
            self.events_bytes -= crate::history::event_bytes(&event);
            self.events_after = event.revision;
        }
    }

    fn finish(self, resume: Resume, log_bytes: u64, recovery: Recovery) -> Loaded {
        Loaded {
            view: self.view,
            records: self.records,
            next_record: self.next_record,
            events: self.events,
            events_after: self.events_after,
            superseded: self.superseded,
            resume,
            log_bytes,
            recovery,
        }
    }
}

impl Loaded {
    /// The unfinished records as a list.
    pub fn record_list(&self) -> Vec<Record> {
        self.records.iter().map(|(n, (r, b))| (*n, *r, b.clone())).collect()
    }
}
