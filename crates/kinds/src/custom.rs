//! **What a custom resource is at run time**: from a CustomResourceDefinition to a row of the table.
//!
//! Everything here is pure. Trees of schemas and values are as deep as the JSON reader lets them be (`meta::yaml::MAX_DEPTH` levels), which
//! bounds every walk; schemas are shared and never change once parsed.

pub mod default;
pub mod formats;
pub mod invariants;
pub mod json_path;
pub mod list_type;
pub mod names;
pub mod object_meta;
pub mod openapi;
pub mod patterns;
pub mod prune;
mod row;
pub mod rules;
pub mod scale;
pub mod schema_errors;
pub mod structural;
pub mod validate;

pub use row::{compare_versions, row, row_of};
pub use scale::Scale;
pub use structural::Structural;

use crate::def::Column;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// What a custom row says beyond the static parts of [`crate::KindDef`].
pub struct Custom {
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub columns: Vec<Column>,
    /// Selectable fields, without the leading dot.
    pub selectable: Vec<String>,
    pub list_kind: String,
    /// The version's schema; CRDs of old may have none.
    pub schema: Option<Arc<Structural>>,
    /// Its rules in CEL, compiled when the first object is written; `None` when it has none.
    pub rules: OnceLock<Option<rules::Validator>>,
    /// The same as it was given, for what reads how fields merge; `None` where unknown fields are kept everywhere.
    pub raw_schema: Option<Value>,
    /// Keeps unknown fields of the whole object (`spec.preserveUnknownFields` of old).
    pub preserve_unknown_fields: bool,
    pub has_status: bool,
    pub scale: Option<Scale>,
    /// The `Warning` header of requests to this version; `None` when it is not deprecated.
    pub deprecation_warning: Option<String>,
    /// The published definitions.
    pub definitions: openapi::Published,
}

impl Custom {
    /// Brings a decoded object into the schema's shape: drops unknown fields and nulls that may not be, and reads
    /// metadata. Gives the paths of what was dropped, in upstream's order, for the strict forms of field validation
    /// (upstream: apiextensions `customresource_handler.go#schemaCoercer`).
    ///
    /// # Errors
    /// What has a wrong type in metadata, the object's own or an embedded resource's.
    pub fn shape(&self, obj: &mut Value) -> Result<Vec<String>, String> {
        meta::yaml::without_fractions(obj);
        let mut unknown = object_meta::coerce_root(obj)?;
        let schema = self.schema.as_deref();
        if !self.preserve_unknown_fields {
            unknown.extend(prune::prune(obj, schema, true));
            default::prune_nulls(obj, schema);
        }
        unknown.extend(object_meta::coerce(obj, schema, false, false).map_err(|e| e.to_string())?);
        Ok(unknown)
    }

    /// The rules in CEL of the version's schema.
    pub fn rules(&self) -> Option<&rules::Validator> {
        self.rules.get_or_init(|| self.schema.as_ref().and_then(rules::Validator::new)).as_ref()
    }

    /// Fills in defaults, of requests and of what was stored.
    pub fn default(&self, obj: &mut Value) {
        if let Some(schema) = &self.schema {
            default::default(obj, schema);
        }
    }
}

impl std::fmt::Debug for Custom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Custom").field("list_kind", &self.list_kind).finish_non_exhaustive()
    }
}
