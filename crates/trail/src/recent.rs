//! Where the newest lines stand, for followers.
//!
//! Invariant: the places of at most [`LINES_MAX`] lines are remembered, and none of what they say.

use crate::trail::segment_path;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

const LINES_MAX: usize = 4096;
/// Bytes of lines that a follower gets at once, but for the last line.
const READ_BYTES_MAX: u64 = 8 << 20;

#[derive(Default)]
pub struct Recent(VecDeque<(u64, Place)>);

/// Where a line stands, and its bytes without the newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first sequence number of its segment.
    pub segment: u64,
    pub offset: u64,
    pub length: u64,
}

impl Recent {
    pub fn push(&mut self, seq: u64, place: Place) {
        self.0.push_back((seq, place));
        if self.0.len() > LINES_MAX {
            self.0.pop_front();
        }
    }

    /// Forgets lines that are not in the chain.
    pub fn forget_after(&mut self, seq: u64) {
        while self.0.back().is_some_and(|(s, _)| *s > seq) {
            self.0.pop_back();
        }
    }

    /// Lines after a sequence number, as many as are read at once.
    pub fn after(&self, seq: u64) -> Vec<(u64, Place)> {
        let from = self.0.partition_point(|(s, _)| *s <= seq);
        let mut bytes = 0;
        let within = |(_, place): &&(u64, Place)| {
            let begun = bytes < READ_BYTES_MAX;
            bytes += place.length;
            begun
        };
        self.0.range(from..).take_while(within).copied().collect()
    }
}

/// Reads lines. Those that retention has taken meanwhile are left out.
pub fn read(dir: &Path, places: Vec<(u64, Place)>) -> Vec<(u64, Arc<[u8]>)> {
    let mut open: Option<(u64, File)> = None;
    let mut line = |place: Place| -> io::Result<Arc<[u8]>> {
        let file = match &open {
            Some((segment, file)) if *segment == place.segment => file,
            _ => &open.insert((place.segment, File::open(segment_path(dir, place.segment))?)).1,
        };
        let mut line = vec![0; usize::try_from(place.length).map_err(io::Error::other)?];
        file.read_exact_at(&mut line, place.offset)?;
        Ok(line.into())
    };
    places.into_iter().filter_map(|(seq, place)| Some((seq, line(place).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_and_what_is_read_at_once_is_bounded() {
        let mut recent = Recent::default();
        let place = |length| Place { segment: 1, offset: 0, length };
        (1..=5000).for_each(|seq| recent.push(seq, place(100)));
        assert_eq!(recent.after(0).len(), LINES_MAX);
        let seqs: Vec<u64> = recent.after(4998).iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, [4999, 5000]);
        (5001..=5010).for_each(|seq| recent.push(seq, place(READ_BYTES_MAX - 1)));
        assert_eq!(recent.after(5000).len(), 2);
        recent.forget_after(5001);
        assert_eq!(recent.after(4999), [(5000, place(100)), (5001, place(READ_BYTES_MAX - 1))]);
    }
}
