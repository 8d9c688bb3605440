//! Blocks of PEM text, as leniently as Go's `encoding/pem` finds them: what is between blocks is ignored, and a block
//! that does not decode is passed over.

use base64::Engine;

/// One block.
pub(crate) struct Block {
    pub label: String,
    /// Whether there are `Key: value` lines before the data.
    pub headers: bool,
    pub der: Vec<u8>,
}

/// All blocks of a text, in order.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = begin(line) else { continue };
        let end = format!("-----END {label}-----");
        let mut ahead = lines.clone();
        let mut body: Vec<&str> = Vec::new();
        let closed = ahead.by_ref().any(|l| {
            let stop = l.trim_end() == end;
            if !stop {
                body.push(l.trim());
            }
            stop
        });
        if closed && let Some((headers, der)) = data(&body) {
            out.push(Block { label: label.to_owned(), headers, der });
            lines = ahead;
        }
    }
    out
}

fn begin(line: &str) -> Option<&str> {
    line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----")
}

fn data(body: &[&str]) -> Option<(bool, Vec<u8>)> {
    let headers = body.iter().take_while(|l| l.contains(':')).count();
    let text: String = body[headers..].concat();
    let der = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    Some((headers > 0, der))
}
