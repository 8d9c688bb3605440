//! Image names, in full (upstream: `github.com/distribution/reference`).

use crate::error::{Error, Result};
use std::fmt;

/// A name as registries know it: `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:…`
    pub digest: Option<String>,
}

impl Reference {
    /// Parses a name as people write it; the tag is `latest` when there is neither tag nor digest.
    pub fn parse(text: &str) -> Result<Self> {
        let bad =
            || Error::Reference(format!("couldn't parse image name {text:?}: invalid reference format"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad());
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, more)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, more.to_owned())
            }
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if !is_repository(&repository) || !is_registry(registry) {
            return Err(bad());
        }
        let tag = match (&digest, tag) {
            (None, None) => Some("latest".to_owned()),
            (_, tag) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The name without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a text is a SHA-256 digest.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// A host name or address with an optional port.
fn is_registry(r: &str) -> bool {
    let edge = |b: u8| b.is_ascii_alphanumeric() || b == b'[';
    r.bytes().next().is_some_and(edge)
        && r.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

fn is_tag(t: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&t.len())
        && t.bytes().next().is_some_and(first)
        && t.bytes().all(|b| first(b) || matches!(b, b'.' | b'-'))
}

fn is_repository(r: &str) -> bool {
    r.len() <= 255
        && r.split('/').all(|part| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            let b = part.as_bytes();
            !b.is_empty()
                && plain(b[0])
                && plain(b[b.len() - 1])
                && b.iter().all(|c| plain(*c) || matches!(c, b'.' | b'_' | b'-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_full() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("me/app:1", "docker.io/me/app:1".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            ("registry.k8s.io/e2e/agnhost:2.55", "registry.k8s.io/e2e/agnhost:2.55".to_owned()),
            (&format!("a@{digest}"), format!("docker.io/library/a@{digest}")),
        ];
        for (text, full) in cases {
            assert_eq!(Reference::parse(text).expect("parsed").to_string(), full);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "A", "a:", "a:b c", "a@sha256:0", "../x", "a//b", "a:b@c"] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
