//! Connection tracking: finding and forgetting flows.
//!
//! A UDP flow that was sent to a removed endpoint would go on to be sent there for as long as it sends; deleting its
//! entry makes its next packet choose anew.

use super::attr::{self, Attrs, walk};
use super::socket::messages;
use super::{Family, Socket};
use crate::error::{Error, Result};
use std::net::IpAddr;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// As the sender sent it.
    pub original: Tuple,
    /// As the answers come: its source is who really answers.
    pub reply: Tuple,
    /// The original tuple as the kernel gave it, and the entry's id: names the entry to delete.
    raw: (Vec<u8>, Vec<u8>),
}

/// The flows of a family for which `wanted` holds. Reads the whole table of the namespace once.
pub fn flows(socket: &Socket, family: Family, mut wanted: impl FnMut(&Flow) -> bool) -> Result<Vec<Flow>> {
    let mut request = vec![];
    attr::message(&mut request, GET, DUMP, 1, family.number(), 0, &Attrs::new());
    let mut buffer = vec![];
    while socket.receive(&mut buffer)?.is_some() {}
    socket.send(&request, "list connection tracking")?;
    let mut found = vec![];
    // The kernel fills one datagram per read until it says that it is done.
    while let Some(len) = socket.receive(&mut buffer)? {
        for message in messages(&buffer[..len]) {
            if message.is_done() {
                return Ok(found);
            }
            if let Some((errno, text)) = message.error() {
                return Err(Error { what: format!("list connection tracking {text}"), errno });
            }
            found.extend(parse(&message).filter(&mut wanted));
        }
    }
    Ok(found)
}

/// Deletes a flow's entry; one that is gone already is success.
pub fn delete(socket: &Socket, family: Family, flow: &Flow) -> Result<()> {
    let mut request = vec![];
    let attrs = Attrs::new().nest(TUPLE_ORIGINAL, Attrs(flow.raw.0.clone())).bytes(ID, &flow.raw.1);
    attr::message(&mut request, DELETE, ACK, 1, family.number(), 0, &attrs);
    socket.send(&request, "delete a tracked flow")?;
    let mut buffer = vec![];
    while let Some(len) = socket.receive(&mut buffer)? {
        for message in messages(&buffer[..len]) {
            match message.error() {
                Some((0 | libc::ENOENT, _)) | None => {}
                Some((errno, text)) => {
                    return Err(Error { what: format!("delete a tracked flow {text}"), errno });
                }
            }
        }
    }
    Ok(())
}

fn parse(message: &super::socket::Message<'_>) -> Option<Flow> {
    let (mut original, mut reply, mut raw, mut id) = (None, None, vec![], vec![]);
    for (kind, data) in message.attrs() {
        match kind {
            TUPLE_ORIGINAL => {
                original = tuple(data);
                raw = data.to_vec();
            }
            TUPLE_REPLY => reply = tuple(data),
            ID => id = data.to_vec(),
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, raw: (raw, id) })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination, mut protocol, mut ports) = (None, None, None, (0, 0));
    for (kind, data) in walk(bytes) {
        for (inner, value) in walk(data) {
            match (kind, inner) {
                (1, 1 | 3) => source = address(value),
                (1, 2 | 4) => destination = address(value),
                (2, 1) => protocol = value.first().copied(),
                (2, 2) => ports.0 = port(value),
                (2, 3) => ports.1 = port(value),
                _ => {}
            }
        }
    }
    Some(Tuple {
        source: source?,
        destination: destination?,
        protocol: protocol?,
        source_port: ports.0,
        destination_port: ports.1,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn port(bytes: &[u8]) -> u16 {
    bytes.get(..2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}
