//! nf_tables over netlink: an encoder of batches, the expressions that the data plane uses, and the socket.
//!
//! Invariant: a [`Batch`] is one kernel transaction: all of it happens or nothing, and an error names the message
//! that failed. Nothing here lists tables; no outside program is used.

pub mod attr;
pub mod conntrack;
pub mod expr;
mod socket;

pub use attr::Attrs;
pub use expr::Expr;
pub use socket::Socket;

use crate::error::Result;

/// Most bytes of one element list: an attribute's length is 16 bits.
const ELEMENTS_BYTES_MAX: usize = 32 * 1024;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ip4,
    Ip6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::Ip4, Self::Ip6];

    /// The kernel's number (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    pub fn number(self) -> u8 {
        match self {
            Self::Ip4 => 2,
            Self::Ip6 => 10,
        }
    }

    /// Bytes of an address.
    pub fn address_len(self) -> u32 {
        match self {
            Self::Ip4 => 4,
            Self::Ip6 => 16,
        }
    }

    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::Ip4 } else { Self::Ip6 }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ip4 => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Kind of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    Nat,
    Filter,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    fn attrs(&self) -> Attrs {
        let (code, chain) = match self {
            Self::Drop => (0i32, None),
            Self::Accept => (1, None),
            Self::Jump(c) => (-3, Some(c)),
            Self::Goto(c) => (-4, Some(c)),
            Self::Return => (-5, None),
        };
        let mut inner = Attrs::new().u32(1, code as u32);
        if let Some(chain) = chain {
            inner = inner.str(2, chain);
        }
        Attrs::new().nest(2, inner)
    }
}

/// Type of one field of a key, by nft's own numbering, so that `nft list` prints keys readably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Ip4 = 7,
    Ip6 = 8,
    Protocol = 12,
    Port = 13,
    Integer = 4,
}

impl Field {
    pub fn address(family: Family) -> Self {
        match family {
            Family::Ip4 => Self::Ip4,
            Family::Ip6 => Self::Ip6,
        }
    }

    fn len(self) -> u32 {
        if self == Self::Ip6 { 16 } else { 4 }
    }
}

fn kind_of(fields: &[Field]) -> (u32, u32) {
    fields.iter().fold((0, 0), |(kind, len), f| (kind << 6 | *f as u32, len + f.len()))
}

/// A set or map to be made. Keys may be concatenations; every field takes a multiple of 4 bytes.
#[derive(Debug, Clone)]
pub struct SetSpec<'a> {
    pub name: &'a str,
    pub key: &'a [Field],
    pub data: SetData<'a>,
    /// Elements are added by packets and run out after the time each was given; bounded to this many.
    pub dynamic_size: Option<u32>,
}

/// What a set's keys lead to.
#[derive(Debug, Clone)]
pub enum SetData<'a> {
    /// A plain set.
    None,
    Verdict,
    Fields(&'a [Field]),
}

/// An element's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    None,
    Verdict(Verdict),
    Bytes(Vec<u8>),
}

/// One transaction being built.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message does, in order, for errors; the index is the sequence number.
    names: Vec<String>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub fn new() -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(4096), names: vec![] };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, Attrs::new(), "begin the batch".into());
        batch
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.names.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn add_table(&mut self, family: Family, table: &str) {
        self.operation(NEW_TABLE, CREATE, family, Attrs::new().str(1, table), || {
            format!("add table {table}")
        });
    }

    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.operation(DELETE_TABLE, 0, family, Attrs::new().str(1, table), || {
            format!("delete table {table}")
        });
    }

    pub fn add_chain(&mut self, family: Family, table: &str, chain: &str) {
        let attrs = Attrs::new().str(1, table).str(3, chain);
        self.operation(NEW_CHAIN, CREATE, family, attrs, || format!("add chain {table} {chain}"));
    }

    /// A chain that the kernel calls: at `hook`, in the order of `priority` (lower first), policy accept.
    pub fn add_base_chain(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        kind: ChainKind,
        hook: Hook,
        priority: i32,
    ) {
        let kind = match kind {
            ChainKind::Nat => "nat",
            ChainKind::Filter => "filter",
        };
        let attrs = Attrs::new()
            .str(1, table)
            .str(3, chain)
            .nest(4, Attrs::new().u32(1, hook as u32).u32(2, priority as u32))
            .u32(5, 1)
            .str(7, kind);
        self.operation(NEW_CHAIN, CREATE, family, attrs, || format!("add base chain {table} {chain}"));
    }

    /// Deletes a chain with its rules; nothing may refer to it any more.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        let attrs = Attrs::new().str(1, table).str(3, chain);
        self.operation(DELETE_CHAIN, 0, family, attrs, || format!("delete chain {table} {chain}"));
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, family: Family, table: &str, chain: &str, expressions: Vec<Expr>) {
        let list = expressions.into_iter().fold(Attrs::new(), |list, e| list.nest(1, e.0));
        let attrs = Attrs::new().str(1, table).str(2, chain).nest(4, list);
        self.operation(NEW_RULE, CREATE | APPEND, family, attrs, || format!("add rule to {table} {chain}"));
    }

    pub fn add_set(&mut self, family: Family, table: &str, spec: &SetSpec<'_>) {
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        let (key_kind, key_len) = kind_of(spec.key);
        let mut flags = 0;
        if !matches!(spec.data, SetData::None) {
            flags |= MAP;
        }
        if spec.dynamic_size.is_some() {
            flags |= TIMEOUT | EVAL;
        }
        let mut attrs =
            Attrs::new().str(1, table).str(2, spec.name).u32(3, flags).u32(4, key_kind).u32(5, key_len);
        attrs = match &spec.data {
            SetData::None => attrs,
            SetData::Verdict => attrs.u32(6, 0xffff_ff00),
            SetData::Fields(fields) => {
                let (kind, len) = kind_of(fields);
                attrs.u32(6, kind).u32(7, len)
            }
        };
        if let Some(size) = spec.dynamic_size {
            attrs = attrs.nest(9, Attrs::new().u32(1, size));
        }
        // The id tells sets of one transaction apart.
        attrs = attrs.u32(10, self.names.len() as u32);
        self.operation(NEW_SET, CREATE, family, attrs, || format!("add set {table} {}", spec.name));
    }

    /// Adds elements, in as many messages as their size needs. An element that is there already with the same value
    /// is left alone; with another value it is an error: delete it first, in the same batch.
    pub fn add_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = (Vec<u8>, Data)>,
    ) {
        self.elements(NEW_ELEMENT, CREATE, family, table, set, elements);
    }

    /// Deletes elements; a missing one is an error.
    pub fn delete_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        keys: impl IntoIterator<Item = Vec<u8>>,
    ) {
        self.elements(DELETE_ELEMENT, 0, family, table, set, keys.into_iter().map(|k| (k, Data::None)));
    }

    fn elements(
        &mut self,
        op: u16,
        flags: u16,
        family: Family,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = (Vec<u8>, Data)>,
    ) {
        let mut list = Attrs::new();
        let mut count = 0;
        let mut elements = elements.into_iter().peekable();
        while let Some((key, data)) = elements.next() {
            let mut element = Attrs::new().nest(1, Attrs::new().bytes(1, &key));
            match data {
                Data::None => {}
                Data::Verdict(v) => element = element.nest(2, v.attrs()),
                Data::Bytes(b) => element = element.nest(2, Attrs::new().bytes(1, &b)),
            }
            list = list.nest(1, element);
            count += 1;
            if list.len() > ELEMENTS_BYTES_MAX || elements.peek().is_none() {
                let attrs = Attrs::new().str(1, table).str(2, set).nest(3, std::mem::take(&mut list));
                let word = if op == NEW_ELEMENT { "add" } else { "delete" };
                self.operation(op, flags, family, attrs, || {
                    format!("{word} {count} elements of {table} {set}")
                });
                count = 0;
            }
        }
    }

    fn operation(
        &mut self,
        op: u16,
        flags: u16,
        family: Family,
        attrs: Attrs,
        name: impl FnOnce() -> String,
    ) {
        let name = format!("{} ({})", name(), family.word());
        self.message(SUBSYSTEM << 8 | op, flags, family.number(), 0, attrs, name);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attrs: Attrs, name: String) {
        attr::message(&mut self.bytes, kind, flags, self.names.len() as u32, family, resource, &attrs);
        self.names.push(name);
    }

    /// Sends the transaction and waits for the kernel's verdict.
    pub fn commit(mut self, socket: &Socket) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.message(BATCH_END, 0, 0, SUBSYSTEM, Attrs::new(), "commit the batch".into());
        socket.transact(&self.bytes, &self.names)
    }
}

#[cfg(test)]
mod tests;
