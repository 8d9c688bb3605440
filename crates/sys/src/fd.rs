//! File descriptors: pipes, sockets that carry descriptors, polling.
//!
//! Invariant: every descriptor made here is close-on-exec.

use crate::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Most descriptors in one message.
pub const FDS_PER_MESSAGE_MAX: usize = 4;

/// A pipe: read end, write end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).what(|| "make a pipe".into())
}

/// A connected pair of unix stream sockets.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .what(|| "make a socket pair".into())
}

pub fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd).what(|| "read descriptor flags".into())?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).what(|| "make a descriptor non-blocking".into())
}

/// A second descriptor of the same open file.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).what(|| "duplicate a descriptor".into())
}

pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, buffer)?)
}

pub fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, bytes)?)
}

/// Sends bytes with descriptors attached to the first of them; returns how many bytes went.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes; descriptors that came with them are added to `fds`. 0 means that the other side has closed.
pub fn recv_with_fds(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let got = rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got.bytes)
}

/// Makes `uid` the owner of a pipe or terminal, so that a program that runs as that user can open it again through
/// `/dev/stdout`. Other files are left alone.
pub fn give_to(fd: impl AsFd, uid: u32) -> Result<()> {
    use rustix::fs::FileType;
    let stat = rustix::fs::fstat(&fd).what(|| "stat a stream".into())?;
    let terminal = rustix::termios::isatty(&fd);
    if !terminal && FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Ok(());
    }
    rustix::fs::fchown(&fd, Some(rustix::fs::Uid::from_raw(uid)), None)
        .what(|| "change owner of a stream".into())
}

/// The user id at the other end of a unix socket.
pub fn peer_uid(socket: impl AsFd) -> Result<u32> {
    let credentials =
        rustix::net::sockopt::socket_peercred(socket).what(|| "read peer credentials".into())?;
    Ok(credentials.uid.as_raw())
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Read,
    Write,
    ReadWrite,
    /// Only hang-up and error.
    Hangup,
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    pub read: bool,
    pub write: bool,
    pub hangup: bool,
}

/// Waits until a descriptor is ready or the time is over (`None`: for ever). One [`Ready`] per entry, in order.
/// An interrupting signal counts as nothing ready.
pub fn poll(entries: &[(BorrowedFd<'_>, Interest)], timeout: Option<Duration>) -> Result<Vec<Ready>> {
    let mut fds: Vec<PollFd<'_>> = entries
        .iter()
        .map(|(fd, interest)| {
            let flags = match interest {
                Interest::Read => PollFlags::IN,
                Interest::Write => PollFlags::OUT,
                Interest::ReadWrite => PollFlags::IN | PollFlags::OUT,
                Interest::Hangup => PollFlags::empty(),
            };
            PollFd::from_borrowed_fd(*fd, flags)
        })
        .collect();
    let timeout = timeout.map(|t| Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(vec![Ready::default(); entries.len()]),
        Err(e) => return Err(Error { what: "poll".into(), errno: e.raw_os_error() }),
    }
    Ok(fds
        .iter()
        .map(|p| {
            let r = p.revents();
            Ready {
                read: r.contains(PollFlags::IN),
                write: r.contains(PollFlags::OUT),
                hangup: r.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_travel_with_the_bytes() {
        let (a, b) = socket_pair().unwrap();
        let (read_end, write_end) = pipe().unwrap();
        assert_eq!(send_with_fds(&a, b"hello", &[write_end.as_fd()]).unwrap(), 5);
        drop(write_end);
        let mut buffer = [0u8; 16];
        let mut fds = vec![];
        assert_eq!(recv_with_fds(&b, &mut buffer, &mut fds).unwrap(), 5);
        assert_eq!(fds.len(), 1);
        std::fs::File::from(fds.remove(0)).write_all(b"x").unwrap();
        let mut got = String::new();
        std::fs::File::from(read_end).read_to_string(&mut got).unwrap();
        assert_eq!(got, "x");
    }

    #[test]
    fn poll_tells_hangup_from_data() {
        let (read_end, write_end) = pipe().unwrap();
        let zero = Some(Duration::ZERO);
        assert_eq!(poll(&[(read_end.as_fd(), Interest::Read)], zero).unwrap()[0], Ready::default());
        drop(write_end);
        assert!(poll(&[(read_end.as_fd(), Interest::Read)], zero).unwrap()[0].hangup);
    }
}
