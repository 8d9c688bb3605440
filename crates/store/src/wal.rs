//! The write-ahead log: what makes a commit durable.
//!
//! A log is a row of numbered segment files; a segment is a header and frames; a frame is a group of commits that was
//! written and synced at once. Invariants: at most one frame is ever written but not synced, so a bad frame with a
//! good one behind it was damaged later; each frame holds the hash of the header before it; checksums are seeded with the
//! store, the segment and the offset, so that what a recycled file held before never passes for a frame.

pub mod codec;
pub mod frame;
pub mod scan;
pub mod segment;
pub mod writer;
