//! The operator's tools on sound stores; damaged ones are in `damage`.

use super::*;
use crate::suite::set;
use crate::tools::{self, ToolError};
use bytes::Bytes;

fn filled(disk: &SimDisk) -> BTreeMap<String, String> {
    let store = threaded(small(), disk.clone());
    for n in 0..150 {
        set(&*store, &format!("/k/{}", n % 23), &n.to_string());
    }
    block_on(store.commit(Txn { ops: vec![], record: Some(Bytes::from_static(b"open")) })).unwrap();
    contents(&*store)
}

#[test]
fn verify_reads_everything_and_finds_nothing() {
    let (disk, dir) = (SimDisk::new(), Path::new(DIR));
    let empty = tools::verify(&disk, dir, dir).unwrap();
    assert_eq!(empty.problems, ["/store holds no store"]);
    filled(&disk);
    let before = disk.operations();
    let report = tools::verify(&disk, dir, dir).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.revision, report.keys, report.unfinished_records), (150, 23, 1));
    // How many were written until the store closed is up to the keeper's thread.
    assert!((1..=2).contains(&report.snapshots.len()), "{:?}", report.snapshots);
    assert!(report.segments.len() > 2);
    assert_eq!(disk.operations(), before, "verify wrote something");
    let nothing = tools::repair(&disk, dir, dir, &clock(), 2048).unwrap();
    assert!(nothing.set_aside.is_empty() && nothing.problems.is_empty());
}

#[test]
fn a_backup_restores_elsewhere_with_records_and_a_bump() {
    let disk = SimDisk::new();
    let before = filled(&disk);
    let dir = Path::new(DIR);
    let (cold, hot) = (Path::new("/backup/cold"), Path::new("/backup/hot"));
    assert_eq!(tools::backup(&disk, dir, dir, cold, &clock()).unwrap(), 150);
    let again = tools::backup(&disk, dir, dir, cold, &clock());
    assert!(matches!(again, Err(ToolError::Io { .. })), "a backup was overwritten");
    let running = threaded(small(), disk.clone());
    assert_eq!(running.backup(hot).unwrap(), 150);
    set(&*running, "/k/later", "not in the backup");
    let locked = tools::verify(&disk, dir, dir);
    assert!(matches!(locked, Err(ToolError::Open(OpenError::Locked { .. }))));

    for (from, to, bump) in [(cold, "/new/a", 0), (hot, "/new/b", 1000)] {
        let options = Options { dir: to.into(), ..small() };
        assert_eq!(tools::restore(&disk, from, &options, bump, &clock()).unwrap(), 150 + bump);
        let again = tools::restore(&disk, from, &options, bump, &clock());
        assert!(matches!(again, Err(ToolError::NotEmpty { .. })));
        for round in 1..3 {
            let store = threaded(options.clone(), disk.clone());
            let mut now = contents(&*store);
            now.retain(|k, _| !k.starts_with("/new"));
            assert_eq!(now, before);
            assert_eq!(store.unfinished_records().len(), round);
            assert_eq!(set(&*store, &format!("/new/{round}"), "v"), 150 + bump + round as u64);
            let record = Txn { ops: vec![], record: Some(Bytes::from_static(b"more")) };
            assert_eq!(block_on(store.commit(record)).unwrap().record, Some(1 + round as u64));
        }
        assert!(tools::verify(&disk, &options.dir, &options.dir).unwrap().problems.is_empty());
    }
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let disk = SimDisk::new();
    filled(&disk);
    let (dir, backup) = (Path::new(DIR), Path::new("/backup/b"));
    tools::backup(&disk, dir, dir, backup, &clock()).unwrap();
    for byte in (0..disk.contents(backup).unwrap().len()).step_by(3) {
        let hurt = disk.copy();
        hurt.damage(backup, |bytes| bytes[byte] ^= 4);
        let options = Options { dir: "/new".into(), ..small() };
        let result = tools::restore(&hurt, backup, &options, 0, &clock());
        assert!(matches!(result, Err(ToolError::BadBackup { .. })), "byte {byte}");
        assert!(hurt.list(Path::new("/new")).unwrap().is_empty());
    }
}
