//! Damaged files: what opens is history as it was, or nothing opens.

use super::*;
use crate::suite::put;
use crate::wal::segment;
use std::path::PathBuf;

/// A store with two segments and no snapshot, and its contents after each commit.
fn log() -> (SimDisk, Vec<BTreeMap<String, String>>) {
    let disk = SimDisk::new();
    let mut options = small();
    options.segment_bytes = 1024;
    options.snapshot_every_bytes = 1 << 30;
    let (store, mut committer) =
        Embedded::open_stepped(options, Arc::new(disk.clone()), clock(), false).unwrap();
    let mut states = vec![BTreeMap::new()];
    for n in 0..10 {
        let waiting =
            store.commit(suite::txn(vec![put(&format!("/k/{}", n % 4), &format!("value {n}"), Expect::Any)]));
        committer.step();
        block_on(waiting).unwrap();
        states.push(contents(&*store));
    }
    (disk, states)
}

fn files(disk: &SimDisk, start: &str) -> Vec<PathBuf> {
    let mut names = disk.list(Path::new(DIR)).unwrap();
    names.retain(|n| n.starts_with(start));
    names.sort();
    names.iter().map(|n| Path::new(DIR).join(n)).collect()
}

/// Opens; gives how many commits are there, or the refusal.
fn opened(disk: &SimDisk, states: &[BTreeMap<String, String>]) -> Result<usize, OpenError> {
    let (store, _committer) = open(disk)?;
    let n = store.revision() as usize;
    assert_eq!(contents(&*store), states[n], "wrong data");
    Ok(n)
}

#[test]
fn any_flipped_bit_of_the_log_is_cut_or_refused() {
    let (disk, states) = log();
    let wals = files(&disk, "wal-");
    assert!(wals.len() >= 2);
    let (mut refused, mut cut, mut unhurt) = (0, 0, 0);
    for path in &wals {
        for byte in 0..disk.contents(path).unwrap().len() {
            let hurt = disk.copy();
            hurt.damage(path, |bytes| bytes[byte] ^= 1 << (byte % 8));
            match opened(&hurt, &states) {
                Ok(10) => unhurt += 1,
                Ok(9) if path == wals.last().unwrap() => cut += 1,
                Ok(n) => panic!("{} byte {byte}: opened with {n} of 10 commits", path.display()),
                Err(OpenError::Corrupt { file, .. }) => {
                    refused += 1;
                    assert!(wals.contains(&file));
                    repaired(&hurt, &states);
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
    println!("{refused} flips refused, {cut} cut, {unhurt} without harm");
    assert!(refused > 800 && cut > 50 && unhurt > 100);
}

/// After a repair the store opens with some part of its history.
fn repaired(disk: &SimDisk, states: &[BTreeMap<String, String>]) {
    let dir = Path::new(DIR);
    match tools::repair(disk, dir, dir, &clock(), 1024) {
        Ok(done) => {
            assert!(!done.problems.is_empty() && !done.set_aside.is_empty());
            assert_eq!(opened(disk, states).unwrap(), done.revision as usize);
            assert!(tools::verify(disk, dir, dir).unwrap().problems.is_empty());
        }
        // The first segment's header: nothing before it is left.
        Err(tools::ToolError::Hopeless { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_shortened_or_missing_segment_is_refused() {
    let (disk, states) = log();
    let wals = files(&disk, "wal-");
    for (i, path) in wals.iter().enumerate() {
        for length in (0..1024).step_by(13) {
            let hurt = disk.copy();
            hurt.damage(path, |bytes| bytes.truncate(length));
            assert!(matches!(opened(&hurt, &states), Err(OpenError::Corrupt { .. })), "cut to {length}");
            repaired(&hurt, &states);
        }
        if i + 1 < wals.len() {
            let hurt = disk.copy();
            hurt.remove(path).unwrap();
            let error = opened(&hurt, &states).unwrap_err().to_string();
            assert!(
                error.contains("missing") && error.contains("taffrail store repair --data-dir /store"),
                "{error}"
            );
        }
    }
}

#[test]
fn swapped_frames_and_foreign_segments_are_refused() {
    let (disk, states) = log();
    let (other, _) = {
        let disk = SimDisk::new();
        let (store, mut committer) = open(&disk).unwrap();
        let waiting = store.commit(suite::txn(vec![put("/foreign", "x", Expect::Any)]));
        committer.step();
        block_on(waiting).unwrap();
        (disk, ())
    };
    let first = Path::new(DIR).join(segment::segment_name(1));
    let hurt = disk.copy();
    let foreign = other.contents(&first).unwrap();
    hurt.damage(&first, |bytes| *bytes = foreign);
    assert!(opened(&hurt, &states).is_err());
    // The same bytes at another place are not a frame.
    let hurt = disk.copy();
    hurt.damage(&first, |bytes| {
        let frames = bytes[128..600].to_vec();
        bytes[200..672].copy_from_slice(&frames);
    });
    assert!(opened(&hurt, &states).is_err());
}

#[test]
fn a_frame_of_another_history_breaks_the_chain() {
    let fork = |disk: &SimDisk, value: &str| {
        let (store, mut committer) = open(disk).unwrap();
        for key in ["/x", "/y"] {
            let waiting = store.commit(suite::txn(vec![put(key, value, Expect::Any)]));
            committer.step();
            block_on(waiting).unwrap();
        }
        disk.copy()
    };
    let start = SimDisk::new();
    fork(&start, "same");
    let end = start.contents(&Path::new(DIR).join(segment::segment_name(1))).unwrap();
    let used = end.iter().rposition(|b| *b != 0).unwrap() + 1;
    let (one, other) = (fork(&start.copy(), "one"), fork(&start.copy(), "two"));
    // The first frame of the other history has the same place, size and number, and follows just as well.
    let path = Path::new(DIR).join(segment::segment_name(1));
    let whole = other.contents(&path).unwrap();
    let frame = (whole.iter().rposition(|b| *b != 0).unwrap() + 1 - used) / 2;
    let hurt = one.copy();
    hurt.damage(&path, |bytes| bytes[used..used + frame].copy_from_slice(&whole[used..used + frame]));
    let Err(error) = open(&hurt) else { panic!("a mixed history was opened") };
    assert!(error.to_string().contains("does not follow"), "{error}");
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_one_before() {
    let disk = SimDisk::new();
    let (store, mut committer) = open(&disk).unwrap();
    let mut states = vec![BTreeMap::new()];
    for n in 0..120 {
        let waiting =
            store.commit(suite::txn(vec![put(&format!("/k/{}", n % 9), &format!("value {n}"), Expect::Any)]));
        committer.step();
        block_on(waiting).unwrap();
        states.push(contents(&*store));
    }
    drop((store, committer));
    let snapshots = files(&disk, "snap-");
    assert_eq!(snapshots.len(), 2);
    for byte in 0..disk.contents(&snapshots[1]).unwrap().len() {
        let hurt = disk.copy();
        hurt.damage(&snapshots[1], |bytes| bytes[byte] ^= 0x10);
        let (store, _committer) = open(&hurt).unwrap();
        assert_eq!(contents(&*store), states[120]);
        assert_eq!(store.recovery().notes.len(), 1);
    }
    let hurt = disk.copy();
    for path in &snapshots {
        hurt.damage(path, |bytes| bytes.truncate(40));
    }
    assert!(matches!(opened(&hurt, &states), Err(OpenError::Corrupt { .. })));
    let dir = Path::new(DIR);
    assert!(matches!(tools::repair(&hurt, dir, dir, &clock(), 2048), Err(tools::ToolError::Hopeless { .. })));
}
