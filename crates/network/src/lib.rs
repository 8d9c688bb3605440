//! The data plane of a node: pod network, service proxy, cluster DNS, and the resolver files of pods.
//!
//! What should be in the kernel is computed by pure functions over a [`directory::Directory`] that is fed by plain
//! calls; small executors apply the difference through netlink. Invariant: no outside program is run, every table,
//! link and route made here carries our name, group or protocol number, and `cleanup` removes exactly those.

pub mod cidr;
pub mod directory;
pub mod dns;
pub mod error;
pub mod ipam;
mod links;
pub mod nodelink;
pub mod pod;
pub mod resolv;
pub mod service;
pub mod spec;
mod sysctl;

pub use cidr::Cidr;
pub use directory::Directory;
pub use dns::{DnsConfig, DnsServer};
pub use error::{Error, Result};
pub use ipam::Ipam;
pub use nodelink::NodeLink;
pub use pod::{Peer, PodNetwork, PodNetworkConfig};
pub use service::{ServiceProxy, ServiceProxyConfig};
