//! The group `resource.k8s.io`: devices and claims on them.
//!
//! Fields behind gates that are off by default are dropped on the way in, unless the old object has them.

pub mod claim;
mod claim_status;
pub mod class;
mod common;
mod device;
mod selector;
pub mod slice;
pub mod taint_rule;

use crate::def::KindDef;

/// What the rows of the group share.
const GROUP: KindDef = KindDef { group: std::borrow::Cow::Borrowed("resource.k8s.io"), ..KindDef::BASE };
