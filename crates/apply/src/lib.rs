//! Server-side apply and managed fields: who owns which field of an object.
//!
//! Works on JSON values only; the caller brings the type, the time and the manager's name.

mod element;
mod schema;
mod set;
mod typed;
mod validate;

pub use element::Element;
pub use schema::View;
pub use set::FieldSet;
