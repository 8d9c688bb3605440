//! Ranges of addresses, and which of their addresses a Service may have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address range such as `10.0.0.0/8`, with the address as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub ip: IpAddr,
    /// Length of the prefix in bits, of the address's canonical family.
    pub bits: u8,
}

impl Cidr {
    pub fn is_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        }
    }

    /// The address at an offset from the first.
    pub fn nth(&self, n: u128) -> IpAddr {
        match self.network() {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits().wrapping_add(n as u32))),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits().wrapping_add(n))),
        }
    }

    /// The offset of the last address from the first.
    pub fn last_offset(&self) -> u128 {
        let width = if self.is_ipv4() { 32 } else { 128 };
        let host_bits = u32::from(width - self.bits.min(width));
        u128::MAX.checked_shr(128 - host_bits).unwrap_or(0)
    }

    /// Whether the address is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && Self { ip, bits: self.bits }.network() == self.network()
    }

    /// Whether the address is in the range and a Service may have it: not the network's own, and in IPv4 not the last
    /// (upstream: `servicecidr.PrefixContainsIP`).
    pub fn serves(&self, ip: IpAddr) -> bool {
        let broadcast = self.is_ipv4() && ip == self.nth(self.last_offset());
        self.contains(ip) && ip != self.network() && !broadcast
    }

    /// Whether one of the two ranges is in the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let wider = self.bits.min(other.bits);
        self.is_ipv4() == other.is_ipv4()
            && Self { bits: wider, ..*self }.network() == Self { bits: wider, ..*other }.network()
    }

    /// Whether all of the other range is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.overlaps(other)
    }
}

/// The canonical text of the range, without host bits.
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_cidr;
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_service_has_neither_the_first_nor_the_last_address() {
        let v4 = parse_cidr("10.96.0.0/28").unwrap();
        assert_eq!((v4.last_offset(), v4.nth(15)), (15, ip("10.96.0.15")));
        assert!(v4.serves(ip("10.96.0.1")) && v4.serves(ip("10.96.0.14")));
        assert!(!v4.serves(ip("10.96.0.0")) && !v4.serves(ip("10.96.0.15")) && !v4.serves(ip("10.96.0.16")));
        let v6 = parse_cidr("fd00::/112").unwrap();
        assert!(v6.serves(ip("fd00::ffff")) && !v6.serves(ip("fd00::")) && !v6.serves(ip("10.0.0.1")));
        assert_eq!(parse_cidr("::/0").unwrap().last_offset(), u128::MAX);
        assert_eq!(parse_cidr("1.2.3.4/32").unwrap().last_offset(), 0);
    }

    #[test]
    fn ranges_in_ranges() {
        let [a, b, c] = ["10.0.0.0/8", "10.96.0.0/16", "11.0.0.0/16"].map(|t| parse_cidr(t).unwrap());
        assert!(a.overlaps(&b) && b.overlaps(&a) && !b.overlaps(&c));
        assert!(a.covers(&b) && a.covers(&a) && !b.covers(&a));
        assert!(!a.overlaps(&parse_cidr("::/0").unwrap()));
    }
}
