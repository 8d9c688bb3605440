//! The announcements of a store, with a bounded buffer per subscriber.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Announcements that a subscriber may be behind; beyond, they are replaced by one resync.
pub const CAPACITY: usize = 4096;

/// A difference between two states of a store: `old` absent is an addition, `new` absent a deletion.
#[derive(Debug)]
pub struct Change<T> {
    pub old: Option<Arc<T>>,
    pub new: Option<Arc<T>>,
}

impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        Self { old: self.old.clone(), new: self.new.clone() }
    }
}

impl<T> Change<T> {
    /// The newest state known: of a deleted object, its last.
    pub fn latest(&self) -> Option<&Arc<T>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Event<T> {
    Applied(Arc<T>),
    Deleted(Arc<T>),
    /// Announcements were left out: look at the whole store. Also the first event of a subscription.
    Resync,
}

struct Buffer<T> {
    queue: Mutex<Queue<T>>,
    wake: Notify,
}

struct Queue<T> {
    changes: VecDeque<Change<T>>,
    resync: bool,
    closed: bool,
}

/// The subscribers of a store.
pub(super) struct Topic<T>(Mutex<Vec<Weak<Buffer<T>>>>);

impl<T> Default for Topic<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Topic<T> {
    pub(super) fn subscribe(&self) -> Subscription<T> {
        let queue = Mutex::new(Queue { changes: VecDeque::new(), resync: true, closed: false });
        let buffer = Arc::new(Buffer { queue, wake: Notify::new() });
        self.0.lock().push(Arc::downgrade(&buffer));
        Subscription(buffer)
    }

    pub(super) fn publish(&self, change: Change<T>) {
        self.0.lock().retain(|weak| {
            let Some(buffer) = weak.upgrade() else { return false };
            {
                let mut q = buffer.queue.lock();
                if q.changes.len() >= CAPACITY {
                    q.changes.clear();
                    q.resync = true;
                } else {
                    q.changes.push_back(change.clone());
                }
            }
            buffer.wake.notify_one();
            true
        });
    }
}

impl<T> Drop for Topic<T> {
    fn drop(&mut self) {
        for buffer in self.0.lock().iter().filter_map(Weak::upgrade) {
            buffer.queue.lock().closed = true;
            buffer.wake.notify_one();
        }
    }
}

/// The changes of a store from the moment of subscription on.
pub struct Subscription<T>(Arc<Buffer<T>>);

impl<T> Subscription<T> {
    /// The next event; `None` when the store is gone. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Event<T>> {
        Some(match self.next_change().await? {
            None => Event::Resync,
            Some(Change { new: Some(new), .. }) => Event::Applied(new),
            Some(Change { old: Some(old), .. }) => Event::Deleted(old),
            Some(_) => Event::Resync,
        })
    }

    /// As [`Self::next`] with the state before; the inner `None` is the resync marker.
    pub async fn next_change(&mut self) -> Option<Option<Change<T>>> {
        loop {
            {
                let mut q = self.0.queue.lock();
                if std::mem::take(&mut q.resync) {
                    return Some(None);
                }
                if let Some(change) = q.changes.pop_front() {
                    return Some(Some(change));
                }
                if q.closed {
                    return None;
                }
            }
            self.0.wake.notified().await;
        }
    }
}
