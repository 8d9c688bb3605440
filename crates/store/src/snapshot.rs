//! Snapshots: the newest values, the unfinished records and the log's position, in one file.
//!
//! Layout: magic, then chunks of length, CRC32C (seeded with the chunk's number) and payload: a header, entries,
//! records, an end with the counts. Invariant: a snapshot either reads back whole or is refused; a file with a
//! snapshot's final name was synced before it got the name. Backups have the same layout.

use crate::Revision;
use crate::disk::{Disk, DiskFile, Mode};
use crate::item::{Item, Version};
use crate::seal::{Seal, record_place};
use crate::view::View;
use crate::wal::codec::{Input, put_bytes, put_u64};
use crate::wal::segment::Position;
use bytes::Bytes;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"TAFSNAP1";
/// A chunk is written when it has this many bytes.
const CHUNK_BYTES: usize = 1 << 20;

const ENTRIES: u8 = 1;
const RECORDS: u8 = 2;
const END: u8 = 3;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub store: [u8; 16],
    /// The segment that goes on from here.
    pub segment: u64,
    pub position: Position,
    pub next_record: u64,
    /// Milliseconds since 1970, for people.
    pub made_ms: u64,
}

/// An unfinished record: its number, the revision of its commit, its bytes.
pub type Record = (u64, Revision, Bytes);

/// A snapshot in memory.
#[derive(Debug)]
pub struct Snapshot {
    pub header: Header,
    pub view: View,
    pub records: Vec<Record>,
}

/// Writes and syncs a new file. Without a seal the values are sealed already, or never are.
pub fn write(
    disk: &dyn Disk,
    path: &Path,
    header: &Header,
    view: &View,
    records: &[Record],
    seal: Option<&Seal>,
) -> io::Result<()> {
    let mut out =
        ChunkWriter { file: disk.open(path, Mode::Create)?, offset: 0, chunk: Vec::new(), number: 0 };
    out.file.write_at(&MAGIC, 0)?;
    out.offset = MAGIC.len() as u64;
    out.chunk.extend_from_slice(&header.store);
    put_u64(&mut out.chunk, header.segment);
    put_u64(&mut out.chunk, header.position.sequence);
    put_u64(&mut out.chunk, header.position.revision);
    out.chunk.extend_from_slice(&header.position.hash);
    put_u64(&mut out.chunk, header.next_record);
    put_u64(&mut out.chunk, header.made_ms);
    out.flush()?;

    let mut result = Ok(());
    view.tree.walk(b"", &mut |item| {
        let Some(value) = &item.newest.value else { return ControlFlow::Continue(()) };
        let sealed = match seal.map(|s| s.seal(&item.key, item.key.as_bytes(), value)) {
            None => value.clone(),
            Some(Ok(sealed)) => sealed,
            Some(Err(error)) => {
                result = Err(io::Error::other(error));
                return ControlFlow::Break(());
            }
        };
        out.begin(ENTRIES);
        put_bytes(&mut out.chunk, item.key.as_bytes());
        put_u64(&mut out.chunk, item.newest.created);
        put_u64(&mut out.chunk, item.newest.modified);
        put_bytes(&mut out.chunk, &sealed);
        result = out.flush_full();
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    result?;
    out.flush()?;
    for (number, revision, bytes) in records {
        let sealed = match seal {
            None => bytes.clone(),
            Some(seal) => seal.seal_record(&record_place(*number), bytes).map_err(io::Error::other)?,
        };
        out.begin(RECORDS);
        put_u64(&mut out.chunk, *number);
        put_u64(&mut out.chunk, *revision);
        put_bytes(&mut out.chunk, &sealed);
        out.flush_full()?;
    }
    out.flush()?;
    out.begin(END);
    put_u64(&mut out.chunk, view.tree.live());
    put_u64(&mut out.chunk, records.len() as u64);
    out.flush()?;
    out.file.sync_data()
}

/// Reads a snapshot; the inner error says where and why it is damaged.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Result<Snapshot, Damage>> {
    let file = disk.open(path, Mode::Read)?;
    let mut chunks = ChunkReader { size: file.size()?, file, offset: 0, number: 0, bytes: Vec::new() };
    if !chunks.magic()? {
        return Ok(Err(Damage { offset: 0, reason: "it is not a snapshot of this version" }));
    }
    let Some(header) = chunks.next()?.and_then(read_header) else {
        return Ok(Err(chunks.damage("its header does not match its checksum")));
    };
    let mut snapshot = Snapshot {
        view: View {
            revision: header.position.revision,
            compacted: header.position.revision,
            ..View::default()
        },
        header,
        records: Vec::new(),
    };
    loop {
        let Some(chunk) = chunks.next()? else {
            return Ok(Err(chunks.damage("the file ends early or a part does not match its checksum")));
        };
        let mut input = Input(chunk);
        let good = match input.u8() {
            Some(ENTRIES) => read_entries(&mut input, &mut snapshot.view),
            Some(RECORDS) => read_records(&mut input, &mut snapshot.records),
            Some(END) => {
                let counts = (snapshot.view.tree.live(), snapshot.records.len() as u64);
                let right = input.u64().zip(input.u64()) == Some(counts) && chunks.offset == chunks.size;
                return Ok(if right { Ok(snapshot) } else { Err(chunks.damage("its counts do not add up")) });
            }
            _ => None,
        };
        if good.is_none() {
            return Ok(Err(chunks.damage("a part has contents that this version does not know")));
        }
    }
}

/// Why a snapshot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub offset: u64,
    pub reason: &'static str,
}

fn read_header(chunk: &[u8]) -> Option<Header> {
    let mut input = Input(chunk);
    Some(Header {
        store: input.array()?,
        segment: input.u64()?,
        position: Position { sequence: input.u64()?, revision: input.u64()?, hash: input.array()? },
        next_record: input.u64()?,
        made_ms: input.u64()?,
    })
}

fn read_entries(input: &mut Input, view: &mut View) -> Option<()> {
    while !input.0.is_empty() {
        let key: Arc<str> = Arc::from(input.text()?);
        let (created, modified) = (input.u64()?, input.u64()?);
        let value = input.bytes()?;
        view.used_bytes += Item::version_bytes(&key, value.len());
        let newest = Version { modified, created, value: Some(value), older: None };
        view.tree.put(Arc::new(Item { key, newest }));
    }
    Some(())
}

fn read_records(input: &mut Input, records: &mut Vec<Record>) -> Option<()> {
    while !input.0.is_empty() {
        records.push((input.u64()?, input.u64()?, input.bytes()?));
    }
    Some(())
}

fn checksum(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}

struct ChunkWriter {
    file: Box<dyn DiskFile>,
    offset: u64,
    chunk: Vec<u8>,
    number: u64,
}

impl ChunkWriter {
    /// Makes sure that the chunk being built has this kind.
    fn begin(&mut self, kind: u8) {
        if self.chunk.is_empty() {
            self.chunk.push(kind);
        }
    }

    fn flush_full(&mut self) -> io::Result<()> {
        if self.chunk.len() < CHUNK_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(self.chunk.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&checksum(self.number, &self.chunk).to_le_bytes());
        self.file.write_at(&head, self.offset)?;
        self.file.write_at(&self.chunk, self.offset + 8)?;
        self.offset += 8 + self.chunk.len() as u64;
        self.number += 1;
        self.chunk.clear();
        Ok(())
    }
}

struct ChunkReader {
    file: Box<dyn DiskFile>,
    size: u64,
    offset: u64,
    number: u64,
    bytes: Vec<u8>,
}

impl ChunkReader {
    fn magic(&mut self) -> io::Result<bool> {
        let mut magic = [0; MAGIC.len()];
        if self.size < magic.len() as u64 {
            return Ok(false);
        }
        self.file.read_at(&mut magic, 0)?;
        self.offset = magic.len() as u64;
        Ok(magic == MAGIC)
    }

    /// The next chunk; `None` at the end or at one that is damaged.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.size - self.offset < 8 {
            return Ok(None);
        }
        let mut head = [0; 8];
        self.file.read_at(&mut head, self.offset)?;
        let mut input = Input(&head);
        let (Some(length), Some(crc)) = (input.u32(), input.u32()) else { return Ok(None) };
        if u64::from(length) > self.size - self.offset - 8 {
            return Ok(None);
        }
        self.bytes.resize(length as usize, 0);
        self.file.read_at(&mut self.bytes, self.offset + 8)?;
        if checksum(self.number, &self.bytes) != crc {
            return Ok(None);
        }
        self.offset += 8 + u64::from(length);
        self.number += 1;
        Ok(Some(&self.bytes))
    }

    fn damage(&self, reason: &'static str) -> Damage {
        Damage { offset: self.offset, reason }
    }
}
