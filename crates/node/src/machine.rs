//! Facts of this machine: sizes, names, and how much is left.

use std::path::Path;

/// What does not change while the agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Size of the filesystem that holds pods, in bytes.
    pub disk: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// Go's name: `amd64`, `arm64`.
    pub architecture: String,
}

/// What runs short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// Limits below which something runs short.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// Bytes.
    pub memory: u64,
    pub disk_percent: u64,
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default()
}

/// A field of `/proc/meminfo` in bytes.
fn meminfo(name: &str) -> Option<u64> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, name)
}

fn parse_meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Size and free space of a filesystem in bytes, and its free inodes in percent.
fn disk(path: &Path) -> Option<(u64, u64, u64)> {
    let s = rustix::fs::statvfs(path).ok()?;
    let inodes = (s.f_favail * 100).checked_div(s.f_files).unwrap_or(100);
    Some((s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize, inodes))
}

/// Reads the facts; `root` is where pods are kept. What the machine does not say is empty.
pub fn facts(root: &Path) -> Facts {
    let uname = rustix::system::uname();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let machine_id = text("/etc/machine-id");
    Facts {
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory: meminfo("MemTotal").unwrap_or(0),
        disk: disk(root).map_or(0, |d| d.0),
        system_uuid: Some(text("/sys/class/dmi/id/product_uuid"))
            .filter(|t| !t.is_empty())
            .unwrap_or_else(|| machine_id.clone()),
        machine_id,
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: uname.release().to_string_lossy().into_owned(),
        os_image: pretty_name(&release),
        architecture: architecture.into(),
    }
}

fn pretty_name(release: &str) -> String {
    let value = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".to_owned(), |v| v.trim_matches(['"', '\'']).to_owned())
}

/// What runs short now (upstream: default `evictionHard`; nothing is evicted here).
pub fn pressure(root: &Path, t: &Thresholds) -> Pressure {
    let available = meminfo("MemAvailable");
    let (size, free, inodes) = disk(root).unwrap_or((0, 1, 100));
    let number = |path: &str| text(path).parse::<u64>().ok();
    let tasks = text("/proc/loadavg")
        .split_whitespace()
        .nth(3)
        .and_then(|f| f.split_once('/')?.1.parse::<u64>().ok());
    let most =
        number("/proc/sys/kernel/pid_max").into_iter().chain(number("/proc/sys/kernel/threads-max")).min();
    Pressure {
        memory: available.is_some_and(|a| a < t.memory),
        disk: free < size / 100 * t.disk_percent || inodes < 5,
        pid: tasks.zip(most).is_some_and(|(n, most)| n + most / 100 > most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        assert_eq!(parse_meminfo("MemTotal:       24 kB\nMemAvailable: 2 kB\n", "MemAvailable"), Some(2048));
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        let f = facts(Path::new("/"));
        assert!(f.cpus > 0 && f.memory > 0 && f.disk > 0 && !f.kernel.is_empty());
    }
}
