//! Events that are too large lose their bodies (upstream: apiserver `plugin/pkg/audit/truncate/truncate.go`).

use crate::event::{Event, Level};
use std::borrow::Cow;

/// Set on events whose bodies were left out.
const ANNOTATION: &str = "audit.k8s.io/truncated";

/// The event, without its bodies when its line would be longer than `max_bytes`; `None` when even that is too long.
pub fn fit(event: &Event, max_bytes: usize) -> Option<Cow<'_, Event>> {
    // A line has its newline.
    let fits = |e: &Event| e.to_line().len() < max_bytes;
    if fits(event) {
        return Some(Cow::Borrowed(event));
    }
    if event.level < Level::Request {
        return None;
    }
    let mut short = event.clone();
    short.request_object = None;
    short.response_object = None;
    short.annotations.insert(ANNOTATION.to_owned(), "true".to_owned());
    fits(&short).then_some(Cow::Owned(short))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Content;

    #[test]
    fn bodies_go_first_then_the_event() {
        let json = serde_json::json!({
            "level": "Request", "auditID": "i", "stage": "ResponseComplete", "requestURI": "/x", "verb": "get",
            "user": {}, "requestReceivedTimestamp": null, "stageTimestamp": null,
        });
        let mut event: Event = serde_json::from_value(json).expect("an event");
        event.request_object = Some(Content::Whole(format!("\"{}\"", "x".repeat(1000)).into()));
        assert!(matches!(fit(&event, 4096), Some(Cow::Borrowed(_))));
        let short = fit(&event, 600).expect("fits").into_owned();
        assert_eq!(short.annotations[ANNOTATION], "true");
        assert!(short.request_object.is_none() && short.to_line().len() < 600);
        assert!(fit(&event, 100).is_none());
        event.level = Level::Metadata;
        assert!(fit(&event, 600).is_none());
    }
}
