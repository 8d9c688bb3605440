//! What the runtime and a pod's shim say to each other over the shim's socket.
//!
//! One message is a length (four bytes, little endian) and JSON; descriptors travel beside the first byte of an
//! answer. A connection carries one request and its answer, but for [`Request::Watch`], whose answers go on.
//! Invariant: every request names the protocol's version, and a shim refuses a version that it does not know, since a
//! newer program meets the shims of an older one.

use super::{ContainerSpec, ContainerState, ExecSpec};
use serde::{Deserialize, Serialize};
use std::io;

/// Version of the messages below. Variants and optional fields may be added without a new version.
pub const VERSION: u32 = 1;
/// The largest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// What a shim is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Start(Box<ContainerSpec>),
    /// Stop signal now, SIGKILL after the grace; answered when the container has ended.
    Stop {
        id: String,
        grace_seconds: u64,
    },
    /// Forgets a container that has ended and removes its files.
    Remove {
        id: String,
    },
    State,
    Exec(ExecSpec),
    /// Answered when the command has ended.
    ExecWait {
        exec_id: String,
    },
    /// Ends a command.
    ExecKill {
        exec_id: String,
    },
    Attach {
        id: String,
    },
    /// Of an exec, an attach or a container.
    Resize {
        exec_id: String,
        columns: u16,
        rows: u16,
    },
    ReopenLog {
        id: String,
    },
    /// Container ids, as something happens to them.
    Watch,
    /// Ends all processes and the shim.
    Shutdown,
}

/// A request as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub version: u32,
    pub request: Request,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    State(Vec<ContainerState>),
    Started(ContainerState),
    /// Which streams came with the message, in this order.
    Streams {
        exec_id: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Exited(i32),
    Event(String),
    Failed {
        why: String,
        container_fault: bool,
    },
}

/// A request's bytes.
pub fn request(request: Request) -> io::Result<Vec<u8>> {
    encode(&Envelope { version: VERSION, request })
}

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too large"));
    }
    let mut out = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
    out.extend_from_slice(&body);
    Ok(out)
}

/// Takes a whole message off the front of a buffer; `None` while it is not all there.
pub fn take<T: for<'de> Deserialize<'de>>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
    }
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_or_not_at_all() {
        let bytes = encode(&Answer::Exited(7)).unwrap();
        let mut buffer = bytes[..5].to_vec();
        assert!(take::<Answer>(&mut buffer).unwrap().is_none());
        buffer.extend_from_slice(&bytes[5..]);
        buffer.extend_from_slice(b"\x01");
        assert!(matches!(take(&mut buffer).unwrap(), Some(Answer::Exited(7))));
        assert_eq!(buffer, b"\x01");
        let mut huge = u32::MAX.to_le_bytes().to_vec();
        assert!(take::<Answer>(&mut huge).is_err());
        let mut nonsense = b"\x02\0\0\0{]".to_vec();
        assert!(take::<Answer>(&mut nonsense).is_err());
    }
}
