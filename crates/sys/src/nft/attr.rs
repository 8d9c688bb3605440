//! Netlink attributes and message headers, as bytes.
//!
//! Invariant: every attribute is padded to 4 bytes; numbers of the netfilter family are big-endian.

/// A list of attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs(pub(super) Vec<u8>);

const NESTED: u16 = 0x8000;
/// Bytes of a netlink header and the netfilter header after it.
pub(super) const HEADER_BYTES: usize = 20;
const REQUEST: u16 = 1;

impl Attrs {
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(mut self, kind: u16, data: &[u8]) -> Self {
        // Callers keep attributes far below 64 KiB (ELEMENTS_BYTES_MAX); a longer one would be cut by the format.
        debug_assert!(data.len() + 4 <= usize::from(u16::MAX));
        self.0.extend(((data.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A text with its closing zero.
    pub fn str(self, kind: u16, text: &str) -> Self {
        let mut data = Vec::with_capacity(text.len() + 1);
        data.extend(text.as_bytes());
        data.push(0);
        self.bytes(kind, &data)
    }

    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    pub fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nest(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// Appends one netfilter message.
pub(super) fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attrs: &Attrs,
) {
    out.extend(((HEADER_BYTES + attrs.0.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((REQUEST | flags).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(&attrs.0);
}

/// Walks the attributes of a received message: kind without flags, payload.
pub(super) fn walk(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let data = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}
