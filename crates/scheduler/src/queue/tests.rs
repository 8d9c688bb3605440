//! Cases of [`super`].

use super::*;
use base::clock::{Clock, ManualClock};
use serde_json::json;

struct Bench {
    queue: Queue,
    clock: ManualClock,
}

fn pod(name: &str, priority: i32) -> Arc<Pod> {
    let meta = json!({"name": name, "uid": name, "namespace": "n"});
    Arc::new(
        serde_json::from_value(json!({"metadata": meta, "spec": {"containers": [], "priority": priority}}))
            .unwrap(),
    )
}

fn changed(name: &str, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut p = (*pod(name, 0)).clone();
    change(&mut p);
    Arc::new(p)
}

impl Bench {
    fn new() -> Self {
        Self { queue: Queue::default(), clock: ManualClock::new(jiff::Timestamp::UNIX_EPOCH) }
    }

    fn put(&mut self, pod: Arc<Pod>) {
        self.queue.put(pod, self.clock.monotonic());
    }

    fn pop(&mut self) -> Option<String> {
        let now = self.clock.monotonic();
        let ready = self.queue.is_ready(now);
        let popped = self.queue.pop(now).and_then(|p| p.metadata.name.clone());
        assert_eq!(ready, popped.is_some());
        popped
    }

    fn unschedulable(&mut self, name: &str) {
        self.queue.unschedulable(name, false, self.clock.monotonic());
    }

    fn moved(&mut self, hint: Hint) {
        self.queue.moved(hint, self.clock.monotonic());
    }

    fn wait(&self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
    }
}

#[test]
fn important_first_then_oldest() {
    let mut b = Bench::new();
    b.put(pod("old", 0));
    b.wait(1);
    b.put(pod("young", 0));
    b.put(pod("urgent", 10));
    let order: Vec<_> = std::iter::from_fn(|| b.pop()).collect();
    assert_eq!(order, ["urgent", "old", "young"]);
}

#[test]
fn unschedulable_pods_wait_for_a_change_or_five_minutes() {
    let mut b = Bench::new();
    b.put(pod("a", 0));
    assert_eq!(b.pop().as_deref(), Some("a"));
    b.unschedulable("a");
    b.wait(2_000);
    assert_eq!(b.pop(), None);
    b.moved(Hint::Neighbour);
    assert_eq!(b.pop(), None);
    b.moved(Hint::Room);
    assert_eq!(b.pop().as_deref(), Some("a"));
    b.unschedulable("a");
    b.wait(299_999);
    assert_eq!(b.pop(), None);
    assert_eq!(b.queue.next_wake(), Some(Duration::from_secs(302)));
    b.wait(1);
    assert_eq!(b.pop().as_deref(), Some("a"));
}

#[test]
fn errors_back_off_doubling_up_to_ten_seconds() {
    let mut b = Bench::new();
    b.put(pod("a", 0));
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert_eq!(b.pop().as_deref(), Some("a"), "before {seconds}");
        b.queue.failed("a", b.clock.monotonic());
        b.wait(seconds * 1000 - 1);
        assert_eq!(b.pop(), None, "before the end of {seconds}");
        b.wait(1);
    }
    assert_eq!(b.pop().as_deref(), Some("a"));
}

#[test]
fn pods_that_back_off_come_after_all_others() {
    let mut b = Bench::new();
    b.put(pod("a", 5));
    b.pop();
    b.unschedulable("a");
    b.moved(Hint::Room);
    b.put(pod("b", 0));
    assert_eq!(b.pop().as_deref(), Some("b"));
    assert_eq!(b.pop().as_deref(), Some("a"));
}

#[test]
fn changes_while_a_pod_is_placed_are_not_missed() {
    let mut b = Bench::new();
    b.put(pod("a", 0));
    b.pop();
    b.moved(Hint::Room);
    b.moved(Hint::Neighbour);
    b.unschedulable("a");
    b.wait(1_000);
    assert_eq!(b.pop().as_deref(), Some("a"));
}

#[test]
fn own_status_changes_nothing_but_the_spec_does() {
    let mut b = Bench::new();
    b.put(pod("a", 0));
    b.pop();
    b.unschedulable("a");
    b.wait(1_000);
    b.put(changed("a", |p| p.status = Some(Default::default())));
    assert_eq!(b.pop(), None);
    b.put(changed("a", |p| p.metadata.labels = Some([("k".to_owned(), "v".to_owned())].into())));
    assert_eq!(b.pop().as_deref(), Some("a"));
}

#[test]
fn gates_hold_until_the_last_is_gone() {
    let mut b = Bench::new();
    let gate = || vec![serde_json::from_value(json!({"name": "g"})).unwrap()];
    b.put(changed("a", |p| p.spec.as_mut().unwrap().scheduling_gates = Some(gate())));
    b.moved(Hint::Room);
    assert_eq!(b.pop(), None);
    b.put(pod("a", 0));
    assert_eq!(b.pop().as_deref(), Some("a"));
    b.queue.remove("a");
    b.unschedulable("a");
    assert!(b.queue.uids().is_empty() && b.queue.next_wake().is_none());
}
