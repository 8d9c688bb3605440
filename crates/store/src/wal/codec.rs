//! Bytes of commits and records, in frames and snapshots: little-endian numbers, lengths before strings.
//!
//! Invariant: reading is total: any bytes give a value or `None`, and never take more memory than the bytes have.

use crate::Revision;
use bytes::Bytes;
use std::sync::Arc;

/// A commit as the log keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    pub revision: Revision,
    pub changes: Vec<Mutation>,
    /// The number and bytes of the audit record.
    pub record: Option<(u64, Bytes)>,
}

/// A change of one key with its final bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    pub key: Arc<str>,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Put(Bytes),
    /// With the value for watchers; `None` is the stored one.
    Delete(Option<Bytes>),
}

/// What bytes of a commit are: the audit record of a number, or the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    Record(u64),
    Value(&'a str),
}

const HAS_RECORD: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_WITH_VALUE: u8 = 3;

impl Commit {
    /// Bytes that [`Commit::write`] will append.
    pub fn size(&self) -> usize {
        let record = self.record.as_ref().map_or(0, |(_, r)| 12 + r.len());
        let changes = self.changes.iter().map(|m| {
            let value = match &m.action {
                Action::Put(v) | Action::Delete(Some(v)) => 4 + v.len(),
                Action::Delete(None) => 0,
            };
            5 + m.key.len() + value
        });
        13 + record + changes.sum::<usize>()
    }

    /// Appends the commit; `put` appends a value or a record, in the form that its place has on the disk.
    ///
    /// # Errors
    /// What `put` fails with; what is appended then is of no use.
    pub fn write<E>(
        &self,
        out: &mut Vec<u8>,
        mut put: impl FnMut(Place<'_>, &Bytes, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut put = |place: Place<'_>, bytes: &Bytes, out: &mut Vec<u8>| {
            let at = out.len();
            put_u32(out, 0);
            put(place, bytes, out)?;
            let length = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
            Ok(())
        };
        put_u64(out, self.revision);
        out.push(if self.record.is_some() { HAS_RECORD } else { 0 });
        if let Some((number, bytes)) = &self.record {
            put_u64(out, *number);
            put(Place::Record(*number), bytes, out)?;
        }
        put_u32(out, self.changes.len() as u32);
        for change in &self.changes {
            let (kind, value) = match &change.action {
                Action::Put(v) => (PUT, Some(v)),
                Action::Delete(None) => (DELETE, None),
                Action::Delete(Some(v)) => (DELETE_WITH_VALUE, Some(v)),
            };
            out.push(kind);
            put_bytes(out, change.key.as_bytes());
            if let Some(value) = value {
                put(Place::Value(&change.key), value, out)?;
            }
        }
        Ok(())
    }

    pub fn read(input: &mut Input) -> Option<Commit> {
        let revision = input.u64()?;
        let record = match input.u8()? {
            0 => None,
            HAS_RECORD => Some((input.u64()?, input.bytes()?)),
            _ => return None,
        };
        let count = input.u32()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let kind = input.u8()?;
            let key = Arc::from(input.text()?);
            let action = match kind {
                PUT => Action::Put(input.bytes()?),
                DELETE => Action::Delete(None),
                DELETE_WITH_VALUE => Action::Delete(Some(input.bytes()?)),
                _ => return None,
            };
            changes.push(Mutation { key, action });
        }
        Some(Commit { revision, changes, record })
    }
}

pub fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

pub fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// Bytes being read.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A copy, so that a value does not keep the whole input in memory.
    pub fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()?;
        self.take(length as usize).map(Bytes::copy_from_slice)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()?;
        std::str::from_utf8(self.take(length as usize)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Commit {
        let change = |key: &str, action| Mutation { key: key.into(), action };
        Commit {
            revision: 7,
            changes: vec![
                change("/a", Action::Put(Bytes::from_static(b"one"))),
                change("/b", Action::Delete(None)),
                change("/c", Action::Delete(Some(Bytes::from_static(b"last")))),
            ],
            record: Some((3, Bytes::from_static(b"who did it"))),
        }
    }

    #[test]
    fn a_commit_reads_back_and_no_prefix_of_it_does() {
        let mut bytes = Vec::new();
        let plain = |_: Place<'_>, value: &Bytes, out: &mut Vec<u8>| {
            out.extend_from_slice(value);
            Ok::<_, ()>(())
        };
        assert_eq!(sample().write(&mut bytes, plain), Ok(()));
        assert_eq!(bytes.len(), sample().size());
        assert_eq!(Commit::read(&mut Input(&bytes)), Some(sample()));
        for cut in 0..bytes.len() {
            assert_eq!(Commit::read(&mut Input(&bytes[..cut])), None, "cut at {cut}");
        }
    }
}
