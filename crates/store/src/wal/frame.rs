//! One frame of the log: a group of commits that became durable together.
//!
//! Layout: magic, body length (u32 each), sequence number, newest revision (u64 each), hash of the header of the frame
//! before (32 bytes), CRC32C of the body, CRC32C of all that (u32 each), body. The body: the lowest unfinished record number
//! (u64), then commits to the end.
//!
//! The hash says that a frame follows from that one and no other; that a body is whole is for its checksum to say, which the
//! header holds. Who could change a file could make new ones of either: it is the audit trail that tells of that.

use super::codec::{Commit, Input, put_u64};
use crate::Revision;
use sha2::{Digest, Sha256};

pub const HEADER_BYTES: usize = 64;

/// Starts a frame. The first byte occurs in no UTF-8 text, which makes the search for frames fast.
pub const MAGIC: [u8; 4] = [0xF5, b'T', b'F', b'2'];

/// SHA-256 of a frame's header, or what stands in for the frame before the first.
pub type Hash = [u8; 32];

/// What checksums in a segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub store: [u8; 16],
    pub segment: u64,
}

impl Seed {
    fn at(&self, offset: u64) -> u32 {
        let crc = crc32c::crc32c(&self.store);
        let crc = crc32c::crc32c_append(crc, &self.segment.to_le_bytes());
        crc32c::crc32c_append(crc, &offset.to_le_bytes())
    }
}

/// A frame's header that passed its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub body_bytes: u32,
    pub sequence: u64,
    pub revision: Revision,
    pub previous: Hash,
    body_crc: u32,
}

/// A frame's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Records below this number are finished.
    pub finished_below: u64,
    pub commits: Vec<Commit>,
}

/// A frame being put together: space for the header, then the body.
pub fn begin(buffer: &mut Vec<u8>, finished_below: u64) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    put_u64(buffer, finished_below);
}

/// Fills in the header; gives the hash for the next frame.
pub fn seal(
    buffer: &mut [u8],
    seed: Seed,
    offset: u64,
    sequence: u64,
    revision: Revision,
    previous: &Hash,
) -> Hash {
    let (header, body) = buffer.split_at_mut(HEADER_BYTES);
    header[0..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&revision.to_le_bytes());
    header[24..56].copy_from_slice(previous);
    header[56..60].copy_from_slice(&crc32c::crc32c_append(seed.at(offset), body).to_le_bytes());
    let crc = crc32c::crc32c_append(seed.at(offset), &header[..60]);
    header[60..64].copy_from_slice(&crc.to_le_bytes());
    hash(header)
}

/// The header at an offset, when there is one.
pub fn header(bytes: &[u8], seed: Seed, offset: u64) -> Option<Header> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    let mut input = Input(bytes);
    if input.array()? != MAGIC {
        return None;
    }
    let body_bytes = input.u32()?;
    let sequence = input.u64()?;
    let revision = input.u64()?;
    let previous = input.array()?;
    let body_crc = input.u32()?;
    let crc = input.u32()?;
    (crc == crc32c::crc32c_append(seed.at(offset), &bytes[..60])).then_some(Header {
        body_bytes,
        sequence,
        revision,
        previous,
        body_crc,
    })
}

impl Header {
    /// Whether the body is the one that was written with this header.
    pub fn matches(&self, body: &[u8], seed: Seed, offset: u64) -> bool {
        crc32c::crc32c_append(seed.at(offset), body) == self.body_crc
    }
}

pub fn hash(header: &[u8]) -> Hash {
    Sha256::digest(header).into()
}

/// The contents of a body that passed its checksum; `None` is a format that this version does not know.
pub fn body(bytes: &[u8]) -> Option<Body> {
    let mut input = Input(bytes);
    let finished_below = input.u64()?;
    let mut commits = Vec::new();
    while !input.0.is_empty() {
        commits.push(Commit::read(&mut input)?);
    }
    Some(Body { finished_below, commits })
}
