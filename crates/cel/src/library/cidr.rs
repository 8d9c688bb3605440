//! Addresses and networks (upstream: apiserver `pkg/cel/library/{ip,cidr}.go`).

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;
use std::fmt;
use std::net::IpAddr;

/// An address and the length of its network's prefix, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

pub const ROWS: &[Row] = &[
    Row {
        name: "ip",
        run: to_ip,
        overloads: &[("string_to_ip", "(string) -> net.IP"), ("cidr_ip", "net.CIDR.() -> net.IP")],
    },
    Row { name: "isIP", run: |a| is(a, |s| address(s).is_ok()), overloads: &[("is_ip", "(string) -> bool")] },
    Row { name: "ip.isCanonical", run: canonical, overloads: &[("ip_is_canonical", "(string) -> bool")] },
    Row { name: "family", run: family, overloads: &[("ip_family", "net.IP.() -> int")] },
    Row {
        name: "isUnspecified",
        run: |a| of_ip(a, |ip| ip.is_unspecified()),
        overloads: &[("ip_is_unspecified", "net.IP.() -> bool")],
    },
    Row {
        name: "isLoopback",
        run: |a| of_ip(a, |ip| ip.is_loopback()),
        overloads: &[("ip_is_loopback", "net.IP.() -> bool")],
    },
    Row {
        name: "isLinkLocalMulticast",
        run: |a| of_ip(a, link_local_multicast),
        overloads: &[("ip_is_link_local_multicast", "net.IP.() -> bool")],
    },
    Row {
        name: "isLinkLocalUnicast",
        run: |a| of_ip(a, link_local),
        overloads: &[("ip_is_link_local_unicast", "net.IP.() -> bool")],
    },
    Row {
        name: "isGlobalUnicast",
        run: |a| of_ip(a, global_unicast),
        overloads: &[("ip_is_global_unicast", "net.IP.() -> bool")],
    },
    Row { name: "cidr", run: to_cidr, overloads: &[("string_to_cidr", "(string) -> net.CIDR")] },
    Row {
        name: "isCIDR",
        run: |a| is(a, |s| network(s).is_ok()),
        overloads: &[("is_cidr", "(string) -> bool")],
    },
    Row {
        name: "containsIP",
        run: contains_ip,
        overloads: &[
            ("cidr_contains_ip_string", "net.CIDR.(string) -> bool"),
            ("cidr_contains_ip_ip", "net.CIDR.(net.IP) -> bool"),
        ],
    },
    Row {
        name: "containsCIDR",
        run: contains_cidr,
        overloads: &[
            ("cidr_contains_cidr_string", "net.CIDR.(string) -> bool"),
            ("cidr_contains_cidr", "net.CIDR.(net.CIDR) -> bool"),
        ],
    },
    Row {
        name: "prefixLength",
        run: prefix_length,
        overloads: &[("cidr_prefix_length", "net.CIDR.() -> int")],
    },
    Row { name: "masked", run: masked, overloads: &[("cidr_masked", "net.CIDR.() -> net.CIDR")] },
];

impl Cidr {
    /// The bytes that the prefix takes.
    pub fn bytes(&self) -> usize {
        usize::from(self.bits).div_ceil(8)
    }

    fn masked(self) -> Self {
        Self { address: masked_address(self.address, self.bits), bits: self.bits }
    }

    fn contains(self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4()
            && masked_address(ip, self.bits) == masked_address(self.address, self.bits)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn masked_address(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn address(s: &str) -> Result<IpAddr, String> {
    if s.contains('%') {
        return Err(format!("IP address {s:?} with zone value is not allowed"));
    }
    let ip: IpAddr = s.parse().map_err(|_| {
        format!(
            "IP Address {s:?} parse error during conversion from string: ParseAddr({s:?}): unable to parse IP"
        )
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {s:?} is not allowed"))
        }
        ip => Ok(ip),
    }
}

fn network(s: &str) -> Result<Cidr, String> {
    let wrong = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({s:?}): {why}")
    };
    let (ip, bits) = s.rsplit_once('/').ok_or_else(|| wrong("no '/'"))?;
    let address: IpAddr = ip.parse().map_err(|_| wrong("unable to parse IP"))?;
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err(format!("IPv4-mapped IPv6 address {s:?} is not allowed"));
    }
    let digits = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits == "0" || !bits.starts_with('0'));
    let bits: u8 = Some(bits)
        .filter(|_| digits)
        .and_then(|b| b.parse().ok())
        .ok_or_else(|| wrong("bad bits after slash"))?;
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(wrong("prefix length out of range"));
    }
    Ok(Cidr { address, bits })
}

fn is(args: &[Value], holds: fn(&str) -> bool) -> Outcome {
    match args {
        [Value::String(s)] => Ok(Value::Bool(holds(s))),
        _ => Err(Failure::NoOverload),
    }
}

fn to_ip(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => address(s).map(Value::Ip).map_err(Failure::Other),
        [Value::Cidr(c)] => Ok(Value::Ip(c.address)),
        _ => Err(Failure::NoOverload),
    }
}

fn canonical(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => Ok(Value::Bool(address(s).map_err(Failure::Other)?.to_string() == **s)),
        _ => Err(Failure::NoOverload),
    }
}

fn family(args: &[Value]) -> Outcome {
    match args {
        [Value::Ip(ip)] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => Err(Failure::NoOverload),
    }
}

fn of_ip(args: &[Value], holds: fn(&IpAddr) -> bool) -> Outcome {
    match args {
        [Value::Ip(ip)] => Ok(Value::Bool(holds(ip))),
        _ => Err(Failure::NoOverload),
    }
}

fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local(ip))
}

fn to_cidr(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => network(s).map(Value::Cidr).map_err(Failure::Other),
        _ => Err(Failure::NoOverload),
    }
}

fn contains_ip(args: &[Value]) -> Outcome {
    match args {
        [Value::Cidr(c), Value::Ip(ip)] => Ok(Value::Bool(c.contains(*ip))),
        [Value::Cidr(c), Value::String(s)] => {
            Ok(Value::Bool(c.contains(address(s).map_err(Failure::Other)?)))
        }
        _ => Err(Failure::NoOverload),
    }
}

fn contains_cidr(args: &[Value]) -> Outcome {
    let (c, other) = match args {
        [Value::Cidr(c), Value::Cidr(other)] => (c, *other),
        [Value::Cidr(c), Value::String(s)] => (c, network(s).map_err(Failure::Other)?),
        _ => return Err(Failure::NoOverload),
    };
    Ok(Value::Bool(c.contains(other.address) && c.bits <= other.bits))
}

fn prefix_length(args: &[Value]) -> Outcome {
    match args {
        [Value::Cidr(c)] => Ok(Value::Int(c.bits.into())),
        _ => Err(Failure::NoOverload),
    }
}

fn masked(args: &[Value]) -> Outcome {
    match args {
        [Value::Cidr(c)] => Ok(Value::Cidr(c.masked())),
        _ => Err(Failure::NoOverload),
    }
}
