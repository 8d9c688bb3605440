//! The audit store: a hash chain of events that people query, follow and verify.
//!
//! Format: a directory of segments `NNNNNNNNNNNNNNNNNNNN.jsonl`, named by the sequence number of their first entry. Each
//! line is a JSON object `{"seq","prev","received","record"?,"event"}`; `prev` is the SHA-256, in hex, of the line before
//! (without its newline; 64 zeros before the first). Any tool that can hash lines can check it. Lines are never changed;
//! a line cut short by a crash at the end of the newest segment is cut off when the trail is opened, and a gap entry says
//! so.

pub mod chain;
mod line;
pub mod query;
mod recent;
pub mod trail;

pub use chain::{Report, verify};
pub use query::{Filter, Order, run};
pub use trail::{Trail, TrailError};
