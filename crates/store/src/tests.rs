//! Tests of the embedded store as a whole: the suite, a model, crashes, damage, limits, tools.

mod crash;
mod damage;
mod kill;
mod limits;
mod model;
mod operator;
mod sealed;

use crate::disk::sim::SimDisk;
use crate::disk::{Disk, RealDisk};
use crate::embedded::committer::Committer;
use crate::suite;
use crate::*;
use base::clock::{ManualClock, SharedClock, SystemClock};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";

fn clock() -> SharedClock {
    Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH))
}

/// Small files, so that a short script sees segments change and snapshots made.
fn small() -> Options {
    let mut options = Options::new(DIR);
    options.segment_bytes = 2048;
    options.snapshot_every_bytes = 3000;
    options.fatal = Arc::new(|_| {});
    options
}

fn open(disk: &SimDisk) -> Result<(Arc<Embedded>, Committer), OpenError> {
    Embedded::open_stepped(small(), Arc::new(disk.clone()), clock(), false)
}

fn threaded(options: Options, disk: impl Disk) -> Arc<Embedded> {
    Embedded::open(options, Arc::new(disk), SystemClock::shared()).unwrap()
}

/// The newest values.
fn contents(store: &dyn Store) -> BTreeMap<String, String> {
    let page = store.list(&Range::default()).unwrap();
    page.entries.iter().map(|e| (e.key.to_string(), String::from_utf8_lossy(&e.value).into_owned())).collect()
}

#[test]
fn suite_on_a_simulated_disk() {
    suite::run(&|| {
        let mut options = Options::new(DIR);
        options.segment_bytes = 1 << 20;
        options.snapshot_every_bytes = 1 << 20;
        threaded(options, SimDisk::new())
    });
}

#[test]
fn suite_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU64::new(0);
    suite::run(&|| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut options = Options::new(dir.path().join(n.to_string()));
        options.segment_bytes = 64 << 10;
        options.snapshot_every_bytes = 128 << 10;
        threaded(options, RealDisk)
    });
}

#[test]
fn a_store_on_a_real_disk_reopens_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("deep/store"));
    options.segment_bytes = 16 << 10;
    options.snapshot_every_bytes = 40 << 10;
    let mut before = BTreeMap::new();
    for round in 0..4 {
        let store = threaded(options.clone(), RealDisk);
        assert_eq!(contents(&*store), before);
        let last = store.revision();
        for n in 0..200 {
            suite::set(&*store, &format!("/k/{}", n % 37), &format!("{round}.{n}"));
        }
        assert_eq!(store.revision(), last + 200);
        before = contents(&*store);
        assert_eq!(store.problem(), None);
        store.close();
        assert!(matches!(suite::commit(&*store, vec![]), Err(CommitError::Closed)));
    }
    let files: Vec<_> = RealDisk.list(&options.dir).unwrap();
    assert!(files.iter().filter(|f| f.ends_with(".snap")).count() == 2, "{files:?}");
    assert!(files.iter().filter(|f| f.starts_with("wal-")).count() < 12, "old segments stay: {files:?}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(options.dir.join(&files[0])).unwrap());
    assert_eq!(mode & 0o077, 0, "others may read secrets");
    assert!(Path::new(&options.dir).join("LOCK").exists());
}
