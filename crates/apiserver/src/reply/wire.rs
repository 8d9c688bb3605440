//! A document's way into a response body: indented for people, compressed for those who take it
//! (upstream: apiserver `pkg/endpoints/handlers/responsewriters/writers.go#deferredResponseWriter`).
//!
//! Invariant: a body that is made of pieces is never in memory as a whole, compressed or not.

use super::{full, response, streaming};
use crate::negotiate::{Encoding, Format};
use bytes::{Buf as _, Bytes, BytesMut};
use client::{Body, BoxError};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Response, header};
use std::io::Write as _;

/// Documents up to this size are sent as they are (upstream: `defaultGzipThresholdBytes`).
const GZIP_OVER_BYTES: usize = 128 << 10;
/// What is larger is sent in pieces of at most this size, where its parts allow that. TLS takes 64 KiB at once, in four records with
/// what frames the piece: a longer one costs another record and another write.
pub const PIECE_BYTES: usize = 65_000;
const INDENT: &[u8] = b"  ";
/// Where in its memory a piece begins (see [`piece_memory`]).
const PIECE_OFFSET_BYTES: usize = 2048;

type Piece = Result<Bytes, BoxError>;

/// A document that is in memory. What is large goes out in pieces that share it.
pub fn whole(code: u16, encoding: Encoding, bytes: Bytes) -> Response<Body> {
    if bytes.len() > PIECE_BYTES {
        let end = (encoding.format == Format::Json).then(|| Bytes::from_static(b"\n"));
        let slices = (0..bytes.len().div_ceil(PIECE_BYTES)).map({
            let bytes = bytes.clone();
            move |i| bytes.slice(i * PIECE_BYTES..((i + 1) * PIECE_BYTES).min(bytes.len()))
        });
        if let Ok(out) = pieces(code, encoding, slices.chain(end).map(Ok)) {
            return out;
        }
    }
    response(code, encoding.format.content_type(), full(finished(encoding, bytes)))
}

/// A document in pieces.
///
/// # Errors
/// The first pieces cannot be made; later ones cut the body short.
pub fn pieces(
    code: u16,
    encoding: Encoding,
    pieces: impl Iterator<Item = Piece> + Send + 'static,
) -> Result<Response<Body>, BoxError> {
    let mut out = response(code, encoding.format.content_type(), full(Bytes::new()));
    let indent = (encoding.format == Format::Json && encoding.pretty).then(Indent::default);
    let mut pieces = Indented { pieces, indent };
    // Enough to know whether the document is large; a small one is sent in one frame.
    let (mut first, mut length, over) = (Vec::new(), 0, if encoding.gzip { GZIP_OVER_BYTES } else { 0 });
    while length <= over || first.len() < 2 {
        match pieces.next() {
            Some(piece) => {
                let piece = piece?;
                length += piece.len();
                first.push(piece);
            }
            None if encoding.gzip && length > GZIP_OVER_BYTES => break,
            None => {
                *out.body_mut() = full(joined(first, length));
                return Ok(out);
            }
        }
    }
    let all = first.into_iter().map(Ok).chain(pieces);
    if encoding.gzip {
        return Ok(compressed(out, all));
    }
    *out.body_mut() = streaming(stream::iter(all));
    Ok(out)
}

/// Memory for a piece of about this many bytes, which begins away from where pages of memory begin.
///
/// Why: TLS copies pieces into records, whose memory begins with a page, some bytes behind its begin. Where source and
/// destination are at the same place of their pages but for such an offset, AMD's processors copy at 3 GB/s instead of 50
/// with the instruction that glibc before 2.39 uses from 2 KiB on (glibc's bug 30994).
pub fn piece_memory(bytes: usize) -> BytesMut {
    if bytes < PIECE_OFFSET_BYTES {
        return BytesMut::with_capacity(bytes);
    }
    let mut out = BytesMut::with_capacity(PIECE_OFFSET_BYTES + bytes);
    out.resize(PIECE_OFFSET_BYTES, 0);
    out.advance(PIECE_OFFSET_BYTES);
    out
}

fn joined(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1
        && let Some(only) = pieces.pop()
    {
        return only;
    }
    let mut out = piece_memory(length);
    pieces.iter().for_each(|p| out.extend_from_slice(p));
    out.freeze()
}

/// Upstream's encoder ends JSON with a newline, but for people.
fn finished(encoding: Encoding, bytes: Bytes) -> Bytes {
    match encoding.format {
        Format::Json if encoding.pretty => pretty(&bytes),
        Format::Json => {
            let mut out = piece_memory(bytes.len() + 1);
            out.extend_from_slice(&bytes);
            out.extend_from_slice(b"\n");
            out.freeze()
        }
        _ => bytes,
    }
}

/// JSON with line breaks, as Go indents it.
pub fn pretty(json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() * 2);
    Indent::default().write(json, &mut out);
    out.freeze()
}

/// Some bytes as a gzip stream.
pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut zip = GzipPieces::default();
    [zip.piece(bytes), zip.end()].concat().into()
}

/// Pieces that come over a long time, as a gzip stream: each can be read as soon as it is there.
pub fn gzip_stream(
    pieces: impl stream::Stream<Item = Piece> + Send + 'static,
) -> impl stream::Stream<Item = Piece> + Send {
    let mut zip = Some(GzipPieces::default());
    pieces.map(Some).chain(stream::iter([None])).filter_map(move |piece| {
        let out = match (piece, &mut zip) {
            (Some(Ok(piece)), Some(zip)) => Some(Ok(zip.piece(&piece))),
            (Some(Err(e)), _) => {
                // What was cut short has no end.
                zip = None;
                Some(Err(e))
            }
            (None, Some(zip)) => Some(Ok(zip.end())),
            (_, None) => None,
        };
        std::future::ready(out)
    })
}

/// A gzip stream of pieces that do not know of each other: between two of them nothing is kept but a checksum, where a
/// compressor has hundreds of KiB (upstream ends a stream with each flush and begins another, for the same reason).
#[derive(Default)]
struct GzipPieces {
    begun: bool,
    checksum: flate2::Crc,
}

/// Smaller pieces, such as an event alone, are not worth a compressor: they are stored as they are.
const DEFLATE_OVER_BYTES: usize = 16 << 10;
/// A block without content, after which a reader has to give out what it has.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

impl GzipPieces {
    fn piece(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + bytes.len().min(2 * DEFLATE_OVER_BYTES));
        if !std::mem::replace(&mut self.begun, true) {
            // deflate, no flags, no time, the fastest way, no system
            out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff]);
        }
        self.checksum.update(bytes);
        if bytes.len() > DEFLATE_OVER_BYTES {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            // Writing to memory cannot fail. A flush ends in a block without content, and the last block is not yet there.
            let _ = encoder.write_all(bytes).and_then(|()| encoder.flush());
            out.extend_from_slice(encoder.get_ref());
        } else {
            for block in bytes.chunks(usize::from(u16::MAX)) {
                let length = block.len() as u16;
                out.extend_from_slice(&[0]);
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(&(!length).to_le_bytes());
                out.extend_from_slice(block);
            }
            out.extend_from_slice(&FLUSH);
        }
        out.freeze()
    }

    fn end(&mut self) -> Bytes {
        let mut out = BytesMut::from(&self.piece(&[])[..]);
        // the last block, without content
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
        out.extend_from_slice(&self.checksum.sum().to_le_bytes());
        out.extend_from_slice(&self.checksum.amount().to_le_bytes());
        out.freeze()
    }
}

/// Says in the headers that a body is compressed.
pub fn mark_gzip(headers: &mut http::HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

fn compressed(
    mut out: Response<Body>,
    pieces: impl Iterator<Item = Piece> + Send + 'static,
) -> Response<Body> {
    mark_gzip(out.headers_mut());
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    *out.body_mut() = streaming(stream::iter(Gzip { pieces, encoder }));
    out
}

struct Gzip<I> {
    pieces: I,
    /// `None` when the trailer is out.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I: Iterator<Item = Piece>> Iterator for Gzip<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let mut encoder = self.encoder.take()?;
            match self.pieces.next() {
                Some(Ok(piece)) => {
                    if let Err(e) = encoder.write_all(&piece) {
                        return Some(Err(e.into()));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    self.encoder = Some(encoder);
                    if !out.is_empty() {
                        return Some(Ok(out.into()));
                    }
                }
                Some(Err(e)) => return Some(Err(e)),
                None => return Some(encoder.finish().map(Bytes::from).map_err(Into::into)),
            }
        }
    }
}

struct Indented<I> {
    pieces: I,
    indent: Option<Indent>,
}

impl<I: Iterator<Item = Piece>> Iterator for Indented<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let piece = self.pieces.next()?;
        let (Some(indent), Ok(bytes)) = (&mut self.indent, &piece) else { return Some(piece) };
        let mut out = BytesMut::with_capacity(bytes.len() * 2);
        indent.write(bytes, &mut out);
        Some(Ok(out.freeze()))
    }
}

/// Compact JSON to indented JSON, piece by piece (Go: `json.Indent` by two blanks).
#[derive(Default)]
struct Indent {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// A bracket was opened and nothing has followed: `{}` stays as it is.
    opened: bool,
}

impl Indent {
    fn write(&mut self, json: &[u8], out: &mut BytesMut) {
        for &b in json {
            if self.in_string {
                out.extend_from_slice(&[b]);
                self.in_string = self.escaped || b != b'"';
                self.escaped = !self.escaped && b == b'\\';
                continue;
            }
            match b {
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if !std::mem::take(&mut self.opened) {
                        self.line(out);
                    }
                    out.extend_from_slice(&[b]);
                    continue;
                }
                _ => {}
            }
            if std::mem::take(&mut self.opened) {
                self.line(out);
            }
            match b {
                b'{' | b'[' => {
                    self.depth += 1;
                    self.opened = true;
                    out.extend_from_slice(&[b]);
                }
                b',' => {
                    out.extend_from_slice(b",");
                    self.line(out);
                }
                b':' => out.extend_from_slice(b": "),
                _ => {
                    self.in_string = b == b'"';
                    out.extend_from_slice(&[b]);
                }
            }
        }
    }

    fn line(&self, out: &mut BytesMut) {
        out.extend_from_slice(b"\n");
        (0..self.depth).for_each(|_| out.extend_from_slice(INDENT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::io::Read as _;

    fn gzip_json() -> Encoding {
        Encoding { format: Format::Json, pretty: false, gzip: true }
    }

    async fn bytes(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.expect("a body").to_bytes()
    }

    fn unzipped(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("gzip");
        out
    }

    #[test]
    fn indented_as_go_does() {
        let json = br#"{"a":{},"b":[],"c":[1,{"d":"x, {\"y\":\\"}],"e":null}"#;
        let wanted = "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    1,\n    {\n      \"d\": \"x, {\\\"y\\\":\\\\\"\n    }\n  ],\n  \"e\": null\n}";
        assert_eq!(pretty(json), wanted);
        let (mut indent, mut out) = (Indent::default(), BytesMut::new());
        json.chunks(1).for_each(|b| indent.write(b, &mut out));
        assert_eq!(out, wanted);
    }

    #[tokio::test]
    async fn only_large_documents_are_compressed() {
        let small = Bytes::from(vec![b'x'; GZIP_OVER_BYTES - 1]);
        let out = whole(200, gzip_json(), small);
        assert!(out.headers().get(header::CONTENT_ENCODING).is_none());
        assert_eq!(bytes(out).await.len(), GZIP_OVER_BYTES);

        let large = Bytes::from(vec![b'x'; GZIP_OVER_BYTES]);
        let out = whole(200, gzip_json(), large.clone());
        assert_eq!(out.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(out.headers()[header::VARY], "Accept-Encoding");
        assert_eq!(unzipped(&bytes(out).await), [&large[..], b"\n"].concat());
        let out = whole(200, Encoding::default(), large);
        assert!(out.headers().get(header::CONTENT_ENCODING).is_none());
    }

    #[tokio::test]
    async fn pieces_are_compressed_as_they_come() {
        let piece = Bytes::from(vec![b'y'; 50_000]);
        let of = |n: usize| std::iter::repeat_n(piece.clone(), n).map(Ok);
        for (n, large) in [(0, false), (1, false), (2, false), (3, true), (40, true)] {
            let out = pieces(200, gzip_json(), of(n)).expect("a response");
            assert_eq!(out.headers().contains_key(header::CONTENT_ENCODING), large, "{n}");
            let body = bytes(out).await;
            let body = if large { unzipped(&body) } else { body.to_vec() };
            assert_eq!(body.len(), n * 50_000);
            let out = pieces(200, Encoding::default(), of(n)).expect("a response");
            assert_eq!(bytes(out).await.len(), n * 50_000);
        }
        let broken = [Ok(piece), Err("broken".into())];
        assert!(pieces(200, gzip_json(), broken.into_iter()).is_err());
    }

    #[test]
    fn a_piece_can_be_read_before_the_next_one_is_there() {
        let large = vec![b'x'; 3 * DEFLATE_OVER_BYTES];
        let mut zip = GzipPieces::default();
        let (mut sent, mut wanted) = (Vec::new(), Vec::new());
        for piece in [&b"one"[..], &large, b"", b"two", &large[..DEFLATE_OVER_BYTES]] {
            sent.extend_from_slice(&zip.piece(piece));
            wanted.extend_from_slice(piece);
            let mut read = vec![0; wanted.len()];
            flate2::read::GzDecoder::new(&sent[..]).read_exact(&mut read).expect("all that was sent");
            assert_eq!(read, wanted);
        }
        assert!(sent.len() < DEFLATE_OVER_BYTES + 1024, "{}", sent.len());
        sent.extend_from_slice(&zip.end());
        assert_eq!(unzipped(&sent), wanted);
        assert_eq!((unzipped(&gzip(b"")), unzipped(&gzip(b"all"))), (vec![], b"all".to_vec()));
    }
}
