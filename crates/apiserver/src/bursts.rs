//! Pieces of watches, written once for all watchers that receive the same changes in the same form.
//!
//! Invariant: a piece is found only by who holds the very burst that it was written of; the kept ones take no more than
//! [`KEPT_BYTES_MAX`], but for the newest.

use crate::negotiate::Format;
use bytes::Bytes;
use kinds::KindDef;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use store::Burst;

/// Bytes of pieces that are kept. Watchers are woken together, so that what they share is asked for at about the same time.
const KEPT_BYTES_MAX: usize = 4 << 20;
const KEPT_MAX: usize = 64;

#[derive(Default)]
pub struct Bursts(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    pieces: VecDeque<(Key, Piece)>,
    bytes: usize,
}

/// What a piece was written of. It holds burst and row, so that nothing else takes their addresses.
#[derive(Clone)]
pub struct Key {
    pub burst: Burst,
    /// Which of its events is the first.
    pub at: usize,
    pub kind: Arc<KindDef>,
    pub format: Format,
}

/// Events as they are sent.
#[derive(Clone)]
pub struct Piece {
    pub bytes: Bytes,
    pub events: usize,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.burst, &other.burst)
            && self.at == other.at
            && Arc::ptr_eq(&self.kind, &other.kind)
            && self.format == other.format
    }
}

impl Bursts {
    /// The piece that was kept, or the one that `write` makes; `None` when it makes none.
    pub fn piece(&self, key: Key, write: impl FnOnce() -> Option<Piece>) -> Option<Piece> {
        if let Some((_, piece)) = self.0.lock().pieces.iter().rev().find(|(k, _)| *k == key) {
            return Some(piece.clone());
        }
        let piece = write()?;
        let mut kept = self.0.lock();
        kept.bytes += piece.bytes.len();
        kept.pieces.push_back((key, piece.clone()));
        while kept.pieces.len() > 1 && (kept.bytes > KEPT_BYTES_MAX || kept.pieces.len() > KEPT_MAX) {
            let Some((_, oldest)) = kept.pieces.pop_front() else { break };
            kept.bytes -= oldest.bytes.len();
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use store::{Change, Event};

    fn burst(value: &'static str) -> Burst {
        let change = Change::Put(Bytes::from_static(value.as_bytes()));
        [Arc::new(Event { revision: 1, key: "/k".into(), change, previous: None })].into()
    }

    fn key(burst: &Burst, at: usize, kind: &Arc<KindDef>) -> Key {
        Key { burst: burst.clone(), at, kind: kind.clone(), format: Format::Json }
    }

    #[test]
    fn a_piece_is_written_once_for_the_same_burst() {
        let (bursts, written) = (Bursts::default(), Cell::new(0));
        let ask = |key: Key| {
            bursts.piece(key, || {
                written.set(written.get() + 1);
                Some(Piece { bytes: Bytes::from(vec![0; 1 << 20]), events: 1 })
            })
        };
        let (a, b) = (burst("a"), burst("a"));
        let (one, other) = (&kinds::table()[0], &kinds::table()[1]);
        let first = ask(key(&a, 0, one)).expect("written");
        assert_eq!(ask(key(&a, 0, one)).expect("kept").bytes.as_ptr(), first.bytes.as_ptr());
        // Another burst with the same content, another place in it, another row, another form.
        for other in [key(&b, 0, one), key(&a, 1, one), key(&a, 0, other)] {
            assert!(ask(other).is_some());
        }
        let protobuf = Key { format: Format::Protobuf, ..key(&a, 0, one) };
        assert!(ask(protobuf).is_some());
        assert_eq!(written.get(), 5);
        let kept = bursts.0.lock();
        assert_eq!((kept.pieces.len(), kept.bytes), (4, 4 << 20));
    }

    #[test]
    fn what_cannot_be_written_is_not_kept() {
        let bursts = Bursts::default();
        assert!(bursts.piece(key(&burst("a"), 0, &kinds::table()[0]), || None).is_none());
        assert!(bursts.0.lock().pieces.is_empty());
    }
}
