//! Addresses of pods: one per family from the node's pod blocks, kept in a small file.
//!
//! Invariant: an address is with at most one pod, also after a crash: the file is replaced whole (write, fsync,
//! rename) before an address is handed out. An address that was freed is used again after all that were never used or
//! were freed before it.

use crate::cidr::Cidr;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Freed addresses remembered per family, to be used last; older ones count as never used.
const FREED_MAX: usize = 4096;

/// The addresses of one node's pods.
#[derive(Debug)]
pub struct Ipam {
    file: PathBuf,
    state: State,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    blocks: Vec<Cidr>,
    /// Per block: offset where the search for a fresh address goes on.
    next: Vec<u128>,
    /// Pod uid to its addresses, in the order of the blocks.
    pods: BTreeMap<String, Vec<IpAddr>>,
    /// Oldest first.
    freed: VecDeque<IpAddr>,
}

impl Ipam {
    /// Opens the file, or begins a new one. With other blocks than the file's, addresses outside of the new blocks
    /// are forgotten: their pods get new ones.
    pub fn open(file: impl Into<PathBuf>, blocks: &[Cidr]) -> Result<Self> {
        let file = file.into();
        let mut state: State = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::check(format!("address file {} is damaged: {e}; remove it", file.display()))
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(Error::file(format!("read {}", file.display()), &e)),
        };
        let blocks: Vec<Cidr> = blocks.iter().map(Cidr::network).collect();
        if state.blocks != blocks {
            let inside = |a: &IpAddr| blocks.iter().any(|b| b.contains(*a));
            state.pods.retain(|_, ips| ips.len() == blocks.len() && ips.iter().all(inside));
            state.freed.retain(inside);
            state.next = vec![FIRST; blocks.len()];
            state.blocks = blocks;
        }
        Ok(Self { file, state })
    }

    /// The pod's addresses, one per block; new ones when it has none yet.
    pub fn allocate(&mut self, pod_uid: &str) -> Result<Vec<IpAddr>> {
        if let Some(ips) = self.state.pods.get(pod_uid) {
            return Ok(ips.clone());
        }
        let mut state = self.state.clone();
        let ips = pick(&mut state)?;
        state.pods.insert(pod_uid.to_owned(), ips.clone());
        self.save(state)?;
        Ok(ips)
    }

    /// The pod's addresses, if it has any.
    pub fn get(&self, pod_uid: &str) -> Option<&[IpAddr]> {
        self.state.pods.get(pod_uid).map(Vec::as_slice)
    }

    /// Frees the pod's addresses; an unknown pod is success.
    pub fn release(&mut self, pod_uid: &str) -> Result<()> {
        let mut state = self.state.clone();
        let Some(ips) = state.pods.remove(pod_uid) else { return Ok(()) };
        state.freed.extend(ips);
        while state.freed.len() > FREED_MAX {
            state.freed.pop_front();
        }
        self.save(state)
    }

    /// The pods that have addresses.
    pub fn pods(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        self.state.pods.iter().map(|(uid, ips)| (uid.as_str(), ips.as_slice()))
    }

    fn save(&mut self, state: State) -> Result<()> {
        let text = serde_json::to_vec(&state).map_err(|e| Error::check(format!("encode addresses: {e}")))?;
        replace(&self.file, &text)?;
        self.state = state;
        Ok(())
    }
}

/// The first offset handed out: the block's own address is left alone.
const FIRST: u128 = 1;
/// Most offsets tried in one block before it counts as full.
const SEARCH_MAX: u128 = 1 << 20;

fn pick(state: &mut State) -> Result<Vec<IpAddr>> {
    let used: HashSet<IpAddr> = state.pods.values().flatten().copied().collect();
    let freed: HashSet<IpAddr> = state.freed.iter().copied().collect();
    let mut ips = vec![];
    for (i, block) in state.blocks.iter().enumerate() {
        // The last address of an IPv4 block is its broadcast address.
        let end = block.size().unwrap_or(u128::MAX) - u128::from(block.is_ipv4() && block.prefix < 31);
        let start = state.next[i];
        let span = end.saturating_sub(FIRST).min(SEARCH_MAX);
        let fresh = (0..span)
            .map(|n| FIRST + (start - FIRST + n) % (end - FIRST))
            .filter_map(|offset| Some((offset, block.nth(offset)?)))
            .find(|(_, a)| !used.contains(a) && !freed.contains(a));
        let address = match fresh {
            Some((offset, address)) => {
                state.next[i] = if offset + 1 < end { offset + 1 } else { FIRST };
                address
            }
            None => {
                let oldest = state.freed.iter().position(|a| block.contains(*a) && !used.contains(a));
                oldest
                    .and_then(|at| state.freed.remove(at))
                    .ok_or_else(|| Error::check(format!("no free address left in pod CIDR {block}")))?
            }
        };
        ips.push(address);
    }
    Ok(ips)
}

/// Replaces a file so that after a crash it has its old or its new content.
pub(crate) fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let temporary = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut f = std::fs::File::create(&temporary)?;
        f.write_all(content)?;
        f.sync_data()?;
        std::fs::rename(&temporary, file)
    };
    write().map_err(|e| Error::file(format!("write {}", file.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_dual_stack_idempotent_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ipam.json");
        let b = blocks(&["10.244.1.0/24", "fd00:1::/64"]);
        let mut ipam = Ipam::open(&file, &b).unwrap();
        let first = ipam.allocate("a").unwrap();
        assert_eq!(first, ips(&["10.244.1.1", "fd00:1::1"]));
        assert_eq!(ipam.allocate("a").unwrap(), first);
        assert_eq!(ipam.allocate("b").unwrap(), ips(&["10.244.1.2", "fd00:1::2"]));
        let mut again = Ipam::open(&file, &b).unwrap();
        assert_eq!(again.allocate("a").unwrap(), first);
        assert_eq!(again.allocate("c").unwrap(), ips(&["10.244.1.3", "fd00:1::3"]));
        let mut moved = Ipam::open(&file, &blocks(&["10.244.2.0/24", "fd00:2::/64"])).unwrap();
        assert_eq!(moved.get("a"), None);
        assert_eq!(moved.allocate("a").unwrap(), ips(&["10.244.2.1", "fd00:2::1"]));
    }

    #[test]
    fn freed_addresses_come_last_oldest_first_and_a_full_block_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path().join("ipam.json"), &blocks(&["10.0.0.0/29"])).unwrap();
        for pod in ["1", "2", "3", "4"] {
            ipam.allocate(pod).unwrap();
        }
        ipam.release("3").unwrap();
        ipam.release("1").unwrap();
        ipam.release("1").unwrap();
        assert_eq!(ipam.allocate("5").unwrap(), ips(&["10.0.0.5"]));
        assert_eq!(ipam.allocate("6").unwrap(), ips(&["10.0.0.6"]));
        assert_eq!(ipam.allocate("7").unwrap(), ips(&["10.0.0.3"]));
        assert_eq!(ipam.allocate("8").unwrap(), ips(&["10.0.0.1"]));
        let full = ipam.allocate("9").unwrap_err().to_string();
        assert_eq!(full, "no free address left in pod CIDR 10.0.0.0/29");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ipam.json");
        std::fs::write(&file, "{").unwrap();
        assert!(Ipam::open(&file, &[]).unwrap_err().to_string().contains("damaged"));
    }
}
