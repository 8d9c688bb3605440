//! The group `storage.k8s.io`.

pub mod attachment;
pub mod capacity;
pub mod class;
pub mod driver;
pub mod node;

use crate::def::KindDef;

/// What the rows of the group share.
const GROUP: KindDef = KindDef { group: std::borrow::Cow::Borrowed("storage.k8s.io"), ..KindDef::BASE };
