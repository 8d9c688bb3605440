//! The API server: every request, from a socket or from a component in this process, goes through [`chain`].
//!
//! Invariants: there is one order of filters, in one function; what a request asks for is read from its URL once;
//! nothing reaches a verb without a permit; every request that the policy names is on the audit record.

pub mod aggregator;
mod bursts;
pub mod chain;
pub mod codec;
pub mod context;
pub mod custom;
pub mod discovery;
mod encoded;
pub mod extension;
pub mod filters;
pub mod health;
pub mod inprocess;
pub mod kubelet;
pub mod metrics;
pub mod negotiate;
mod nonresource;
pub mod openapi;
mod outflow;
pub mod reply;
pub mod request_info;
pub mod resolver;
mod reviews;
pub mod server;
pub mod services;
pub mod serving;
mod splice;
pub mod table;
pub mod tokens;
mod verbs;
pub mod version;
mod websocket;

pub use server::{Server, ServerOptions};
