//! Work beside the commits: snapshots, old files, spare ones.
//!
//! Invariant: nothing here is needed for durability; when it fails the log only stays longer, and the reason is kept
//! for `status`. Files are let go only after the snapshot that replaces them is durable.

use super::{FREE_FILES_MAX, Shared};
use crate::disk::Mode;
use crate::snapshot::{self, Record};
use crate::view::View;
use crate::wal::segment::{self, Kind};
use crate::wal::writer;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Jobs that may wait; there is one snapshot at a time, and spare files are asked for at most once each segment.
const JOBS_MAX: usize = 8;
/// The number in the name of the file made ahead; no segment gets that far.
const SPARE_NUMBER: u64 = u64::MAX;

/// The keeper's mailbox.
pub(crate) struct Keeper {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    work: Condvar,
    busy: AtomicBool,
    threads: bool,
}

pub(crate) enum Job {
    Snapshot {
        header: snapshot::Header,
        view: Arc<View>,
        records: Vec<Record>,
    },
    /// See that a file for the next segment lies ready: it makes the change of segments quick, and is a reserve.
    Spare,
}

impl Keeper {
    pub fn new(threads: bool) -> Self {
        Self {
            jobs: Mutex::new((VecDeque::new(), false)),
            work: Condvar::new(),
            busy: AtomicBool::new(false),
            threads,
        }
    }

    pub fn has_thread(&self) -> bool {
        self.threads
    }

    /// Claims the one snapshot that may be under way.
    pub fn begin_snapshot(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    pub fn end_snapshot(&self) {
        self.busy.store(false, Ordering::Release);
    }

    pub fn give(&self, shared: &Shared, job: Job) {
        if !self.threads {
            return work(shared, job);
        }
        let mut jobs = self.jobs.lock();
        if jobs.0.len() < JOBS_MAX {
            jobs.0.push_back(job);
            self.work.notify_one();
        } else if matches!(job, Job::Snapshot { .. }) {
            self.end_snapshot();
        }
    }

    pub fn stop(&self) {
        self.jobs.lock().1 = true;
        self.work.notify_one();
    }
}

/// The keeper's thread.
pub(crate) fn run(shared: &Shared) {
    loop {
        let job = {
            let mut jobs = shared.keeper.jobs.lock();
            loop {
                // What waits at the end is not needed: the next start reads the log instead.
                if jobs.1 {
                    return;
                }
                match jobs.0.pop_front() {
                    Some(job) => break job,
                    None => shared.keeper.work.wait(&mut jobs),
                }
            }
        };
        work(shared, job);
    }
}

fn work(shared: &Shared, job: Job) {
    match job {
        Job::Snapshot { header, view, records } => {
            let result = snapshot_and_prune(shared, &header, &view, &records);
            *shared.problem.lock() = result.err().map(|e| format!("no snapshot was written: {e}"));
            shared.keeper.end_snapshot();
        }
        Job::Spare => {
            if !shared.free.lock().is_empty() {
                return;
            }
            let name = segment::free_name(SPARE_NUMBER);
            let path = shared.options.dir.join(&name);
            if writer::preallocate(&*shared.disk, &path, shared.options.segment_bytes, true).is_ok() {
                shared.free.lock().push(name);
            }
        }
    }
}

fn snapshot_and_prune(
    shared: &Shared,
    header: &snapshot::Header,
    view: &View,
    records: &[Record],
) -> io::Result<()> {
    let (disk, dir) = (&*shared.disk, &shared.options.dir);
    let unfinished = dir.join(segment::UNFINISHED_NAME);
    match disk.remove(&unfinished) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The log has the first claim on the last of the disk.
    if disk.free_space(dir)? < view.used_bytes + shared.options.segment_bytes {
        return Err(io::ErrorKind::StorageFull.into());
    }
    if let Err(e) = snapshot::write(disk, &unfinished, header, view, records, Some(&shared.options.seal)) {
        let _ = disk.remove(&unfinished);
        return Err(e);
    }
    disk.rename(&unfinished, &dir.join(segment::snapshot_name(header.segment)))?;
    disk.sync_dir(dir)?;
    prune(shared)
}

/// Lets go of all snapshots but two, and of the log before the older of them.
fn prune(shared: &Shared) -> io::Result<()> {
    let (disk, dir) = (&*shared.disk, &shared.options.dir);
    let (mut segments, mut snapshots) = (BTreeSet::new(), BTreeSet::new());
    for name in disk.list(dir)? {
        match segment::kind(&name) {
            Some(Kind::Segment(n)) => segments.insert(n),
            Some(Kind::Snapshot(n)) => snapshots.insert(n),
            _ => continue,
        };
    }
    let Some(&floor) = snapshots.iter().rev().nth(1) else { return Ok(()) };
    for number in snapshots.range(..floor) {
        disk.remove(&dir.join(segment::snapshot_name(*number)))?;
    }
    let mut recycled = Vec::new();
    for number in segments.range(..floor) {
        let path = dir.join(segment::segment_name(*number));
        let size = disk.open(&path, Mode::Read)?.size()?;
        let room = shared.free.lock().len() + recycled.len() < FREE_FILES_MAX;
        if room && size == shared.options.segment_bytes {
            let name = segment::free_name(*number);
            disk.rename(&path, &dir.join(&name))?;
            recycled.push(name);
        } else {
            disk.remove(&path)?;
        }
    }
    disk.sync_dir(dir)?;
    shared.free.lock().extend(recycled);
    Ok(())
}
