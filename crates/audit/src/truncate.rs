//! Events that are too large lose their bodies (upstream: apiserver `plugin/pkg/audit/truncate/truncate.go`).

use crate::event::{Event, Level};

/// Set on events whose bodies were left out.
const ANNOTATION: &str = "audit.k8s.io/truncated";

/// The event's line, no longer than `max` bytes; without its bodies when it would be. `None` when even that is too long.
pub fn line(event: &Event, max: usize) -> Option<Vec<u8>> {
    let whole = event.to_line();
    if whole.len() <= max {
        return Some(whole);
    }
    if event.level < Level::Request {
        return None;
    }
    let mut short = event.clone();
    short.request_object = None;
    short.response_object = None;
    short.annotations.insert(ANNOTATION.to_owned(), "true".to_owned());
    Some(short.to_line()).filter(|l| l.len() <= max)
}
