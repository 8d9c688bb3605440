//! Limits of a group: memory, processor time and share, number of processes.

use super::{Cgroups, write};
use crate::error::{Error, Result};
use std::path::Path;

/// The CFS period that quotas count in, in microseconds.
const PERIOD_US: u64 = 100_000;

/// `None` means without limit (shares: unchanged).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Microseconds of processor time per 100 ms.
    pub cpu_quota_us: Option<u64>,
    /// 2 to 262144, as in v1.
    pub cpu_shares: Option<u64>,
    pub processes: Option<u64>,
}

impl Cgroups {
    /// Sets all limits of an existing group. A limit whose controller is absent is an error only if it is wanted.
    pub fn set_limits(&self, group: &str, limits: &Limits) -> Result<()> {
        if self.version == 2 { self.set_v2(group, limits) } else { self.set_v1(group, limits) }
    }

    fn set_v1(&self, group: &str, l: &Limits) -> Result<()> {
        self.put("memory", group, l.memory_bytes.is_some(), |dir| set_v1_memory(dir, l.memory_bytes))?;
        self.put("cpu", group, l.cpu_quota_us.is_some() || l.cpu_shares.is_some(), |dir| {
            if l.cpu_quota_us.is_some() {
                write(&dir.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
            }
            write(&dir.join("cpu.cfs_quota_us"), &number_or(l.cpu_quota_us, "-1"))?;
            match l.cpu_shares {
                Some(shares) => write(&dir.join("cpu.shares"), &shares.clamp(2, 262_144).to_string()),
                None => Ok(()),
            }
        })?;
        self.put("pids", group, l.processes.is_some(), |dir| {
            write(&dir.join("pids.max"), &number_or(l.processes, "max"))
        })
    }

    fn set_v2(&self, group: &str, l: &Limits) -> Result<()> {
        self.put("memory", group, l.memory_bytes.is_some(), |dir| {
            write(&dir.join("memory.max"), &number_or(l.memory_bytes, "max"))?;
            if l.memory_bytes.is_some() {
                // Both files are absent on some kernels; neither makes the memory limit itself any weaker.
                let _ = std::fs::write(dir.join("memory.swap.max"), "0");
                let _ = std::fs::write(dir.join("memory.oom.group"), "1");
            }
            Ok(())
        })?;
        self.put("cpu", group, l.cpu_quota_us.is_some() || l.cpu_shares.is_some(), |dir| {
            write(&dir.join("cpu.max"), &format!("{} {PERIOD_US}", number_or(l.cpu_quota_us, "max")))?;
            match l.cpu_shares {
                Some(shares) => write(&dir.join("cpu.weight"), &weight(shares).to_string()),
                None => Ok(()),
            }
        })?;
        self.put("pids", group, l.processes.is_some(), |dir| {
            write(&dir.join("pids.max"), &number_or(l.processes, "max"))
        })
    }

    fn put(
        &self,
        controller: &str,
        group: &str,
        wanted: bool,
        f: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let usable = self.path(controller, group).and_then(|dir| {
            let there = self.version == 1
                || std::fs::read_to_string(dir.join("cgroup.controllers"))
                    .is_ok_and(|t| t.split_ascii_whitespace().any(|c| c == controller));
            if there {
                Ok(dir)
            } else {
                Err(Error::check(format!("cgroup controller {controller} is not available")))
            }
        });
        match usable {
            Ok(dir) => f(&dir),
            Err(_) if !wanted => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Memory and memory+swap bound each other, so which comes first depends on the direction of the change.
fn set_v1_memory(dir: &Path, bytes: Option<u64>) -> Result<()> {
    let value = number_or(bytes, "-1");
    let (memory, with_swap) = (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
    let swap_counted = with_swap.exists();
    if !swap_counted {
        return write(&memory, &value);
    }
    if write(&memory, &value).is_ok() {
        return write(&with_swap, &value);
    }
    write(&with_swap, &value)?;
    write(&memory, &value)
}

fn number_or(n: Option<u64>, none: &str) -> String {
    n.map_or_else(|| none.to_string(), |n| n.to_string())
}

/// upstream: github.com/opencontainers/cgroups utils.go#ConvertCPUSharesToCgroupV2Value
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_span_the_range() {
        assert_eq!((weight(0), weight(2), weight(1024), weight(262_144)), (1, 1, 39, 10_000));
    }
}
