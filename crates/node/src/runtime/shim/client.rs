//! A connection to the shim: what came in and is not whole yet, what has to go out and could not yet.
//!
//! Invariant: neither side of a connection can make the shim wait; one that takes nothing is dropped.

use crate::runtime::wire;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use sys::fd::{self, Interest};

/// Bytes that may wait for a client to take them.
const OUTPUT_BYTES_MAX: usize = wire::MESSAGE_BYTES_MAX + (1 << 20);

#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pub input: Vec<u8>,
    output: VecDeque<u8>,
    /// Descriptors that go with the next byte.
    fds: Vec<OwnedFd>,
    pub watching: bool,
    pub gone: bool,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Client {
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: vec![], output: VecDeque::new(), fds: vec![], watching: false, gone: false })
    }

    pub fn interest(&self) -> Interest {
        if self.output.is_empty() { Interest::Read } else { Interest::ReadWrite }
    }

    /// Reads what is there.
    pub fn receive(&mut self) {
        let mut chunk = [0u8; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.gone = true,
                Ok(n) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    if self.input.len() > wire::MESSAGE_BYTES_MAX + chunk.len() {
                        self.gone = true;
                    } else {
                        continue;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.gone = true,
            }
            return;
        }
    }

    /// Queues a message, with descriptors if it is the first to go, and sends what goes at once.
    pub fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        if self.output.len() + bytes.len() > OUTPUT_BYTES_MAX || (!fds.is_empty() && !self.output.is_empty())
        {
            self.gone = true;
            return;
        }
        for fd in fds {
            match fd::duplicate(fd) {
                Ok(copy) => self.fds.push(copy),
                Err(_) => self.gone = true,
            }
        }
        self.output.extend(bytes);
        self.flush();
    }

    /// Sends what the client takes.
    pub fn flush(&mut self) {
        while !self.gone && !self.output.is_empty() {
            let borrowed: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
            match fd::send_with_fds(&self.stream, self.output.make_contiguous(), &borrowed) {
                Ok(n) => {
                    self.fds.clear();
                    self.output.drain(..n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }
}
