//! Images: names, a content store, registries, import and unpacking.
//!
//! Invariants: a blob is stored under its digest and only after the digest was checked; a layer directory appears whole
//! or not at all; nothing that an image contains can make a file outside its layer's directory.

pub mod builtin;
pub mod error;
pub mod import;
pub mod reference;
pub mod registry;
pub mod store;
pub mod unpack;

pub use error::{Error, Result};
pub use reference::Reference;
pub use registry::{Login, pull};
pub use store::{Image, ImageConfig, ImageStore};
