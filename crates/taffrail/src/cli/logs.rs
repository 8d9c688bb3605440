//! `taffrail logs`: what components and the machine have to say.

use super::DataDir;
use crate::logging;
use clap::Args;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

#[derive(Args)]
pub struct Logs {
    #[command(flatten)]
    dir: DataDir,
    /// Whose log; `node` is the kernel's and the system's
    #[arg(value_parser = ["apiserver", "controller-manager", "scheduler", "kubelet", "store", "network", "node"])]
    component: String,
    /// Go on as lines come
    #[arg(long, short)]
    follow: bool,
    /// A time (2026-01-02T15:04:05Z) or how long ago (10m, 2h)
    #[arg(long)]
    since: Option<String>,
    /// The last this many lines
    #[arg(long)]
    tail: Option<usize>,
}

pub fn run(l: &Logs) -> Result<(), String> {
    #[allow(clippy::disallowed_methods)] // the user's now
    let now = Timestamp::now();
    let since = l.since.as_deref().map(|s| trail::query::time(s, now)).transpose()?;
    if l.component == "node" {
        return kernel(l.tail, now, since);
    }
    let path = logging::path(&l.dir.data_dir, &l.component);
    let file = File::open(&path).map_err(|e| {
        format!("{} has no log in {}: {e}", l.component, l.dir.data_dir.join("logs").display())
    })?;
    let mut reader = BufReader::new(file);
    let mut lines: VecDeque<String> = VecDeque::new();
    let mut line = String::new();
    while reader.read_line(&mut line).map_err(|e| e.to_string())? > 0 {
        let text = std::mem::take(&mut line);
        if since.is_none_or(|s| time_of(&text).is_some_and(|t| t >= s)) {
            lines.push_back(text);
        }
        if l.tail.is_some_and(|n| lines.len() > n) {
            lines.pop_front();
        }
    }
    let mut out = std::io::stdout().lock();
    for text in lines {
        if out.write_all(text.as_bytes()).is_err() {
            return Ok(());
        }
    }
    if l.follow { follow(&path, reader) } else { Ok(()) }
}

fn time_of(line: &str) -> Option<Timestamp> {
    let v: serde_json::Value = serde_json::from_str(line).ok()?;
    v["ts"].as_str()?.parse().ok()
}

fn follow(path: &Path, mut reader: BufReader<File>) -> Result<(), String> {
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).map_err(|e| e.to_string())? > 0 {
            if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                return Ok(());
            }
            continue;
        }
        std::thread::sleep(Duration::from_millis(200));
        // Rotated away: what follows is in a new file.
        let at = reader.stream_position().unwrap_or(0);
        if std::fs::metadata(path).is_ok_and(|m| m.len() < at) {
            reader = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
        }
    }
}

/// The kernel's ring buffer.
fn kernel(tail: Option<usize>, now: Timestamp, since: Option<Timestamp>) -> Result<(), String> {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags_nonblock()
        .open("/dev/kmsg")
        .map_err(|e| format!("cannot read the kernel's log /dev/kmsg: {e}; run this as root"))?;
    let _ = file.seek(SeekFrom::Start(0));
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime.split(' ').next().and_then(|u| u.parse().ok()).unwrap_or(0.0);
    let mut lines = VecDeque::new();
    let mut buffer = vec![0u8; 8192];
    // One record a read; an error is the end of what is there.
    while let Ok(n) = file.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let Some((head, message)) = text.split_once(';') else { continue };
        let micros: f64 = head.split(',').nth(2).and_then(|m| m.parse().ok()).unwrap_or(0.0);
        let ago = jiff::SignedDuration::from_secs_f64((uptime - micros / 1e6).max(0.0));
        let at = now.checked_sub(ago).unwrap_or(now);
        if since.is_some_and(|s| at < s) {
            continue;
        }
        let first = message.lines().next().unwrap_or("");
        let line = serde_json::json!({"ts": meta::time::rfc3339_micro(at), "component": "node", "source": "kernel", "msg": first});
        lines.push_back(line.to_string());
        if tail.is_some_and(|n| lines.len() > n) {
            lines.pop_front();
        }
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// Reading past the newest record must not wait for the next.
trait Nonblocking {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl Nonblocking for std::fs::OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
    }
}
