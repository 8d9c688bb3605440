//! gRPC's framing: five bytes before each message, the outcome in the trailers.
//!
//! Invariant: no message is taken whose announced length is over the bound.

use crate::Error;
use crate::error::{RESOURCE_EXHAUSTED, UNKNOWN};
use crate::transport::{Body, Connection};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use std::time::Duration;

/// The largest answer that is read, in bytes. A page of a listing is at most 500 values of 1.5 MiB.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// A compressed flag and a length.
const HEADER_BYTES: usize = 5;

/// A message in its frame.
pub(crate) fn frame<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A BytesMut grows, so encoding into it cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Sends a request and waits for the answer's head.
pub(crate) async fn send(
    connection: &Connection,
    path: &str,
    body: Body,
    deadline: Option<Duration>,
) -> Result<Messages, Error> {
    let mut request = Request::post(format!("{}{path}", connection.origin))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "taffrail")
        // upstream: etcd `client/v3#WithRequireLeader`: a member without a leader refuses instead of hanging.
        .header("hasleader", "true");
    if let Some(deadline) = deadline {
        request = request.header("grpc-timeout", format!("{}m", deadline.as_millis()));
    }
    let request = request.body(body).map_err(|e| Error::Config(e.to_string()))?;
    let mut sender = connection.sender.clone();
    sender.ready().await.map_err(|e| Error::Connect(e.to_string()))?;
    let response = sender.try_send_request(request).await.map_err(|mut e| {
        let unsent = e.take_message().is_some();
        let why = reasons(&e.into_error());
        if unsent { Error::Connect(why) } else { Error::Broken(why) }
    })?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Error::Malformed(format!("HTTP status {}", head.status)));
    }
    // An answer without messages has its outcome in the head.
    if head.headers.contains_key("grpc-status") {
        outcome(&head.headers)?;
    }
    Ok(Messages { body, buffer: BytesMut::new() })
}

/// The messages of an answer.
pub(crate) struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    /// The next message; `None` when the call ended well.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        loop {
            if let Some(bytes) = self.take()? {
                return M::decode(bytes).map(Some).map_err(|e| Error::Malformed(e.to_string()));
            }
            match self.body.frame().await {
                None => return Err(Error::Broken("the answer ended without its outcome".into())),
                Some(Err(e)) => return Err(Error::Broken(reasons(&e))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            outcome(&trailers)?;
                            return Ok(None);
                        }
                    }
                },
            }
        }
    }

    /// The one message of a unary call.
    pub async fn only<M: Message + Default>(mut self) -> Result<M, Error> {
        let message = self.next().await?;
        let message = message.ok_or_else(|| Error::Malformed("an answer without a message".into()))?;
        // The trailers may still refuse the call.
        match self.next::<M>().await? {
            None => Ok(message),
            Some(_) => Err(Error::Malformed("an answer with two messages".into())),
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(head) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
        if head[0] != 0 {
            return Err(Error::Malformed("a compressed message that was not asked for".into()));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MESSAGE_BYTES_MAX {
            let message = format!("an answer of {length} bytes is over the limit of {MESSAGE_BYTES_MAX}");
            return Err(Error::Status { code: RESOURCE_EXHAUSTED, message });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

fn outcome(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name: &str| headers.get(name).map_or("", |v| v.to_str().unwrap_or(""));
    let code = text("grpc-status").parse().unwrap_or(UNKNOWN);
    if code == 0 {
        Ok(())
    } else {
        Err(Error::Status { code, message: percent_decoded(text("grpc-message")) })
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An error with its causes.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::*;

    #[test]
    fn a_frame_is_a_flag_a_length_and_the_message() {
        let put = PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), lease: 0 };
        assert_eq!(&frame(&put)[..], b"\0\0\0\0\x06\x0a\x01k\x12\x01v");
    }

    #[test]
    fn messages_are_as_etcd_writes_them() {
        // key "k" has mod revision 7
        let compare = Compare {
            target: CompareTarget::Mod.into(),
            key: Bytes::from_static(b"k"),
            operand: Some(Operand::ModRevision(7)),
        };
        assert_eq!(compare.encode_to_vec(), b"\x10\x02\x1a\x01k\x30\x07");
        // Absent: the create revision is 0, and the zero of a oneof is sent.
        let absent = Compare { operand: Some(Operand::CreateRevision(0)), target: 1, ..compare };
        assert_eq!(absent.encode_to_vec(), b"\x10\x01\x1a\x01k\x28\x00");
    }

    #[test]
    fn outcomes_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "11".parse().unwrap());
        headers.insert("grpc-message", "etcdserver: mvcc: caf%C3%A9 100%".parse().unwrap());
        let Err(Error::Status { code: 11, message }) = outcome(&headers) else { panic!("no error") };
        assert_eq!(message, "etcdserver: mvcc: café 100%");
        headers.insert("grpc-status", "0".parse().unwrap());
        assert_eq!(outcome(&headers), Ok(()));
    }
}
