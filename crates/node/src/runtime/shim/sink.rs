//! A pipe to somebody who may be slow or gone: what does not go at once waits, within a bound.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use sys::error::Result;
use sys::fd;

/// From this many waiting bytes on, a sink is full: its source is not read any more.
const FULL_BYTES: usize = 256 << 10;
/// How long a full sink may hold up the others before it is dropped.
const STALLED_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    /// Since when nothing went, while something waits.
    stalled_since: Option<Duration>,
    pub broken: bool,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> Result<Self> {
        fd::set_nonblocking(&fd)?;
        Ok(Self { fd, queue: VecDeque::new(), stalled_since: None, broken: false })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.queue.len() >= FULL_BYTES
    }

    pub fn stalls_at(&self) -> Option<Duration> {
        self.stalled_since.map(|since| since + STALLED_MAX)
    }

    pub fn push(&mut self, bytes: &[u8], now: Duration) {
        if self.broken {
            return;
        }
        self.queue.extend(bytes);
        self.flush(now);
    }

    /// Writes what goes.
    pub fn flush(&mut self, now: Duration) {
        while self.waits() && !self.broken {
            match fd::write(&self.fd, self.queue.make_contiguous()) {
                Ok(n) => {
                    self.queue.drain(..n);
                    self.stalled_since = None;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.stalled_since.get_or_insert(now);
                    return;
                }
                Err(_) => self.broken = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_waits_and_stalls() {
        let (read_end, write_end) = fd::pipe().unwrap();
        let mut sink = Sink::new(write_end).unwrap();
        let (start, later) = (Duration::from_secs(1), Duration::from_secs(2));
        sink.push(&vec![b'x'; 400 << 10], start);
        assert!(sink.is_full());
        assert_eq!(sink.stalls_at(), Some(start + STALLED_MAX));
        let mut taken = vec![0; 1 << 20];
        let n = fd::read(&read_end, &mut taken).unwrap();
        assert!(n > 0);
        sink.flush(later);
        assert_eq!(sink.stalls_at(), Some(later + STALLED_MAX));
        drop(read_end);
        sink.flush(later);
        assert!(sink.broken);
    }
}
