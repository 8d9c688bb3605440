//! What every store must do, as a suite that takes any [`Store`]: one set of promises, however many backends.
//!
//! Each check gets an empty store from the factory, whose revision may be any (real etcd is not new for each), and
//! panics with what went wrong. Invariant: nobody but the check writes meanwhile.

#![allow(clippy::unwrap_used)]

mod concurrent;
mod watching;

use crate::*;
use bytes::Bytes;
use std::sync::Arc;

/// Makes an empty store.
pub type Factory<'a> = &'a dyn Fn() -> Arc<dyn Store>;

/// All checks with their names.
pub const CHECKS: &[(&str, fn(Factory))] = &[
    ("revisions grow by one", revisions),
    ("expectations decide", expectations),
    ("a failed expectation changes nothing", all_or_nothing),
    ("revisions are stamped into values", stamps),
    ("deletions carry their last value", deletions),
    ("lists are ordered, paged and counted", lists),
    ("pages of a past revision do not change", past_pages),
    ("compaction forgets the past only", compaction),
    ("records stay until they are finished", records),
    ("nonsense is refused", nonsense),
    ("a dropped future does not undo its commit", dropped_future),
    ("watchers see each change once, in order", watching::order),
    ("watchers see only their prefix", watching::prefixes),
    ("watchers start in the past and cannot start before the kept past", watching::starts),
    ("revisions are never split between batches", watching::whole_revisions),
    ("progress covers what is not watched", watching::progress),
    ("a cancelled wait loses nothing", watching::cancel),
    ("one of many writers wins each round", concurrent::compare_and_swap),
    ("readers see revisions whole while writers write", concurrent::consistent_lists),
    ("progress never runs ahead of events", concurrent::progress_is_honest),
    ("a thousand watchers see the same", concurrent::thousand_watchers),
];

/// Runs every check.
pub fn run(factory: Factory) {
    for (name, check) in CHECKS {
        println!("store suite: {name}");
        check(factory);
    }
}

/// A put of text without a stamp.
pub fn put(key: &str, value: &str, expect: Expect) -> Op {
    Op::Put { key: key.to_owned(), value: Stamped { bytes: value.into(), stamp: None }, expect }
}

pub fn delete(key: &str, expect: Expect) -> Op {
    Op::Delete { key: key.to_owned(), last: None, expect }
}

pub fn txn(ops: Vec<Op>) -> Txn {
    Txn { ops, record: None }
}

/// Waits for at least `count` events; gives each as a line, with its revision counted from `base`.
pub fn watch_lines(watcher: &mut dyn Watcher, base: Revision, count: usize) -> Vec<String> {
    watching::collect(watcher, base, count)
}

/// Commits and waits.
pub fn commit(store: &dyn Store, ops: Vec<Op>) -> Result<Committed, CommitError> {
    block_on(store.commit(txn(ops)))
}

/// Commits one put without conditions; gives the revision.
pub fn set(store: &dyn Store, key: &str, value: &str) -> Revision {
    commit(store, vec![put(key, value, Expect::Any)]).unwrap().revision
}

fn text(value: &Bytes) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// A listing as `key=value` words.
pub fn shown(store: &dyn Store, range: &Range) -> Vec<String> {
    store.list(range).unwrap().entries.iter().map(|e| format!("{}={}", e.key, text(&e.value))).collect()
}

fn revisions(factory: Factory) {
    let s = factory();
    let b = s.revision();
    assert_eq!(s.get("/a"), None);
    assert_eq!(set(&*s, "/a", "1"), b + 1);
    assert_eq!(set(&*s, "/a", "2"), b + 2);
    let done = commit(&*s, vec![put("/b", "1", Expect::Any), put("/c", "1", Expect::Any)]).unwrap();
    assert_eq!((done.revision, done.values.len(), done.record), (b + 3, 2, None));
    assert_eq!(commit(&*s, vec![]).unwrap().revision, b + 3);
    assert_eq!(commit(&*s, vec![delete("/none", Expect::Any)]).unwrap().revision, b + 3);
    assert_eq!(s.revision(), b + 3);
    let a = s.get("/a").unwrap();
    assert_eq!((a.created, a.modified, text(&a.value)), (b + 1, b + 2, "2".to_owned()));
}

fn expectations(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let conflict = |r: Result<Committed, CommitError>| match r {
        Err(CommitError::Conflict { op, current, .. }) => (op, current.map(|e| e.modified)),
        other => panic!("no conflict but {other:?}"),
    };
    assert_eq!(conflict(commit(&*s, vec![put("/a", "1", Expect::At(b + 1))])), (0, None));
    assert_eq!(conflict(commit(&*s, vec![delete("/a", Expect::At(b + 1))])), (0, None));
    commit(&*s, vec![put("/a", "1", Expect::Absent)]).unwrap();
    assert_eq!(conflict(commit(&*s, vec![put("/a", "2", Expect::Absent)])), (0, Some(b + 1)));
    assert_eq!(conflict(commit(&*s, vec![delete("/a", Expect::At(b + 7))])), (0, Some(b + 1)));
    commit(&*s, vec![put("/a", "2", Expect::At(b + 1))]).unwrap();
    assert_eq!(conflict(commit(&*s, vec![put("/a", "3", Expect::At(b + 1))])), (0, Some(b + 2)));
    commit(&*s, vec![delete("/a", Expect::At(b + 2))]).unwrap();
    let again = commit(&*s, vec![put("/a", "4", Expect::Absent)]).unwrap();
    assert_eq!(s.get("/a").unwrap().created, again.revision, "a key made again is new");
    // Against what is queued before; who lost can read what won.
    let first = s.commit(txn(vec![put("/q", "1", Expect::Absent)]));
    let second = s.commit(txn(vec![put("/q", "2", Expect::Absent)]));
    assert!(matches!(block_on(second), Err(CommitError::Conflict { .. })));
    assert!(s.get("/q").is_some());
    block_on(first).unwrap();
}

fn all_or_nothing(factory: Factory) {
    let s = factory();
    let b = s.revision();
    set(&*s, "/a", "1");
    let ops =
        vec![put("/b", "1", Expect::Absent), delete("/a", Expect::Any), put("/c", "1", Expect::At(b + 1))];
    let Err(CommitError::Conflict { op: 2, key, .. }) = commit(&*s, ops) else { panic!("it went through") };
    assert_eq!(key, "/c");
    assert_eq!(shown(&*s, &Range { prefix: "/", ..Range::default() }), ["/a=1"]);
    assert_eq!(s.revision(), b + 1);
}

fn stamps(factory: Factory) {
    let s = factory();
    let b = s.revision();
    set(&*s, "/pad", "x");
    let stamped = |text: &str, at| Stamped { bytes: text.into(), stamp: Some(at) };
    let op = |key: &str, value| Op::Put { key: key.to_owned(), value, expect: Expect::Any };
    let ops = vec![op("/a", stamped("rv=\"\"", 4)), op("/b", stamped("", 0)), op("/c", stamped("end", 3))];
    let done = commit(&*s, ops).unwrap();
    let values: Vec<_> = done.values.iter().map(text).collect();
    let rv = b + 2;
    assert_eq!(values, [format!("rv=\"{rv}\""), rv.to_string(), format!("end{rv}")]);
    assert_eq!(text(&s.get("/a").unwrap().value), values[0]);
}

fn deletions(factory: Factory) {
    let s = factory();
    let b = s.revision();
    set(&*s, "/a", "1");
    set(&*s, "/b", "2");
    let mut watcher = s.watch("/", s.revision()).unwrap();
    assert_eq!(text(&commit(&*s, vec![delete("/a", Expect::Any)]).unwrap().values[0]), "1");
    let last = Some(Stamped { bytes: b"gone at ".to_vec(), stamp: Some(8) });
    let done = commit(&*s, vec![Op::Delete { key: "/b".into(), last, expect: Expect::At(b + 2) }]).unwrap();
    assert_eq!(text(&done.values[0]), format!("gone at {}", b + 4));
    let lines = watching::collect(&mut *watcher, b, 2);
    assert_eq!(lines, ["3 del /a 1 was 1".to_owned(), format!("4 del /b gone at {} was 2", b + 4)]);
    assert_eq!(s.count("/"), 0);
    assert!(s.get_at("/b", b + 3).unwrap().is_some_and(|e| text(&e.value) == "2"));
}

fn lists(factory: Factory) {
    let s = factory();
    let b = s.revision();
    for key in ["/p/b", "/p/a", "/p/d", "/q/x", "/p/c", "/p", "/p0"] {
        set(&*s, key, "v");
    }
    commit(&*s, vec![delete("/p/c", Expect::Any)]).unwrap();
    let range = Range { prefix: "/p/", ..Range::default() };
    assert_eq!(shown(&*s, &range), ["/p/a=v", "/p/b=v", "/p/d=v"]);
    let first = s.list(&Range { limit: 2, ..range.clone() }).unwrap();
    assert_eq!((first.entries.len(), first.more, first.remaining, first.revision), (2, true, 1, b + 8));
    let rest = s.list(&Range { limit: 2, after: Some("/p/b"), ..range.clone() }).unwrap();
    assert_eq!((rest.entries.len(), rest.more, rest.remaining), (1, false, 0));
    let exact = s.list(&Range { limit: 3, ..range.clone() }).unwrap();
    assert_eq!((exact.more, exact.remaining), (false, 0));
    assert_eq!(shown(&*s, &Range { after: Some("/p/bb"), ..range.clone() }), ["/p/d=v"]);
    assert_eq!(shown(&*s, &Range { after: Some("/a"), ..range.clone() }).len(), 3);
    assert!(shown(&*s, &Range { after: Some("/q"), ..range }).is_empty());
    let counts: Vec<_> = ["/p/", "/p", "/q/", "", "/none/"].iter().map(|p| s.count(p)).collect();
    assert_eq!(counts, [3, 5, 1, 6, 0]);
    assert!(matches!(s.list(&Range { at: Some(b + 99), ..Range::default() }), Err(ReadError::Future { .. })));
}

fn past_pages(factory: Factory) {
    let s = factory();
    let b = s.revision();
    for n in 0..10 {
        set(&*s, &format!("/k/{n}"), "old");
    }
    let at = Some(s.revision());
    commit(&*s, vec![delete("/k/7", Expect::Any)]).unwrap();
    for key in ["/k/3", "/k/4x", "/k/9"] {
        set(&*s, key, "new");
    }
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = s.list(&Range { prefix: "/k/", after: after.as_deref(), limit: 3, at, bloom: 0 }).unwrap();
        assert_eq!(page.revision, b + 10);
        assert_eq!(page.remaining, 10 - seen.len() as u64 - page.entries.len() as u64);
        seen.extend(page.entries.iter().map(|e| format!("{}={}", e.key, text(&e.value))));
        after = page.entries.last().map(|e| e.key.to_string());
        if !page.more {
            break;
        }
    }
    let want: Vec<_> = (0..10).map(|n| format!("/k/{n}=old")).collect();
    assert_eq!(seen, want);
    assert_eq!(s.get_at("/k/4x", b + 10).unwrap(), None);
}

fn compaction(factory: Factory) {
    let s = factory();
    let b = s.revision();
    for n in 1..=6 {
        set(&*s, "/a", &n.to_string());
    }
    set(&*s, "/b", "stays");
    commit(&*s, vec![delete("/b", Expect::Any)]).unwrap();
    set(&*s, "/c", "never changes");
    assert!(matches!(s.compact(b + 99), Err(ReadError::Future { .. })));
    s.compact(b + 4).unwrap();
    assert_eq!(s.get_at("/a", b + 3), Err(ReadError::Compacted { asked: b + 3, oldest: b + 4 }));
    assert_eq!(text(&s.get_at("/a", b + 4).unwrap().unwrap().value), "4");
    assert_eq!(text(&s.get_at("/b", b + 7).unwrap().unwrap().value), "stays");
    s.compact(b + 9).unwrap();
    s.compact(b + 2).unwrap();
    assert_eq!(s.stats().compacted, b + 9);
    assert_eq!(shown(&*s, &Range { prefix: "/", ..Range::default() }), ["/a=6", "/c=never changes"]);
    assert_eq!(s.get("/a").unwrap().created, b + 1);
    assert!(matches!(
        s.list(&Range { at: Some(b + 8), ..Range::default() }),
        Err(ReadError::Compacted { .. })
    ));
}

fn records(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let with = |ops, record: &'static str| Txn { ops, record: Some(Bytes::from_static(record.as_bytes())) };
    let first = block_on(s.commit(with(vec![put("/a", "1", Expect::Any)], "one"))).unwrap();
    let alone = block_on(s.commit(with(vec![], "two"))).unwrap();
    // A record alone changes no key; the revision may grow by it all the same.
    assert_eq!(first.revision, b + 1);
    assert!(alone.revision >= first.revision);
    let refused = block_on(s.commit(with(vec![put("/a", "1", Expect::Absent)], "never")));
    assert!(refused.is_err());
    let kept = |s: &dyn Store| -> Vec<(Revision, String)> {
        s.unfinished_records().iter().map(|(_, r, b)| (*r, text(b))).collect()
    };
    assert_eq!(kept(&*s), [(first.revision, "one".to_owned()), (alone.revision, "two".to_owned())]);
    assert!(first.record < alone.record);
    s.finish_record(first.record.unwrap());
    s.finish_record(first.record.unwrap());
    s.finish_record(987_654);
    assert_eq!(kept(&*s), [(alone.revision, "two".to_owned())]);
}

fn nonsense(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let malformed = |ops| assert!(matches!(commit(&*s, ops), Err(CommitError::Malformed { .. })));
    malformed(vec![put("", "1", Expect::Any)]);
    malformed(vec![put("/a", "1", Expect::Any), delete("/a", Expect::Any)]);
    let value = Stamped { bytes: vec![], stamp: Some(1) };
    malformed(vec![Op::Put { key: "/a".into(), value, expect: Expect::Any }]);
    let huge = commit(&*s, vec![put("/a", &"x".repeat(64 << 20), Expect::Any)]);
    assert!(matches!(huge, Err(CommitError::TooLarge { .. })));
    assert_eq!(s.revision(), b);
}

fn dropped_future(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let mut watcher = s.watch("/a", b).unwrap();
    drop(s.commit(txn(vec![put("/a", "1", Expect::Any)])));
    watching::collect(&mut *watcher, b, 1);
    assert_eq!(s.get("/a").unwrap().modified, b + 1);
}
