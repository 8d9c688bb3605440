//! Notice of out-of-memory kills in a group: an eventfd on v1, inotify on `memory.events` on v2.

use super::Cgroups;
use crate::error::{Context, Result};
use rustix::event::EventfdFlags;
use rustix::fs::inotify;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Becomes readable when something happened to the group's memory; ask [`Cgroups::oom_kills`] whether it was a kill.
#[derive(Debug)]
pub struct OomWatch(OwnedFd);

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl OomWatch {
    /// Takes the notice, so that the descriptor waits for the next one.
    pub fn clear(&self) {
        let mut buffer = [0u8; 4096];
        while matches!(rustix::io::read(&self.0, &mut buffer), Ok(n) if n == buffer.len()) {}
    }
}

impl Cgroups {
    /// Watches the group for out-of-memory kills.
    pub fn watch_oom(&self, group: &str) -> Result<OomWatch> {
        let dir = self.path("memory", group)?;
        if self.version() == 2 {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
                .what(|| "inotify".into())?;
            inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)
                .what(|| format!("watch memory.events of {group}"))?;
            return Ok(OomWatch(fd));
        }
        let control = std::fs::File::open(dir.join("memory.oom_control"))
            .what(|| format!("open memory.oom_control of {group}"))?;
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .what(|| "eventfd".into())?;
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        super::write(&dir.join("cgroup.event_control"), &line)?;
        Ok(OomWatch(event))
    }

    /// How many processes of the group the kernel killed for want of memory.
    pub fn oom_kills(&self, group: &str) -> u64 {
        let file = if self.version() == 2 { "memory.events" } else { "memory.oom_control" };
        let Ok(dir) = self.path("memory", group) else { return 0 };
        let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.lines()
            .find_map(|l| l.strip_prefix("oom_kill "))
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0)
    }
}
