//! The rows that are served, found by path or by kind.
//!
//! Invariant: an index never changes. What is served changes by putting another index in its place
//! ([`crate::Registry::serve`]); a request keeps the one that it began with.

use kinds::KindDef;
use std::collections::HashMap;
use std::sync::Arc;

/// An index over rows; rows keep the order in which they were given (the order of discovery).
#[derive(Clone, Default)]
pub struct Kinds {
    rows: Vec<Arc<KindDef>>,
    /// Few rows share a plural or a kind: the rest of the key is compared one by one, without making a text.
    by_plural: HashMap<String, Vec<Arc<KindDef>>>,
    by_kind: HashMap<String, Vec<Arc<KindDef>>>,
    /// Distinguishes this index from those before it, for what is derived from it and kept.
    generation: u64,
}

impl Kinds {
    pub fn new(rows: impl IntoIterator<Item = Arc<KindDef>>) -> Self {
        let mut out = Self::default();
        for row in rows {
            out.by_plural.entry(row.plural.to_string()).or_default().push(row.clone());
            out.by_kind.entry(row.kind.to_string()).or_default().push(row.clone());
            out.rows.push(row);
        }
        out
    }

    pub(crate) fn numbered(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn rows(&self) -> &[Arc<KindDef>] {
        &self.rows
    }

    /// The row served at `/apis/GROUP/VERSION/…/PLURAL`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<KindDef>> {
        find(&self.by_plural, plural, group, version)
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<KindDef>> {
        find(&self.by_kind, kind, group, version)
    }

    /// Whether any version of the group is served.
    pub fn has_group(&self, group: &str) -> bool {
        self.rows.iter().any(|r| r.group == group)
    }
}

fn find(
    map: &HashMap<String, Vec<Arc<KindDef>>>,
    name: &str,
    group: &str,
    version: &str,
) -> Option<Arc<KindDef>> {
    map.get(name)?.iter().find(|r| r.group == group && r.version == version).cloned()
}
