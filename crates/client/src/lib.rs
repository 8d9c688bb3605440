//! How every component talks to the API: one trait, served in process or over HTTPS, and what is built on it.
//!
//! [`Api`] carries HTTP requests; in-process callers go through the same chain as everybody else, without a socket.
//! [`Client`] is the typed face; [`informer`] keeps local copies of kinds; [`controller`] is the one control loop;
//! [`events`] tells people what components did.

pub mod api;
pub mod controller;
pub mod dynamic;
pub mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod https;
pub mod informer;
pub mod kind;
pub mod kubeconfig;
pub mod leader;
pub mod outbound;
pub mod typed;

pub use api::*;
pub use dynamic::{ApiResource, Discovery, Dynamic};
pub use kind::{Kind, Scoped};
pub use typed::{Client, DeleteOptions, List, ListOptions, Patch, Preconditions};
