//! A container's output as CRI log lines: `TIME STREAM TAG TEXT`, tag `F` for a whole line, `P` for a part of one.
//!
//! Invariant: no more than one line's worth of bytes per stream is held back, and nothing is lost but to a full disk.

use base::clock::{Clock as _, SystemClock};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use sys::error::{Error, Result};

/// The longest text of one line, in bytes; longer ones come in parts.
const LINE_BYTES_MAX: usize = 16 << 10;

#[derive(Debug)]
pub struct ContainerLog {
    path: PathBuf,
    file: File,
    clock: SystemClock,
    /// Text without its newline yet: stdout, stderr.
    rest: [Vec<u8>; 2],
}

fn open(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let fail = |e: std::io::Error| Error::check(format!("open log {}: {e}", path.display()));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(fail)
}

impl ContainerLog {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), file: open(path)?, clock: SystemClock::new(), rest: [vec![], vec![]] })
    }

    /// Goes on in a new file at the path.
    pub fn reopen(&mut self) -> Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    pub fn write(&mut self, stream: &str, data: &[u8]) {
        let time = self.time();
        let rest = &mut self.rest[usize::from(stream == "stderr")];
        rest.extend_from_slice(data);
        let mut out = Vec::with_capacity(data.len() + 64);
        let taken = lines(rest, |text, tag| line(&mut out, &time, stream, tag, text));
        rest.drain(..taken);
        self.put(&out);
    }

    /// The stream ended: what has no newline stays a part.
    pub fn end(&mut self, stream: &str) {
        let rest = std::mem::take(&mut self.rest[usize::from(stream == "stderr")]);
        if !rest.is_empty() {
            let mut out = vec![];
            line(&mut out, &self.time(), stream, 'P', &rest);
            self.put(&out);
        }
    }

    fn time(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
    }

    fn put(&mut self, bytes: &[u8]) {
        // A full disk loses log lines, never the container.
        let _ = self.file.write_all(bytes);
    }
}

/// Cuts whole lines and overlong parts off the front; returns how many bytes they take.
fn lines(text: &[u8], mut each: impl FnMut(&[u8], char)) -> usize {
    let mut at = 0;
    loop {
        let left = &text[at..];
        let newline = left.iter().take(LINE_BYTES_MAX + 1).position(|b| *b == b'\n');
        match newline {
            Some(end) => {
                each(&left[..end], 'F');
                at += end + 1;
            }
            None if left.len() > LINE_BYTES_MAX => {
                each(&left[..LINE_BYTES_MAX], 'P');
                at += LINE_BYTES_MAX;
            }
            None => return at,
        }
    }
}

fn line(out: &mut Vec<u8>, time: &str, stream: &str, tag: char, text: &[u8]) {
    out.extend_from_slice(format!("{time} {stream} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_or_marked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let mut log = ContainerLog::open(&path).unwrap();
        log.write("stdout", b"one\ntw");
        log.write("stderr", &vec![b'x'; LINE_BYTES_MAX + 1]);
        log.write("stdout", b"o\n\nend");
        log.write("stderr", b"\n");
        std::fs::rename(&path, dir.path().join("c/0.log.1")).unwrap();
        log.reopen().unwrap();
        log.end("stdout");
        log.end("stderr");
        let tags = |file: &str| -> Vec<String> {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            text.lines()
                .map(|l| {
                    let mut f = l.splitn(4, ' ');
                    let time = f.next().unwrap();
                    assert_eq!(time.len(), "2026-01-02T15:04:05.000000000Z".len(), "{time}");
                    let (stream, tag, text) = (f.next().unwrap(), f.next().unwrap(), f.next().unwrap());
                    format!("{stream} {tag} {}", if text.len() > 9 { "long" } else { text })
                })
                .collect()
        };
        let before = ["stdout F one", "stderr P long", "stdout F two", "stdout F ", "stderr F x"];
        assert_eq!(tags("c/0.log.1"), before);
        assert_eq!(tags("c/0.log"), ["stdout P end"]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let mut text = vec![b'y'; LINE_BYTES_MAX];
        text.push(b'\n');
        let mut tags = vec![];
        assert_eq!(lines(&text, |t, tag| tags.push((t.len(), tag))), text.len());
        assert_eq!(tags, [(LINE_BYTES_MAX, 'F')]);
    }
}
