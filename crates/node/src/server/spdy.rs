//! SPDY/3.1 as Kubernetes clients speak it: framing, header compression, streams
//! (protocol: SPDY Draft 3.1; peer: github.com/moby/spdystream).
//!
//! Only what exec, attach and port-forward use is served: streams opened by the client, data both ways, half closes and
//! resets. Flow control is the transport's, as in the peer. Every queue is bounded; a client that floods one stream
//! waits with all of its streams.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Frames waiting to be written, of all streams.
const OUTGOING_FRAMES_MAX: usize = 64;
/// Data pieces waiting to be read, per stream.
const INCOMING_PIECES_MAX: usize = 32;
/// Streams at a time.
const STREAMS_MAX: usize = 1024;
/// The largest frame accepted from the peer.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// A header block may not unfold to more than this.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// The largest piece of data put in one frame.
pub const DATA_BYTES_MAX: usize = 16 << 10;

const FIN: u8 = 0x01;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// Status codes of RST_STREAM.
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// A frame to write.
enum Outgoing {
    Reply(u32),
    Data(u32, Bytes, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32),
}

/// A stream that the client opened.
pub struct Stream {
    pub id: u32,
    /// Lower-case names.
    pub headers: HashMap<String, String>,
    incoming: mpsc::Receiver<Bytes>,
    writer: Writer,
}

/// The sending side of a stream.
#[derive(Clone)]
pub struct Writer {
    id: u32,
    out: mpsc::Sender<Outgoing>,
}

impl Stream {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The next piece of data; `None` at the end of the client's side.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.incoming.recv().await
    }

    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// The two sides, to be used by two tasks.
    pub fn split(self) -> (mpsc::Receiver<Bytes>, Writer) {
        (self.incoming, self.writer)
    }
}

impl Writer {
    /// Sends data; an error means that the connection is gone.
    pub async fn write(&self, data: Bytes) -> io::Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(DATA_BYTES_MAX));
            self.send(Outgoing::Data(self.id, piece, false)).await?;
        }
        Ok(())
    }

    /// Ends this side.
    pub async fn finish(&self) -> io::Result<()> {
        self.send(Outgoing::Data(self.id, Bytes::new(), true)).await
    }

    /// Ends both sides.
    pub async fn reset(&self) -> io::Result<()> {
        self.send(Outgoing::Reset(self.id, CANCEL)).await
    }

    async fn send(&self, frame: Outgoing) -> io::Result<()> {
        self.out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Runs a server session over a connection; new streams come out of the receiver until the peer goes.
pub fn serve<T>(io: T) -> mpsc::Receiver<Stream>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (out, frames) = mpsc::channel(OUTGOING_FRAMES_MAX);
    let (opened, streams) = mpsc::channel(8);
    tokio::spawn(write_frames(writer, frames));
    tokio::spawn(async move {
        // A peer that breaks the protocol or hangs up ends the session; its streams then read their end.
        let _ = read_frames(reader, out, opened).await;
    });
    streams
}

async fn write_frames<W: AsyncWrite + Unpin>(mut writer: W, mut frames: mpsc::Receiver<Outgoing>) {
    let Ok(mut headers) = HeaderWriter::new() else { return };
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        encode(&mut buffer, frame, &mut headers);
        while let Ok(more) = frames.try_recv() {
            encode(&mut buffer, more, &mut headers);
            if buffer.len() > FRAME_BYTES_MAX {
                break;
            }
        }
        if writer.write_all(&buffer).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        buffer.clear();
    }
    let _ = writer.shutdown().await;
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32((u32::from(flags) << 24) | (length as u32 & 0x00ff_ffff));
}

fn encode(out: &mut BytesMut, frame: Outgoing, headers: &mut HeaderWriter) {
    match frame {
        Outgoing::Data(id, data, fin) => {
            out.put_u32(id & 0x7fff_ffff);
            out.put_u32((u32::from(if fin { FIN } else { 0 }) << 24) | data.len() as u32);
            out.extend_from_slice(&data);
        }
        Outgoing::Reply(id) => {
            let block = headers.empty_block();
            control(out, SYN_REPLY, 0, 4 + block.len());
            out.put_u32(id);
            out.extend_from_slice(&block);
        }
        Outgoing::Reset(id, status) => {
            control(out, RST_STREAM, 0, 8);
            out.put_u32(id);
            out.put_u32(status);
        }
        Outgoing::Ping(id) => {
            control(out, PING, 0, 4);
            out.put_u32(id);
        }
        Outgoing::GoAway(last) => {
            control(out, GOAWAY, 0, 8);
            out.put_u32(last);
            out.put_u32(0);
        }
    }
}

async fn read_frames<R: AsyncRead + Unpin>(
    mut reader: R,
    out: mpsc::Sender<Outgoing>,
    opened: mpsc::Sender<Stream>,
) -> io::Result<()> {
    let mut headers = HeaderReader::new();
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut last = 0;
    loop {
        let mut head = [0u8; 8];
        reader.read_exact(&mut head).await?;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a SPDY frame is too large"));
        }
        let mut body = BytesMut::zeroed(length);
        reader.read_exact(&mut body).await?;
        let mut body = body.freeze();
        if first & 0x8000_0000 == 0 {
            data(&mut streams, first, body, flags & FIN != 0, &out).await?;
            continue;
        }
        match (first & 0xffff) as u16 {
            SYN_STREAM if length >= 10 => {
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                // The block must be read even of a refused stream: compression is one state for the connection.
                let fields = headers.read(&body)?;
                if id <= last || streams.len() >= STREAMS_MAX {
                    let why = if id <= last { PROTOCOL_ERROR } else { REFUSED_STREAM };
                    send(&out, Outgoing::Reset(id, why)).await?;
                    continue;
                }
                last = id;
                let (sender, incoming) = mpsc::channel(INCOMING_PIECES_MAX);
                if flags & FIN == 0 {
                    streams.insert(id, sender);
                }
                send(&out, Outgoing::Reply(id)).await?;
                let stream =
                    Stream { id, headers: fields, incoming, writer: Writer { id, out: out.clone() } };
                if opened.send(stream).await.is_err() {
                    // Nobody takes streams any more: the session is over.
                    return send(&out, Outgoing::GoAway(last)).await;
                }
            }
            RST_STREAM if length >= 8 => {
                streams.remove(&(body.get_u32() & 0x7fff_ffff));
            }
            PING if length >= 4 => send(&out, Outgoing::Ping(body.get_u32())).await?,
            GOAWAY => return Ok(()),
            // SETTINGS, WINDOW_UPDATE and late HEADERS change nothing here, but headers share the compression state.
            8 if length >= 4 => {
                body.advance(4);
                headers.read(&body)?;
            }
            _ => {}
        }
    }
}

async fn data(
    streams: &mut HashMap<u32, mpsc::Sender<Bytes>>,
    id: u32,
    body: Bytes,
    fin: bool,
    out: &mpsc::Sender<Outgoing>,
) -> io::Result<()> {
    let Some(sender) = streams.get(&id) else { return Ok(()) };
    if !body.is_empty() && sender.send(body).await.is_err() {
        // The reader of this stream is gone; the client may stop sending.
        streams.remove(&id);
        return send(out, Outgoing::Reset(id, CANCEL)).await;
    }
    if fin {
        streams.remove(&id);
    }
    Ok(())
}

async fn send(out: &mpsc::Sender<Outgoing>, frame: Outgoing) -> io::Result<()> {
    out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// The names and values that SPDY/3 headers are compressed against: length-prefixed words, then plain text.
fn dictionary() -> Arc<[u8]> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";
    let mut out = Vec::new();
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TEXT.as_bytes());
    out.into()
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY headers: {what}"))
}

/// Unfolds header blocks; one state for the whole connection.
struct HeaderReader {
    inflate: Decompress,
}

impl HeaderReader {
    fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    fn read(&mut self, block: &[u8]) -> io::Result<HashMap<String, String>> {
        let plain = self.unfold(block)?;
        let mut rest = plain.as_slice();
        let count = take_u32(&mut rest)? as usize;
        let mut out = HashMap::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            let value = take_text(&mut rest)?;
            // Several values of one name are separated by zero bytes; the first is what counts here.
            out.insert(name.to_lowercase(), value.split('\0').next().unwrap_or("").to_owned());
        }
        Ok(out)
    }

    fn unfold(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(1024);
        let mut at = 0;
        loop {
            if out.len() > HEADER_BYTES_MAX {
                return Err(corrupt("too large"));
            }
            out.reserve(1024);
            let before = (self.inflate.total_in(), out.len());
            let status = match self.inflate.decompress_vec(&block[at..], &mut out, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(e) if e.needs_dictionary().is_some() => {
                    at += (self.inflate.total_in() - before.0) as usize;
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| corrupt("dictionary"))?;
                    continue;
                }
                Err(_) => return Err(corrupt("cannot be decompressed")),
            };
            at += (self.inflate.total_in() - before.0) as usize;
            let stalled = self.inflate.total_in() == before.0 && out.len() == before.1;
            if status == Status::StreamEnd || stalled || (at == block.len() && out.len() < out.capacity()) {
                return Ok(out);
            }
        }
    }
}

fn take_u32(rest: &mut &[u8]) -> io::Result<u32> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("cut short"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> io::Result<String> {
    let length = take_u32(rest)? as usize;
    let (text, tail) = rest.split_at_checked(length).ok_or_else(|| corrupt("cut short"))?;
    *rest = tail;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Folds header blocks; replies carry none, so there is one kind of block.
struct HeaderWriter {
    deflate: Compress,
}

impl HeaderWriter {
    fn new() -> io::Result<Self> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).map_err(|_| corrupt("dictionary"))?;
        Ok(Self { deflate })
    }

    fn empty_block(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // Four zero bytes: no pairs. Compressing them cannot fail into a buffer this large.
        let _ = self.deflate.compress_vec(&[0, 0, 0, 0], &mut out, FlushCompress::Sync);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(pairs: &[(&str, &str)], deflate: &mut Compress) -> Vec<u8> {
        let mut plain = (pairs.len() as u32).to_be_bytes().to_vec();
        for (k, v) in pairs {
            for t in [k, v] {
                plain.extend_from_slice(&(t.len() as u32).to_be_bytes());
                plain.extend_from_slice(t.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(4096);
        deflate.compress_vec(&plain, &mut out, FlushCompress::Sync).expect("compressed");
        out
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn headers_unfold_block_after_block() {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary()).expect("set");
        let mut reader = HeaderReader::new();
        for i in 0..3 {
            let port = i.to_string();
            let b = block(&[("Streamtype", "data"), ("port", &port)], &mut deflate);
            let fields = reader.read(&b).expect("read");
            assert_eq!((fields["streamtype"].as_str(), fields["port"].as_str()), ("data", port.as_str()));
        }
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        for bytes in [&b""[..], b"\0\0\0\0", b"\xff\xff\xff\xff\xff\xff"] {
            assert!(HeaderReader::new().read(bytes).is_err());
        }
    }

    #[tokio::test]
    async fn a_stream_carries_data_both_ways() {
        let (client, server) = tokio::io::duplex(64 << 10);
        let mut streams = serve(server);
        let (mut from, mut to) = tokio::io::split(client);
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary()).expect("set");
        let b = block(&[("streamtype", "data")], &mut deflate);
        let mut out = BytesMut::new();
        control(&mut out, SYN_STREAM, 0, 10 + b.len());
        out.put_u32(1);
        out.put_u32(0);
        out.put_u16(0);
        out.extend_from_slice(&b);
        out.put_u32(1);
        out.put_u32((u32::from(FIN) << 24) | 2);
        out.extend_from_slice(b"hi");
        to.write_all(&out).await.expect("sent");
        let mut stream = streams.recv().await.expect("opened");
        assert_eq!(stream.header("streamtype"), "data");
        assert_eq!(stream.read().await.as_deref(), Some(&b"hi"[..]));
        assert_eq!(stream.read().await, None);
        stream.writer().write(Bytes::from_static(b"yo")).await.expect("answered");
        let mut head = [0u8; 8];
        from.read_exact(&mut head).await.expect("reply");
        assert_eq!(head[..4], [0x80, 3, 0, 2]);
        let mut rest = vec![0; head[7] as usize];
        from.read_exact(&mut rest).await.expect("reply body");
        let mut frame = [0u8; 10];
        from.read_exact(&mut frame).await.expect("data");
        assert_eq!(&frame[8..], b"yo");
    }
}
