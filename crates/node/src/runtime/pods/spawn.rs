//! Starting a pod's shim: this program again, from its sealed mount, until it says that it is ready.

use super::{RuntimeError, blocking};
use crate::runtime::disk::PodDir;
use crate::runtime::shim::READY;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use sys::fd::{self, Interest};

/// How long a shim may take until it listens.
const READY_MAX: Duration = Duration::from_secs(10);
/// Largest part of a shim's log that is quoted in an error, in bytes.
const QUOTE_BYTES_MAX: usize = 2 << 10;

/// Starts the shim of a pod whose directory holds its sandbox.
pub async fn shim(program: &OwnedFd, pod: &PodDir) -> Result<(), RuntimeError> {
    // The descriptor closes at exec, when its path has done its service.
    let program = PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
    let pod = pod.clone();
    blocking("start the pod's shim", move || start(&program, &pod)).await
}

fn start(program: &PathBuf, pod: &PodDir) -> io::Result<()> {
    let log = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(pod.log())?;
    let mut child = Command::new(program)
        .arg("__shim")
        .arg(pod.path())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let said = child.stdout.take().map_or(Ok(String::new()), |out| listen(out.into()));
    // The first process ends at once; the shim is its child and becomes nobody's.
    child.wait()?;
    match said? {
        said if said == READY => Ok(()),
        _ => Err(io::Error::other(quote(pod))),
    }
}

fn listen(out: OwnedFd) -> io::Result<String> {
    let mut out = std::fs::File::from(out);
    let mut said = String::new();
    let mut chunk = [0u8; 64];
    while !said.ends_with('\n') {
        let ready = fd::poll(&[(out.as_fd(), Interest::Read)], Some(READY_MAX))?;
        if !ready[0].read && !ready[0].hangup {
            return Err(io::Error::other(format!("it was not ready after {} s", READY_MAX.as_secs())));
        }
        match out.read(&mut chunk)? {
            0 => break,
            n => said.push_str(&String::from_utf8_lossy(&chunk[..n])),
        }
    }
    Ok(said)
}

/// What the shim said of its failure.
fn quote(pod: &PodDir) -> String {
    let log = std::fs::read_to_string(pod.log()).unwrap_or_default();
    let log = log.trim();
    let from = log.char_indices().map(|(i, _)| i).find(|i| log.len() - i <= QUOTE_BYTES_MAX).unwrap_or(0);
    if log.is_empty() { "it ended without a word".to_owned() } else { log[from..].to_owned() }
}
