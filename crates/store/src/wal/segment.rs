//! Segment files: their names and header.
//!
//! Invariant: a file with the name of segment N has the synced header of N, because the header is written and synced
//! under another name first. The header holds where the log stood, so that a segment cut short is noticed.

use super::codec::{Input, put_u64};
use super::frame::{Hash, Seed};
use crate::Revision;

/// Bytes before the first frame.
pub const HEADER_BYTES: u64 = 128;

const MAGIC: [u8; 8] = *b"TAFWAL02";

/// A segment's header: the log's position when it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub seed: Seed,
    pub start: Position,
    /// Size that the file was made with: a shorter one has lost its end.
    pub bytes: u64,
    /// Milliseconds since 1970, for people.
    pub made_ms: u64,
}

/// A point between two frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Number of the next frame.
    pub sequence: u64,
    pub revision: Revision,
    /// Hash of the frame before.
    pub hash: Hash,
}

impl Header {
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.seed.store);
        put_u64(&mut out, self.seed.segment);
        put_u64(&mut out, self.start.sequence);
        put_u64(&mut out, self.start.revision);
        out.extend_from_slice(&self.start.hash);
        put_u64(&mut out, self.bytes);
        put_u64(&mut out, self.made_ms);
        out.resize(HEADER_BYTES as usize - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn read(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES as usize)?;
        let (fields, crc) = bytes.split_at(HEADER_BYTES as usize - 4);
        if crc != crc32c::crc32c(fields).to_le_bytes() {
            return None;
        }
        let mut input = Input(fields);
        if input.array()? != MAGIC {
            return None;
        }
        let seed = Seed { store: input.array()?, segment: input.u64()? };
        let start = Position { sequence: input.u64()?, revision: input.u64()?, hash: input.array()? };
        Some(Header { seed, start, bytes: input.u64()?, made_ms: input.u64()? })
    }
}

/// What a file in the store's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Segment(u64),
    Snapshot(u64),
    /// A preallocated file waiting to be a segment.
    Free,
    /// An unfinished snapshot.
    Unfinished,
}

pub fn segment_name(number: u64) -> String {
    format!("wal-{number:016x}.log")
}

/// The snapshot that segment `number` continues.
pub fn snapshot_name(number: u64) -> String {
    format!("snap-{number:016x}.snap")
}

pub fn free_name(number: u64) -> String {
    format!("free-{number:016x}.log")
}

pub const UNFINISHED_NAME: &str = "snap.tmp";
pub const LOCK_NAME: &str = "LOCK";

pub fn kind(name: &str) -> Option<Kind> {
    let number = |prefix: &str, suffix: &str| {
        let hex = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        if hex.len() == 16 { u64::from_str_radix(hex, 16).ok() } else { None }
    };
    if name == UNFINISHED_NAME {
        return Some(Kind::Unfinished);
    }
    number("wal-", ".log")
        .map(Kind::Segment)
        .or_else(|| number("snap-", ".snap").map(Kind::Snapshot))
        .or_else(|| number("free-", ".log").map(|_| Kind::Free))
}
