//! The newest lines, for followers: short ones in memory, long ones by their place on the disk.
//!
//! Invariant: at most [`LINES_MAX`] lines and [`KEPT_BYTES_MAX`] bytes are remembered, whatever events hold.

use crate::trail::segment_path;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

const LINES_MAX: usize = 4096;
const KEPT_BYTES_MAX: usize = 8 << 20;
const KEPT_LINE_BYTES_MAX: usize = 32 << 10;

#[derive(Default)]
pub struct Recent {
    lines: VecDeque<(u64, Line)>,
    bytes: usize,
}

#[derive(Clone)]
pub enum Line {
    Kept(Arc<[u8]>),
    OnDisk(Place),
}

/// Where a line stands, and its bytes without the newline.
#[derive(Clone, Copy)]
pub struct Place {
    /// The first sequence number of its segment.
    pub segment: u64,
    pub offset: u64,
    pub length: u64,
}

impl Place {
    /// # Errors
    /// The segment is gone or cannot be read.
    pub fn read(&self, dir: &Path) -> io::Result<Arc<[u8]>> {
        let mut line = vec![0; usize::try_from(self.length).map_err(io::Error::other)?];
        File::open(segment_path(dir, self.segment))?.read_exact_at(&mut line, self.offset)?;
        Ok(line.into())
    }
}

impl Recent {
    /// `line` is the whole line when it is as long as its place says.
    pub fn push(&mut self, seq: u64, place: Place, line: &[u8]) {
        let whole = line.len() as u64 == place.length && line.len() <= KEPT_LINE_BYTES_MAX;
        let line = if whole { Line::Kept(line.into()) } else { Line::OnDisk(place) };
        self.bytes += line.kept_bytes();
        self.lines.push_back((seq, line));
        while self.lines.len() > LINES_MAX || self.bytes > KEPT_BYTES_MAX {
            let Some((_, oldest)) = self.lines.pop_front() else { return };
            self.bytes -= oldest.kept_bytes();
        }
    }

    /// Forgets lines that are not in the chain.
    pub fn forget_after(&mut self, seq: u64) {
        while self.lines.back().is_some_and(|(s, _)| *s > seq) {
            let Some((_, line)) = self.lines.pop_back() else { return };
            self.bytes -= line.kept_bytes();
        }
    }

    /// Lines after a sequence number.
    pub fn after(&self, seq: u64) -> Vec<(u64, Line)> {
        let from = self.lines.partition_point(|(s, _)| *s <= seq);
        self.lines.range(from..).cloned().collect()
    }
}

impl Line {
    fn kept_bytes(&self) -> usize {
        match self {
            Self::Kept(line) => line.len(),
            Self::OnDisk(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_long_lines_stay_on_the_disk() {
        let mut recent = Recent::default();
        let place = |length| Place { segment: 1, offset: 0, length };
        for seq in 1..=1000 {
            recent.push(seq, place(KEPT_LINE_BYTES_MAX as u64), &[b'x'; KEPT_LINE_BYTES_MAX]);
        }
        assert!(recent.bytes <= KEPT_BYTES_MAX && recent.lines.len() == KEPT_BYTES_MAX / KEPT_LINE_BYTES_MAX);
        recent.push(1001, place(1 << 20), b"the rest of a long line");
        let after = recent.after(999);
        assert_eq!(after.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1000, 1001]);
        assert!(matches!(after[1].1, Line::OnDisk(p) if p.length == 1 << 20));
    }
}
