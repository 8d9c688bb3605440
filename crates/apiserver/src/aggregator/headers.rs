//! Which headers go on to another server, and which come back.
//!
//! Invariant: nothing by which the caller proved itself goes on, nothing that the caller claims about who it is goes on,
//! and the user that this server knows is named in full.

use auth::identity::Identity;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::net::IpAddr;

/// Of one connection, never of the next (upstream: Go `httputil.hopHeaders`).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Of the request as it came here: its body is read, its proof is looked at.
const OURS: [&str; 5] = ["authorization", "content-length", "expect", "host", "http2-settings"];
const CLAIMS: [&str; 2] = ["x-remote-", "impersonate-"];
/// A token that rides in a WebSocket's protocols (upstream: apiserver `request/websocket#bearerProtocolPrefix`).
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// What only this server says to browsers (upstream: apimachinery `proxy.corsRemovingTransport`).
const CORS: &str = "access-control-allow-";
/// What a header's name may hold, but the escape itself (upstream: client-go `transport.headerKeyEscape`).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The headers of a request that goes on to `at`. An upgrade keeps those that ask for it.
///
/// # Errors
/// The user cannot be told in headers.
pub fn onward(
    came: &HeaderMap,
    user: &Identity,
    peer: IpAddr,
    at: &str,
    path: &str,
    audit_id: &str,
    upgrade: bool,
) -> Result<HeaderMap, String> {
    let named = named_by_connection(came);
    let mut out = HeaderMap::new();
    for (name, value) in came {
        let text = name.as_str();
        let kept = upgrade && matches!(text, "connection" | "upgrade");
        let gone = HOP_BY_HOP.contains(&text) || named.contains(name);
        if !(gone && !kept || OURS.contains(&text) || CLAIMS.iter().any(|c| text.starts_with(c))) {
            out.append(name, value.clone());
        }
    }
    without_token(&mut out);
    let value = |text: &str| HeaderValue::from_str(text).map_err(|e| e.to_string());
    let before = came.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok());
    let way: Vec<String> = before.map(str::to_owned).chain([peer.to_string()]).collect();
    out.insert("x-forwarded-for", value(&way.join(", "))?);
    out.insert("x-forwarded-uri", value(path)?);
    out.insert("x-forwarded-host", value(at)?);
    out.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    out.insert(header::HOST, value(at)?);
    out.insert("audit-id", HeaderValue::from_bytes(audit_id.as_bytes()).map_err(|e| e.to_string())?);
    identify(&mut out, user)?;
    Ok(out)
}

/// Names the user (upstream: client-go `transport.SetAuthProxyHeaders`).
///
/// # Errors
/// A name holds what no header can.
pub fn identify(headers: &mut HeaderMap, user: &Identity) -> Result<(), String> {
    let value = |name: &str, text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| format!("net/http: invalid header field value for {name:?}"))
    };
    headers.insert("x-remote-user", value("X-Remote-User", &user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value("X-Remote-Uid", &user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value("X-Remote-Group", group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(key, ESCAPED)).to_ascii_lowercase();
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        for text in values {
            headers.append(&name, value(name.as_str(), text)?);
        }
    }
    Ok(())
}

/// The headers of another server's answer, as the client gets them. An upgrade keeps those that grant it.
pub fn back(came: &HeaderMap, upgrade: bool) -> HeaderMap {
    let named = named_by_connection(came);
    let mut out = HeaderMap::new();
    for (name, value) in came {
        let text = name.as_str();
        let kept = upgrade && matches!(text, "connection" | "upgrade");
        let gone = HOP_BY_HOP.contains(&text) || named.contains(name);
        if !(gone && !kept || text.starts_with(CORS)) {
            out.append(name, value.clone());
        }
    }
    out
}

/// Whether the client wants another protocol (upstream: `httpstream.IsUpgradeRequest`).
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let asks = |v: &HeaderValue| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("upgrade"));
    headers.contains_key(header::UPGRADE) && headers.get_all(header::CONNECTION).iter().any(asks)
}

/// Further headers that belong to the connection, by its own word.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).filter_map(|n| n.trim().parse().ok()).collect()
}

fn without_token(headers: &mut HeaderMap) {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let given = headers.get_all(&name).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    if !given.contains(BEARER_PROTOCOL) {
        return;
    }
    let rest = given.split(',').map(str::trim).filter(|p| !p.starts_with(BEARER_PROTOCOL) && !p.is_empty());
    headers.remove(&name);
    if let Ok(value) = HeaderValue::from_str(&rest.collect::<Vec<_>>().join(","))
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in pairs {
            out.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        out
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<String> =
            headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))).collect();
        all.sort();
        all
    }

    #[test]
    fn the_user_is_named_by_us_alone() {
        let came = map(&[
            ("authorization", "Bearer secret"),
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("x-remote-uid", "0"),
            ("impersonate-user", "root"),
            ("proxy-authorization", "Basic secret"),
            ("x-mine", "of this connection"),
            ("connection", "x-mine, keep-alive"),
            ("upgrade", "h2c"),
            ("host", "api.example.com"),
            ("content-length", "7"),
            ("x-forwarded-for", "192.0.2.1"),
            ("accept", "application/json"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"),
        ]);
        let extra = [("acme.com/Project%".to_owned(), vec!["p1".to_owned(), "p2".to_owned()])].into();
        let user = Identity { uid: "u1".into(), extra, ..Identity::new("jürgen", &["a", "b"]) };
        let peer = "10.0.0.9".parse().expect("an address");
        let out = onward(&came, &user, peer, "10.96.0.7:443", "/apis/g/v1", "id", false).expect("headers");
        assert_eq!(
            shown(&out),
            [
                "accept: application/json",
                "audit-id: id",
                "host: 10.96.0.7:443",
                "sec-websocket-protocol: v5.channel.k8s.io",
                "x-forwarded-for: 192.0.2.1, 10.0.0.9",
                "x-forwarded-host: 10.96.0.7:443",
                "x-forwarded-proto: https",
                "x-forwarded-uri: /apis/g/v1",
                "x-remote-extra-acme.com%2fproject%25: p1",
                "x-remote-extra-acme.com%2fproject%25: p2",
                "x-remote-group: a",
                "x-remote-group: b",
                "x-remote-uid: u1",
                "x-remote-user: jürgen",
            ]
        );
        let wrong = Identity::new("two\r\nlines", &[]);
        let refused = onward(&came, &wrong, peer, "h:1", "/", "id", false);
        assert_eq!(refused, Err("net/http: invalid header field value for \"X-Remote-User\"".into()));
    }

    #[test]
    fn upgrades_are_asked_for_and_granted_end_to_end() {
        let came = map(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")]);
        assert!(wants_upgrade(&came));
        assert!(!wants_upgrade(&map(&[("connection", "close"), ("upgrade", "websocket")])));
        let peer = "10.0.0.9".parse().expect("an address");
        let out = onward(&came, &Identity::new("u", &[]), peer, "h:1", "/", "id", true).expect("headers");
        assert!(
            out["connection"] == "Upgrade"
                && out["upgrade"] == "websocket"
                && out["sec-websocket-key"] == "k"
        );
        assert_eq!(shown(&back(&came, true)).len(), 3);
        let answer = map(&[
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("access-control-allow-origin", "*"),
            ("etag", "x"),
        ]);
        assert_eq!(shown(&back(&answer, false)), ["etag: x"]);
    }
}
