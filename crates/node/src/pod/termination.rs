//! Termination messages (upstream: `kuberuntime_container.go#getTerminationMessage`).

use crate::runtime::ContainerState;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Longest message taken from the container's file, in bytes.
const FILE_MAX: u64 = 4096;
/// Longest message taken from its log, in bytes and lines.
const LOG_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// How far back the log is read for that, in bytes.
const LOG_WINDOW: u64 = 64 * 1024;

/// The reason that is shown for an end.
pub fn reason(state: &ContainerState) -> &'static str {
    match (state.oom_killed, state.exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        _ => "Error",
    }
}

/// The message: the container's file, or the end of its log where the policy says so and it failed.
pub fn message(file: Option<&Path>, log: &Path, fall_back: bool, exit_code: i32) -> String {
    let text = match file.map(|f| tail(f, FILE_MAX)) {
        Some(Ok(text)) => text,
        Some(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Some(Err(e)) => {
            return format!("Error on reading termination log {}: {e}", file.unwrap_or(log).display());
        }
        None => String::new(),
    };
    if !text.is_empty() || !fall_back || exit_code == 0 {
        return text;
    }
    tail(log, LOG_WINDOW).map(|t| last_lines(&t)).unwrap_or_default()
}

/// The last `most` bytes of a file as text.
fn tail(path: &Path, most: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log in CRI format, without their heads: `<time> <stream> <F|P> <text>`.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_MAX);
    let mut out = String::new();
    for line in &lines[from..] {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        out.push_str(text);
        if tag.starts_with('F') {
            out.push('\n');
        }
    }
    let mut start = out.len().saturating_sub(LOG_MAX);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("m"), dir.path().join("0.log"));
        std::fs::write(&log, "t stdout F one\nt stderr P tw\nt stderr F o\n").unwrap();
        assert_eq!(message(Some(&file), &log, false, 1), "");
        assert_eq!(message(Some(&file), &log, true, 0), "");
        assert_eq!(message(Some(&file), &log, true, 1), "one\ntwo\n");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(message(Some(&file), &log, true, 1).len(), 4096);
        let many: String = (0..200).map(|i| format!("t stdout F {i}\n")).collect();
        assert!(last_lines(&many).starts_with("120\n"));
        assert_eq!(last_lines(&format!("t stdout F {}\n", "y".repeat(9000))).len(), LOG_MAX);
    }
}
