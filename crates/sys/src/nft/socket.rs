//! The netlink socket of the netfilter family.
//!
//! Invariant: the kernel works a request off inside the send call, so all of its answers are queued when that
//! returns; a socket stays in the network namespace that it was made in.

use super::attr::{HEADER_BYTES, walk};
use crate::error::{Error, Result, errno_text};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Room for a batch in flight and for its answers, in bytes: a whole table of 10,000 services fits.
const BUFFER_BYTES: libc::c_int = 64 << 20;
const RECEIVE_BYTES: usize = 64 * 1024;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A netlink socket for nf_tables and connection tracking.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket in the calling thread's network namespace. Needs CAP_NET_ADMIN there.
    pub fn open() -> Result<Self> {
        // SAFETY: plain integers; the returned descriptor is ours alone.
        let fd = unsafe {
            let fd =
                libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER);
            if fd < 0 {
                return Err(Error::last("open a netfilter socket"));
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = Self(fd);
        // Without the right to go beyond the system's limit (or on old kernels) smaller batches still work.
        socket.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_BYTES);
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES);
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
        // SAFETY: the pointer is to a live int and the length is its size.
        unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
    }

    pub(super) fn send(&self, bytes: &[u8], what: &str) -> Result<()> {
        // SAFETY: sockaddr_nl is plain data, all zero but the family (destination: the kernel); both pointers are to
        // live memory of the given lengths.
        let sent = unsafe {
            let mut to: libc::sockaddr_nl = std::mem::zeroed();
            to.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            libc::sendto(
                self.0.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(Error::last(format!("{what}: send {} bytes", bytes.len()))) } else { Ok(()) }
    }

    /// The next datagram, or `None` when nothing is queued.
    pub(super) fn receive(&self, buffer: &mut Vec<u8>) -> Result<Option<usize>> {
        buffer.resize(RECEIVE_BYTES, 0);
        // SAFETY: the pointer is to live memory of the given length.
        let got = unsafe {
            libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        if got >= 0 {
            return Ok(Some(got as usize));
        }
        let e = Error::last("read the kernel's answer");
        if e.errno == libc::EAGAIN { Ok(None) } else { Err(e) }
    }

    /// Sends a batch; the last message but the end carries no acknowledgement: silence is success, as the kernel
    /// reports every failed message.
    pub(super) fn transact(&self, bytes: &[u8], names: &[String]) -> Result<()> {
        let mut buffer = vec![];
        // Answers to an earlier batch that failed half read must not be taken for this one's.
        while self.receive(&mut buffer)?.is_some() {}
        self.send(bytes, "nf_tables batch")?;
        let mut failed: Option<Error> = None;
        let mut more = 0;
        while let Some(len) = self.receive(&mut buffer)? {
            for message in messages(&buffer[..len]) {
                let Some((errno, text)) = message.error() else { continue };
                if errno == 0 {
                    continue;
                }
                if failed.is_some() {
                    more += 1;
                    continue;
                }
                let name = names.get(message.sequence as usize).map_or("a message", String::as_str);
                let text = if text.is_empty() { String::new() } else { format!(" ({text})") };
                failed = Some(Error { what: format!("nf_tables: {name}{text}"), errno });
            }
        }
        match failed {
            None => Ok(()),
            Some(e) if more == 0 => Err(e),
            Some(e) => {
                let what =
                    format!("{}: {}, and {more} more of the batch failed", e.what, errno_text(e.errno));
                Err(Error { what, ..e })
            }
        }
    }
}

/// One received message.
pub(super) struct Message<'a> {
    pub kind: u16,
    flags: u16,
    pub sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    pub fn is_done(&self) -> bool {
        self.kind == DONE
    }

    /// The error number and the kernel's text, when this is an error or acknowledgement.
    pub fn error(&self) -> Option<(i32, String)> {
        const CAPPED: u16 = 0x100;
        const HAS_TEXT: u16 = 0x200;
        const HEADER: usize = 16;
        if self.kind != ERROR {
            return None;
        }
        let errno = -i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        let mut text = String::new();
        if self.flags & HAS_TEXT != 0 {
            let echoed = if self.flags & CAPPED != 0 {
                HEADER
            } else {
                let len: [u8; 4] = self.payload.get(4..8)?.try_into().ok()?;
                (u32::from_ne_bytes(len) as usize).next_multiple_of(4)
            };
            for (kind, data) in walk(self.payload.get(4 + echoed..).unwrap_or_default()) {
                if kind == 1 {
                    text = String::from_utf8_lossy(data).trim_end_matches('\0').to_owned();
                }
            }
        }
        Some((errno, text))
    }

    /// The attributes after the netfilter header.
    pub fn attrs(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        walk(self.payload.get(HEADER_BYTES - 16..).unwrap_or_default())
    }
}

/// The messages of a datagram.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..16)?;
        let number =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = number(0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let sequence = number(8);
        let payload = bytes.get(16..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, payload })
    })
}
