//! Talking to a shim over its socket, and reading the pipes that it hands over.

use super::{RuntimeError, Streams, checked, error, unexpected};
use crate::runtime::disk::PodDir;
use crate::runtime::wire::{self, Answer, Request};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// A connection with a request sent on it.
pub struct Link {
    stream: UnixStream,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Link {
    pub async fn open(pod: &PodDir, request: Request) -> io::Result<Self> {
        let (_dir, path) = pod.socket()?;
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(&wire::request(request)?).await?;
        Ok(Self { stream, buffer: vec![], fds: vec![] })
    }

    /// The next answer.
    pub async fn next(&mut self) -> io::Result<Answer> {
        let mut chunk = vec![0u8; 16 << 10];
        loop {
            if let Some(answer) = wire::take(&mut self.buffer)? {
                return Ok(answer);
            }
            let (stream, fds) = (&self.stream, &mut self.fds);
            let n = stream
                .async_io(Interest::READABLE, || sys::fd::recv_with_fds(stream, &mut chunk, fds))
                .await?;
            if n == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the pod's shim went away"));
            }
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }
}

/// One request and its answer.
pub async fn ask(pod: &PodDir, request: Request) -> io::Result<Answer> {
    Link::open(pod, request).await?.next().await
}

/// A request that is answered with streams.
pub async fn streams(pod: &PodDir, what: &str, request: Request) -> Result<Streams, RuntimeError> {
    let run = async {
        let mut link = Link::open(pod, request).await?;
        let answer = link.next().await?;
        Ok((answer, link.fds))
    };
    let (answer, fds) = run.await.map_err(|e: io::Error| error(what, e))?;
    match checked(what, answer)? {
        Answer::Streams { exec_id, stdin, stdout, stderr } => {
            let mut fds = fds.into_iter();
            let mut take = |there: bool| match there {
                true => fds.next().map(Some).ok_or_else(|| error(what, "a stream is missing")),
                false => Ok(None),
            };
            Ok(Streams { stdin: take(stdin)?, stdout: take(stdout)?, stderr: take(stderr)?, exec_id })
        }
        other => Err(unexpected(what, &other)),
    }
}

/// Reads pipes to their end, side by side; `output` takes at most `max` bytes, the rest is dropped.
pub async fn read_all(pipes: Vec<OwnedFd>, output: &mut Vec<u8>, max: usize) {
    let shared = parking_lot::Mutex::new(output);
    let readers = pipes.into_iter().map(|fd| {
        let shared = &shared;
        async move {
            let Ok(pipe) = pipe::Receiver::from_owned_fd(fd) else { return };
            let mut chunk = vec![0u8; 16 << 10];
            while pipe.readable().await.is_ok() {
                match pipe.try_read(&mut chunk) {
                    Ok(0) => return,
                    Ok(n) => {
                        let mut output = shared.lock();
                        let room = max.saturating_sub(output.len());
                        output.extend_from_slice(&chunk[..n.min(room)]);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    });
    futures::future::join_all(readers).await;
}
