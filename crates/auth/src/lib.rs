//! Who somebody is and what they may do.
//!
//! Invariants: an [`identity::Identity`] comes from a verified credential only; authorisation reads one consistent
//! snapshot; what no rule allows is refused. No I/O beyond the key files and the token file, no clock of its own;
//! other servers are asked through the traits of [`remote`].

pub mod authenticate;
pub mod authorize;
pub mod bootstrap;
pub mod identity;
pub mod impersonate;
pub mod node;
pub mod node_restriction;
pub mod pki;
pub mod rbac;
pub mod remote;
pub mod review;
pub mod signing;
mod text;
pub mod tokens;

pub use authenticate::Authenticator;
pub use authorize::{Attributes, Authorizer, Decision};
pub use identity::Identity;
