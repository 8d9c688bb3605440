//! What the kernel's table holds, as plain data: a set of keyed entries and the chains that they need.
//!
//! A few maps per address family serve every Service: `services` (which shape of chain a packet goes through, by way
//! of the small map `shapes`), `endpoints` (slot number to endpoint), `members` (which endpoints a remembered client
//! may go back to) and `affinity` (the clients, written by packets). A chain exists per *shape* (how many slots, what
//! masquerading, what affinity), shared by all Services of that shape, so a Service never has chains of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use sys::nft::Family;

/// What a packet is sent to: an address, protocol and port. The unspecified address stands for every address of the
/// node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    pub address: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

impl Front {
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    pub fn any_address(&self) -> bool {
        self.address.is_unspecified()
    }
}

/// Where a packet ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Back {
    pub address: IpAddr,
    pub port: u16,
}

/// Whose connections get the node's address as their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    Never,
    /// Those of senders outside of the pod network.
    OffCluster,
    Always,
}

/// The shape of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    pub family: Family,
    /// Of a front with the unspecified address.
    pub any_address: bool,
    pub masquerade: Masquerade,
    pub affinity_seconds: Option<u32>,
    /// Uses the slots of this node's endpoints.
    pub local: bool,
    /// How many slots; 0 drops.
    pub slots: u32,
    /// With `local`: senders within the cluster use these slots of all endpoints instead.
    pub in_cluster_slots: Option<u32>,
}

impl Shape {
    /// The chain's name: unique by shape.
    pub fn name(&self) -> String {
        use std::fmt::Write;
        let mut name = String::from(if self.any_address { "port" } else { "vip" });
        name.push_str(match self.masquerade {
            Masquerade::Never => "",
            Masquerade::OffCluster => "-offcluster",
            Masquerade::Always => "-masq",
        });
        if let Some(seconds) = self.affinity_seconds {
            let _ = write!(name, "-affinity{seconds}");
        }
        let _ = write!(name, "-{}{}", if self.local { "local" } else { "any" }, self.slots);
        if let Some(slots) = self.in_cluster_slots {
            let _ = write!(name, "-else{slots}");
        }
        name
    }

    /// The chain for senders within the cluster.
    pub fn in_cluster(&self) -> Option<Self> {
        let slots = self.in_cluster_slots?;
        Some(Self {
            masquerade: Masquerade::OffCluster,
            local: false,
            slots,
            in_cluster_slots: None,
            ..*self
        })
    }
}

/// First slot number of the endpoints on this node.
pub const LOCAL_SLOTS: u32 = 1 << 16;

/// What the table does with a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Chain(Shape),
    Reject,
    Drop,
}

/// Names an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    Chain(Shape),
    Front(Front),
    Slot(Front, u32),
    /// A client of the front may be sent back to the endpoint.
    Member(Front, Back),
    /// A pod on this node that is an endpoint: when it reaches itself, its source must change.
    Hairpin(IpAddr),
    /// An address of a Service: its other ports are refused.
    ClusterIp(IpAddr),
}

/// An entry's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryValue {
    Present,
    Target(Target),
    Back(Back),
}

/// The entries that one Service or pod wants.
pub type Fragment = BTreeMap<EntryKey, EntryValue>;

/// A change of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add(EntryKey, EntryValue),
    Remove(EntryKey, EntryValue),
}
