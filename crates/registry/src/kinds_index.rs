//! The rows that are served, found by path or by kind.

use kinds::KindDef;
use std::collections::HashMap;
use std::sync::Arc;

/// An index over rows; rows keep the order in which they were given (the order of discovery).
#[derive(Clone, Default)]
pub struct Kinds {
    rows: Vec<Arc<KindDef>>,
    by_path: HashMap<(String, String, String), Arc<KindDef>>,
    by_kind: HashMap<(String, String, String), Arc<KindDef>>,
}

impl Kinds {
    pub fn new(rows: impl IntoIterator<Item = Arc<KindDef>>) -> Self {
        let mut out = Self::default();
        for row in rows {
            let key = |last: &str| (row.group.to_string(), row.version.to_string(), last.to_owned());
            out.by_path.insert(key(&row.plural), row.clone());
            out.by_kind.insert(key(&row.kind), row.clone());
            out.rows.push(row);
        }
        out
    }

    pub fn rows(&self) -> &[Arc<KindDef>] {
        &self.rows
    }

    /// The row served at `/apis/GROUP/VERSION/…/PLURAL`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<KindDef>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<KindDef>> {
        self.by_kind.get(&(group.to_owned(), version.to_owned(), kind.to_owned()))
    }

    /// Whether any version of the group is served.
    pub fn has_group(&self, group: &str) -> bool {
        self.rows.iter().any(|r| r.group == group)
    }
}
