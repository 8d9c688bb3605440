//! An address block: address and prefix length.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of addresses, or an address with the length of its network. Host bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// A block; an error when the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self> {
        if prefix > width(address) {
            return Err(Error::check(format!("invalid CIDR address: {address}/{prefix}")));
        }
        Ok(Self { address, prefix })
    }

    /// The block of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: width(address) }
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The same block with its host bits cleared.
    pub fn network(&self) -> Self {
        let masked = to_bits(self.address) & self.mask();
        Self { address: from_bits(masked, self.is_ipv4()), prefix: self.prefix }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4()
            && to_bits(address) & self.mask() == to_bits(self.address) & self.mask()
    }

    /// The address `n` further than the block's first one; `None` beyond the block.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        if self.size().is_some_and(|size| n >= size) {
            return None;
        }
        Some(from_bits((to_bits(self.address) & self.mask()) + n, self.is_ipv4()))
    }

    /// How far an address of the block is from its first one.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| to_bits(address) & !self.mask())
    }

    /// How many addresses it has; `None` for a whole IPv6 space.
    pub fn size(&self) -> Option<u128> {
        1u128.checked_shl(u32::from(width(self.address) - self.prefix))
    }

    /// The network mask as bytes of an address.
    pub fn mask_bytes(&self) -> Vec<u8> {
        let mask = self.mask();
        if self.is_ipv4() { (mask as u32).to_be_bytes().to_vec() } else { mask.to_be_bytes().to_vec() }
    }

    fn mask(&self) -> u128 {
        let host_bits = u32::from(width(self.address) - self.prefix);
        let all = if self.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
        all & u128::MAX.checked_shl(host_bits).unwrap_or(0)
    }
}

/// An address as bytes in network order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn from_bits(bits: u128, v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::check(format!("invalid CIDR address: {text}"));
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        Self::new(address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?)
    }
}

impl TryFrom<String> for Cidr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_contain_and_count() {
        let c: Cidr = "10.244.1.5/24".parse().unwrap();
        assert!(c.contains("10.244.1.255".parse().unwrap()));
        assert!(!c.contains("10.244.2.0".parse().unwrap()));
        assert!(!c.contains("::1".parse().unwrap()));
        assert_eq!(c.network().to_string(), "10.244.1.0/24");
        assert_eq!(c.nth(255), Some("10.244.1.255".parse().unwrap()));
        assert_eq!(c.nth(256), None);
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        let v6: Cidr = "fd00::/64".parse().unwrap();
        assert!(v6.contains("fd00::ffff:1".parse().unwrap()));
        assert!(!v6.contains("fd01::".parse().unwrap()));
        assert_eq!(v6.offset("fd00::7".parse().unwrap()), Some(7));
        assert_eq!("::/0".parse::<Cidr>().unwrap().size(), None);
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
        assert!("10.0.0.0".parse::<Cidr>().is_err());
    }
}
