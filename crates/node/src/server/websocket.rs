//! WebSockets as Kubernetes uses them: numbered channels in messages, and a tunnel that carries SPDY
//! (upstream: `k8s.io/streaming/pkg/httpstream/wsstream`, KEP-4006).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use futures::{Sink, SinkExt as _, Stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The largest message of a client.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// How channels are written in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: &'static str,
    /// Messages are text: the channel as a digit, the data as base64.
    pub base64: bool,
    /// The client can close its side of a channel (`[255, channel]`).
    pub closes: bool,
    /// Errors are Status objects rather than plain text.
    pub status: bool,
}

/// Protocols of exec and attach, the best first.
pub const REMOTE_COMMAND: &[Protocol] = &[
    Protocol { name: "v5.channel.k8s.io", base64: false, closes: true, status: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, closes: false, status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, closes: false, status: true },
    Protocol { name: "channel.k8s.io", base64: false, closes: false, status: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, closes: false, status: false },
];

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Takes over an upgraded connection.
pub async fn accept(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// What a client sent on a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Data(u8, Bytes),
    /// The client's side of a channel ended.
    Close(u8),
}

impl Protocol {
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::text(format!("{}{}", (b'0' + channel) as char, STANDARD.encode(data)));
        }
        let mut out = Vec::with_capacity(data.len() + 1);
        out.push(channel);
        out.extend_from_slice(data);
        Message::binary(out)
    }

    /// Reads a message; `None` for those that carry nothing (pings, empty ones).
    pub fn decode(self, message: Message) -> Option<Incoming> {
        match message {
            Message::Binary(mut data) if !self.base64 => {
                let channel = *data.first()?;
                data.advance(1);
                if channel == 255 && self.closes {
                    return Some(Incoming::Close(*data.first()?));
                }
                Some(Incoming::Data(channel, data))
            }
            Message::Text(text) if self.base64 => {
                let (channel, data) = text.as_bytes().split_first()?;
                let data = STANDARD.decode(data).ok()?;
                Some(Incoming::Data(channel.wrapping_sub(b'0'), data.into()))
            }
            _ => None,
        }
    }
}

/// The closure of a stream that ended as it should; without a code clients take it for a failure.
pub fn normal_closure() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// A byte stream inside binary messages: the tunnel of `SPDY/3.1+portforward.k8s.io`.
pub struct Tunnel {
    socket: Socket,
    rest: Bytes,
}

impl Tunnel {
    pub fn new(socket: Socket) -> Self {
        Self { socket, rest: Bytes::new() }
    }
}

fn broken(e: tokio_tungstenite::tungstenite::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, e)
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.rest = data,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        let piece = self.rest.split_to(n);
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_ready_unpin(cx)).map_err(broken)?;
        let n = data.len().min(MESSAGE_BYTES_MAX);
        self.socket.start_send_unpin(Message::binary(data[..n].to_vec())).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_in_messages() {
        for p in REMOTE_COMMAND {
            let decoded = p.decode(p.encode(1, b"out"));
            assert_eq!(decoded, Some(Incoming::Data(1, Bytes::from_static(b"out"))), "{}", p.name);
        }
        let v5 = REMOTE_COMMAND[0];
        assert_eq!(v5.decode(Message::binary(vec![255, 0])), Some(Incoming::Close(0)));
        assert_eq!(v5.decode(Message::binary(vec![])), None);
    }
}
