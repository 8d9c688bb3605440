//! The line format of old (upstream: apiserver `pkg/audit/format.go#EventString`).

use crate::event::Event;
use meta::field::quoted;
use std::fmt::Write as _;

pub fn line(e: &Event) -> String {
    let (mut user, mut groups) = ("<none>", "<none>".to_owned());
    if !e.user.username.is_empty() {
        user = &e.user.username;
        if !e.user.groups.is_empty() {
            groups = joined(&e.user.groups);
        }
    }
    let (mut as_user, mut as_groups) = ("<self>", "<lookup>".to_owned());
    if let Some(other) = &e.impersonated_user {
        as_user = &other.username;
        if !other.groups.is_empty() {
            as_groups = joined(&other.groups);
        }
    }
    let namespace = e.object_ref.as_ref().map_or("", |r| r.namespace.as_str());
    let namespace = if namespace.is_empty() { "<none>" } else { namespace };
    let response = e.response_status.as_ref().map_or("<deferred>".to_owned(), |s| s.code.to_string());
    let ip = e.source_ips.first().map_or("<unknown>", String::as_str);
    let stage = format!("{:?}", e.stage);
    let members = [
        ("id", e.audit_id.as_str()),
        ("stage", &stage),
        ("ip", ip),
        ("method", &e.verb),
        ("user", user),
        ("groups", &groups),
        ("as", as_user),
        ("asgroups", &as_groups),
        ("user-agent", &e.user_agent),
        ("namespace", namespace),
        ("uri", &e.request_uri),
        ("response", &response),
    ];
    let mut out = format!("{} AUDIT:", e.request_received_timestamp);
    for (name, value) in members {
        let _ = write!(out, " {name}={}", quoted(value));
    }
    out
}

fn joined(list: &[String]) -> String {
    list.iter().map(|g| quoted(g)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_prints_it() {
        let json = serde_json::json!({
            "level": "Metadata", "auditID": "i", "stage": "ResponseComplete", "requestURI": "/x?a=\"b\"", "verb": "get",
            "user": {"username": "u", "groups": ["a", "b"]}, "sourceIPs": ["10.0.0.1"], "userAgent": "t\u{1}",
            "impersonatedUser": {"username": "v"}, "responseStatus": {"metadata": {}, "code": 200},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.060000Z", "stageTimestamp": null,
        });
        let event: Event = serde_json::from_value(json).expect("an event");
        let wanted = r#"2026-01-02T03:04:05.06Z AUDIT: id="i" stage="ResponseComplete" ip="10.0.0.1" method="get" user="u" groups="\"a\",\"b\"" as="v" asgroups="<lookup>" user-agent="t\x01" namespace="<none>" uri="/x?a=\"b\"" response="200""#;
        assert_eq!(line(&event), wanted);
    }
}
