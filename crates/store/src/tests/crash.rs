//! Power lost before every single change of the disk.

use super::*;
use crate::disk::sim::Loss;
use crate::suite::{delete, put};
use bytes::Bytes;

type State = BTreeMap<String, String>;

/// A script: groups of transactions that are committed together.
fn script() -> Vec<Vec<Txn>> {
    let mut n = 0;
    let mut groups = Vec::new();
    for round in 0..30 {
        let mut group = Vec::new();
        for _ in 0..=(round % 3) {
            n += 1;
            let mut ops =
                vec![put(&format!("/k/{}", n % 5), &format!("{n}:{}", "x".repeat(n * 7 % 90)), Expect::Any)];
            // The change and a second key go together: half of it must never be seen.
            ops.push(put("/last", &n.to_string(), Expect::Any));
            if n % 4 == 0 {
                ops.push(delete(&format!("/k/{}", (n + 1) % 5), Expect::Any));
            }
            group.push(Txn { ops, record: Some(Bytes::from(n.to_string())) });
        }
        groups.push(group);
    }
    groups
}

/// The contents after each transaction, from none to all.
fn states(script: &[Vec<Txn>]) -> Vec<State> {
    let mut all = vec![State::new()];
    for txn in script.iter().flatten() {
        let mut state = all[all.len() - 1].clone();
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => {
                    state.insert(key.clone(), String::from_utf8_lossy(&value.bytes).into_owned());
                }
                Op::Delete { key, .. } => {
                    state.remove(key);
                }
            }
        }
        all.push(state);
    }
    all
}

/// How far a run got: transactions acknowledged, and those that were under way.
#[derive(Default)]
struct Reached {
    acknowledged: usize,
    under_way: usize,
    finished: Vec<String>,
}

fn run(disk: &SimDisk, script: &[Vec<Txn>]) -> Reached {
    let mut reached = Reached::default();
    let Ok((store, mut committer)) = open(disk) else { return reached };
    for group in script {
        let waiting: Vec<_> = group.iter().map(|t| store.commit(t.clone())).collect();
        reached.under_way = group.len();
        committer.step();
        let results: Vec<_> = waiting.into_iter().map(block_on).collect();
        if results.iter().any(Result::is_err) {
            assert!(results.iter().all(Result::is_err), "a group was torn");
            return reached;
        }
        reached.acknowledged += group.len();
        reached.under_way = 0;
        // All but every third record is finished at once.
        for (number, _, bytes) in store.unfinished_records() {
            if number % 3 != 0 {
                reached.finished.push(String::from_utf8_lossy(&bytes).into_owned());
                store.finish_record(number);
            }
        }
    }
    store.close();
    committer.write_finished();
    reached
}

/// Opens after a crash and checks what is there; then that the store goes on working.
fn check(disk: &SimDisk, reached: &Reached, states: &[State], what: &str) {
    let (store, mut committer) = open(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    let got = contents(&*store);
    let n: usize = got.get("/last").map_or(0, |v| v.parse().unwrap());
    assert_eq!(got, states[n], "{what}: not a state that ever was");
    let allowed = [reached.acknowledged, reached.acknowledged + reached.under_way];
    assert!(allowed.contains(&n), "{what}: {n} transactions are there, {allowed:?} may be");
    assert_eq!(store.revision(), n as u64, "{what}");
    let records: Vec<String> =
        store.unfinished_records().iter().map(|(_, _, b)| String::from_utf8_lossy(b).into_owned()).collect();
    for r in 1..=n {
        let must = !reached.finished.contains(&r.to_string());
        assert!(!must || records.contains(&r.to_string()), "{what}: record {r} is lost");
    }
    assert!(records.iter().all(|r| r.parse::<usize>().unwrap() <= n), "{what}: a record without its change");

    let next = store.commit(suite::txn(vec![put("/after", "crash", Expect::Absent)]));
    committer.step();
    block_on(next).unwrap_or_else(|e| panic!("{what}: {e}"));
    drop((store, committer));
    let (store, _committer) =
        open(&disk.after_crash(Loss::All)).unwrap_or_else(|e| panic!("{what}, again: {e}"));
    assert_eq!(contents(&*store).get("/after").map(String::as_str), Some("crash"), "{what}");
    assert_eq!(store.revision(), n as u64 + 1, "{what}");
}

#[test]
fn a_crash_at_every_operation() {
    let script = script();
    let states = states(&script);
    let whole = SimDisk::new();
    let reached = run(&whole, &script);
    assert_eq!(reached.acknowledged, states.len() - 1);
    let names = whole.list(Path::new(DIR)).unwrap();
    assert_eq!(
        names.iter().filter(|n| n.ends_with(".snap")).count(),
        2,
        "the script makes snapshots: {names:?}"
    );
    assert!(!names.contains(&"wal-0000000000000001.log".to_owned()), "the script recycles segments");
    let operations = whole.operations();
    assert!(operations > 100);
    for at in 0..=operations {
        let disk = SimDisk::new();
        disk.crash_at(at);
        let reached = run(&disk, &script);
        let losses = [
            Loss::None,
            Loss::All,
            Loss::Writes(at),
            Loss::Writes(at + 1),
            Loss::Sectors(at),
            Loss::Sectors(!at),
        ];
        for loss in losses {
            check(&disk.after_crash(loss), &reached, &states, &format!("crash at {at}, {loss:?}"));
        }
    }
}

#[test]
fn a_crash_while_recovering_from_a_crash() {
    let script = script();
    let states = states(&script);
    let whole = SimDisk::new();
    run(&whole, &script);
    for at in (0..whole.operations()).step_by(9) {
        let disk = SimDisk::new();
        disk.crash_at(at);
        let reached = run(&disk, &script);
        for second in 0..6 {
            // The process was killed, and the power fails while it starts again.
            let again = disk.after_kill();
            again.crash_at(second);
            let opened = open(&again);
            let shown = opened.as_ref().map_or(0, |(store, _)| store.revision());
            drop(opened);
            for loss in [Loss::All, Loss::Sectors(at * 31 + second)] {
                let what = format!("crash at {at}, then at {second}, {loss:?}");
                let after = again.after_crash(loss);
                let (store, _committer) = open(&after).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(store.revision() >= shown, "{what}: what was shown is gone");
                drop(store);
                check(&after, &reached, &states, &what);
            }
        }
    }
}

#[test]
fn a_failed_sync_ends_the_store() {
    let disk = SimDisk::new();
    let said = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut options = small();
    let hook = said.clone();
    options.fatal = Arc::new(move |reason| hook.lock().push(reason.to_owned()));
    let (store, mut committer) =
        Embedded::open_stepped(options, Arc::new(disk.clone()), clock(), false).unwrap();
    let mut watcher = store.watch("/", 0).unwrap();
    disk.set_fail_sync(true);
    let lost = store.commit(suite::txn(vec![put("/a", "1", Expect::Any)]));
    committer.step();
    assert_eq!(block_on(lost), Err(CommitError::Closed));
    assert_eq!(said.lock().len(), 1);
    assert!(said.lock()[0].contains("could not sync"), "{:?}", said.lock());
    assert_eq!(store.get("/a"), None, "what is not durable was shown");
    assert!(matches!(block_on(watcher.next()), Watched::Closed));
    disk.set_fail_sync(false);
    assert_eq!(suite::commit(&*store, vec![put("/b", "1", Expect::Any)]), Err(CommitError::Closed));
}
