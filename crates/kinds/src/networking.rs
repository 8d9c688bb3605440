//! The group `networking.k8s.io`.

pub mod address;
pub mod ingress;
pub mod ingress_class;
pub mod network_policy;

use crate::def::KindDef;

/// What the rows of the group share.
const GROUP: KindDef = KindDef { group: std::borrow::Cow::Borrowed("networking.k8s.io"), ..KindDef::BASE };
