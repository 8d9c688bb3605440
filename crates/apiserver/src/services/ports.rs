//! Node ports: one pool for all protocols; what a write takes is given back unless it is stored
//! (upstream: `pkg/registry/core/service/portallocator`).
//!
//! The pool lives in memory, is filled from the stored Services at start and follows the claims in the store
//! ([`super::claims`]), which decide: it only says which ports are worth a try.

use super::metrics::{Metrics, Scope};
use base::rng::Rng;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The number before the first that a dry run tells (upstream: `PortAllocationOperation.AllocateNext`).
const DRY_RUN_BASE: u16 = 32_768;

/// Why there is no port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    Taken,
    /// The valid ports.
    OutOfRange(RangeInclusive<u16>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("range is full"),
            Self::Taken => f.write_str("provided port is already allocated"),
            Self::OutOfRange(valid) => {
                let (from, to) = (valid.start(), valid.end());
                write!(f, "provided port is not in the valid range. The range of valid ports is {from}-{to}")
            }
        }
    }
}

pub struct Ports {
    range: RangeInclusive<u16>,
    taken: Mutex<HashSet<u16>>,
    rng: Arc<Rng>,
    metrics: Arc<Metrics>,
}

impl Ports {
    pub fn new(range: RangeInclusive<u16>, rng: Arc<Rng>, metrics: Arc<Metrics>) -> Self {
        Self { range, taken: Mutex::default(), rng, metrics }
    }

    /// How many ports are taken, and how many are not.
    pub fn usage(&self) -> (u64, u64) {
        let used = self.taken.lock().iter().filter(|p| self.range.contains(p)).count() as u64;
        (used, (self.range.len() as u64).saturating_sub(used))
    }

    /// Marks ports that stored Services hold.
    pub fn restore(&self, ports: impl IntoIterator<Item = u16>) {
        self.taken.lock().extend(ports);
    }

    /// Marks these and no others.
    pub fn replace(&self, ports: HashSet<u16>) {
        *self.taken.lock() = ports;
    }

    pub fn release(&self, ports: impl IntoIterator<Item = u16>) {
        let mut taken = self.taken.lock();
        for port in ports {
            taken.remove(&port);
        }
    }

    fn take(&self, port: u16) -> Result<(), Refused> {
        if !self.range.contains(&port) {
            return Err(Refused::OutOfRange(self.range.clone()));
        }
        if self.taken.lock().insert(port) { Ok(()) } else { Err(Refused::Taken) }
    }

    /// A free port, from the upper part of the range while it has one: the lower is for ports that people choose.
    fn take_any(&self) -> Result<u16, Refused> {
        let (first, size) = (*self.range.start(), self.range.len() as u64);
        let low = reserved(size);
        let mut taken = self.taken.lock();
        for (from, count) in [(low, size - low), (0, low)] {
            if count == 0 {
                continue;
            }
            let start = self.rng.below(count);
            for n in 0..count {
                let port = first + (from + (start + n) % count) as u16;
                if taken.insert(port) {
                    return Ok(port);
                }
            }
        }
        Err(Refused::Full)
    }
}

/// How many ports at the start of the range are given only when asked for (upstream: `calculateRangeOffset`).
fn reserved(size: u64) -> u64 {
    if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
}

/// What one write takes and frees.
pub struct Operation {
    ports: Arc<Ports>,
    dry_run: bool,
    taken: Vec<u16>,
    freed: Vec<u16>,
}

impl Operation {
    pub fn new(ports: Arc<Ports>, dry_run: bool) -> Self {
        Self { ports, dry_run, taken: Vec::new(), freed: Vec::new() }
    }

    pub fn take(&mut self, port: i64) -> Result<(), Refused> {
        // a number that is no port is in no range
        let number = u16::try_from(port).unwrap_or(0);
        if self.dry_run {
            if self.taken.contains(&number) || self.ports.taken.lock().contains(&number) {
                return Err(Refused::Taken);
            }
        } else {
            let taken = self.ports.take(number);
            self.ports.metrics.port(Scope::Static, taken.is_ok());
            taken?;
        }
        self.taken.push(number);
        Ok(())
    }

    pub fn take_any(&mut self) -> Result<u16, Refused> {
        let port = match self.dry_run {
            true => self.taken.iter().max().unwrap_or(&DRY_RUN_BASE).saturating_add(1),
            false => {
                let taken = self.ports.take_any();
                self.ports.metrics.port(Scope::Dynamic, taken.is_ok());
                taken?
            }
        };
        self.taken.push(port);
        Ok(port)
    }

    /// Frees ports once the write is stored.
    pub fn free(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.freed.extend(ports);
    }

    /// Ends the operation: what it took stays taken only if the write was stored.
    pub fn end(&mut self, written: bool) {
        let (taken, freed) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.freed));
        if !self.dry_run {
            self.ports.release(if written { freed } else { taken });
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(range: RangeInclusive<u16>) -> Arc<Ports> {
        Arc::new(Ports::new(range, Arc::new(Rng::seeded(3)), Arc::default()))
    }

    #[test]
    fn a_range_runs_out_and_the_low_part_is_last() {
        let ports = ports(30_000..=30_019);
        let mut op = Operation::new(ports.clone(), false);
        let first: Vec<u16> = (0..4).map(|_| op.take_any().unwrap()).collect();
        assert!(first.iter().all(|p| *p >= 30_016), "{first:?}");
        for _ in 0..16 {
            op.take_any().unwrap();
        }
        assert_eq!(op.take_any().unwrap_err().to_string(), "range is full");
        drop(op);
        assert!(ports.taken.lock().is_empty(), "what was not stored is free");
    }

    #[test]
    fn what_is_refused_and_what_a_dry_run_tells() {
        let ports = ports(30_000..=30_001);
        let mut op = Operation::new(ports.clone(), false);
        op.take(30_000).unwrap();
        assert_eq!(op.take(30_000), Err(Refused::Taken));
        assert_eq!(
            op.take(70_000).unwrap_err().to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-30001"
        );
        op.end(true);
        let mut dry = Operation::new(ports.clone(), true);
        assert_eq!(dry.take(30_000), Err(Refused::Taken));
        assert_eq!((dry.take_any(), dry.take_any()), (Ok(32_769), Ok(32_770)));
        dry.end(true);
        assert_eq!(ports.taken.lock().len(), 1);
    }
}
