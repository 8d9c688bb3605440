//! Tests against a real etcd server, whose program is named by `TAFFRAIL_TEST_ETCD`; skipped without it.

mod server;

use super::*;
use crate::suite::{self, commit, delete, put, set};
use bytes::Bytes;
use server::Server;

fn options(server: &Server) -> EtcdOptions {
    let mut options = EtcdOptions::new(server.config(), "one");
    options.scope = String::new();
    options.compact_every = None;
    options.fatal = Arc::new(|reason| panic!("{reason}"));
    options
}

fn open(server: &Server) -> Arc<Etcd> {
    Etcd::open(options(server)).unwrap()
}

fn named(server: &Server, identity: &str) -> Arc<Etcd> {
    Etcd::open(EtcdOptions { identity: identity.to_owned(), ..options(server) }).unwrap()
}

/// Keys as they are in production.
fn scoped(server: &Server, identity: &str) -> Arc<Etcd> {
    let scope = "/registry/".to_owned();
    Etcd::open(EtcdOptions { identity: identity.to_owned(), scope, ..options(server) }).unwrap()
}

/// Tries until it is true, for ten seconds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn object(name: &str, data: &str) -> Stamped {
    let head =
        format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","resourceVersion":""#);
    let bytes = format!(r#"{head}"}},"data":{{"a":"{data}"}}}}"#).into_bytes();
    Stamped { bytes, stamp: Some(head.len()) }
}

fn put_object(name: &str, data: &str, expect: Expect) -> Op {
    Op::Put { key: format!("/registry/configmaps/{name}"), value: object(name, data), expect }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn suite_on_etcd() {
    let Some(server) = Server::start() else { return };
    suite::run(&|| {
        server.wipe();
        open(&server)
    });
}

#[test]
fn objects_are_stored_so_that_others_can_read_them() {
    let Some(server) = Server::start() else { return };
    let store = scoped(&server, "one");
    let done = commit(&*store, vec![put_object("a", "x", Expect::Absent)]).unwrap();
    let raw = server.raw("/registry/configmaps/a").unwrap();
    assert_eq!(text(&raw), String::from_utf8(object("a", "x").bytes).unwrap());
    let shown = store.get("/registry/configmaps/a").unwrap();
    assert_eq!(shown.modified, done.revision);
    assert!(text(&shown.value).contains(&format!(r#""resourceVersion":"{}""#, done.revision)));
    assert_eq!(done.values[0], shown.value);
    // Written by somebody else, who leaves the member out.
    server.put_raw(
        "/registry/configmaps/b",
        r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"b"}}"#,
    );
    let now = block_on(store.reach(None)).unwrap();
    let want = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"resourceVersion":"{now}","name":"b"}}}}"#
    );
    assert_eq!(text(&store.get("/registry/configmaps/b").unwrap().value), want);
    assert!(matches!(
        commit(&*store, vec![put("/elsewhere", "x", Expect::Any)]),
        Err(CommitError::Malformed { .. })
    ));
}

#[test]
fn two_stores_show_the_same_in_the_same_order() {
    const EACH: u64 = 300;
    let Some(server) = Server::start() else { return };
    let stores = [scoped(&server, "one"), scoped(&server, "two")];
    let base = block_on(stores[0].reach(None)).unwrap();
    block_on(stores[1].reach(Some(base))).unwrap();
    let mut watchers: Vec<_> = stores.iter().map(|s| s.watch("/registry/", base).unwrap()).collect();
    std::thread::scope(|scope| {
        for (who, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for n in 0..EACH {
                    let name = format!("{}", n % 7);
                    let key = format!("/registry/configmaps/{name}");
                    let op = match store.get(&key) {
                        Some(e) if n % 5 == 4 => {
                            let last = Some(object(&name, "last words"));
                            Op::Delete { key, last, expect: Expect::At(e.modified) }
                        }
                        _ => put_object(&name, &format!("{who}.{n}"), Expect::Any),
                    };
                    let record = Some(Bytes::from_static(b"record"));
                    match block_on(store.commit(Txn { ops: vec![op], record })) {
                        Ok(done) => store.finish_record(done.record.unwrap()),
                        Err(CommitError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let end = commit(&*stores[1], vec![put_object("end", "", Expect::Any)]).unwrap().revision;
    assert!(block_on(stores[0].reach(None)).unwrap() >= end);
    let mut seen = [Vec::new(), Vec::new()];
    for (watcher, seen) in watchers.iter_mut().zip(&mut seen) {
        while seen.last().is_none_or(|e: &Arc<Event>| e.revision < end) {
            let Watched::Events(events) = block_on(watcher.next()) else { panic!("it ended") };
            seen.extend(events.iter().cloned());
        }
    }
    assert!(seen[0].len() > 400, "{}", seen[0].len());
    assert!(seen[0].is_sorted_by_key(|e| e.revision));
    assert_eq!(seen[0], seen[1]);
    let deletions = seen[0].iter().filter_map(|e| match &e.change {
        Change::Delete(last) => Some((e.revision, text(last))),
        Change::Put(_) => None,
    });
    for (revision, last) in deletions {
        assert!(last.contains("last words") && last.contains(&format!(r#":"{revision}""#)), "{last}");
    }
    let list = |s: &Etcd| s.list(&Range { prefix: "/registry/", at: Some(end), ..Range::default() }).unwrap();
    assert_eq!(list(&stores[0]), list(&stores[1]));
}

#[test]
fn a_store_sees_what_another_wrote_when_it_asks() {
    let Some(server) = Server::start() else { return };
    let (one, two) = (scoped(&server, "one"), scoped(&server, "two"));
    for n in 0..50 {
        let op = vec![put_object("a", &n.to_string(), Expect::Any)];
        let revision = commit(&*one, op).unwrap().revision;
        // Changes beside the watched keys must not keep it waiting.
        server.put_raw("/zzz", "x");
        assert!(block_on(two.reach(None)).unwrap() > revision);
        assert_eq!(two.get("/registry/configmaps/a").unwrap().modified, revision);
    }
    let future = two.revision() + 1000;
    assert!(block_on(two.reach(Some(future))).unwrap() < future);
    // A stale expectation is a conflict with the newest entry, which can then be read.
    let stale = two.get("/registry/configmaps/a").unwrap().modified;
    let newest = commit(&*one, vec![put_object("a", "newest", Expect::Any)]).unwrap().revision;
    let lost = commit(&*two, vec![put_object("a", "late", Expect::At(stale))]);
    let Err(CommitError::Conflict { current: Some(current), .. }) = lost else { panic!("{lost:?}") };
    assert_eq!(current.modified, newest);
    assert_eq!(two.get("/registry/configmaps/a"), Some(current));
}

#[test]
fn a_restarted_etcd_is_survived() {
    let Some(mut server) = Server::start() else { return };
    let store = open(&server);
    let base = store.revision();
    let mut watcher = store.watch("/k/", base).unwrap();
    set(&*store, "/k/a", "1");
    server.kill();
    eventually("the loss is told", || store.problem().is_some());
    assert!(block_on(store.reach(None)).is_err());
    assert_eq!(text(&store.get("/k/a").unwrap().value), "1", "reads go on");
    // Sent while nobody is there, done when somebody is.
    let waiting = store.commit(suite::txn(vec![put("/k/a", "2", Expect::At(base + 1))]));
    server.restart();
    assert_eq!(block_on(waiting).unwrap().revision, base + 2);
    set(&*store, "/k/b", "3");
    let lines = suite::watch_lines(&mut *watcher, base, 3);
    assert_eq!(lines, ["1 put /k/a 1", "2 put /k/a 2 was 1", "3 put /k/b 3"]);
    assert_eq!(store.problem(), None);
}

#[test]
fn what_was_compacted_while_away_is_read_anew() {
    let Some(mut server) = Server::start() else { return };
    let store = scoped(&server, "one");
    let kept = commit(&*store, vec![put_object("kept", "", Expect::Any)]).unwrap().revision;
    commit(&*store, vec![put_object("gone", "", Expect::Any)]).unwrap();
    let mut watcher = store.watch("/registry/", store.revision()).unwrap();
    server.kill();
    // While this store cannot reach it, another changes and compacts.
    let main = server.move_away();
    server.restart();
    let other = scoped(&server, "two");
    commit(&*other, vec![delete("/registry/configmaps/gone", Expect::Any)]).unwrap();
    let last = commit(&*other, vec![put_object("new", "", Expect::Any)]).unwrap().revision;
    server.compact(last);
    server.kill();
    drop(other);
    server.move_back(main);
    server.restart();
    assert!(matches!(block_on(watcher.next()), Watched::Lagged { .. }));
    block_on(store.reach(None)).unwrap();
    let page = store.list(&Range { prefix: "/registry/", ..Range::default() }).unwrap();
    let keys: Vec<_> = page.entries.iter().map(|e| (&*e.key, e.modified)).collect();
    assert_eq!(keys, [("/registry/configmaps/kept", kept), ("/registry/configmaps/new", last)]);
    assert!(matches!(store.get_at("/registry/configmaps/gone", kept + 1), Err(ReadError::Compacted { .. })));
    set(&*store, "/registry/x", "goes on");
}

#[test]
fn a_new_start_goes_on_with_the_past() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let base = store.revision();
    for n in 1..=5 {
        set(&*store, "/k/a", &n.to_string());
    }
    drop(store);
    let store = open(&server);
    assert_eq!(text(&store.get_at("/k/a", base + 2).unwrap().unwrap().value), "2");
    let lines = suite::watch_lines(&mut *store.watch("/k/", base + 3).unwrap(), base, 2);
    assert_eq!(lines, ["4 put /k/a 4 was 3", "5 put /k/a 5 was 4"]);
}

#[test]
fn records_outlive_their_server() {
    let Some(server) = Server::start() else { return };
    let with = |store: &Etcd, record: &'static str| {
        let txn = Txn {
            ops: vec![put("/a", record, Expect::Any)],
            record: Some(Bytes::from_static(record.as_bytes())),
        };
        block_on(store.commit(txn)).unwrap().record.unwrap()
    };
    let kept = |store: &Etcd| -> Vec<String> {
        store.unfinished_records().iter().map(|(_, _, b)| text(b)).collect()
    };
    let one = named(&server, "one");
    let first = with(&one, "first");
    let second = with(&one, "second");
    one.finish_record(first);
    let two = named(&server, "two");
    assert!(kept(&two).is_empty(), "the other is still there");
    drop(two);
    drop(one);
    let one = named(&server, "one");
    assert_eq!(kept(&one), ["second"]);
    assert_eq!(one.unfinished_records()[0].0, second, "its number changed");
    drop(one);
    let two = named(&server, "two");
    assert_eq!(kept(&two), ["second"], "its server is gone");
    two.finish_record(second);
    drop(two);
    assert!(kept(&named(&server, "one")).is_empty());
}

#[test]
fn one_of_several_compacts() {
    let Some(server) = Server::start() else { return };
    let fast = |identity: &str| {
        let mut options = options(&server);
        options.identity = identity.to_owned();
        options.compact_every = Some(Duration::from_millis(300));
        Etcd::open(options).unwrap()
    };
    let (one, two) = (fast("one"), fast("two"));
    let old = set(&*one, "/a", "1");
    for n in 0..10 {
        set(&*one, "/a", &n.to_string());
    }
    for store in [&one, &two] {
        eventually("both forget", || matches!(store.get_at("/a", old), Err(ReadError::Compacted { .. })));
    }
    let text = text(&server.raw(keys::COMPACT_KEY).unwrap());
    assert!(text.parse::<u64>().unwrap() > old, "upstream's key has {text}");
}

#[test]
fn limits_are_told_as_they_are() {
    let Some(server) =
        Server::start_with(&["--quota-backend-bytes", "2000000", "--max-request-bytes", "100000"])
    else {
        return;
    };
    let store = open(&server);
    let large = commit(&*store, vec![put("/a", &"x".repeat(2 << 20), Expect::Any)]);
    assert!(matches!(large, Err(CommitError::TooLarge { limit: 1_572_864, .. })), "{large:?}");
    let large = commit(&*store, vec![put("/a", &"x".repeat(200_000), Expect::Any)]);
    assert!(matches!(large, Err(CommitError::TooLarge { .. })), "{large:?}");
    let full = (0..100)
        .find_map(|n| commit(&*store, vec![put(&format!("/{n}"), &"x".repeat(90_000), Expect::Any)]).err());
    assert!(matches!(full, Some(CommitError::NoSpace { .. })), "{full:?}");
    commit(&*store, vec![delete("/0", Expect::Any)]).unwrap();
    assert!(store.get("/0").is_none());
}

#[test]
fn dead_and_silent_endpoints_are_passed_over() {
    let Some(server) = Server::start() else { return };
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(&server);
    options.request_timeout = Duration::from_secs(3);
    let silent = format!("http://{}", silent.local_addr().unwrap());
    options.config.endpoints.splice(0..0, [format!("http://127.0.0.1:{}", server::free_port()), silent]);
    let store = Etcd::open(options).unwrap();
    set(&*store, "/a", "1");
    assert!(store.get("/a").is_some());
}

#[test]
fn a_silent_etcd_is_told_while_readers_wait_and_when_it_is_over() {
    let Some(server) = Server::start() else { return };
    let options = EtcdOptions { request_timeout: Duration::from_secs(1), ..options(&server) };
    let store = Etcd::open(options).unwrap();
    commit(&*store, vec![put("/a", "x", Expect::Any)]).unwrap();
    server.signal(rustix::process::Signal::STOP);
    let begun = std::time::Instant::now();
    while store.problem().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(25), "silence is not told");
        // Two wait for each other's question; neither waits twice as long, and both ask the watch for progress.
        let asked = std::time::Instant::now();
        let (one, two) = (store.reach(None), store.reach(None));
        assert!(block_on(one).is_err() && block_on(two).is_err());
        assert!(asked.elapsed() < Duration::from_millis(1900), "{:?}", asked.elapsed());
    }
    server.signal(rustix::process::Signal::CONT);
    eventually("it is over", || store.problem().is_none() && block_on(store.reach(None)).is_ok());
    commit(&*store, vec![put("/b", "x", Expect::Absent)]).unwrap();
}

#[test]
fn a_member_of_three_may_fail() {
    let Some(mut members) = Server::start_three() else { return };
    let mut options = options(&members[0]);
    options.config.endpoints = members.iter().flat_map(|m| m.config().endpoints).collect();
    let store = Etcd::open(options).unwrap();
    let base = store.revision();
    let mut watcher = store.watch("/k/", base).unwrap();
    let mut told = 0;
    for (round, member) in members.iter_mut().enumerate() {
        for n in 0..20 {
            told += 1;
            // While members fail, what became of a commit may be unknown; then it is looked up.
            let value = format!("{round}.{n}");
            while let Err(error) = commit(&*store, vec![put("/k/a", &value, Expect::Any)]) {
                assert!(matches!(error, CommitError::Unavailable { .. }), "{error}");
            }
            if n == 10 {
                member.kill();
            }
        }
        member.restart();
    }
    block_on(store.reach(None)).unwrap();
    assert_eq!(text(&store.get("/k/a").unwrap().value), "2.19");
    let mut values = Vec::new();
    while values.last().is_none_or(|v| v != "2.19") {
        let Watched::Events(events) = block_on(watcher.next()) else { panic!("it ended") };
        assert!(events.is_sorted_by_key(|e| e.revision));
        values.extend(events.iter().filter_map(|e| match &e.change {
            Change::Put(value) => Some(text(value)),
            Change::Delete(_) => None,
        }));
    }
    values.dedup();
    assert_eq!(values.len(), told, "each value once, but for repeated commits");
}

#[test]
fn closing_answers_everybody() {
    let Some(mut server) = Server::start() else { return };
    let store = open(&server);
    let mut watcher = store.watch("/", store.revision()).unwrap();
    let last = store.commit(suite::txn(vec![put("/a", "1", Expect::Any)]));
    let reached = store.reach(None);
    block_on(last).unwrap();
    block_on(reached).unwrap();
    server.kill();
    let stuck = store.commit(suite::txn(vec![put("/a", "2", Expect::Any)]));
    let behind = store.commit(suite::txn(vec![put("/a", "3", Expect::Any)]));
    store.close();
    for outcome in [block_on(stuck), block_on(behind)] {
        assert!(matches!(outcome, Err(CommitError::Closed | CommitError::Unavailable { .. })), "{outcome:?}");
    }
    assert_eq!(commit(&*store, vec![]), Err(CommitError::Closed));
    assert!(block_on(store.reach(None)).is_err());
    while !matches!(block_on(watcher.next()), Watched::Closed) {}
}

#[test]
fn a_long_history_comes_in_parts() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let base = store.revision();
    let value = "v".repeat(700_000);
    for n in 0..12 {
        // Two keys of one revision, which a part's end may stand between.
        let both = ["a", "b"].map(|k| put(&format!("/k/{k}{n}"), &value, Expect::Any));
        commit(&*store, both.to_vec()).unwrap();
    }
    drop(store);
    let mut options = options(&server);
    options.backlog_revisions = 20;
    let store = Etcd::open(options).unwrap();
    let mut watcher = store.watch("/k/", base).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 24 {
        let Watched::Events(events) = block_on(watcher.next()) else { panic!("it ended") };
        seen.extend(events.iter().map(|e| e.revision - base));
    }
    assert_eq!(seen, (1..=12).flat_map(|n| [n, n]).collect::<Vec<_>>());
}

#[test]
fn clusters_with_prefixes_do_not_meet() {
    let Some(server) = Server::start() else { return };
    let under = |prefix: &str| {
        let mut options = options(&server);
        options.scope = "/registry/".to_owned();
        options.config.prefix = prefix.to_owned();
        Etcd::open(options).unwrap()
    };
    let (red, blue) = (under("/red"), under("/blue"));
    let revision = commit(&*red, vec![put_object("a", "red", Expect::Absent)]).unwrap().revision;
    commit(&*blue, vec![put_object("a", "blue", Expect::Absent)]).unwrap();
    assert!(block_on(red.reach(None)).unwrap() > revision);
    assert_eq!(red.get("/registry/configmaps/a").unwrap().modified, revision);
    assert_eq!((red.count(""), blue.count("")), (1, 1));
    assert!(server.raw("/red/registry/configmaps/a").is_some());
}

#[test]
fn a_backup_is_etcds_own_snapshot() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    set(&*store, "/a", "1");
    let to = server.path("backup.db");
    store.backup(&to).unwrap();
    assert!(std::fs::metadata(&to).unwrap().len() > 10_000);
    assert!(store.backup(&to).is_err(), "a file was written over");
}

#[test]
fn tls_needs_the_right_certificates() {
    let Some(server) = Server::start_tls() else { return };
    let store = open(&server);
    set(&*store, "/a", "over TLS");
    assert_eq!(text(&store.get("/a").unwrap().value), "over TLS");
    // Renewed files are read at the next connection; a missing endpoint is passed over.
    let mut failover = options(&server);
    failover.config.endpoints.insert(0, format!("https://127.0.0.1:{}", server::free_port()));
    assert_eq!(text(&Etcd::open(failover).unwrap().get("/a").unwrap().value), "over TLS");
    let fails = |change: &dyn Fn(&mut EtcdConfig)| {
        let mut options = options(&server);
        options.request_timeout = Duration::from_secs(1);
        change(&mut options.config);
        Etcd::open(options).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let anonymous = fails(&|c| (c.cert_file, c.key_file) = (None, None));
    assert!(anonymous.contains("cannot be opened"), "{anonymous}");
    let stranger = fails(&|c| c.ca_file = Some(server.path("other-ca.pem")));
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    let missing = fails(&|c| c.ca_file = Some(server.path("none.pem")));
    assert!(missing.contains("none.pem"), "{missing}");
}

#[test]
fn secrets_are_sealed_in_etcd_and_wrong_keys_are_refused() {
    use crate::seal::{Key, Seal};
    let Some(server) = Server::start() else { return };
    let key = |name: &str, byte: u8| Arc::new(Key::aesgcm(name, &[byte; 32]).unwrap());
    let sealed = |keys: Vec<Arc<Key>>| {
        let seal = Arc::new(Seal::under(&["/registry/secrets/"], "the file encryption.key", keys));
        Etcd::open(EtcdOptions { scope: "/registry/".to_owned(), seal, ..options(&server) })
    };
    let name = "/registry/secrets/ns/a";
    let secret = |data: &str, expect| Op::Put { key: name.to_owned(), value: object("a", data), expect };
    let store = sealed(vec![key("k1", 1)]).unwrap();
    let txn =
        Txn { ops: vec![secret("hunter2", Expect::Absent)], record: Some(Bytes::from_static(b"hunter2")) };
    let done = block_on(store.commit(txn)).unwrap();
    assert!(
        text(&done.values[0]).contains("hunter2")
            && text(&store.get(name).unwrap().value).contains("hunter2")
    );
    let raw = server.raw(name).unwrap();
    assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:k1:"), "{raw:?}");
    // As upstream opens it: bound to the key in etcd.
    let plain = Seal::under(&["/registry/secrets/"], "", vec![key("k1", 1)])
        .open(name, name.as_bytes(), &raw)
        .unwrap();
    assert_eq!(text(&plain), String::from_utf8(object("a", "hunter2").bytes).unwrap());
    // What loses learns the plain value.
    let Err(CommitError::Conflict { current: Some(current), .. }) =
        commit(&*store, vec![secret("x", Expect::Absent)])
    else {
        panic!("no conflict")
    };
    assert!(text(&current.value).contains("hunter2"));
    drop(store);
    let whole = std::fs::read(backup_of(&server)).unwrap();
    assert!(!whole.windows(7).any(|w| w == b"hunter2"));

    let why = sealed(vec![key("k2", 2)]).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("\"k1\"") && why.contains("the file encryption.key"), "{why}");
    let store = sealed(vec![key("k2", 2), key("k1", 1)]).unwrap();
    let records = store.unfinished_records();
    assert_eq!(text(&records[0].2), "hunter2");
    store.finish_record(records[0].0);
    store.close();
    // Without the record too, be it that the value is listed or that the watch brings it.
    let begun = std::time::Instant::now();
    let why = sealed(vec![key("k2", 2)]).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains(name) && why.contains("\"k1\""), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for what does not come");
    let store = sealed(vec![key("k2", 2), key("k1", 1)]).unwrap();
    let mut watcher = store.watch("/registry/secrets/", store.revision()).unwrap();
    let now = store.get(name).unwrap().modified;
    commit(&*store, vec![secret("hunter3", Expect::At(now))]).unwrap();
    assert!(server.raw(name).unwrap().starts_with(b"k8s:enc:aesgcm:v1:k2:"));
    let last = Some(object("a", "hunter4, deleted"));
    commit(&*store, vec![Op::Delete { key: name.to_owned(), last, expect: Expect::Any }]).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let Watched::Events(events) = block_on(watcher.next()) else { panic!("the watch ended") };
        seen.extend(events.iter().cloned());
    }
    let Change::Put(value) = &seen[0].change else { panic!("no put") };
    assert!(text(value).contains("hunter3"));
    let Change::Delete(value) = &seen[1].change else { panic!("no deletion") };
    assert!(text(value).contains("hunter4"));
    drop(store);
    let whole = std::fs::read(backup_of(&server)).unwrap();
    assert!(!whole.windows(6).any(|w| w == b"hunter"));
}

/// A snapshot of everything in etcd.
fn backup_of(server: &Server) -> std::path::PathBuf {
    let elsewhere =
        EtcdOptions { identity: "another".to_owned(), scope: "/nothing/".to_owned(), ..options(server) };
    let store = Etcd::open(elsewhere).unwrap();
    let file = server.path(&format!("backup-{}", store.revision()));
    store.backup(&file).unwrap();
    file
}
