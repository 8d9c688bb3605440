//! What can go wrong with an image.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Reference(String),
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what} is not valid: {why}")]
    Invalid { what: String, why: String },
    #[error("{what} has the digest {found}, not {wanted}: it was damaged or replaced on its way")]
    Digest { what: String, wanted: String, found: String },
    #[error(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
    )]
    Unknown { image: String },
    #[error(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": pull access denied, repository does not exist or may require authorization: {why}"
    )]
    Denied { image: String, why: String },
    #[error(
        "failed to pull and unpack image \"{image}\": failed to do request: {why}; is the registry up and reachable?"
    )]
    Unreachable { image: String, why: String },
    #[error("failed to pull and unpack image \"{image}\": {why}")]
    Registry { image: String, why: String },
    #[error("the image {0:?} is not here; import it, or let it be pulled")]
    NotFound(String),
    #[error("the image {0:?} has no variant for linux/{1}")]
    Platform(String, &'static str),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Adds what was being done, and to which file.
pub trait IoContext<T> {
    fn at(self, what: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, what: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| Error::Io { what, path: path.to_owned(), source })
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn at(self, what: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| Error::Io { what, path: path.to_owned(), source: e.into() })
    }
}

pub fn invalid(what: impl Into<String>, why: impl std::fmt::Display) -> Error {
    Error::Invalid { what: what.into(), why: why.to_string() }
}
