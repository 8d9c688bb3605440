//! The group `flowcontrol.apiserver.k8s.io` (upstream: `pkg/apis/flowcontrol`).
//!
//! The objects named `exempt` and `catch-all` are mandatory: their specs are fixed.

pub mod flow_schema;
pub mod priority_level;

use crate::def::{Ctx, KindDef, Scope};
use crate::rest;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

fn row(kind: &'static str, plural: &'static str, singular: &'static str, schema: &'static str) -> KindDef {
    KindDef {
        group: "flowcontrol.apiserver.k8s.io".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: singular.into(),
        scope: Scope::Cluster,
        schema: schema.into(),
        storage: plural.into(),
        generation: true,
        ..KindDef::BASE
    }
}

/// A write of status changes no metadata; another changes no status.
fn prepare_update(new: &mut Value, old: &Value, ctx: &Ctx) {
    shared::split(new, old, ctx);
    if ctx.subresource == "status" {
        rest::keep_all_metadata(new, old);
    }
}

/// Upstream: `ValidateFlowSchemaStatus`, `ValidatePriorityLevelConfigurationStatus`.
fn status_errors(obj: &Value, errors: &mut ErrorList) {
    let path = Path::new("status").child("conditions");
    let conditions = items(&obj["status"], "conditions");
    for (i, c) in conditions.iter().enumerate() {
        let (at, ty) = (path.index(i).child("type"), text(c, "type"));
        if conditions[..i].iter().any(|other| text(other, "type") == ty) {
            errors.push(Error::duplicate(&at, ty));
        }
        if ty.is_empty() {
            errors.push(Error::required(&at, ""));
        }
    }
}
