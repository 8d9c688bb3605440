//! The group `admissionregistration.k8s.io` (upstream: `pkg/apis/admissionregistration`).
//!
//! Names that end in `.static.k8s.io` belong to manifests on disk and are refused here.

pub mod policies;
mod rules;
pub mod webhooks;

use crate::def::{KindDef, Scope};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

const GROUP: &str = "admissionregistration.k8s.io";
/// Ending of names of configurations that come from manifests (upstream: `StaticConfigSuffix`).
const STATIC_SUFFIX: &str = ".static.k8s.io";

fn row(kind: &'static str, plural: &'static str, singular: &'static str, schema: &'static str) -> KindDef {
    KindDef {
        group: GROUP.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: singular.into(),
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        schema: schema.into(),
        storage: plural.into(),
        generation: true,
        ..KindDef::BASE
    }
}

fn static_suffix_text() -> String {
    format!(
        "names ending with {STATIC_SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )
}

/// Upstream: `ValidateStaticSuffix`, on create only.
fn static_suffix(obj: &Value, errors: &mut ErrorList) {
    let name = object::name(obj);
    if name.ends_with(STATIC_SUFFIX) {
        errors.push(Error::invalid(&Path::new("metadata").child("name"), name, static_suffix_text()));
    }
}

/// Upstream: `WarningsForStaticSuffix`, on update only.
fn static_suffix_warning(obj: &Value) -> Option<String> {
    object::name(obj).ends_with(STATIC_SUFFIX).then(|| format!("metadata.name: {}", static_suffix_text()))
}

#[cfg(test)]
mod tests;
