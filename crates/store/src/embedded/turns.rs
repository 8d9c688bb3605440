//! Whose turn it is to commit: the thread for it, or the thread of who writes alone.
//!
//! Why: to hand a small commit to another thread and its answer back takes longer than what is between, but for the disk.
//! So while groups have one commit each and the disk is quick, the writer makes the group itself; as soon as commits come
//! together, or the disk takes its time (which must not hold up what else the writer's thread does), the thread makes them.
//!
//! Invariants: one commits at a time, and wakes nobody while he does; what was queued is committed even when its future is
//! dropped.

use super::Shared;
use super::committer::{Committer, Done, Guard};
use crate::slot::{Outcome, Slot, Wait};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Groups of one quick commit after which the next is made by its writer.
const ALONE_AFTER_GROUPS: u32 = 16;
/// A group that takes longer is not quick.
const QUICK_MAX: Duration = Duration::from_millis(2);

pub(crate) struct Turns {
    shared: Arc<Shared>,
    committer: Mutex<Committer>,
    /// Groups of one quick commit since there was another one.
    alone: AtomicU32,
}

impl Turns {
    pub fn new(shared: Arc<Shared>, committer: Committer) -> Arc<Self> {
        Arc::new(Self { shared, committer: Mutex::new(committer), alone: AtomicU32::new(0) })
    }

    /// The thread: commits until the store is closed.
    pub fn run(&self) {
        let _guard = Guard(&self.shared);
        loop {
            let closed = {
                let mut queue = self.shared.queue.lock();
                while !queue.has_waiting() && !queue.is_closed() {
                    self.shared.work.wait(&mut queue);
                }
                queue.is_closed() && !queue.has_waiting()
            };
            let mut committer = self.committer.lock();
            if committer.is_dead() {
                return;
            }
            if closed {
                committer.write_finished();
                return;
            }
            let done = self.group(&mut committer);
            drop(committer);
            if let Some(done) = done {
                done.tell(&self.shared);
            }
        }
    }

    /// The future of a queued commit.
    pub fn wait(self: &Arc<Self>, slot: Arc<Slot>) -> Commit {
        let own = self.alone.load(Ordering::Relaxed) >= ALONE_AFTER_GROUPS;
        if !own {
            self.shared.work.notify_one();
        }
        let turn = if own { Turn::Others } else { Turn::Thread };
        Commit { turns: self.clone(), slot: Wait(slot), turn }
    }

    /// Makes a group on the caller's thread, unless somebody else is at it.
    fn make(&self) -> bool {
        let _guard = Guard(&self.shared);
        let Some(mut committer) = self.committer.try_lock() else {
            self.alone.store(0, Ordering::Relaxed);
            return false;
        };
        let done = self.group(&mut committer);
        drop(committer);
        if let Some(done) = done {
            done.tell(&self.shared);
        }
        true
    }

    fn group(&self, committer: &mut Committer) -> Option<Done> {
        let begun = self.shared.clock.monotonic();
        let done = committer.group()?;
        let quick = self.shared.clock.monotonic().saturating_sub(begun) <= QUICK_MAX;
        let alone = self.alone.load(Ordering::Relaxed);
        let alone = if done.commits() == 1 && quick { alone.saturating_add(1) } else { 0 };
        self.alone.store(alone, Ordering::Relaxed);
        Some(done)
    }
}

/// Who makes the group of a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Its writer, after what else is ready on this thread had its turn and may have come into the group.
    Others,
    /// Its writer, now.
    Own,
    /// The thread, which knows of it.
    Thread,
}

/// A commit that is queued.
pub(crate) struct Commit {
    turns: Arc<Turns>,
    slot: Wait,
    turn: Turn,
}

impl Future for Commit {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.turn {
            Turn::Others => {
                self.turn = Turn::Own;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Turn::Own => {
                let slot = &self.slot.0;
                // Another's group may have had it already; one that is too large leaves it to the thread.
                if slot.is_complete() || (self.turns.make() && slot.is_complete()) {
                    self.turn = Turn::Thread;
                } else {
                    self.hand_over();
                }
            }
            Turn::Thread => {}
        }
        Pin::new(&mut self.slot).poll(cx)
    }
}

impl Commit {
    fn hand_over(&mut self) {
        if self.turn != Turn::Thread {
            self.turn = Turn::Thread;
            self.turns.shared.work.notify_one();
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.hand_over();
    }
}
