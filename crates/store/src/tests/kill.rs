//! A real process with a real disk, killed without warning again and again.

use super::*;
use crate::suite::put;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD_DIR: &str = "TAFFRAIL_TEST_STORE_CHILD_DIR";
const ROUNDS: u64 = 10;

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 64 << 10;
    options.snapshot_every_bytes = 100 << 10;
    options
}

/// Not a test by itself: the process that [`acknowledged_writes_survive_kills`] starts and kills.
#[test]
#[allow(clippy::disallowed_methods)] // how the parent talks to its child
fn child_writer() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let store = threaded(options(Path::new(&dir)), RealDisk);
    let mut out = std::io::stdout().lock();
    writeln!(out).unwrap();
    let first = store.revision();
    let mut waiting = VecDeque::new();
    for n in first + 1.. {
        // Each value names its revision; eight commits are on their way at any time.
        let ops = vec![
            put(&format!("/k/{n}"), &"v".repeat(300), Expect::Absent),
            put("/last", &n.to_string(), Expect::Any),
        ];
        waiting.push_back((n, store.commit(Txn { ops, record: Some(Bytes::from(n.to_string())) })));
        if waiting.len() == 8
            && let Some((n, commit)) = waiting.pop_front()
        {
            assert_eq!(block_on(commit).unwrap().revision, n);
            writeln!(out, "ack {n}").unwrap();
            out.flush().unwrap();
            // The numbers of records are the revisions here.
            if n % 5 != 0 {
                store.finish_record(n);
            }
        }
    }
}

#[test]
fn acknowledged_writes_survive_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::kill::child_writer", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let number = |line: String| line.strip_prefix("ack ").and_then(|n| n.parse::<u64>().ok());
        // It is killed a while after its first acknowledgement, wherever it is then.
        let mut last = lines.by_ref().find_map(number).expect("the child wrote nothing");
        std::thread::sleep(Duration::from_millis(20 + round * 13));
        child.kill().unwrap();
        child.wait().unwrap();
        last = lines.filter_map(number).fold(last, u64::max);
        total = check(dir.path(), total, last);
    }
    println!("{total} commits over {ROUNDS} kills");
}

/// Every acknowledged commit is there, whole; gives the newest revision.
fn check(dir: &Path, before: u64, acknowledged: u64) -> u64 {
    let store = threaded(options(dir), RealDisk);
    let revision = store.revision();
    assert!(acknowledged > before && revision >= acknowledged, "{before} {acknowledged} {revision}");
    assert!(revision <= acknowledged + 8 + 1, "more than what was under way");
    assert_eq!(store.count("/k/"), revision);
    let last = store.get("/last").unwrap();
    assert_eq!((&last.value[..], last.modified), (revision.to_string().as_bytes(), revision));
    let records: Vec<_> = store.unfinished_records().iter().map(|(n, r, _)| (*n, *r)).collect();
    assert!(records.iter().all(|(n, r)| n == r && *r <= revision));
    for n in (1..=revision).filter(|n| n % 5 == 0) {
        assert!(records.contains(&(n, n)), "record {n} is lost");
    }
    revision
}
