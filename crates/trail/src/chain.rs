//! The chain itself: reading lines, and checking that each follows from the one before.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

/// The link before the first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One line, borrowed.
#[derive(Serialize, Deserialize)]
pub struct Entry<'a> {
    pub seq: u64,
    pub prev: &'a str,
    pub received: &'a str,
    /// The number of the store's record that the event completes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    #[serde(borrow)]
    pub event: &'a RawValue,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub entries: u64,
    pub segments: u64,
    pub first: u64,
    pub last: u64,
    /// Hash of the newest line: who has seen it can tell later whether it is still in the chain.
    pub head: String,
    /// Entries that tell of a line lost in a crash.
    pub gaps: u64,
}

/// The first place where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} line {line}: {why}", segment.display())]
pub struct Broken {
    pub segment: PathBuf,
    pub line: u64,
    pub why: String,
}

/// The link that a line gives the next one: its SHA-256, in hex.
pub fn hash(line: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(line))
}

/// Segments in order.
pub fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    out.sort();
    Ok(out)
}

/// Reads the next line without its newline; `false` at the end. A last line without a newline is not one.
pub fn read_line(reader: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    reader.read_until(b'\n', line)?;
    if line.last() != Some(&b'\n') {
        return Ok(false);
    }
    line.pop();
    Ok(true)
}

/// Checks every link. The oldest kept segment may begin anywhere in the chain, since retention removes from the front.
pub fn verify(dir: &Path) -> Result<Report, Broken> {
    let broken = |segment: &Path, line: u64, why: String| Broken { segment: segment.into(), line, why };
    let mut report = Report::default();
    let mut prev: Option<(u64, String)> = None;
    let mut line = Vec::new();
    for segment in segments(dir).map_err(|e| broken(dir, 0, e.to_string()))? {
        report.segments += 1;
        let file = File::open(&segment).map_err(|e| broken(&segment, 0, e.to_string()))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut number = 0;
        while read_line(&mut reader, &mut line).map_err(|e| broken(&segment, number, e.to_string()))? {
            number += 1;
            let entry: Entry = serde_json::from_slice(&line)
                .map_err(|e| broken(&segment, number, format!("the line is not an entry: {e}")))?;
            match &prev {
                Some((seq, _)) if entry.seq != seq + 1 => {
                    return Err(broken(&segment, number, format!("entry {} follows entry {seq}", entry.seq)));
                }
                Some((_, link)) if entry.prev != link => {
                    return Err(broken(
                        &segment,
                        number,
                        "the entry before it was changed or removed".into(),
                    ));
                }
                None if entry.seq == 1 && entry.prev != GENESIS => {
                    return Err(broken(&segment, number, "the first entry has something before it".into()));
                }
                None => report.first = entry.seq,
                _ => {}
            }
            report.entries += 1;
            report.gaps += u64::from(entry.event.get().starts_with("{\"gap\""));
            report.last = entry.seq;
            prev = Some((entry.seq, hash(&line)));
        }
        if !line.is_empty() {
            return Err(broken(&segment, number + 1, "the last line is cut short".into()));
        }
    }
    report.head = prev.map_or_else(|| GENESIS.to_owned(), |(_, link)| link);
    Ok(report)
}
