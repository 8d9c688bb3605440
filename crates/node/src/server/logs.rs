//! Container logs: CRI log files as a client wants them
//! (upstream: `pkg/kubelet/kuberuntime/logs/logs.go`, `k8s.io/cri-client/pkg/logs`).

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use jiff::Timestamp;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// How often a followed file is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;
/// A line longer than this is sent in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub timestamps: bool,
    /// Lines from the end; `None` is all.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr`; `None` is both.
    pub stream: Option<&'static str>,
}

impl Options {
    /// Reads the query of `/containerLogs`; the error is for the client.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || value.parse::<u64>().map_err(|_| format!("unable to parse {name}={value:?}"));
            let flag = !matches!(&*value, "false" | "0");
            match &*name {
                "follow" => out.follow = flag,
                "timestamps" => out.timestamps = flag,
                "tailLines" => out.tail = Some(number()?),
                "limitBytes" => out.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let seconds =
                        jiff::SignedDuration::from_secs(i64::try_from(number()?).unwrap_or(i64::MAX));
                    out.since = now.checked_sub(seconds).ok();
                }
                "sinceTime" => {
                    let at = value.parse().map_err(|_| format!("unable to parse sinceTime={value:?}"))?;
                    out.since = Some(at);
                }
                "stream" => {
                    out.stream = match &*value {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        "" | "All" => None,
                        other => return Err(format!("unknown stream {other:?}")),
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

/// One line of a CRI log: `TIME STREAM TAG TEXT`.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    /// The text goes on in the next line.
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = std::str::from_utf8(fields.next()?).ok()?;
    let tag = fields.next()?;
    let text = fields.next().unwrap_or_default();
    Some(Line { time, stream, partial: tag.first() == Some(&b'P'), text })
}

/// Writes a line as the client wants it, if at all. `fresh` says whether the last text ended its line.
fn render(line: &[u8], options: &Options, fresh: &mut bool, out: &mut BytesMut) {
    let Some(l) = parse(line) else { return };
    if options.stream.is_some_and(|s| s != l.stream) {
        return;
    }
    if let Some(since) = options.since
        && l.time.parse::<Timestamp>().is_ok_and(|t| t < since)
    {
        return;
    }
    if options.timestamps && *fresh {
        out.extend_from_slice(l.time.as_bytes());
        out.put_u8(b' ');
    }
    out.extend_from_slice(l.text);
    *fresh = !l.partial;
    if !l.partial {
        out.put_u8(b'\n');
    }
}

/// Where the last `lines` complete lines of a file begin.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut seen = 0;
    let mut buffer = vec![0u8; READ_BYTES];
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES as u64);
        let size = (end - start) as usize;
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for i in (0..size).rev() {
            // The newline that ends the file belongs to the last line.
            if buffer[i] == b'\n' && start + i as u64 + 1 < length {
                seen += 1;
                if seen == lines {
                    return Ok(start + i as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The log as a stream of text. `older` are rotated files, oldest first; `running` tells a follower when to stop.
pub fn stream(
    older: Vec<PathBuf>,
    current: PathBuf,
    options: Options,
    running: impl Fn() -> bool + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    async_stream::stream! {
        let mut left = options.limit_bytes.unwrap_or(u64::MAX);
        let mut fresh = true;
        // A tail is taken from the newest file alone, as upstream does.
        let files: Vec<PathBuf> =
            if options.tail.is_some() { vec![current.clone()] } else { older.into_iter().chain([current.clone()]).collect() };
        for path in files {
            let is_current = path == current;
            let mut file = match File::open(&path).await {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => { yield Err(e); return; }
            };
            let start = match options.tail {
                Some(n) => match tail_start(&mut file, n).await { Ok(s) => s, Err(e) => { yield Err(e); return; } },
                None => 0,
            };
            if let Err(e) = file.seek(SeekFrom::Start(start)).await { yield Err(e); return; }
            let mut rest = BytesMut::new();
            loop {
                let alive = running();
                let mut chunk = BytesMut::with_capacity(READ_BYTES);
                let n = match file.read_buf(&mut chunk).await { Ok(n) => n, Err(e) => { yield Err(e); return; } };
                if n == 0 {
                    if !(options.follow && is_current) { break; }
                    // Rotated away: the rest of the log is in a new file of the same name.
                    if rotated(&file, &path).await {
                        match File::open(&path).await { Ok(f) => { file = f; continue; } Err(_) => break }
                    }
                    if !alive { break; }
                    tokio::time::sleep(FOLLOW_EVERY).await;
                    continue;
                }
                rest.extend_from_slice(&chunk);
                let mut out = BytesMut::new();
                while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    let line = rest.split_to(end + 1);
                    render(&line[..end], &options, &mut fresh, &mut out);
                }
                if rest.len() > LINE_BYTES_MAX { rest.clear(); }
                if out.len() as u64 > left { out.truncate(left as usize); }
                left -= out.len() as u64;
                if !out.is_empty() { yield Ok(out.freeze()); }
                if left == 0 { return; }
            }
        }
    }
}

async fn rotated(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata().await, tokio::fs::metadata(path).await) else {
        return false;
    };
    open.ino() != named.ino()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    const LOG: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n2026-01-02T03:04:06Z stderr P two\n2026-01-02T03:04:06Z stderr F -more\n2026-01-02T03:04:07Z stdout F three\n";

    async fn read(options: Options) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        let pieces: Vec<_> = stream(Vec::new(), path, options, || false).collect().await;
        pieces.into_iter().map(|p| String::from_utf8_lossy(&p.expect("read")).into_owned()).collect()
    }

    #[tokio::test]
    async fn what_clients_ask_for() {
        let o = Options::default;
        assert_eq!(read(o()).await, "one\ntwo-more\nthree\n");
        assert_eq!(read(Options { tail: Some(1), ..o() }).await, "three\n");
        assert_eq!(read(Options { tail: Some(0), ..o() }).await, "");
        assert_eq!(read(Options { stream: Some("stderr"), ..o() }).await, "two-more\n");
        assert_eq!(read(Options { since: "2026-01-02T03:04:07Z".parse().ok(), ..o() }).await, "three\n");
        assert_eq!(read(Options { limit_bytes: Some(5), ..o() }).await, "one\nt");
        let stamped = read(Options { timestamps: true, tail: Some(1), ..o() }).await;
        assert_eq!(stamped, "2026-01-02T03:04:07Z three\n");
    }

    #[test]
    fn queries() {
        let now = "2026-01-02T03:04:05Z".parse().expect("a time");
        let o = Options::parse("follow=true&tailLines=5&sinceSeconds=5", now).expect("read");
        assert_eq!((o.follow, o.tail, o.since), (true, Some(5), "2026-01-02T03:04:00Z".parse().ok()));
        assert!(Options::parse("tailLines=x", now).is_err());
    }
}
