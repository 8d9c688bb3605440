//! A client of etcd's v3 API: the calls that a Kubernetes store needs, over gRPC on hyper's HTTP/2.
//!
//! Knows nothing of objects or revisioned trees. Invariants: a request is sent again only when it is certain that etcd
//! has not seen it, or when it changes nothing; every request ends by its deadline; messages are bounded in size.

mod client;
mod config;
mod error;
mod grpc;
pub mod proto;
mod tls;
mod transport;

pub use client::{Client, WatchStream};
pub use config::{ConfigError, EtcdConfig};
pub use error::Error;
