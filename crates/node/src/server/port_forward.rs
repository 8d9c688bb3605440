//! Port-forward: pairs of a data and an error stream per connection, each joined to a port in the pod's network
//! (upstream: `k8s.io/cri-streaming/pkg/streaming/portforward/httpstream.go`).

use super::spdy::{self, Writer};
use bytes::Bytes;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Connects to a port on the pod's loopback, in the pod's network.
pub type Dial = Arc<dyn Fn(u16) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> + Send + Sync>;

/// Half-open pairs at a time; the client is expected to complete each at once.
const PAIRS_MAX: usize = 256;
const READ_BYTES: usize = 16 << 10;

#[derive(Default)]
struct Pair {
    data: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
}

/// Serves forwarded connections until the client goes.
pub async fn serve(mut opened: mpsc::Receiver<spdy::Stream>, dial: Dial) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    while let Some(stream) = opened.recv().await {
        let kind = stream.header("streamtype").to_owned();
        let id = request_id(&stream, &kind);
        if pairs.len() >= PAIRS_MAX && !pairs.contains_key(&id) {
            let _ = stream.writer().reset().await;
            continue;
        }
        let pair = pairs.entry(id.clone()).or_default();
        match kind.as_str() {
            "data" => pair.data = Some(stream),
            "error" => pair.error = Some(stream),
            _ => drop(stream.writer().reset().await),
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(Pair { data: Some(data), error: Some(error) }) = pairs.remove(&id)
        {
            tokio::spawn(forward(data, error.writer(), dial.clone()));
        }
    }
}

/// Old clients send no request id; their error and data streams have consecutive odd numbers.
fn request_id(stream: &spdy::Stream, kind: &str) -> String {
    match stream.header("requestid") {
        "" if kind == "data" => stream.id.saturating_sub(2).to_string(),
        "" => stream.id.to_string(),
        id => id.to_owned(),
    }
}

async fn forward(data: spdy::Stream, error: Writer, dial: Dial) {
    let text = data.header("port").to_owned();
    let result = match text.parse::<u16>() {
        Ok(port) if port > 0 => match dial(port).await {
            Ok(connection) => join(data, connection).await,
            Err(e) => Err(format!(
                "error forwarding port {port} to pod: failed to connect to localhost:{port}: {e}"
            )),
        },
        _ => Err(format!("unable to parse {text:?} as a port")),
    };
    if let Err(message) = result {
        let _ = error.write(Bytes::from(message)).await;
    }
    let _ = error.finish().await;
}

/// Copies both ways until both sides ended.
async fn join(data: spdy::Stream, connection: TcpStream) -> Result<(), String> {
    let (mut incoming, writer) = data.split();
    let (mut from, mut to) = connection.into_split();
    let upward = async {
        while let Some(piece) = incoming.recv().await {
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let downward = async {
        let mut buffer = vec![0u8; READ_BYTES];
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 || writer.write(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                break;
            }
        }
        let _ = writer.finish().await;
    };
    tokio::join!(upward, downward);
    Ok(())
}
