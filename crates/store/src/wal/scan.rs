//! Reading a segment: frames one after the other up to the first that is not one, and what lies behind that.
//!
//! Invariant: the bodies handed out are exactly an unbroken chain from the start; a valid frame header after the end
//! of the chain is always reported, because it proves that frames before it were synced and are damaged now.

use super::frame::{self, Body, Seed};
use super::segment::{self, Header, Position};
use crate::disk::DiskFile;
use std::io;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// Where a segment's chain of frames ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The first byte after the last good frame.
    pub offset: u64,
    pub position: Position,
    pub frames: u64,
    pub rest: Rest,
}

/// What follows the last good frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing of this segment's.
    Nothing,
    /// A frame whose header is whole and whose body is not: a write that a crash interrupted. In bytes.
    Torn(u64),
    /// Damage.
    Bad(String),
}

/// A segment's header, or why it is not one.
pub fn read_header(file: &dyn DiskFile) -> io::Result<Result<Header, &'static str>> {
    if file.size()? < segment::HEADER_BYTES {
        return Ok(Err("the file is shorter than a segment's header"));
    }
    let mut bytes = [0; segment::HEADER_BYTES as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(Header::read(&bytes).ok_or("the segment's header does not match its checksum"))
}

/// Hands out the frames of a segment in order.
pub fn scan(file: &dyn DiskFile, header: &Header, each: &mut dyn FnMut(Body)) -> io::Result<End> {
    let mut window = Window { file, size: file.size()?, start: 0, bytes: Vec::new() };
    let mut end =
        End { offset: segment::HEADER_BYTES, position: header.start, frames: 0, rest: Rest::Nothing };
    loop {
        match next(&mut window, header.seed, &end)? {
            Next::Frame { body, position, offset } => {
                each(body);
                end = End { offset, position, frames: end.frames + 1, rest: Rest::Nothing };
            }
            Next::Broken(reason) => {
                end.rest = Rest::Bad(reason);
                return Ok(end);
            }
            Next::None { torn_bytes } => {
                let short = window.size < header.bytes;
                end.rest = match later_frame(&mut window, header.seed, end.offset + 1)? {
                    None if short => Rest::Bad(format!(
                        "the file has {} bytes and was made with {}: its end is lost",
                        window.size, header.bytes
                    )),
                    Some(at) => Rest::Bad(format!("it is damaged, and a good record follows at byte {at}")),
                    None if torn_bytes > 0 => Rest::Torn(torn_bytes),
                    None => Rest::Nothing,
                };
                return Ok(end);
            }
        }
    }
}

enum Next {
    Frame {
        body: Body,
        position: Position,
        offset: u64,
    },
    /// A frame that is whole but does not belong here.
    Broken(String),
    None {
        torn_bytes: u64,
    },
}

fn next(window: &mut Window, seed: Seed, end: &End) -> io::Result<Next> {
    let at = end.offset;
    let Some(head) = window.get(at, frame::HEADER_BYTES)? else {
        return Ok(Next::None { torn_bytes: 0 });
    };
    let Some(header) = frame::header(head, seed, at) else {
        return Ok(Next::None { torn_bytes: 0 });
    };
    let total = frame::HEADER_BYTES + header.body_bytes as usize;
    let Some(bytes) = window.get(at, total)? else {
        return Ok(Next::None { torn_bytes: total as u64 });
    };
    let (head, body_bytes) = bytes.split_at(frame::HEADER_BYTES);
    if !header.matches(body_bytes, seed, at) {
        return Ok(Next::None { torn_bytes: total as u64 });
    }
    if header.sequence != end.position.sequence || header.previous != end.position.hash {
        return Ok(Next::Broken("it does not follow from the record before it".to_owned()));
    }
    let Some(body) = frame::body(body_bytes) else {
        return Ok(Next::Broken(
            "its checksum is right but its contents are not known to this version".to_owned(),
        ));
    };
    let hash = frame::hash(head);
    let position = Position { sequence: header.sequence + 1, revision: header.revision, hash };
    Ok(Next::Frame { body, position, offset: at + total as u64 })
}

/// The first valid frame header from an offset on.
fn later_frame(window: &mut Window, seed: Seed, from: u64) -> io::Result<Option<u64>> {
    let mut at = from;
    loop {
        let length = (window.size.saturating_sub(at) as usize).min(WINDOW_BYTES);
        if length < frame::HEADER_BYTES {
            return Ok(None);
        }
        let Some(bytes) = window.get(at, length)? else { return Ok(None) };
        // Headers that begin in the last bytes of this piece are seen in the next.
        let usable = length - frame::HEADER_BYTES + 1;
        let mut searched = 0;
        while let Some(found) = bytes[searched..usable].iter().position(|b| *b == frame::MAGIC[0]) {
            let offset = at + (searched + found) as u64;
            if frame::header(&bytes[searched + found..], seed, offset).is_some() {
                return Ok(Some(offset));
            }
            searched += found + 1;
        }
        at += usable as u64;
    }
}

/// A part of the file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Bytes at an offset; `None` beyond the end of the file.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(length as u64).filter(|e| *e <= self.size) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let take = (self.size - offset).min(length.max(WINDOW_BYTES) as u64) as usize;
            self.bytes.resize(take, 0);
            self.start = offset;
            self.file.read_at(&mut self.bytes, offset)?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + length))
    }
}
