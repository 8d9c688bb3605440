//! Whether an image reference means the newest image (upstream: `pkg/util/parsers#ParseImageName`, the Go module
//! `distribution/reference`).
//!
//! What is no reference means nothing.

use regex::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

const HUB: &str = "docker.io";
/// Where the hub keeps images that are named without a path.
const OFFICIAL: &str = "library/";
/// Bytes of the path of a repository.
const PATH_BYTES_MAX: usize = 255;
const PATTERN: &str = concat!(
    r"^((?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*",
    r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?)/",
    r"([a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)",
    r"(?::([0-9A-Za-z_][0-9A-Za-z_.-]{0,127}))?",
    r"(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}))?$",
);
static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(PATTERN).ok());

/// Whether an image reference means the tag `latest`: it says so, or has no tag and no digest.
pub fn is_latest(image: &str) -> bool {
    latest(image).unwrap_or(false)
}

fn latest(image: &str) -> Option<bool> {
    let is_identifier = is_hex(image, 64);
    let (domain, remainder) = split_domain(image);
    let remote = remainder.split(':').next().unwrap_or("");
    if is_identifier || remote.to_lowercase() != remote {
        return None;
    }
    let full = format!("{domain}/{remainder}");
    let found = REFERENCE.as_ref()?.captures(&full)?;
    let of = |i: usize| found.get(i).map(|m| m.as_str());
    if of(2)?.len() > PATH_BYTES_MAX || of(4).is_some_and(|digest| !is_digest(digest)) {
        return None;
    }
    Some(of(3).map_or(of(4).is_none(), |tag| tag == "latest"))
}

/// The registry and the rest of a name (upstream: `splitDockerDomain`).
fn split_domain(image: &str) -> (&str, Cow<'_, str>) {
    let own = image.split_once('/').filter(|(first, _)| {
        *first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != *first
    });
    let (domain, rest) = match own {
        Some(("index.docker.io", rest)) => (HUB, rest),
        Some((domain, rest)) => (domain, rest),
        None => (HUB, image),
    };
    match domain == HUB && !rest.contains('/') {
        true => (domain, format!("{OFFICIAL}{rest}").into()),
        false => (domain, rest.into()),
    }
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| match algorithm {
        "sha256" => is_hex(hex, 64),
        "sha384" => is_hex(hex, 96),
        "sha512" => is_hex(hex, 128),
        _ => false,
    })
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_mean_the_newest() {
        let sha = format!("app@sha256:{}", "a".repeat(64));
        let cases = [
            ("app", true),
            ("app:latest", true),
            ("app:1", false),
            ("localhost:5000/app", true),
            ("index.docker.io/app", true),
            ("Upper/app", true),
            ("app/Upper", false),
            ("../x", false),
            ("a__b", true),
            ("a___b", false),
            ("::1", false),
            ("", false),
            (&sha, false),
            (&format!("app:latest@{}", &sha[4..]), true),
            ("app:latest@sha256:0123456789abcdef0123456789abcdef", false),
            (&"a".repeat(64), false),
            (&"x".repeat(247), true),
            (&"x".repeat(248), false),
        ];
        for (image, latest) in cases {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
