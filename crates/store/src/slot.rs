//! The place where a commit's result is left and waited for, without an async runtime.
//!
//! Invariant: a result is given at most once; the waiter of a result that is there is never asleep.

use crate::{CommitError, Committed};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

pub type Outcome = Result<Committed, CommitError>;

/// Shared between the committer and the future of one commit.
#[derive(Debug, Default)]
pub struct Slot(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Slot {
    /// Whether the result is there, and was not taken.
    pub fn is_complete(&self) -> bool {
        self.0.lock().outcome.is_some()
    }

    pub fn complete(&self, outcome: Outcome) {
        let waker = {
            let mut inner = self.0.lock();
            inner.outcome = Some(outcome);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The future of a commit.
pub struct Wait(pub Arc<Slot>);

impl Future for Wait {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut inner = self.0.0.lock();
        match inner.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                match &mut inner.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

/// Runs a future of the store on this thread until it is done, for programs and tests without a runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
