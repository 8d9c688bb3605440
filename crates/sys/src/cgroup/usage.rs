//! What a group uses. A controller that is absent counts as zero: statistics must not fail where limits work.

use super::Cgroups;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// Memory without what the kernel could drop at once (inactive file pages).
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub processes: u64,
}

impl Cgroups {
    /// Reads the group's use. Errors only if the group does not exist.
    pub fn usage(&self, group: &str) -> Result<Usage> {
        if !self.exists(group) {
            return Err(Error { what: format!("cgroup {group}"), errno: libc::ENOENT });
        }
        let text = |controller: &str, file: &str| {
            self.path(controller, group)
                .ok()
                .and_then(|p| std::fs::read_to_string(p.join(file)).ok())
                .unwrap_or_default()
        };
        let number = |controller: &str, file: &str| text(controller, file).trim().parse::<u64>().unwrap_or(0);
        let stat = text("memory", "memory.stat");
        let mut usage = Usage { processes: number("pids", "pids.current"), ..Usage::default() };
        let inactive_file = if self.version() == 2 {
            usage.cpu_ns = field(&text("cpu", "cpu.stat"), "usage_usec").saturating_mul(1000);
            usage.memory_bytes = number("memory", "memory.current");
            usage.rss_bytes = field(&stat, "anon");
            usage.page_faults = field(&stat, "pgfault");
            usage.major_page_faults = field(&stat, "pgmajfault");
            field(&stat, "inactive_file")
        } else {
            usage.cpu_ns = number("cpuacct", "cpuacct.usage");
            usage.memory_bytes = number("memory", "memory.usage_in_bytes");
            usage.rss_bytes = field(&stat, "total_rss");
            usage.page_faults = field(&stat, "total_pgfault");
            usage.major_page_faults = field(&stat, "total_pgmajfault");
            field(&stat, "total_inactive_file")
        };
        usage.working_set_bytes = usage.memory_bytes.saturating_sub(inactive_file);
        Ok(usage)
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|v| v.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_words() {
        let text = "anon_thp 5\nanon 7\n";
        assert_eq!(field(text, "anon"), 7);
        assert_eq!(field(text, "file"), 0);
    }
}
