//! The expressions of a rule: loads into registers, tests, and what to do.
//!
//! Registers are the 32-bit ones, numbered from [`REGISTER`]; a value longer than 4 bytes takes the following ones.
//! Invariant: every rule loads what it reads; nothing relies on values left by another rule.

use super::{Attrs, Family, Verdict};

/// The first 32-bit register (`NFT_REG32_00`); the last is 15 further.
pub const REGISTER: u32 = 8;

/// Protocol numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr(pub(super) Attrs);

/// Which of a packet's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

fn expr(name: &str, data: Attrs) -> Expr {
    Expr(Attrs::new().str(1, name).nest(2, data))
}

/// Loads a packet's address (1 register for IPv4, 4 for IPv6).
pub fn load_address(family: Family, side: Side, register: u32) -> Expr {
    let offset = match (family, side) {
        (Family::Ip4, Side::Source) => 12,
        (Family::Ip4, Side::Destination) => 16,
        (Family::Ip6, Side::Source) => 8,
        (Family::Ip6, Side::Destination) => 24,
    };
    expr("payload", Attrs::new().u32(1, register).u32(2, 1).u32(3, offset).u32(4, family.address_len()))
}

/// Loads the destination port.
pub fn load_port(register: u32) -> Expr {
    expr("payload", Attrs::new().u32(1, register).u32(2, 2).u32(3, 2).u32(4, 2))
}

/// Loads the transport protocol's number.
pub fn load_protocol(register: u32) -> Expr {
    expr("meta", Attrs::new().u32(1, register).u32(2, 16))
}

/// Loads the packet's mark.
pub fn load_mark(register: u32) -> Expr {
    expr("meta", Attrs::new().u32(1, register).u32(2, 3))
}

/// Sets the packet's mark from a register.
pub fn store_mark(register: u32) -> Expr {
    expr("meta", Attrs::new().u32(2, 3).u32(3, register))
}

/// Loads a constant.
pub fn load_bytes(register: u32, value: &[u8]) -> Expr {
    expr("immediate", Attrs::new().u32(1, register).nest(2, Attrs::new().bytes(1, value)))
}

/// Loads the kind of the packet's source or destination address as the routing tables see it; see [`LOCAL`].
pub fn load_address_kind(side: Side, register: u32) -> Expr {
    let flags = match side {
        Side::Source => 1,
        Side::Destination => 2,
    };
    expr("fib", Attrs::new().u32(1, register).u32(2, 3).u32(3, flags))
}

/// An address of this machine (`RTN_LOCAL`), as [`load_address_kind`] gives it.
pub const LOCAL: [u8; 4] = 2u32.to_ne_bytes();

/// Loads a random number in `offset..offset + modulus`.
pub fn load_random(register: u32, modulus: u32, offset: u32) -> Expr {
    let mut attrs = Attrs::new().u32(1, register).u32(2, modulus).u32(3, 1);
    if offset > 0 {
        attrs = attrs.u32(4, offset);
    }
    expr("numgen", attrs)
}

/// `register = (register & mask) ^ xor`.
pub fn mask(register: u32, mask: &[u8], xor: &[u8]) -> Expr {
    let attrs = Attrs::new().u32(1, register).u32(2, register).u32(3, mask.len() as u32);
    expr("bitwise", attrs.nest(4, Attrs::new().bytes(1, mask)).nest(5, Attrs::new().bytes(1, xor)))
}

/// Goes on only when the register holds `value`.
pub fn equal(register: u32, value: &[u8]) -> Expr {
    compare(register, 0, value)
}

/// Goes on only when the register holds something else than `value`.
pub fn not_equal(register: u32, value: &[u8]) -> Expr {
    compare(register, 1, value)
}

fn compare(register: u32, op: u32, value: &[u8]) -> Expr {
    expr("cmp", Attrs::new().u32(1, register).u32(2, op).nest(3, Attrs::new().bytes(1, value)))
}

/// Goes on only when the registers are a key of the set.
pub fn lookup(set: &str, key: u32) -> Expr {
    expr("lookup", Attrs::new().str(1, set).u32(2, key))
}

/// Goes on only when the registers are a key of the map, whose value is loaded.
pub fn lookup_value(map: &str, key: u32, value: u32) -> Expr {
    expr("lookup", Attrs::new().str(1, map).u32(2, key).u32(3, value))
}

/// Follows the verdict that the map holds for the key; goes on when there is none.
pub fn lookup_verdict(map: &str, key: u32) -> Expr {
    expr("lookup", Attrs::new().str(1, map).u32(2, key).u32(3, 0))
}

/// Adds the key with its value to a dynamic map, or starts its time anew. Ends the rule when the map is full.
pub fn remember(map: &str, key: u32, value: u32, timeout_ms: u64) -> Expr {
    expr("dynset", Attrs::new().str(1, map).u32(3, 1).u32(4, key).u32(5, value).u64(6, timeout_ms))
}

/// Sends the connection to another address and port.
pub fn dnat(family: Family, address: u32, port: u32) -> Expr {
    expr("nat", Attrs::new().u32(1, 1).u32(2, u32::from(family.number())).u32(3, address).u32(5, port))
}

/// Gives the connection this machine's address as its source, with a random port.
pub fn masquerade() -> Expr {
    const RANDOM_FULLY: u32 = 0x10;
    expr("masq", Attrs::new().u32(1, RANDOM_FULLY))
}

/// Refuses with a TCP reset.
pub fn reject_tcp() -> Expr {
    expr("reject", Attrs::new().u32(1, 1))
}

/// Refuses with "port unreachable".
pub fn reject_unreachable(family: Family) -> Expr {
    let code = match family {
        Family::Ip4 => 3,
        Family::Ip6 => 4,
    };
    expr("reject", Attrs::new().u32(1, 0).u8(2, code))
}

pub fn verdict(verdict: Verdict) -> Expr {
    expr("immediate", Attrs::new().u32(1, 0).nest(2, verdict.attrs()))
}
