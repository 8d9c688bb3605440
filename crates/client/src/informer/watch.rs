//! The frames of a watch, cut out of a body as it arrives.

use crate::api::Body;
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use meta::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Largest frame, in bytes: an object's own limit is far below.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// One watch event.
#[derive(Debug)]
pub enum Frame<T> {
    /// Added or modified.
    Applied(T),
    Deleted(T),
    /// All events up to this resource version have been sent.
    Bookmark(String),
    Failed(Status),
}

#[derive(Deserialize)]
struct RawFrame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    #[serde(default)]
    resource_version: String,
}

/// Reads newline-separated JSON frames from a body.
pub struct Frames {
    body: Body,
    buffer: BytesMut,
    /// How far the buffer is known to hold no newline.
    searched: usize,
}

impl Frames {
    pub fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next frame; `None` when the server ended the stream.
    ///
    /// # Errors
    /// The stream broke, or a frame is too large or not readable.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, Status> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_FRAME_BYTES {
                return Err(Status::internal(format!("watch frame longer than {MAX_FRAME_BYTES} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => {
                    return Err(Status::unavailable(format!(
                        "watch broke: {}",
                        base::error::chain(e.as_ref())
                    )));
                }
                None => return Ok(None),
            }
        }
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<Frame<T>, Status> {
    let bad = |e: serde_json::Error| Status::internal(format!("unreadable watch frame: {e}"));
    let frame: RawFrame<'_> = serde_json::from_slice(line).map_err(bad)?;
    let text = frame.object.get();
    match frame.kind {
        "ADDED" | "MODIFIED" => Ok(Frame::Applied(serde_json::from_str(text).map_err(bad)?)),
        "DELETED" => Ok(Frame::Deleted(serde_json::from_str(text).map_err(bad)?)),
        "BOOKMARK" => {
            let v: Versioned = serde_json::from_str(text).map_err(bad)?;
            Ok(Frame::Bookmark(v.metadata.resource_version))
        }
        "ERROR" => Ok(Frame::Failed(Status::from_body(500, text.as_bytes()))),
        other => Err(Status::internal(format!("unknown watch event type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use serde_json::Value;

    fn frames(chunks: &[&'static str]) -> Frames {
        let chunks: Vec<_> =
            chunks.iter().map(|c| Ok(http_body::Frame::data(Bytes::from_static(c.as_bytes())))).collect();
        Frames::new(StreamBody::new(futures::stream::iter(chunks)).boxed_unsync())
    }

    #[tokio::test]
    async fn frames_are_cut_at_newlines_wherever_chunks_end() {
        let mut f = frames(&[
            "{\"type\":\"ADD",
            "ED\",\"object\":{\"a\":1}}\n\n{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":",
            "{\"resourceVersion\":\"7\"}}}\n{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\n",
        ]);
        assert!(matches!(f.next::<Value>().await, Ok(Some(Frame::Applied(v))) if v["a"] == 1));
        assert!(matches!(f.next::<Value>().await, Ok(Some(Frame::Bookmark(v))) if v == "7"));
        assert!(matches!(f.next::<Value>().await, Ok(Some(Frame::Failed(s))) if s.code == 410));
        assert!(matches!(f.next::<Value>().await, Ok(None)));
        assert!(frames(&["nonsense\n"]).next::<Value>().await.is_err());
    }
}
