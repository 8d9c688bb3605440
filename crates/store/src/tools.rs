//! What an operator does to a store that is not running: verify, repair, back up, restore.
//!
//! Invariants: verify and backup change nothing; repair deletes nothing, what it takes out of use stays beside the
//! store under another name; restore writes only into a directory without a store; no tool needs
//! a key: values stay sealed as they are.

use crate::Revision;
use crate::disk::{Disk, Mode, is_full, read_all};
use crate::embedded::{Options, new_id, now_ms};
use crate::recover::{self, HistoryLimits, OpenError, Place};
use crate::seal::Seal;
use crate::snapshot::{self, Record};
use crate::view::View;
use crate::wal::frame::Seed;
use crate::wal::scan::{self, Rest};
use crate::wal::segment::{self, Kind, Position};
use crate::wal::writer;
use base::clock::SharedClock;
use std::io;
use std::path::{Path, PathBuf};

/// No history is needed to look at a store.
const NO_HISTORY: HistoryLimits = HistoryLimits { events: 0, bytes: 0 };

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{} is not a usable backup: at byte {offset}: {reason}", file.display())]
    BadBackup { file: PathBuf, offset: u64, reason: &'static str },
    #[error("{} holds a store already; choose an empty directory, or move it away first", dir.display())]
    NotEmpty { dir: PathBuf },
    #[error("could not {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "nothing can be saved in {}: no snapshot is whole and the log does not reach back to the beginning; \
         restore a backup into an empty directory",
        dir.display()
    )]
    Hopeless { dir: PathBuf },
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub revision: Revision,
    pub keys: u64,
    pub unfinished_records: u64,
    pub snapshots: Vec<SnapshotReport>,
    pub segments: Vec<SegmentReport>,
    /// Bytes of an interrupted write at the end, which opening will cut off.
    pub torn_bytes: u64,
    /// Everything that is wrong, as sentences. The store opens when it is empty, and perhaps else.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReport {
    pub file: PathBuf,
    pub revision: Revision,
    pub keys: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    pub file: PathBuf,
    /// Groups of commits.
    pub frames: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// The newest revision in it.
    pub revision: Revision,
}

/// What [`repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The newest revision that is left.
    pub revision: Revision,
    /// Copies and originals of what is out of use now.
    pub set_aside: Vec<PathBuf>,
    /// What was wrong, as sentences; empty when nothing was.
    pub problems: Vec<String>,
}

/// Reads every snapshot and all of the log, and checks every checksum and link.
///
/// # Errors
/// The store is in use or cannot be read. Damage is no error but a part of the report.
pub fn verify(disk: &dyn Disk, dir: &Path, data_dir: &Path) -> Result<Report, ToolError> {
    let place = Place { disk, dir, data_dir };
    let _lock = place.lock()?;
    let mut report = Report::default();
    let files = place.files()?;
    for number in &files.snapshots {
        let file = dir.join(segment::snapshot_name(*number));
        match snapshot::read(disk, &file).map_err(|e| io_error("read", &file, e))? {
            Ok(s) => report.snapshots.push(SnapshotReport {
                file,
                revision: s.view.revision,
                keys: s.view.tree.live(),
            }),
            Err(d) => report.problems.push(format!("{}: at byte {}: {}", file.display(), d.offset, d.reason)),
        }
    }
    let first = files.snapshots.first().copied().unwrap_or(1);
    let mut from: Option<(Position, [u8; 16])> = None;
    let mut expected = None;
    for number in files.segments.range(first..) {
        let file = dir.join(segment::segment_name(*number));
        if expected.is_some_and(|e| e != *number) {
            report.problems.push(format!("the log's segments before {} are missing", file.display()));
            from = None;
        }
        expected = Some(number + 1);
        match place.scan(*number, from, &mut |_| {}) {
            Ok((seed, end)) => {
                let last = files.segments.last() == Some(number);
                match &end.rest {
                    Rest::Bad(why) => {
                        report.problems.push(format!("{}: at byte {}: {why}", file.display(), end.offset));
                    }
                    Rest::Torn(bytes) if last => report.torn_bytes = *bytes,
                    Rest::Torn(_) | Rest::Nothing => {}
                }
                let (frames, bytes, revision) = (end.frames, end.offset, end.position.revision);
                report.segments.push(SegmentReport { file, frames, bytes, revision });
                from = Some((end.position, seed.store));
            }
            Err(OpenError::Corrupt { file, offset, reason, .. }) => {
                report.problems.push(format!("{}: at byte {offset}: {reason}", file.display()));
                from = None;
            }
            Err(e) => return Err(e.into()),
        }
    }
    match recover::load(&place, NO_HISTORY, None) {
        Ok(Some(loaded)) => {
            report.revision = loaded.view.revision;
            report.keys = loaded.view.tree.live();
            report.unfinished_records = loaded.records.len() as u64;
        }
        Ok(None) => report.problems.push(format!("{} holds no store", dir.display())),
        Err(e) if report.problems.is_empty() => report.problems.push(e.to_string()),
        Err(_) => {}
    }
    Ok(report)
}

/// Makes a damaged store openable again: keeps everything before the first damage and sets the rest aside. What was
/// committed after the damage is lost, and its revisions will be used again; clients must list anew.
///
/// # Errors
/// The store is in use, cannot be written, or nothing in it can be saved.
pub fn repair(
    disk: &dyn Disk,
    dir: &Path,
    data_dir: &Path,
    clock: &SharedClock,
    segment_bytes: u64,
) -> Result<Repaired, ToolError> {
    let place = Place { disk, dir, data_dir };
    let _lock = place.lock()?;
    let mut done = Repaired::default();
    let files = place.files()?;
    // Each round mends one place for good.
    for _ in 0..=2 * (files.segments.len() + files.snapshots.len()) + 2 {
        let (file, offset, reason) = match recover::load(&place, NO_HISTORY, None) {
            Ok(loaded) => {
                done.revision = loaded.map_or(0, |l| l.view.revision);
                return Ok(done);
            }
            Err(OpenError::Corrupt { file, offset, reason, .. }) => (file, offset, reason),
            Err(e) => return Err(e.into()),
        };
        let kind = file.file_name().and_then(|n| n.to_str()).and_then(segment::kind);
        let Some(Kind::Segment(number)) = kind else {
            return Err(ToolError::Hopeless { dir: dir.to_owned() });
        };
        done.problems.push(format!("{}: at byte {offset}: {reason}", file.display()));
        let later = place.files()?.segments;
        let cut = offset >= segment::HEADER_BYTES;
        for n in later.range(if cut { number + 1 } else { number }..).rev() {
            done.set_aside.push(set_aside(&place, &segment::segment_name(*n))?);
        }
        if cut {
            done.set_aside.push(cut_off(&place, &segment::segment_name(number), offset)?);
        } else if !later.contains(&number.wrapping_sub(1)) || starts_here(&place, number)? {
            begin_after_snapshot(&place, number, now_ms(clock), segment_bytes)?;
        }
    }
    Err(ToolError::Hopeless { dir: dir.to_owned() })
}

/// Writes a backup of a store that is not running to a new file.
///
/// # Errors
/// The store is in use or damaged, or the file exists or cannot be written.
pub fn backup(
    disk: &dyn Disk,
    dir: &Path,
    data_dir: &Path,
    to: &Path,
    clock: &SharedClock,
) -> Result<Revision, ToolError> {
    let place = Place { disk, dir, data_dir };
    let _lock = place.lock()?;
    let Some(loaded) = recover::load(&place, NO_HISTORY, None)? else {
        let source = io::Error::new(io::ErrorKind::NotFound, "there is no store");
        return Err(io_error("open the store in", dir, source));
    };
    let header = snapshot::Header {
        store: [0; 16],
        segment: 1,
        position: Position { revision: loaded.view.revision, ..Position::default() },
        next_record: loaded.next_record,
        made_ms: now_ms(clock),
    };
    let records = loaded.record_list();
    write_backup(disk, to, &header, &loaded.view, &records, None).map_err(|e| io_error("write", to, e))?;
    Ok(loaded.view.revision)
}

/// Makes a store from a backup. Its revision is the backup's plus `bump`; choose a bump larger than the number of
/// changes made since the backup when clients of the old store go on with the new one, so that no revision has two
/// meanings.
///
/// # Errors
/// The directory holds a store, the backup is damaged, or the directory cannot be written.
pub fn restore(
    disk: &dyn Disk,
    from: &Path,
    options: &Options,
    bump: Revision,
    clock: &SharedClock,
) -> Result<Revision, ToolError> {
    let dir = options.dir.as_path();
    let place = Place { disk, dir, data_dir: &options.data_dir };
    let snapshot = match snapshot::read(disk, from).map_err(|e| io_error("read", from, e))? {
        Ok(snapshot) => snapshot,
        Err(d) => {
            return Err(ToolError::BadBackup { file: from.to_owned(), offset: d.offset, reason: d.reason });
        }
    };
    let _lock = place.lock()?;
    let files = place.files()?;
    if !files.segments.is_empty() || !files.snapshots.is_empty() {
        return Err(ToolError::NotEmpty { dir: dir.to_owned() });
    }
    let revision = snapshot.view.revision.saturating_add(bump);
    let store = new_id(&options.rng);
    let position = Position { revision, ..Position::default() };
    let header = snapshot::Header { store, segment: 1, position, made_ms: now_ms(clock), ..snapshot.header };
    // The log first: with it alone the store does not open, so that a half done restore never looks like a store.
    let start = segment::Header {
        seed: Seed { store, segment: 1 },
        start: position,
        bytes: options.segment_bytes,
        made_ms: header.made_ms,
    };
    let name = segment::free_name(1);
    let blank = writer::preallocate(disk, &dir.join(&name), options.segment_bytes, false);
    let blank = blank.map_err(|e| io_error("make the log in", dir, e))?;
    writer::install(disk, dir, blank, &name, &start).map_err(|e| io_error("make the log in", dir, e))?;
    let path = dir.join(segment::snapshot_name(1));
    write_backup(disk, &path, &header, &snapshot.view, &snapshot.records, None)
        .map_err(|e| io_error("write", &path, e))?;
    Ok(revision)
}

/// Writes a snapshot to a file that must not exist, all or nothing.
pub(crate) fn write_backup(
    disk: &dyn Disk,
    to: &Path,
    header: &snapshot::Header,
    view: &View,
    records: &[Record],
    seal: Option<&Seal>,
) -> io::Result<()> {
    if disk.open(to, Mode::Read).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = to.with_file_name(name);
    match disk.remove(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written =
        snapshot::write(disk, &partial, header, view, records, seal).and_then(|()| disk.rename(&partial, to));
    if let Err(e) = written {
        let _ = disk.remove(&partial);
        return Err(e);
    }
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_dir(parent)
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> ToolError {
    ToolError::Io { what, path: path.to_owned(), source }
}

/// A name that no other file has, for a file out of use.
fn aside_path(place: &Place, name: &str) -> Result<PathBuf, ToolError> {
    let names = place.disk.list(place.dir).map_err(|e| io_error("list", place.dir, e))?;
    let mut n = 1u32;
    loop {
        let aside = format!("damaged-{n}-{name}");
        if !names.contains(&aside) {
            return Ok(place.dir.join(aside));
        }
        n += 1;
    }
}

fn set_aside(place: &Place, name: &str) -> Result<PathBuf, ToolError> {
    let (from, to) = (place.dir.join(name), aside_path(place, name)?);
    place.disk.rename(&from, &to).map_err(|e| io_error("rename", &from, e))?;
    place.disk.sync_dir(place.dir).map_err(|e| io_error("sync", place.dir, e))?;
    Ok(to)
}

/// Overwrites a segment from an offset on with zeros, after it was copied.
fn cut_off(place: &Place, name: &str, offset: u64) -> Result<PathBuf, ToolError> {
    let (path, aside) = (place.dir.join(name), aside_path(place, name)?);
    let copy = || -> io::Result<()> {
        let file = place.disk.open(&path, Mode::Write)?;
        let bytes = read_all(&*file)?;
        let copy = place.disk.open(&aside, Mode::Create)?;
        copy.write_at(&bytes, 0)?;
        copy.sync_data()?;
        place.disk.sync_dir(place.dir)?;
        file.write_zeros(offset..(bytes.len() as u64).max(offset))?;
        if let Ok(header) = scan::read_header(&*file)? {
            file.preallocate(header.bytes)?;
        }
        file.sync_data()
    };
    copy().map_err(|e| {
        let what = if is_full(&e) { "copy (the disk is full)" } else { "cut" };
        io_error(what, &path, e)
    })?;
    Ok(aside)
}

/// Whether the newest whole snapshot needs this segment first.
fn starts_here(place: &Place, number: u64) -> Result<bool, ToolError> {
    Ok(newest(place)?.is_some_and(|s| s.header.segment == number))
}

fn newest(place: &Place) -> Result<Option<snapshot::Snapshot>, ToolError> {
    for number in place.files()?.snapshots.iter().rev() {
        let path = place.dir.join(segment::snapshot_name(*number));
        if let Ok(s) = snapshot::read(place.disk, &path).map_err(|e| io_error("read", &path, e))? {
            return Ok(Some(s));
        }
    }
    Ok(None)
}

/// Makes an empty segment that goes on from the newest whole snapshot.
fn begin_after_snapshot(
    place: &Place,
    number: u64,
    made_ms: u64,
    segment_bytes: u64,
) -> Result<(), ToolError> {
    let Some(snapshot) = newest(place)?.filter(|s| s.header.segment == number) else {
        return Err(ToolError::Hopeless { dir: place.dir.to_owned() });
    };
    let seed = Seed { store: snapshot.header.store, segment: number };
    let header = segment::Header { seed, start: snapshot.header.position, bytes: segment_bytes, made_ms };
    let name = segment::free_name(number);
    let make = || -> io::Result<()> {
        let blank = writer::preallocate(place.disk, &place.dir.join(&name), segment_bytes, false)?;
        writer::install(place.disk, place.dir, blank, &name, &header).map(|_| ())
    };
    make().map_err(|e| io_error("make a segment in", place.dir, e))
}
