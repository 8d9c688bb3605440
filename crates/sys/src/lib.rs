//! The kernel: processes, namespaces, mounts, cgroups, seccomp, netlink. The only crate with unsafe code.
//!
//! Invariant: every public function is safe to call from any state of the program; what would be unsound (forking a
//! threaded process, signalling everybody) is refused with an error.

#![allow(unsafe_code)]

pub mod capability;
pub mod cgroup;
pub mod devices;
pub mod error;
pub mod fd;
pub mod features;
pub mod mount;
pub mod namespace;
pub mod netns;
pub mod nft;
pub mod process;
pub mod rooted;
pub mod seccomp;
pub mod tty;

pub use error::{Context, Error, Result, errno_text};
