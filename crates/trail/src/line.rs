//! Writing one line of the chain: hashed and handed to the disk as it comes, so that a line of any length costs a bounded
//! buffer.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write};

/// What is gathered before the disk gets it; most lines are shorter and cost at most one write. In larger writes the file system
/// takes its memory in larger pieces: 1.1 us for a line of 4 KiB instead of 2 us at 64 KiB.
const BUFFER_BYTES: usize = 256 << 10;

pub struct LineWriter<'a> {
    file: &'a File,
    /// Lines that the file does not have yet, then what is gathered of this one.
    gathered: &'a mut Vec<u8>,
    /// How much of `gathered` is hashed, or is none of this line.
    hashed: usize,
    hasher: Sha256,
    /// The file has what was gathered, or a part of it.
    pub spilled: bool,
    /// Bytes of the line, without its newline.
    pub length: u64,
}

impl<'a> LineWriter<'a> {
    pub fn new(file: &'a File, gathered: &'a mut Vec<u8>) -> Self {
        let hashed = gathered.len();
        Self { file, gathered, hashed, hasher: Sha256::new(), spilled: false, length: 0 }
    }

    /// Writes the entry (see [`crate::chain::Entry`]) around an event; gives the line's hash. The entry of a record may wait,
    /// while there is little that does.
    ///
    /// # Errors
    /// The event cannot be told: what is gathered of it is to be taken away, unless something is spilled. Then the disk may not
    /// have taken all of it, and the file may end with a part of a line.
    pub fn entry(
        &mut self,
        seq: u64,
        prev: &str,
        received: &str,
        record: Option<u64>,
        event: &mut dyn FnMut(&mut Self) -> io::Result<()>,
    ) -> io::Result<String> {
        // Neither hashes nor times have anything to escape.
        let record_member = record.map_or_else(String::new, |r| format!(",\"record\":{r}"));
        let head = format!(
            "{{\"seq\":{seq},\"prev\":\"{prev}\",\"received\":\"{received}\"{record_member},\"event\":"
        );
        self.write_all(head.as_bytes())?;
        event(self)?;
        self.write_all(b"}")?;
        self.hasher.update(&self.gathered[self.hashed..]);
        self.gathered.push(b'\n');
        if record.is_none() || self.spilled || self.gathered.len() > BUFFER_BYTES {
            self.spill()?;
        }
        Ok(HEXLOWER.encode(&std::mem::take(&mut self.hasher).finalize()))
    }

    /// Writes what is gathered.
    fn spill(&mut self) -> io::Result<()> {
        self.spilled = true;
        self.file.write_all(self.gathered)?;
        self.gathered.clear();
        self.hashed = 0;
        Ok(())
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.gathered.len() + bytes.len() > BUFFER_BYTES {
            self.hasher.update(&self.gathered[self.hashed..]);
            self.spill()?;
        }
        if bytes.len() > BUFFER_BYTES {
            self.hasher.update(bytes);
            self.file.write_all(bytes)?;
        } else {
            self.gathered.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
