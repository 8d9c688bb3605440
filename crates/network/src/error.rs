//! What can go wrong, with what was being done.

/// A failure of the data plane, as one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kernel(#[from] sys::Error),
    /// A route netlink request was refused.
    #[error("{what}: {why}")]
    Netlink { what: String, why: String, errno: i32 },
    #[error("{0}")]
    Check(String),
    #[error("{what}: {why}")]
    File { what: String, why: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn check(what: impl Into<String>) -> Self {
        Self::Check(what.into())
    }

    pub(crate) fn file(what: impl Into<String>, e: &std::io::Error) -> Self {
        Self::File { what: what.into(), why: e.to_string() }
    }
}
