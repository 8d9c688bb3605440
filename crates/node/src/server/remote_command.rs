//! Exec and attach: a process's streams over WebSocket channels or SPDY streams
//! (upstream: `k8s.io/cri-streaming/pkg/streaming/remotecommand`).

use super::spdy;
use super::websocket::{self, Incoming, Protocol, Socket};
use crate::runtime::{Runtime, RuntimeError, Streams};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use meta::status::{Cause, Details};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Bytes read from a process at a time.
const READ_BYTES: usize = 16 << 10;
/// Pieces of output waiting for the client.
const OUTPUT_PIECES_MAX: usize = 16;
/// How long a SPDY client may take to open its streams (upstream: `DefaultStreamCreationTimeout`).
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take to answer a closure.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running exec or attach, and how it ends.
pub struct Session {
    pub runtime: Arc<dyn Runtime>,
    pub pod_uid: String,
    pub streams: Streams,
    /// Attach ends with the container; exec with its process.
    pub wait: bool,
}

/// What the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Input for the process, however it arrived.
enum Input {
    Data(Bytes),
    End,
    Resize { columns: u16, rows: u16 },
}

/// Output of the process.
struct Output {
    channel: u8,
    data: Bytes,
}

/// The end of a command as the Status that clients expect (upstream: `remotecommand.ServeExec`).
pub fn ending(result: Result<i32, RuntimeError>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => {
            let details = Details {
                causes: vec![Cause {
                    reason: "ExitCode".into(),
                    message: code.to_string(),
                    field: String::new(),
                }],
                ..Details::default()
            };
            json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": details,
            })
        }
        Err(e) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: error executing command in container: {e}"),
        }),
    }
}

/// Serves a session over a WebSocket.
pub async fn websocket(
    socket: Socket,
    protocol: Protocol,
    session: Result<Session, RuntimeError>,
    options: Options,
) {
    let (mut sink, mut source) = socket.split();
    // An empty message tells the client that the streams are there.
    let first = if options.stdout {
        STDOUT
    } else if options.stderr {
        STDERR
    } else {
        ERROR
    };
    if sink.send(protocol.encode(first, &[])).await.is_err() {
        return;
    }
    let session = match session {
        Ok(session) => session,
        Err(e) => {
            let _ = sink.send(protocol.encode(ERROR, &error_bytes(protocol.status, Err(e)))).await;
            let _ = sink.send(websocket::normal_closure()).await;
            return;
        }
    };
    let (input, inputs) = mpsc::channel(OUTPUT_PIECES_MAX);
    let reader = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let Some(incoming) = protocol.decode(message) else { continue };
            let item = match incoming {
                Incoming::Data(STDIN, data) => Input::Data(data),
                Incoming::Close(STDIN) => Input::End,
                Incoming::Data(RESIZE, data) => match resize(&data) {
                    Some(size) => size,
                    None => continue,
                },
                _ => continue,
            };
            if input.send(item).await.is_err() {
                return;
            }
        }
    });
    let (output, mut outputs) = mpsc::channel::<Output>(OUTPUT_PIECES_MAX);
    let writer = tokio::spawn(async move {
        while let Some(o) = outputs.recv().await {
            if sink.send(protocol.encode(o.channel, &o.data)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(websocket::normal_closure()).await;
    });
    let result = run(session, inputs, &output, options).await;
    let data = error_bytes(protocol.status, result).into();
    let _ = output.send(Output { channel: ERROR, data }).await;
    drop(output);
    let _ = writer.await;
    // The client's answer to the closure: a connection that goes before it could take the last messages with it.
    let ends = reader.abort_handle();
    if tokio::time::timeout(CLOSE_TIMEOUT, reader).await.is_err() {
        ends.abort();
    }
}

fn error_bytes(status: bool, result: Result<i32, RuntimeError>) -> Vec<u8> {
    let value = ending(result);
    if status {
        return value.to_string().into_bytes();
    }
    // The first protocols send text, and only on failure.
    value["message"].as_str().unwrap_or("").as_bytes().to_vec()
}

/// Serves a session over SPDY streams.
pub async fn over_spdy(
    mut opened: mpsc::Receiver<spdy::Stream>,
    session: Result<Session, RuntimeError>,
    options: Options,
    v4: bool,
) {
    let expected = 1
        + usize::from(options.stdin)
        + usize::from(options.stdout)
        + usize::from(options.stderr && !options.tty)
        + usize::from(options.tty);
    let mut streams: Vec<(String, spdy::Stream)> = Vec::new();
    let deadline = tokio::time::Instant::now() + STREAM_TIMEOUT;
    while streams.len() < expected {
        match tokio::time::timeout_at(deadline, opened.recv()).await {
            Ok(Some(s)) => streams.push((s.header("streamtype").to_owned(), s)),
            // The client went away or took too long: nobody is left to tell.
            _ => return,
        }
    }
    let mut take = |kind: &str| {
        let at = streams.iter().position(|(k, _)| k == kind)?;
        Some(streams.swap_remove(at).1)
    };
    let Some(error) = take("error").map(|s| s.writer()) else { return };
    let (stdout, stderr) = (take("stdout").map(|s| s.writer()), take("stderr").map(|s| s.writer()));
    let (input, inputs) = mpsc::channel(OUTPUT_PIECES_MAX);
    if let Some(mut stdin) = take("stdin") {
        let input = input.clone();
        tokio::spawn(async move {
            while let Some(data) = stdin.read().await {
                if input.send(Input::Data(data)).await.is_err() {
                    return;
                }
            }
            let _ = input.send(Input::End).await;
        });
    }
    if let Some(mut stream) = take("resize") {
        let input = input.clone();
        tokio::spawn(async move {
            while let Some(data) = stream.read().await {
                if let Some(size) = resize(&data) {
                    let _ = input.send(size).await;
                }
            }
        });
    }
    drop(input);
    let (output, mut outputs) = mpsc::channel::<Output>(OUTPUT_PIECES_MAX);
    let (out, err) = (stdout.clone(), stderr.clone());
    let pump = tokio::spawn(async move {
        while let Some(o) = outputs.recv().await {
            let writer = if o.channel == STDERR { &err } else { &out };
            if let Some(w) = writer
                && w.write(o.data).await.is_err()
            {
                return;
            }
        }
    });
    let result = match session {
        Ok(session) => run(session, inputs, &output, options).await,
        Err(e) => Err(e),
    };
    drop(output);
    let _ = pump.await;
    let bytes = error_bytes(v4, result);
    let _ = error.write(bytes.into()).await;
    for w in [Some(error), stdout, stderr].into_iter().flatten() {
        let _ = w.finish().await;
    }
}

fn resize(data: &[u8]) -> Option<Input> {
    let v: Value = serde_json::from_slice(data).ok()?;
    let number = |f: &str| u16::try_from(v[f].as_u64()?).ok();
    Some(Input::Resize { columns: number("Width")?, rows: number("Height")? })
}

/// The stream as something that tasks can wait for.
#[expect(
    deprecated,
    reason = "`OwnedFd` keeps its descriptor open as long as it lives, which is what `register` asks for"
)]
fn evented(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Moves bytes until the process ends and its output is read to the end.
async fn run(
    session: Session,
    mut inputs: mpsc::Receiver<Input>,
    output: &mpsc::Sender<Output>,
    options: Options,
) -> Result<i32, RuntimeError> {
    let Session { runtime, pod_uid, streams, wait } = session;
    let Streams { stdin, stdout, stderr, exec_id } = streams;
    let mut readers = tokio::task::JoinSet::new();
    for (fd, channel, wanted) in [(stdout, STDOUT, options.stdout), (stderr, STDERR, options.stderr)] {
        if let Some(fd) = fd {
            let output = output.clone();
            readers.spawn(async move { read_all(fd, channel, wanted, output).await });
        }
    }
    let (resizer, uid, id) = (runtime.clone(), pod_uid.clone(), exec_id.clone());
    let feeder = tokio::spawn(async move {
        let mut stdin = stdin.and_then(|fd| evented(fd).ok());
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Data(data) => {
                    if let Some(fd) = &stdin
                        && write_all(fd, &data).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Input::End => stdin = None,
                Input::Resize { columns, rows } => {
                    let _ = resizer.resize(&uid, &id, columns, rows).await;
                }
            }
        }
    });
    let code = if wait { runtime.exec_wait(&pod_uid, &exec_id).await } else { Ok(0) };
    // What the process wrote before it ended still goes out.
    while readers.join_next().await.is_some() {}
    feeder.abort();
    code
}

async fn read_all(fd: OwnedFd, channel: u8, wanted: bool, output: mpsc::Sender<Output>) {
    let _ = rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::NONBLOCK);
    let Ok(fd) = evented(fd) else { return };
    let mut buffer = vec![0u8; READ_BYTES];
    loop {
        let Ok(mut guard) = fd.readable().await else { return };
        match guard.try_io(|fd| rustix::io::read(fd.get_ref(), &mut buffer[..]).map_err(Into::into)) {
            // A terminal whose other side is closed reads as an error: that is its end.
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(n)) => {
                let data = Bytes::copy_from_slice(&buffer[..n]);
                if wanted && output.send(Output { channel, data }).await.is_err() {
                    return;
                }
            }
            Err(_would_block) => {}
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut data: &[u8]) -> std::io::Result<()> {
    let _ = rustix::fs::fcntl_setfl(fd.get_ref(), rustix::fs::OFlags::NONBLOCK);
    while !data.is_empty() {
        let mut guard = fd.writable().await?;
        match guard.try_io(|fd| rustix::io::write(fd.get_ref(), data).map_err(Into::into)) {
            Ok(Ok(n)) => data = &data[n..],
            Ok(Err(e)) => return Err(e),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_become_statuses() {
        assert_eq!(ending(Ok(0))["status"], "Success");
        let failed = ending(Ok(7));
        assert_eq!(
            (&failed["reason"], &failed["details"]["causes"][0]["message"]),
            (&json!("NonZeroExitCode"), &json!("7"))
        );
    }

    #[test]
    fn sizes_are_read() {
        assert!(matches!(
            resize(br#"{"Width":80,"Height":24}"#),
            Some(Input::Resize { columns: 80, rows: 24 })
        ));
        assert!(resize(b"{}").is_none());
    }
}
