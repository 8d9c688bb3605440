//! Server-side apply and managed fields: who owns which field of an object.
//!
//! Works on JSON values only; the caller brings the type, the time and the manager's name.

mod apply;
mod conflict;
mod element;
mod last_applied;
mod managers;
mod overlay;
pub mod scale;
mod schema;
mod set;
mod typed;
mod update;
mod validate;

#[cfg(test)]
mod tests;

pub use apply::apply;
pub use conflict::{ApplyError, Cause, Conflict, causes, message};
pub use element::Element;
pub use managers::{Entry, MAX_UPDATE_MANAGERS, Operation, decode, encode};
pub use overlay::overlay;
pub use schema::View;
pub use set::{FieldSet, MAX_DEPTH};
pub use update::{keep_times, update};

/// Who writes what kind of object, and when.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The field manager's name; `unknown` when empty.
    pub manager: &'a str,
    /// The version the request speaks (`apps/v1`).
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub now: jiff::Timestamp,
    pub view: View<'a>,
    /// Fields that a write by this way cannot change, so nobody comes to own them by it (`status` of the object itself).
    pub reset: &'a FieldSet,
}

impl Options<'_> {
    /// The entry of this writer, with no fields yet.
    fn entry(&self, operation: Operation) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: None,
            fields: FieldSet::default(),
        }
    }
}
