//! Encryption at rest in the embedded store: what its files hold, which keys open them, what the tools make of it.

use super::*;
use crate::seal::{Key, Rule, Seal};
use crate::suite::{delete, put, set};
use crate::tools;
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Instant;

const SECRETS_PREFIX: &str = "/registry/secrets/";
const SECRET: &str = "correct-horse-battery-staple";
const KEY: &str = "/registry/secrets/ns/a";

fn key(name: &str, byte: u8) -> Arc<Key> {
    Arc::new(Key::aesgcm(name, &[byte; 32]).unwrap())
}

fn seal(keys: &[Arc<Key>]) -> Arc<Seal> {
    Arc::new(Seal::under(&[SECRETS_PREFIX], "the file encryption.key", keys.to_vec()))
}

fn options(dir: &Path, seal: Arc<Seal>) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 16 << 10;
    options.snapshot_every_bytes = 24 << 10;
    options.seal = seal;
    options
}

/// The files of a directory that hold a text.
fn holding(dir: &Path, text: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    files
        .filter(|f| f.is_file())
        .filter(|f| {
            let bytes = std::fs::read(f).unwrap();
            bytes.windows(text.len()).any(|w| w == text.as_bytes())
        })
        .collect()
}

fn try_open(options: Options) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open(options, Arc::new(RealDisk), SystemClock::shared())
}

fn refusal(options: Options) -> String {
    match try_open(options) {
        Ok(_) => panic!("opened"),
        Err(error) => base::error::chain(&error),
    }
}

#[test]
fn no_file_holds_a_secret_and_a_restart_reads_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let k1 = seal(&[key("k1", 1)]);
    let store = try_open(options(&at, k1.clone())).unwrap();
    let mut before = BTreeMap::new();
    for n in 0..300 {
        let record = Some(Bytes::from(format!("who wrote {SECRET} {n}")));
        let ops = vec![put(&format!("{SECRETS_PREFIX}ns/{}", n % 7), &format!("{SECRET} {n}"), Expect::Any)];
        let done = block_on(store.commit(Txn { ops, record })).unwrap();
        if n % 2 == 0 {
            store.finish_record(done.record.unwrap());
        }
        set(&*store, "/registry/configmaps/ns/a", &format!("in plain sight {n}"));
        before = contents(&*store);
    }
    let last = Some(Stamped { bytes: format!("last words of {SECRET}").into_bytes(), stamp: None });
    let op = Op::Delete { key: format!("{SECRETS_PREFIX}ns/0"), last, expect: Expect::Any };
    suite::commit(&*store, vec![op, delete(&format!("{SECRETS_PREFIX}ns/1"), Expect::Any)]).unwrap();
    before.retain(|k, _| !k.ends_with("secrets/ns/0") && !k.ends_with("secrets/ns/1"));
    let copy = dir.path().join("hot");
    store.backup(&copy).unwrap();
    let records = store.unfinished_records();
    store.close();
    let names = RealDisk.list(&at).unwrap();
    assert!(names.iter().any(|n| n.ends_with(".snap")), "no snapshot was made: {names:?}");
    assert_eq!(holding(&at, SECRET), Vec::<PathBuf>::new());
    assert_eq!(holding(dir.path(), SECRET), Vec::<PathBuf>::new(), "the backup");
    assert!(!holding(&at, "in plain sight").is_empty() && !holding(&at, "k8s:enc:aesgcm:v1:k1:").is_empty());

    let again = try_open(options(&at, k1.clone())).unwrap();
    assert_eq!(contents(&*again), before);
    // Finished ones may be told again after a restart; none is lost.
    let told = again.unfinished_records();
    assert!(records.iter().all(|r| told.contains(r)) && told.iter().all(|r| r.2.starts_with(b"who wrote")));
    again.close();

    // The tools need no key, and what they write stays sealed.
    let report = tools::verify(&RealDisk, &at, &at).unwrap();
    assert_eq!((report.problems, report.keys), (Vec::new(), before.len() as u64));
    let cold = dir.path().join("cold");
    tools::backup(&RealDisk, &at, &at, &cold, &clock()).unwrap();
    assert_eq!(holding(dir.path(), SECRET), Vec::<PathBuf>::new());
    for (n, from) in [copy, cold].iter().enumerate() {
        let to = options(&dir.path().join(format!("restored{n}")), k1.clone());
        tools::restore(&RealDisk, from, &to, 0, &clock()).unwrap();
        let restored = try_open(to).unwrap();
        assert_eq!(contents(&*restored), before);
        let told = restored.unfinished_records();
        assert!(records.iter().all(|r| told.contains(r)));
    }
}

#[test]
fn keys_are_rotated_and_wrong_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let (old, new) = (key("old", 1), key("new", 2));
    let store = try_open(options(at, seal(std::slice::from_ref(&old)))).unwrap();
    set(&*store, KEY, SECRET);
    drop(store);
    let missing = refusal(options(at, seal(std::slice::from_ref(&new))));
    for part in [KEY, "\"old\"", "the file encryption.key", "nothing was changed"] {
        assert!(missing.contains(part), "{part} is not in: {missing}");
    }
    assert!(refusal(options(at, Arc::new(Seal::none()))).contains("\"old\""));
    assert!(refusal(options(at, seal(&[key("old", 9)]))).contains("does not open it"));
    let store = try_open(options(at, seal(&[new.clone(), old]))).unwrap();
    assert_eq!(contents(&*store)[KEY], SECRET);
    // Two snapshots later nothing is left that only the old key opens.
    for n in 0..2000 {
        set(&*store, "/registry/configmaps/ns/a", &n.to_string());
    }
    drop(store);
    let store = try_open(options(at, seal(&[new]))).unwrap();
    assert_eq!(contents(&*store)[KEY], SECRET);
}

#[test]
fn what_was_plain_is_read_and_sealed_when_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let store = try_open(options(at, Arc::new(Seal::none()))).unwrap();
    set(&*store, KEY, "plain before");
    let refused = suite::commit(&*store, vec![put(KEY, "k8s:enc:aesgcm:v1:k:x", Expect::Any)]);
    assert!(matches!(refused, Err(CommitError::Malformed { .. })));
    drop(store);
    let store = try_open(options(at, seal(&[key("k", 1)]))).unwrap();
    assert_eq!(contents(&*store)[KEY], "plain before");
    set(&*store, KEY, "sealed now");
    drop(store);
    assert!(!holding(at, "plain before").is_empty());
    assert!(holding(at, "sealed now").is_empty());
    // And back: a rule that writes plain, with the key still there to open.
    let rule = Rule { prefixes: vec![SECRETS_PREFIX.to_owned()], key: None };
    let plain = Arc::new(Seal::new("FILE", vec![rule], None, vec![key("k", 1)]));
    let store = try_open(options(at, plain)).unwrap();
    assert_eq!(contents(&*store)[KEY], "sealed now");
    set(&*store, KEY, "plain again");
    drop(store);
    assert!(!holding(at, "plain again").is_empty());
}

#[test]
fn suite_on_sealed_files() {
    let rule = Rule { prefixes: vec![String::new()], key: Some(key("k", 1)) };
    let all = Arc::new(Seal::new("FILE", vec![rule], Some(key("k", 1)), Vec::new()));
    suite::run(&|| {
        let mut options = Options::new(DIR);
        options.segment_bytes = 1 << 20;
        options.snapshot_every_bytes = 1 << 20;
        options.seal = all.clone();
        threaded(options, SimDisk::new())
    });
}

/// Run with `--ignored --nocapture` for numbers.
#[test]
#[ignore = "a measurement"]
fn how_long_a_secret_of_1_kib_takes() {
    for (what, seal) in [("plain", Arc::new(Seal::none())), ("sealed", seal(&[key("k", 1)]))] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path());
        options.seal = seal.clone();
        let store = threaded(options, RealDisk);
        let value = "x".repeat(1024);
        let begun = Instant::now();
        for n in 0..1000 {
            set(&*store, &format!("{SECRETS_PREFIX}ns/{n}"), &value);
        }
        let each = begun.elapsed() / 1000;
        let bytes = Bytes::from(value);
        let begun = Instant::now();
        for _ in 0..10_000 {
            seal.seal(KEY, KEY.as_bytes(), &bytes).unwrap();
        }
        println!("{what}: {each:?} a commit, {:?} of it sealing", begun.elapsed() / 10_000);
    }
}
