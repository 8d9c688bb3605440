//! Where a request came from (upstream: apimachinery `pkg/util/net#SourceIPs`).

use std::net::IpAddr;

/// Addresses that headers claim, then the one that connected. All but the last are the client's word.
pub fn source_ips(forwarded_for: Option<&str>, real_ip: Option<&str>, peer: Option<IpAddr>) -> Vec<String> {
    let parse = |t: &str| t.trim().parse::<IpAddr>().ok();
    let mut out: Vec<IpAddr> =
        forwarded_for.into_iter().flat_map(|h| h.split(',')).filter_map(parse).collect();
    if let Some(ip) = real_ip.and_then(parse).filter(|ip| !out.contains(ip)) {
        out.push(ip);
    }
    if let Some(peer) = peer.map(|p| p.to_canonical()).filter(|p| out.last() != Some(p)) {
        out.push(peer);
    }
    out.iter().map(ToString::to_string).collect()
}

/// Longest user agent that is kept, in bytes.
const USER_AGENT_BYTES_MAX: usize = 1024;

/// A user agent of bounded length.
pub fn user_agent(text: &str) -> String {
    if text.len() <= USER_AGENT_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = USER_AGENT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...TRUNCATED", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_come_before_the_truth() {
        let peer = "192.0.2.9".parse().ok();
        assert_eq!(source_ips(None, None, peer), ["192.0.2.9"]);
        assert_eq!(
            source_ips(Some("10.0.0.1, junk, 10.0.0.2"), Some("10.0.0.3"), peer),
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.9"]
        );
        assert_eq!(source_ips(Some("192.0.2.9"), None, peer), ["192.0.2.9"]);
    }
}
