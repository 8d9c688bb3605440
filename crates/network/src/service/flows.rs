//! UDP flows whose endpoint is gone: found in connection tracking and forgotten, so that the next packet chooses anew.
//! upstream: pkg/proxy/conntrack/cleanup.go#CleanStaleEntries

use super::model::{Change, EntryKey, EntryValue, Front, LOCAL_SLOTS};
use super::table::Table;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use sys::nft::conntrack::{self, Flow};
use sys::nft::{Family, Socket, expr};

/// What the flows to each front may answer from.
pub type Backs = BTreeMap<Front, HashSet<(IpAddr, u16)>>;

/// The UDP fronts whose endpoints or verdict changed, with the endpoints they have now.
pub fn touched(changes: &[Change], table: &Table) -> Backs {
    let mut out = Backs::new();
    for change in changes {
        let (Change::Add(key, _) | Change::Remove(key, _)) = change;
        let front = match (change, key) {
            (Change::Remove(..), EntryKey::Slot(front, _)) | (_, EntryKey::Front(front)) => *front,
            _ => continue,
        };
        if front.protocol == expr::UDP {
            out.entry(front).or_insert_with(|| backs(front, table));
        }
    }
    out
}

fn backs(front: Front, table: &Table) -> HashSet<(IpAddr, u16)> {
    let slots = |first: u32| {
        (first..).map_while(move |slot| match table.get(&EntryKey::Slot(front, slot)) {
            Some(EntryValue::Back(back)) => Some((back.address, back.port)),
            _ => None,
        })
    };
    slots(0).chain(slots(LOCAL_SLOTS)).collect()
}

/// Forgets the stale flows; returns how many there were. `node_ips` tells flows to the node itself from those that
/// pass through it to the same port elsewhere.
pub fn forget(socket: &Socket, touched: &Backs, node_ips: &[IpAddr]) -> sys::Result<usize> {
    let mut count = 0;
    for family in Family::BOTH {
        if !touched.keys().any(|f| f.family() == family) {
            continue;
        }
        let stale = conntrack::flows(socket, family, |flow| is_stale(flow, family, touched, node_ips))?;
        for flow in &stale {
            conntrack::delete(socket, family, flow)?;
        }
        count += stale.len();
    }
    Ok(count)
}

fn is_stale(flow: &Flow, family: Family, touched: &Backs, node_ips: &[IpAddr]) -> bool {
    let sent = &flow.original;
    if sent.protocol != expr::UDP {
        return false;
    }
    let front = |address| Front { address, protocol: sent.protocol, port: sent.destination_port };
    let any = match family {
        Family::Ip4 => IpAddr::from([0; 4]),
        Family::Ip6 => IpAddr::from([0; 16]),
    };
    let translated = flow.reply.source != sent.destination;
    let allowed = touched.get(&front(sent.destination)).or_else(|| {
        let own = translated || node_ips.contains(&sent.destination);
        touched.get(&front(any)).filter(|_| own)
    });
    allowed.is_some_and(|backs| !backs.contains(&(flow.reply.source, flow.reply.source_port)))
}
