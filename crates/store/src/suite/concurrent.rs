//! Checks with many threads.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub fn compare_and_swap(factory: Factory) {
    const THREADS: usize = 64;
    const ROUNDS: u64 = 20;
    let s = factory();
    let b = s.revision();
    set(&*s, "/counter", "0");
    let wins = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut done = 0;
                let mut seen = s.get("/counter").unwrap();
                while done < ROUNDS {
                    let next = text(&seen.value).parse::<u64>().unwrap() + 1;
                    match commit(&*s, vec![put("/counter", &next.to_string(), Expect::At(seen.modified))]) {
                        Ok(c) => {
                            wins.fetch_add(1, Ordering::Relaxed);
                            done += 1;
                            let read = s.get("/counter").unwrap();
                            assert!(read.modified >= c.revision, "an own write was not read");
                            seen = read;
                        }
                        Err(CommitError::Conflict { current, .. }) => seen = current.unwrap(),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let total = THREADS as u64 * ROUNDS;
    assert_eq!(wins.load(Ordering::Relaxed), total);
    assert_eq!(text(&s.get("/counter").unwrap().value), total.to_string(), "an update was lost");
    assert_eq!(s.revision(), b + total + 1);
}

pub fn consistent_lists(factory: Factory) {
    let s = factory();
    let stop = AtomicBool::new(false);
    let both =
        |n: u64| vec![put("/two/a", &n.to_string(), Expect::Any), put("/two/b", &n.to_string(), Expect::Any)];
    commit(&*s, both(0)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let page = s.list(&Range { prefix: "/two/", ..Range::default() }).unwrap();
                    assert_eq!(page.entries[0].value, page.entries[1].value, "half a commit was shown");
                    assert_eq!(page.entries[0].modified, page.revision);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let now = s.revision();
                s.compact(now).unwrap();
            }
        });
        for n in 1..400 {
            commit(&*s, both(n)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

pub fn progress_is_honest(factory: Factory) {
    const EVENTS: u64 = 2000;
    let s = factory();
    let b = s.revision();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut watcher = s.watch("/k/", b).unwrap();
            scope.spawn(move || {
                let mut last = b;
                while last < b + EVENTS {
                    let covered = watcher.progress();
                    assert!(covered >= last, "progress went back");
                    let Watched::Events(events) = block_on(watcher.next()) else { panic!("it ended") };
                    assert!(
                        events[0].revision > covered,
                        "{} came after progress {covered}",
                        events[0].revision
                    );
                    last = events[events.len() - 1].revision;
                }
            });
        }
        let mut waiting = std::collections::VecDeque::new();
        for n in 0..EVENTS {
            waiting.push_back(s.commit(txn(vec![put(&format!("/k/{}", n % 9), "v", Expect::Any)])));
            // Sometimes one at a time, sometimes many.
            while waiting.len() as u64 > n % 7 {
                block_on(waiting.pop_front().unwrap()).unwrap();
            }
        }
        waiting.into_iter().for_each(|w| drop(block_on(w).unwrap()));
    });
}

pub fn thousand_watchers(factory: Factory) {
    const WATCHERS: usize = 1000;
    const EVENTS: usize = 50;
    let s = factory();
    let b = s.revision();
    let watchers: Vec<_> = (0..WATCHERS).map(|_| s.watch("/k/", b).unwrap()).collect();
    assert_eq!(s.stats().watchers, WATCHERS as u64);
    std::thread::scope(|scope| {
        // Few threads, each with many watchers, so that most of them sleep at any time.
        let mut rest = watchers;
        for _ in 0..4 {
            let mine = rest.split_off(rest.len().saturating_sub(WATCHERS / 4));
            scope.spawn(move || {
                for mut watcher in mine {
                    let lines = watching::collect(&mut *watcher, b, EVENTS);
                    assert_eq!(lines.len(), EVENTS);
                    assert!(lines.iter().enumerate().all(|(i, l)| l.starts_with(&format!("{} ", i + 1))));
                }
            });
        }
        for n in 0..EVENTS {
            set(&*s, &format!("/k/{n}"), "v");
        }
    });
    assert_eq!(s.stats().watchers, 0);
}
