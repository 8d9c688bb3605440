//! Full stores, full disks, locked and read-only directories, watchers that lag.

use super::*;
use crate::suite::{commit, delete, put, set};
use bytes::Bytes;

#[test]
fn the_quota_refuses_puts_until_something_is_deleted_and_compacted() {
    let mut options = Options::new(DIR);
    options.segment_bytes = 1 << 20;
    options.quota_bytes = 64 << 10;
    let store = threaded(options.clone(), SimDisk::new());
    let value = "x".repeat(1000);
    let mut n = 0;
    let error = loop {
        match commit(&*store, vec![put(&format!("/k/{n}"), &value, Expect::Any)]) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    let CommitError::NoSpace { used_bytes, quota_bytes } = &error else { panic!("{error}") };
    assert!(*used_bytes <= *quota_bytes && *used_bytes > 60_000 && (50..64).contains(&n), "{n} {used_bytes}");
    assert!(error.to_string().contains("--quota-backend-bytes"));
    commit(&*store, (0..10).map(|n| delete(&format!("/k/{n}"), Expect::Any)).collect()).unwrap();
    assert!(
        commit(&*store, vec![put("/k/new", &value, Expect::Any)]).is_err(),
        "history still holds the bytes"
    );
    store.compact(store.revision()).unwrap();
    commit(&*store, vec![put("/k/new", &value, Expect::Any)]).unwrap();
}

#[test]
fn used_bytes_are_the_same_after_replay_and_go_back_to_nothing() {
    let disk = SimDisk::new();
    let (store, mut committer) = open(&disk).unwrap();
    for n in 0..8 {
        let op = if n == 6 {
            delete("/k/1", Expect::Any)
        } else {
            put(&format!("/k/{}", n % 3), "value", Expect::Any)
        };
        let waiting = store.commit(suite::txn(vec![op]));
        committer.step();
        block_on(waiting).unwrap();
    }
    let used = store.stats().used_bytes;
    drop((store, committer));
    let (store, mut committer) = open(&disk).unwrap();
    assert_eq!(store.stats().used_bytes, used);
    let all = store.commit(suite::txn((0..3).map(|n| delete(&format!("/k/{n}"), Expect::Any)).collect()));
    committer.step();
    block_on(all).unwrap();
    store.compact(store.revision()).unwrap();
    let stats = store.stats();
    assert_eq!((stats.used_bytes, stats.keys), (0, 0));
}

#[test]
fn a_full_disk_refuses_commits_and_harms_nothing() {
    let disk = SimDisk::new();
    let (store, mut committer) = open(&disk).unwrap();
    let mut step = |op: Op| {
        let waiting = store.commit(Txn { ops: vec![op], record: Some(Bytes::from_static(b"r")) });
        committer.step();
        block_on(waiting)
    };
    let mut good = 0;
    disk.set_capacity(Some(disk.used() + 100));
    let error = loop {
        match step(put(&format!("/k/{good}"), &"v".repeat(200), Expect::Absent)) {
            Ok(_) => good += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, CommitError::DiskFull { .. }), "{error}");
    assert!(good > 2);
    assert_eq!(store.count("/k/"), good);
    assert_eq!(store.revision(), good);
    assert!(matches!(step(put("/k/more", &"v".repeat(400), Expect::Any)), Err(CommitError::DiskFull { .. })));
    // What was refused is free again: the key, the revision, the record's number.
    disk.set_capacity(None);
    let done = step(put(&format!("/k/{good}"), "later", Expect::Absent)).unwrap();
    assert_eq!((done.revision, done.record), (good + 1, Some(good + 1)));
    let before = contents(&*store);
    drop(store);
    for loss in [disk::sim::Loss::None, disk::sim::Loss::All] {
        let (store, _committer) = open(&disk.after_crash(loss)).unwrap();
        assert_eq!(contents(&*store), before);
    }
}

#[test]
fn every_amount_of_free_disk_is_survived() {
    for spare in (0..12_000).step_by(97) {
        let disk = SimDisk::new();
        disk.set_capacity(Some(2048 + spare));
        let (store, mut committer) = open(&disk).unwrap();
        let mut acknowledged = 0;
        for n in 0..60 {
            let waiting =
                store.commit(suite::txn(vec![put(&format!("/k/{n}"), &"v".repeat(60), Expect::Any)]));
            committer.step();
            match block_on(waiting) {
                Ok(_) => acknowledged += 1,
                Err(CommitError::DiskFull { .. }) => {}
                Err(e) => panic!("{spare} spare: {e}"),
            }
        }
        let before = contents(&*store);
        assert_eq!(before.len(), acknowledged);
        drop((store, committer));
        let (store, _committer) = open(&disk.after_crash(disk::sim::Loss::All)).unwrap();
        assert_eq!(contents(&*store), before, "{spare} spare");
    }
}

#[test]
fn a_directory_has_one_user_and_must_be_writable() {
    let disk = SimDisk::new();
    let store = threaded(small(), disk.clone());
    let second = Embedded::open(small(), Arc::new(disk.clone()), clock());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    store.close();
    disk.set_read_only(true);
    let Err(error) = Embedded::open(small(), Arc::new(disk.clone()), clock()) else { panic!("it opened") };
    assert!(matches!(error, OpenError::ReadOnly { .. }));
    assert!(error.to_string().contains("/store cannot be written"), "{error}");
}

#[test]
fn two_processes_on_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4096, ..Options::new(dir.path()) };
    let store = threaded(options.clone(), RealDisk);
    assert!(matches!(
        Embedded::open(options.clone(), Arc::new(RealDisk), clock()),
        Err(OpenError::Locked { .. })
    ));
    drop(store);
    threaded(options, RealDisk);
}

#[test]
fn a_watcher_that_lags_is_told_and_others_are_not_disturbed() {
    let mut options = Options::new(DIR);
    options.segment_bytes = 1 << 20;
    options.history_events_max = 100;
    let store = threaded(options, SimDisk::new());
    let mut slow = store.watch("/k/", 0).unwrap();
    let mut quiet = store.watch("/quiet/", 0).unwrap();
    let mut keen = store.watch("/k/", 0).unwrap();
    let mut seen = 0;
    for n in 1..=250 {
        set(&*store, &format!("/k/{}", n % 7), "v");
        if let Watched::Events(events) = block_on(keen.next()) {
            seen += events.len();
        }
    }
    assert_eq!(seen, 250);
    assert!(matches!(block_on(slow.next()), Watched::Lagged { oldest: 150 }));
    assert!(matches!(store.watch("/k/", 149), Err(ReadError::Compacted { oldest: 150, .. })));
    assert!(store.watch("/k/", 150).is_ok());
    assert_eq!(quiet.progress(), 250);
    set(&*store, "/quiet/a", "v");
    assert!(matches!(block_on(quiet.next()), Watched::Events(e) if e.len() == 1));
    store.close();
    assert!(matches!(block_on(quiet.next()), Watched::Closed));
}

#[test]
fn large_events_come_a_few_at_a_time() {
    let mut options = Options::new(DIR);
    options.segment_bytes = 4 << 20;
    let store = threaded(options, SimDisk::new());
    let mut watcher = store.watch("/k/", 0).unwrap();
    for n in 0..20 {
        set(&*store, &format!("/k/{n}"), &"x".repeat(100 << 10));
    }
    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < 20 {
        let Watched::Events(events) = block_on(watcher.next()) else { panic!("events") };
        batches.push(events.len());
    }
    assert!(batches.iter().all(|n| *n <= 3), "{batches:?}");
}

#[test]
fn watches_go_on_from_the_log_after_a_restart() {
    let disk = SimDisk::new();
    let mut options = small();
    options.snapshot_every_bytes = 1 << 20;
    let store = threaded(options.clone(), disk.clone());
    for n in 1..=30 {
        set(&*store, &format!("/k/{}", n % 4), &n.to_string());
    }
    drop(store);
    let store = threaded(options, disk);
    let mut watcher = store.watch("/k/", 12).unwrap();
    let lines = suite::watch_lines(&mut *watcher, 0, 18);
    assert_eq!(lines[0], "13 put /k/1 13 was 9");
    assert_eq!(lines[17], "30 put /k/2 30 was 26");
    assert_eq!(store.get_at("/k/1", 10).unwrap().unwrap().modified, 9);
}

#[test]
fn the_queue_is_bounded() {
    let mut options = small();
    options.queue_bytes_max = 3000;
    let (store, mut committer) =
        Embedded::open_stepped(options, Arc::new(SimDisk::new()), clock(), false).unwrap();
    let op = |n: u32| suite::txn(vec![put(&format!("/k/{n}"), &"v".repeat(900), Expect::Any)]);
    let mut waiting = Vec::new();
    let mut busy = None;
    for n in 0..6 {
        let mut future = store.commit(op(n));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(r) => busy = Some(r),
            std::task::Poll::Pending => waiting.push(future),
        }
    }
    assert_eq!(waiting.len(), 3);
    assert!(matches!(busy, Some(Err(CommitError::Busy { .. }))));
    committer.step();
    for done in waiting {
        block_on(done).unwrap();
    }
    assert_eq!(store.stats().fsyncs, 1, "one group, one sync");
}
