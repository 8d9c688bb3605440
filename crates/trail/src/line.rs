//! Writing one line of the chain: hashed and handed to the disk as it comes, so that a line of any length costs a bounded
//! buffer.

use crate::chain::hex;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write};

/// What is gathered before the disk gets it; most lines are shorter and cost at most one write.
const BUFFER_BYTES: usize = 64 << 10;

pub struct LineWriter<'a> {
    file: &'a File,
    /// Lines before this one that the file does not have yet: it gets them first.
    waiting: &'a mut Vec<u8>,
    hasher: Sha256,
    /// The whole line without its newline, when it was short.
    pub buffer: Vec<u8>,
    /// Bytes of the line, without its newline.
    pub length: u64,
}

impl<'a> LineWriter<'a> {
    /// `buffer` is one to use again.
    pub fn new(file: &'a File, waiting: &'a mut Vec<u8>, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { file, waiting, hasher: Sha256::new(), buffer, length: 0 }
    }

    /// Writes the entry (see [`crate::chain::Entry`]) around an event; gives the line's hash. The entry of a record may wait,
    /// while there is little that does.
    ///
    /// # Errors
    /// The disk did not take all of it: the file may end with a part of a line.
    pub fn entry(
        &mut self,
        seq: u64,
        prev: &str,
        received: &str,
        record: Option<u64>,
        event: &mut dyn FnMut(&mut Self) -> io::Result<()>,
    ) -> io::Result<String> {
        // Neither hashes nor times have anything to escape.
        write!(self, "{{\"seq\":{seq},\"prev\":\"{prev}\",\"received\":\"{received}\"")?;
        if let Some(record) = record {
            write!(self, ",\"record\":{record}")?;
        }
        self.write_all(b",\"event\":")?;
        event(self)?;
        self.write_all(b"}")?;
        self.hasher.update(&self.buffer);
        self.buffer.push(b'\n');
        let whole = self.buffer.len() as u64 == self.length + 1;
        if record.is_some() && whole && self.waiting.len() + self.buffer.len() <= BUFFER_BYTES {
            self.waiting.extend_from_slice(&self.buffer);
        } else {
            self.spill()?;
        }
        self.buffer.pop();
        Ok(hex(&std::mem::take(&mut self.hasher).finalize()))
    }

    /// Writes what waits and what is gathered.
    fn spill(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return self.file.write_all(&self.buffer);
        }
        self.waiting.extend_from_slice(&self.buffer);
        self.file.write_all(self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.hasher.update(&self.buffer);
            self.spill()?;
            self.buffer.clear();
        }
        if bytes.len() > BUFFER_BYTES {
            self.hasher.update(bytes);
            self.file.write_all(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
