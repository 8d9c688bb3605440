//! What can go wrong with a call, sorted by what is known of its effect.

/// gRPC status codes that this client looks at (the names are gRPC's).
pub const UNKNOWN: u32 = 2;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNAVAILABLE: u32 = 14;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No endpoint could be reached; the request was not sent.
    #[error("no etcd endpoint can be reached: {0}")]
    Connect(String),
    /// The connection broke; whether the request had an effect is unknown.
    #[error("the connection to etcd broke: {0}")]
    Broken(String),
    /// The deadline passed; whether the request had an effect is unknown.
    #[error("etcd did not answer in {0} ms")]
    Timeout(u128),
    /// etcd's own answer.
    #[error("{message}")]
    Status { code: u32, message: String },
    /// An answer that is not gRPC or not etcd's.
    #[error("etcd's answer cannot be understood: {0}")]
    Malformed(String),
    /// The configuration cannot work: files of certificates, endpoints.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether etcd certainly never saw the request.
    pub fn is_not_sent(&self) -> bool {
        matches!(self, Error::Connect(_))
    }

    /// Whether another try, perhaps at another endpoint, may do better.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect(_) | Error::Broken(_) | Error::Timeout(_) => true,
            Error::Status { code, .. } => *code == UNAVAILABLE,
            Error::Malformed(_) | Error::Config(_) => false,
        }
    }

    /// Whether etcd said something with this text in it.
    pub fn says(&self, text: &str) -> bool {
        matches!(self, Error::Status { message, .. } if message.contains(text))
    }

    /// A read or a watch asked for a revision that is gone (upstream: etcd `api/v3rpc/rpctypes#ErrCompacted`).
    pub fn is_compacted(&self) -> bool {
        self.says("required revision has been compacted")
    }
}
