//! The `continue` token of a paged list: the next key and the revision that all pages show
//! (upstream: apiserver `pkg/storage/continue.go`; same encoding).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Where a list goes on. The start key is relative to the listed prefix and cannot leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// First key that may be returned, relative to the prefix.
    pub start: String,
    /// The revision to list at; negative: the newest (an inconsistent continuation).
    pub revision: i64,
}

/// What is missing is empty, as in Go.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Token<'a> {
    v: std::borrow::Cow<'a, str>,
    rv: i64,
    start: std::borrow::Cow<'a, str>,
}

impl Cursor {
    pub fn encode(&self) -> String {
        let token =
            Token { v: "meta.k8s.io/v1".into(), rv: self.revision, start: self.start.as_str().into() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads a client's token; the error is upstream's text.
    pub fn decode(text: &str) -> Result<Self, String> {
        const INVALID: &str = "continue key is not valid";
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) => at,
                // what is left over begins at the last whole group of four
                _ => text.len() / 4 * 4,
            };
            format!("{INVALID}: illegal base64 data at input byte {at}")
        })?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| format!("{INVALID}: {e}"))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(format!("{INVALID}: server does not recognize this encoded version {}", token.v));
        }
        if token.rv == 0 {
            return Err(format!(
                "{INVALID}: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"
            ));
        }
        if token.start.is_empty() {
            return Err(format!("{INVALID}: encoded start key empty (version meta.k8s.io/v1)"));
        }
        let start = token.start.strip_prefix('/').unwrap_or(&token.start);
        // A key has no empty, `.` or `..` segments: such a token was not made by this server.
        if start.trim_end_matches('\0').split('/').any(|s| matches!(s, "" | "." | "..")) {
            return Err(format!("{INVALID}: {}", token.start));
        }
        Ok(Self { start: start.to_owned(), revision: token.rv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_round_trips_and_a_forged_one_is_refused() {
        let c = Cursor { start: "default/web\0".into(), revision: 9 };
        assert_eq!(Cursor::decode(&c.encode()), Ok(c));
        for start in ["../secrets/x", "a/../b", "a//b", "./a"] {
            let forged = Cursor { start: start.into(), revision: 9 }.encode();
            assert!(Cursor::decode(&forged).is_err(), "{start}");
        }
        assert!(Cursor::decode("!!").is_err());
        assert!(Cursor::decode(&Cursor { start: "a".into(), revision: 0 }.encode()).is_err());
    }
}
