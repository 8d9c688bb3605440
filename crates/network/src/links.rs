//! Links, addresses, neighbours and routes of one network namespace, through route netlink.
//!
//! Invariant: every link made here is in our link group and every route carries our protocol number, which is how
//! they are found again; addresses never wait for duplicate address detection.

use crate::cidr::Cidr;
use crate::error::{Error, Result};
use crate::sysctl;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope, CacheInfo};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The group of all links made here ("taff").
const GROUP: u32 = 0x7461_6666;
/// The protocol number of all routes made here.
const ROUTES: RouteProtocol = RouteProtocol::Other(84);
/// The loopback link's index, the same in every namespace.
pub const LOOPBACK: u32 = 1;

pub const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ESRCH: i32 = 3;
const EOPNOTSUPP: i32 = 95;

/// A hardware address.
pub type Mac = [u8; 6];

/// A connection to the kernel's network configuration in one namespace.
#[derive(Debug, Clone)]
pub struct Links(Handle, Option<PathBuf>);

/// One end of a pair of links to be made.
pub struct Pair<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    pub peer_name: &'a str,
    pub peer_mac: Option<Mac>,
    /// Where the peer goes.
    pub peer_netns: &'a File,
    /// Index of the bridge that this end joins.
    pub bridge: Option<u32>,
}

/// A route to be made.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub to: Cidr,
    pub via: Option<IpAddr>,
    pub link: Option<u32>,
    /// The next hop is on the link even if no address says so.
    pub onlink: bool,
    /// The source address of own packets that take it; dropped if the machine does not have it.
    pub source: Option<IpAddr>,
}

impl Links {
    /// Connects in the namespace that `netns` names (`None`: this thread's). Must be called within tokio.
    pub fn open(netns: Option<&Path>) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::check("the pod network was used outside of the async runtime"))?;
        let made = sys::netns::run_in(netns, || {
            let _inside = runtime.enter();
            rtnetlink::new_connection()
        })?;
        let (connection, handle, _) =
            made.map_err(|e| Error::file("open a route netlink socket".to_string(), &e))?;
        // The task ends when the last handle is dropped.
        runtime.spawn(connection);
        Ok(Self(handle, netns.map(Path::to_owned)))
    }

    /// The index of the link, or `None`.
    pub async fn index(&self, name: &str) -> Result<Option<u32>> {
        let mut found = self.0.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(e) if errno(&e) == ENODEV => Ok(None),
            Err(e) => Err(netlink(e, || format!("look up link {name}"))),
        }
    }

    /// As [`Links::index`], but the link must be there.
    pub async fn need(&self, name: &str) -> Result<u32> {
        self.index(name).await?.ok_or_else(|| Error::check(format!("link {name} is missing")))
    }

    /// Makes a pair of links, this end up. An error with `EEXIST` when the name is taken.
    pub async fn add_pair(&self, pair: &Pair<'_>) -> Result<()> {
        let mut peer = LinkUnspec::new_with_name(pair.peer_name).setns_by_fd(pair.peer_netns.as_raw_fd());
        if let Some(mac) = pair.peer_mac {
            peer = peer.address(mac.to_vec());
        }
        let mut message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(pair.name)
            .link_group(GROUP)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        if let Some(mac) = pair.mac {
            message = message.address(mac.to_vec());
        }
        if let Some(bridge) = pair.bridge {
            message = message.controller(bridge);
        }
        let done = self.0.link().add(message.build()).execute().await;
        done.map_err(|e| netlink(e, || format!("make link {}", pair.name)))?;
        let index = self.need(pair.name).await?;
        self.no_own_address(index).await;
        self.up(index).await
    }

    /// Keeps the kernel from giving the link an IPv6 address of its own, and so from testing it for duplicates. Must
    /// come before the link is up. A kernel without IPv6 refuses, and needs it not.
    async fn no_own_address(&self, index: u32) {
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]))
            .build();
        if let Err(error) = self.0.link().set(message).execute().await {
            tracing::debug!(target: "network", index, %error, "link keeps its own IPv6 address");
        }
    }

    /// Makes a bridge if it is not there; returns its index. It is up.
    pub async fn ensure_bridge(&self, name: &str, mac: Mac) -> Result<u32> {
        if let Some(index) = self.index(name).await? {
            return Ok(index);
        }
        let message =
            LinkBridge::new(name).mcast_snooping(false).link_group(GROUP).address(mac.to_vec()).build();
        let done = self.0.link().add(message).execute().await;
        done.map_err(|e| netlink(e, || format!("make bridge {name}")))?;
        let index = self.need(name).await?;
        self.no_address_tests(name)?;
        self.up(index).await?;
        Ok(index)
    }

    /// Lets the link's own IPv6 address be used at once: until it is, a router cannot ask for its neighbours. Must
    /// come before the link is up.
    pub fn no_address_tests(&self, name: &str) -> Result<()> {
        let setting = format!("ipv6/conf/{name}/accept_dad");
        sys::netns::run_in(self.1.as_deref(), || match sysctl::exists(&setting) {
            true => sysctl::write(&setting, "0"),
            false => Ok(()),
        })?
    }

    /// Makes a link that only holds addresses, if it is not there; returns its index. A kernel without dummy links
    /// gets a bridge without ports.
    pub async fn ensure_holder(&self, name: &str) -> Result<u32> {
        if let Some(index) = self.index(name).await? {
            return Ok(index);
        }
        match self.0.link().add(LinkDummy::new(name).link_group(GROUP).up().build()).execute().await {
            Ok(()) => self.need(name).await,
            Err(e) if errno(&e) == EOPNOTSUPP => {
                self.ensure_bridge(name, crate::nodelink::mac_of(name.as_bytes())).await
            }
            // Someone else made it in between.
            Err(e) if errno(&e) == EEXIST => self.need(name).await,
            Err(e) => Err(netlink(e, || format!("make link {name}"))),
        }
    }

    pub async fn up(&self, index: u32) -> Result<()> {
        let done = self.0.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        done.map_err(|e| netlink(e, || format!("set link {index} up")))
    }

    /// Adds an address; one that is there is success.
    pub async fn add_address(&self, index: u32, address: Cidr) -> Result<()> {
        self.put_address(index, address, false).await
    }

    /// Adds an address that own packets do not take as their source unless bound to it.
    pub async fn add_service_address(&self, index: u32, address: IpAddr) -> Result<()> {
        self.put_address(index, Cidr::host(address), true).await
    }

    async fn put_address(&self, index: u32, address: Cidr, hidden: bool) -> Result<()> {
        let mut request = self.0.address().add(index, address.address, address.prefix);
        let message = request.message_mut();
        if address.is_ipv4() {
            if hidden {
                message.header.scope = AddressScope::Host;
            }
        } else {
            message.header.flags |= AddressHeaderFlags::Nodad;
            if hidden {
                let mut lifetimes = CacheInfo::default();
                lifetimes.ifa_valid = u32::MAX;
                lifetimes.ifa_preferred = 0;
                message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            }
        }
        match request.execute().await {
            Err(e) if errno(&e) != EEXIST => {
                Err(netlink(e, || format!("add address {address} to link {index}")))
            }
            _ => Ok(()),
        }
    }

    /// Sets a permanent neighbour.
    pub async fn set_neighbour(&self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let done = self.0.neighbours().add(index, address).link_layer_address(&mac).replace().execute().await;
        done.map_err(|e| netlink(e, || format!("set neighbour {address} of link {index}")))
    }

    /// Sets a route, replacing one to the same destination.
    pub async fn set_route(&self, route: Route) -> Result<()> {
        let done = self.0.route().add(message(route)).replace().execute().await;
        let done = match done {
            Err(e) if errno(&e) == EINVAL && route.source.is_some() => {
                let plain = Route { source: None, ..route };
                self.0.route().add(message(plain)).replace().execute().await
            }
            other => other,
        };
        done.map_err(|e| netlink(e, || format!("set the route to {}", route.to)))
    }

    /// The destinations of our routes that go through a next hop.
    pub async fn our_gateway_routes(&self) -> Result<Vec<(Cidr, IpAddr)>> {
        let routes = self.our_routes().await?;
        Ok(routes.iter().filter_map(|r| Some((destination(r)?, gateway(r)?))).collect())
    }

    /// Removes our routes to the destination; none is success.
    pub async fn delete_route(&self, to: Cidr) -> Result<()> {
        for route in self.our_routes().await? {
            if destination(&route) == Some(to) {
                self.delete_route_message(route).await?;
            }
        }
        Ok(())
    }

    /// Removes every route of ours.
    pub async fn delete_our_routes(&self) -> Result<()> {
        for route in self.our_routes().await? {
            self.delete_route_message(route).await?;
        }
        Ok(())
    }

    async fn delete_route_message(&self, route: RouteMessage) -> Result<()> {
        let to = destination(&route).map_or_else(|| "default".into(), |c| c.to_string());
        match self.0.route().del(route).execute().await {
            Err(e) if errno(&e) != ESRCH => Err(netlink(e, || format!("delete the route to {to}"))),
            _ => Ok(()),
        }
    }

    async fn our_routes(&self) -> Result<Vec<RouteMessage>> {
        let mut ours = vec![];
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let all: Vec<RouteMessage> = match self.0.route().get(query).execute().try_collect().await {
                Ok(all) => all,
                // A kernel without IPv6 has no such routes.
                Err(e) if errno(&e) == EOPNOTSUPP => continue,
                Err(e) => return Err(netlink(e, || "list routes".into())),
            };
            ours.extend(all.into_iter().filter(|r| r.header.protocol == ROUTES));
        }
        Ok(ours)
    }

    /// Deletes a link; a missing one is success.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.0.link().del(index).execute().await {
            Err(e) if errno(&e) != ENODEV => Err(netlink(e, || format!("delete link {name}"))),
            _ => Ok(()),
        }
    }

    /// The names of our links.
    pub async fn our_links(&self) -> Result<Vec<String>> {
        let all: Vec<LinkMessage> = self
            .0
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| netlink(e, || "list links".into()))?;
        let ours = |l: &LinkMessage| l.attributes.iter().any(|a| matches!(a, LinkAttribute::Group(GROUP)));
        let name = |l: &LinkMessage| {
            l.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })
        };
        Ok(all.iter().filter(|l| ours(l)).filter_map(name).collect())
    }
}

fn message(route: Route) -> RouteMessage {
    let mut message = match route.to.address {
        IpAddr::V4(to) => {
            let mut b = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, route.to.prefix);
            if let Some(IpAddr::V4(via)) = route.via {
                b = b.gateway(via);
            }
            if let Some(IpAddr::V4(source)) = route.source {
                b = b.pref_source(source);
            }
            if route.via.is_none() {
                b = b.scope(RouteScope::Link);
            }
            b.build()
        }
        IpAddr::V6(to) => {
            let mut b = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, route.to.prefix);
            if let Some(IpAddr::V6(via)) = route.via {
                b = b.gateway(via);
            }
            if let Some(IpAddr::V6(source)) = route.source {
                b = b.pref_source(source);
            }
            b.build()
        }
    };
    message.header.protocol = ROUTES;
    if route.onlink {
        message.header.flags |= rtnetlink::packet_route::route::RouteFlags::Onlink;
    }
    if let Some(link) = route.link {
        message.attributes.push(RouteAttribute::Oif(link));
    }
    message
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    use rtnetlink::packet_route::route::RouteAddress;
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })?;
    Cidr::new(address, route.header.destination_prefix_length).ok()
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    use rtnetlink::packet_route::route::RouteAddress;
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Gateway(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })
}

fn errno(e: &rtnetlink::Error) -> i32 {
    match e {
        rtnetlink::Error::NetlinkError(m) => -m.raw_code(),
        _ => 0,
    }
}

fn netlink(e: rtnetlink::Error, what: impl FnOnce() -> String) -> Error {
    let errno = errno(&e);
    let why = if errno == 0 { e.to_string() } else { sys::errno_text(errno) };
    Error::Netlink { what: what(), why, errno }
}
