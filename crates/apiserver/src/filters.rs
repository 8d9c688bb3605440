//! The filters of the chain, one file each; their order is in [`crate::chain`].

pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod flow;
pub mod impersonation;
pub mod latency;
