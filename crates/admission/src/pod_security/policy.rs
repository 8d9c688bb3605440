//! What a namespace's labels ask for: a level and a version of the rules for each of enforce, audit and warn
//! (upstream: pod-security-admission `api/helpers.go`).
//!
//! Invariant: reading labels always gives a policy. Labels that cannot be read enforce the strictest rules and
//! neither audit nor warn.

use meta::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};
use std::fmt;

/// The prefix of the labels and of the audit annotations.
pub const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict the rules are, from the laxest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The Kubernetes release whose rules apply, by its minor number. Newest is greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Minor(u64),
    Latest,
}

/// A level at a version, shown as `baseline:v1.30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

/// What is asked of the pods of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Level {
    const ALL: [Self; 3] = [Self::Privileged, Self::Baseline, Self::Restricted];

    fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let found = Self::ALL.into_iter().find(|l| l.as_str() == text);
        found.ok_or("must be one of privileged, baseline, restricted")
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "must be \"latest\" or \"v1.x\"";
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.strip_prefix("v1.").ok_or(WRONG)?;
        let canonical = digits == "0" || !digits.starts_with('0');
        if !canonical || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(WRONG);
        }
        // Go's int is what bounds the number upstream.
        let minor = digits.parse::<i64>().map_err(|_| WRONG)?;
        Ok(Self::Minor(minor.unsigned_abs()))
    }
}

impl LevelVersion {
    pub const PRIVILEGED: Self = Self { level: Level::Privileged, version: Version::Latest };

    /// Reads the two labels of a mode. The flag is whether the level was given and known.
    fn read(&mut self, labels: &Labels<'_>, mode: &str, unreadable: Level, errors: &mut ErrorList) -> bool {
        let mut known = false;
        let key = format!("{PREFIX}{mode}");
        if let Some(text) = labels.get(&key) {
            let parsed = Level::parse(text);
            known = parsed.is_ok();
            self.level = parsed.unwrap_or_else(|why| {
                errors.push(labels.error(&key, text, why));
                unreadable
            });
        }
        let key = format!("{PREFIX}{mode}-version");
        if let Some(text) = labels.get(&key) {
            self.version = Version::parse(text).unwrap_or_else(|why| {
                errors.push(labels.error(&key, text, why));
                Version::Latest
            });
        }
        known
    }
}

impl Policy {
    /// The policy of namespaces without labels.
    pub const PRIVILEGED: Self = Self {
        enforce: LevelVersion::PRIVILEGED,
        audit: LevelVersion::PRIVILEGED,
        warn: LevelVersion::PRIVILEGED,
    };

    /// The policy of a namespace's labels over the defaults, and what is wrong with the labels
    /// (upstream: `api/helpers.go#PolicyToEvaluate`).
    pub fn of_labels(labels: Option<&Map<String, Value>>, defaults: Self) -> (Self, ErrorList) {
        let (mut policy, mut errors) = (defaults, ErrorList::new());
        let Some(map) = labels else { return (policy, errors) };
        let labels = Labels(map);
        let enforced = policy.enforce.read(&labels, "enforce", Level::Restricted, &mut errors);
        policy.audit.read(&labels, "audit", Level::Privileged, &mut errors);
        policy.warn.read(&labels, "warn", Level::Privileged, &mut errors);

        // Whoever asks for enforcement alone is also warned of what it will not admit (in workloads).
        let (silent, unversioned) =
            (labels.get(WARN_LABEL).is_none(), labels.get(WARN_VERSION_LABEL).is_none());
        if silent && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if unversioned {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    pub fn fully_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|lv| lv.level == Level::Privileged)
    }
}

const WARN_LABEL: &str = "pod-security.kubernetes.io/warn";
const WARN_VERSION_LABEL: &str = "pod-security.kubernetes.io/warn-version";

struct Labels<'a>(&'a Map<String, Value>);

impl Labels<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    fn error(&self, key: &str, value: &str, why: &str) -> Error {
        Error::invalid(&Path::new("metadata").child("labels").key(key), value, why)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.as_str(), self.version)
    }
}

/// For tests: reads what [`LevelVersion`] shows.
#[cfg(test)]
pub fn parse(text: &str) -> Option<LevelVersion> {
    let (level, version) = text.split_once(':')?;
    Some(LevelVersion { level: Level::parse(level).ok()?, version: Version::parse(version).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;

    /// The policy as enforce, audit, warn, of labels such as `enforce=baseline warn-version=v1.20`.
    fn policy(labels: &str) -> (String, String) {
        let map: Map<String, Value> = labels
            .split_whitespace()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (format!("{PREFIX}{k}"), v.into()))
            .collect();
        let (p, errors) = Policy::of_labels(Some(&map), Policy::PRIVILEGED);
        let errors = if errors.is_empty() { String::new() } else { aggregate(&errors) };
        (format!("{} {} {}", p.enforce, p.audit, p.warn), errors)
    }

    #[test]
    fn labels_make_a_policy() {
        let cases = [
            ("", "privileged:latest privileged:latest privileged:latest"),
            ("audit=baseline", "privileged:latest baseline:latest privileged:latest"),
            // An enforced level is warned of where nothing was said about warnings.
            ("enforce=baseline", "baseline:latest privileged:latest baseline:latest"),
            ("enforce=baseline enforce-version=v1.22", "baseline:v1.22 privileged:latest baseline:v1.22"),
            (
                "enforce=baseline enforce-version=v1.22 warn-version=latest",
                "baseline:v1.22 privileged:latest baseline:latest",
            ),
            ("enforce=baseline warn=privileged", "baseline:latest privileged:latest privileged:latest"),
            ("enforce=baseline warn=restricted", "baseline:latest privileged:latest restricted:latest"),
            ("enforce-version=v1.3", "privileged:v1.3 privileged:latest privileged:latest"),
            (
                "enforce=restricted enforce-version=v1.0 audit=baseline audit-version=v1.10 warn=baseline warn-version=v1.37",
                "restricted:v1.0 baseline:v1.10 baseline:v1.37",
            ),
        ];
        for (labels, want) in cases {
            assert_eq!(policy(labels), (want.to_owned(), String::new()), "{labels}");
        }
    }

    #[test]
    fn unreadable_labels_enforce_everything_and_say_why() {
        let level = "must be one of privileged, baseline, restricted";
        let (got, errors) = policy("enforce=strict");
        assert_eq!(got, "restricted:latest privileged:latest privileged:latest");
        let key = "metadata.labels[pod-security.kubernetes.io/enforce]";
        assert_eq!(errors, format!("{key}: Invalid value: \"strict\": {level}"));

        let (got, errors) = policy("enforce=baseline audit=x audit-version=1.2 warn=Baseline");
        assert_eq!(got, "baseline:latest privileged:latest privileged:latest");
        let key = "metadata.labels[pod-security.kubernetes.io/";
        assert_eq!(
            errors,
            format!(
                "[{key}audit]: Invalid value: \"x\": {level}, \
                 {key}audit-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\", \
                 {key}warn]: Invalid value: \"Baseline\": {level}]"
            )
        );
    }

    #[test]
    fn versions() {
        for good in ["latest", "v1.0", "v1.9", "v1.37", "v1.9223372036854775807"] {
            assert_eq!(Version::parse(good).map(|v| v.to_string()).as_deref(), Ok(good));
        }
        for bad in
            ["", "Latest", "v1", "v1.", "v2.0", "1.1", "v1.01", "v1.+1", "v1.1 ", "v1.9223372036854775808"]
        {
            assert!(Version::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Version::Minor(1000) < Version::Latest);
    }
}
