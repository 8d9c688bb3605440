//! Conflicts of an apply with other managers.
//!
//! Texts are upstream's, since clients print and tests compare them.

use crate::managers::{Entry, Operation};
use jiff::Timestamp;
use std::fmt::Write as _;

/// A field that another manager owns and the apply would change.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
    pub time: Option<Timestamp>,
    /// The path as text: `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// Status 409, with [`causes`].
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// Status 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit its type, or what is stored cannot be read; upstream answers with status 500.
    #[error("{0}")]
    Other(String),
}

/// One cause of the Status: `type`, `message`, `field`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Always `FieldManagerConflict`.
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

impl Conflict {
    pub(crate) fn all_of(entry: &Entry, fields: Vec<String>) -> impl Iterator<Item = Self> {
        fields.into_iter().map(|field| Self {
            manager: entry.manager.clone(),
            operation: entry.operation,
            api_version: entry.api_version.clone(),
            subresource: entry.subresource.clone(),
            time: entry.time,
            field,
        })
    }

    /// The manager as messages name it (upstream: apimachinery `managedfields/internal/conflict.go#printManager`).
    /// The time is not in it: upstream's identifier of a manager has none.
    fn manager_text(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            let _ = write!(out, " with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            let _ = write!(out, " using {}", self.api_version);
        }
        out
    }

    fn same_manager(&self, other: &Self) -> bool {
        self.manager_text() == other.manager_text() && self.operation == other.operation
    }
}

/// The message of the Status: `Apply failed with 1 conflict: conflict with "kubectl-create" using v1: .data.a`
/// (upstream: apimachinery `managedfields/internal/conflict.go#getConflictMessage`). Conflicts of one manager must
/// stand together, managers in order.
pub fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager_text(), one.field);
    }
    let mut lines = Vec::new();
    let mut last: Option<&Conflict> = None;
    for conflict in conflicts {
        if last.is_none_or(|l| !l.same_manager(conflict)) {
            lines.push(format!("conflicts with {}:", conflict.manager_text()));
        }
        lines.push(format!("- {}", conflict.field));
        last = Some(conflict);
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The causes of the Status, one for each field.
pub fn causes(conflicts: &[Conflict]) -> Vec<Cause> {
    conflicts
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {}", c.manager_text()),
            field: c.field.clone(),
        })
        .collect()
}
