//! Checks of watches.

use super::*;
use std::task::{Context, Poll, Waker};

/// Waits for at least `count` events; gives each as a line, with its revision counted from `base`.
pub fn collect(watcher: &mut dyn Watcher, base: Revision, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        match block_on(watcher.next()) {
            Watched::Events(events) => lines.extend(events.iter().map(|e| line(e, base))),
            other => panic!("{other:?} after {lines:?}"),
        }
    }
    lines
}

fn line(event: &Event, base: Revision) -> String {
    let (what, value) = match &event.change {
        Change::Put(v) => ("put", v),
        Change::Delete(v) => ("del", v),
    };
    let was = event.previous.as_ref().map_or(String::new(), |p| format!(" was {}", text(p)));
    format!("{} {what} {} {}{was}", event.revision - base, event.key, text(value))
}

/// What one look at the watcher gives.
fn poll(watcher: &mut dyn Watcher) -> Option<Watched> {
    let mut next = watcher.next();
    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(found) => Some(found),
        Poll::Pending => None,
    }
}

pub fn order(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let mut watcher = s.watch("/", b).unwrap();
    set(&*s, "/a", "1");
    set(&*s, "/a", "2");
    commit(&*s, vec![delete("/a", Expect::Any), put("/b", "x", Expect::Any)]).unwrap();
    set(&*s, "/a", "3");
    let want = ["1 put /a 1", "2 put /a 2 was 1", "3 del /a 2 was 2", "3 put /b x", "4 put /a 3"];
    assert_eq!(collect(&mut *watcher, b, 5), want);
    assert!(poll(&mut *watcher).is_none());
    assert_eq!(watcher.progress(), b + 4);
    assert_eq!(s.stats().watchers, 1);
    drop(watcher);
    assert_eq!(s.stats().watchers, 0);
}

pub fn prefixes(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let prefixes = ["", "/", "/r/pods/", "/r/pods/ns/", "/r/pods/ns/a", "/r/po", "/r/pods", "nothing"];
    let mut watchers: Vec<_> = prefixes.iter().map(|p| (p, s.watch(p, b).unwrap())).collect();
    let keys = ["/r/pods/ns/a", "/r/pods/ns/ab", "/r/pods/other/a", "/r/podsets/x", "/x", "plain"];
    for key in keys {
        set(&*s, key, "v");
    }
    for (prefix, watcher) in &mut watchers {
        let want: Vec<_> = keys
            .iter()
            .enumerate()
            .filter(|(_, k)| k.starts_with(**prefix))
            .map(|(i, k)| format!("{} put {k} v", i + 1))
            .collect();
        assert_eq!(collect(&mut **watcher, b, want.len()), want, "under {prefix:?}");
        assert!(poll(&mut **watcher).is_none());
    }
}

pub fn starts(factory: Factory) {
    let s = factory();
    let b = s.revision();
    for n in 1..=5 {
        set(&*s, &format!("/k/{n}"), "v");
    }
    let late = collect(&mut *s.watch("/k/", b + 3).unwrap(), b, 2);
    assert_eq!(late, ["4 put /k/4 v", "5 put /k/5 v"]);
    // Another watcher of the prefix, further back.
    let mut here = s.watch("/k/", b + 5).unwrap();
    let early = collect(&mut *s.watch("/k/", b + 1).unwrap(), b, 4);
    assert_eq!(early.len(), 4);
    assert!(poll(&mut *here).is_none());
    assert!(matches!(s.watch("/k/", b + 6), Err(ReadError::Future { .. })));

    let mut behind = s.watch("/k/", b).unwrap();
    let mut elsewhere = s.watch("/other/", b).unwrap();
    s.compact(b + 4).unwrap();
    assert!(matches!(s.watch("/k/", b + 2), Err(ReadError::Compacted { .. })));
    assert_eq!(collect(&mut *s.watch("/k/", b + 3).unwrap(), b, 2), late);
    assert!(matches!(poll(&mut *behind), Some(Watched::Lagged { .. })));
    set(&*s, "/other/x", "v");
    assert_eq!(collect(&mut *elsewhere, b, 1), ["6 put /other/x v"], "nothing of its prefix was forgotten");
    assert!(poll(&mut *here).is_none());
}

pub fn whole_revisions(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let mut watcher = s.watch("/k/", b).unwrap();
    for round in 0..5 {
        let ops = (0..400).map(|n| put(&format!("/k/{round}/{n:03}"), "v", Expect::Any)).collect();
        commit(&*s, ops).unwrap();
    }
    let mut seen = 0;
    while seen < 2000 {
        let Watched::Events(events) = block_on(watcher.next()) else { panic!("it ended") };
        assert_eq!(events.len() % 400, 0, "a revision was split");
        seen += events.len();
    }
    assert_eq!(seen, 2000);
}

pub fn progress(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let mut watcher = s.watch("/k/", b).unwrap();
    set(&*s, "/other", "v");
    assert_eq!(watcher.progress(), b + 1);
    set(&*s, "/k/a", "v");
    assert_eq!(watcher.progress(), b, "an event waits");
    collect(&mut *watcher, b, 1);
    set(&*s, "/other", "w");
    assert_eq!(watcher.progress(), b + 3);
}

pub fn cancel(factory: Factory) {
    let s = factory();
    let b = s.revision();
    let mut watcher = s.watch("/k/", b).unwrap();
    for n in 1..=20 {
        assert!(poll(&mut *watcher).is_none());
        drop(watcher.next());
        set(&*s, "/k/a", "v");
        let events = collect(&mut *watcher, b, 1);
        assert_eq!(events.len(), 1);
        assert!(events[0].starts_with(&format!("{n} ")));
    }
}
