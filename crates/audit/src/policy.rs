//! The audit policy: which requests are recorded, and how much of them
//! (upstream: apiserver `pkg/audit/policy`).

use crate::event::{Level, Stage, User};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The built-in policy.
const DEFAULT: &str = include_str!("default_policy.yaml");
/// The largest policy file.
const POLICY_BYTES_MAX: usize = 4 << 20;

/// What a request is, as far as the policy cares.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// The authenticated user; `None` when authentication failed.
    pub user: Option<&'a User>,
    pub verb: &'a str,
    pub is_resource: bool,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
}

/// What the policy decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleDecision {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
    /// Which rule matched; `None` when none did.
    pub rule: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// A checked policy.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Rule, RuleDecision)>,
    /// SHA-256 of the text, for the record of policy changes.
    pub hash: String,
    /// What was odd but accepted.
    pub warnings: Vec<String>,
}

const KNOWN_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
const KNOWN_RULE_FIELDS: &[&str] = &[
    "level",
    "users",
    "userGroups",
    "verbs",
    "resources",
    "namespaces",
    "nonResourceURLs",
    "omitStages",
    "omitManagedFields",
];

impl Policy {
    pub fn built_in() -> Self {
        // The embedded text is checked by a test.
        Self::parse(DEFAULT.as_bytes()).unwrap_or_else(|_| Self::nothing())
    }

    fn nothing() -> Self {
        Self { rules: Vec::new(), hash: String::new(), warnings: Vec::new() }
    }

    /// Reads a policy file's text.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let (value, duplicates) =
            meta::yaml::parse_yaml(text, POLICY_BYTES_MAX).map_err(|e| format!("failed decoding: {e}"))?;
        let mut warnings = duplicates;
        warnings.extend(unknown(&value, KNOWN_FIELDS, ""));
        for (i, r) in value["rules"].as_array().into_iter().flatten().enumerate() {
            warnings.extend(unknown(r, KNOWN_RULE_FIELDS, &format!("rules[{i}].")));
        }
        let file: File = serde_json::from_value(value).map_err(|e| format!("failed decoding: {e}"))?;
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            return Err(format!(
                "unknown group version or kind {:?} {:?}; expected apiVersion audit.k8s.io/v1, kind Policy",
                file.api_version, file.kind
            ));
        }
        if file.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        let all = stages(&file.omit_stages, "omitStages")?;
        let mut rules = Vec::new();
        for (i, rule) in file.rules.into_iter().enumerate() {
            let at = format!("rules[{i}]");
            check(&rule, &at)?;
            let mut omit_stages = all.clone();
            omit_stages.extend(stages(&rule.omit_stages, &format!("{at}.omitStages"))?);
            let decision = RuleDecision {
                level: level(&rule.level, &at)?,
                omit_stages,
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(file.omit_managed_fields),
                rule: Some(i),
            };
            rules.push((rule, decision));
        }
        let hash = HEXLOWER.encode(&Sha256::digest(text));
        Ok(Self { rules, hash, warnings })
    }

    /// The decision of the first rule that matches; level None when none does.
    pub fn evaluate(&self, a: &Attributes<'_>) -> RuleDecision {
        self.rules.iter().find(|(r, _)| r.matches(a)).map(|(_, d)| d.clone()).unwrap_or_default()
    }
}

fn unknown(v: &serde_json::Value, known: &[&str], at: &str) -> Vec<String> {
    let map = v.as_object().into_iter().flatten();
    map.filter(|(k, _)| !known.contains(&k.as_str()))
        .map(|(k, _)| format!("unknown field \"{at}{k}\""))
        .collect()
}

fn level(text: &str, at: &str) -> Result<Level, String> {
    Ok(match text {
        "None" => Level::None,
        "Metadata" => Level::Metadata,
        "Request" => Level::Request,
        "RequestResponse" => Level::RequestResponse,
        "" => return Err(format!("{at}.level: Required value")),
        other => {
            return Err(format!(
                "{at}.level: Unsupported value: {other:?}: supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\""
            ));
        }
    })
}

fn stages(list: &[String], at: &str) -> Result<Vec<Stage>, String> {
    let one = |(i, s): (usize, &String)| match s.as_str() {
        "RequestReceived" => Ok(Stage::RequestReceived),
        "ResponseStarted" => Ok(Stage::ResponseStarted),
        "ResponseComplete" => Ok(Stage::ResponseComplete),
        "Panic" => Ok(Stage::Panic),
        other => Err(format!(
            "{at}[{i}]: Invalid value: {other:?}: allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"
        )),
    };
    list.iter().enumerate().map(one).collect()
}

/// Upstream: `pkg/apis/audit/validation`.
fn check(rule: &Rule, at: &str) -> Result<(), String> {
    let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
    if !rule.non_resource_urls.is_empty() && about_resources {
        return Err(format!(
            "{at}.nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs"
        ));
    }
    for (i, url) in rule.non_resource_urls.iter().enumerate() {
        let at = format!("{at}.nonResourceURLs[{i}]");
        if url == "*" {
            continue;
        }
        if !url.starts_with('/') {
            return Err(format!(
                "{at}: Invalid value: {url:?}: non-resource URL rules must begin with a '/' character"
            ));
        }
        if url.trim_end_matches('*').len() + 1 < url.len() || url[..url.len() - 1].contains('*') {
            return Err(format!(
                "{at}: Invalid value: {url:?}: non-resource URL wildcards '*' must be the final character of the rule"
            ));
        }
    }
    for (i, r) in rule.resources.iter().enumerate() {
        let at = format!("{at}.resources[{i}]");
        let subdomain = r.group.is_empty()
            || r.group == "*"
            || r.group
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
        if !subdomain {
            return Err(format!("{at}.group: Invalid value: {:?}: a lowercase RFC 1123 subdomain", r.group));
        }
        if !r.resource_names.is_empty() && r.resources.is_empty() {
            return Err(format!(
                "{at}.resourceNames: Invalid value: using resourceNames requires at least one resource"
            ));
        }
    }
    Ok(())
}

impl Rule {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        let user = |test: &dyn Fn(&User) -> bool| a.user.is_some_and(test);
        if !self.users.is_empty() && !user(&|u| self.users.contains(&u.username)) {
            return false;
        }
        if !self.user_groups.is_empty() && !user(&|u| u.groups.iter().any(|g| self.user_groups.contains(g))) {
            return false;
        }
        if !self.verbs.is_empty() && !self.verbs.iter().any(|v| v == a.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return a.is_resource && self.matches_resource(a);
        }
        if !self.non_resource_urls.is_empty() {
            return !a.is_resource && self.non_resource_urls.iter().any(|u| path_matches(u, a.path));
        }
        true
    }

    fn matches_resource(&self, a: &Attributes<'_>) -> bool {
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|n| n == a.namespace) {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let full = if a.subresource.is_empty() {
            a.resource.to_owned()
        } else {
            format!("{}/{}", a.resource, a.subresource)
        };
        self.resources.iter().any(|r| {
            if r.group != "*" && r.group != a.group {
                return false;
            }
            if r.resources.is_empty() {
                return true;
            }
            let named = r.resource_names.is_empty() || r.resource_names.iter().any(|n| n == a.name);
            named
                && r.resources.iter().any(|res| {
                    res == "*"
                        || *res == full
                        || !a.subresource.is_empty() && *res == format!("*/{}", a.subresource)
                        || !a.subresource.is_empty() && *res == format!("{}/*", a.resource)
                })
        })
    }
}

fn path_matches(spec: &str, path: &str) -> bool {
    spec == "*" || spec == path || spec.strip_suffix('*').is_some_and(|p| path.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Policy {
        Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}").as_bytes())
            .expect("a policy")
    }

    fn pods<'a>(sub: &'a str, ns: &'a str) -> Attributes<'a> {
        Attributes {
            verb: "get",
            is_resource: true,
            resource: "pods",
            subresource: sub,
            namespace: ns,
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_match_wins_and_none_is_none() {
        let p = policy(
            "- level: Metadata\n  namespaces: [a]\n- level: Request\n  resources: [{group: \"\", resources: [pods]}]\n",
        );
        assert_eq!(p.evaluate(&pods("", "a")).level, Level::Metadata);
        assert_eq!(p.evaluate(&pods("", "b")).level, Level::Request);
        assert_eq!(p.evaluate(&pods("log", "b")).level, Level::None, "pods does not cover its subresources");
        assert_eq!(p.evaluate(&Attributes { path: "/healthz", ..Attributes::default() }).level, Level::None);
    }

    #[test]
    fn resource_forms() {
        for (spec, sub, matches) in [
            ("pods/log", "log", true),
            ("pods/*", "log", true),
            ("pods/*", "", false),
            ("*/log", "log", true),
            ("*", "log", true),
            ("*", "", true),
            ("pods", "log", false),
        ] {
            let p = policy(&format!(
                "- level: Metadata\n  resources: [{{group: \"\", resources: [\"{spec}\"]}}]\n"
            ));
            assert_eq!(p.evaluate(&pods(sub, "")).level != Level::None, matches, "{spec} {sub}");
        }
    }

    #[test]
    fn a_failed_login_matches_no_user_rule() {
        let p = policy("- level: None\n  userGroups: [\"system:unauthenticated\"]\n- level: Metadata\n");
        assert_eq!(p.evaluate(&pods("", "")).level, Level::Metadata);
    }

    #[test]
    fn bad_policies_are_refused() {
        for (text, want) in [
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n", "0 rules"),
            ("apiVersion: v1\nkind: Policy\nrules: [{level: None}]\n", "unknown group version"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]\n", "Unsupported value"),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [x]}]\n",
                "must begin",
            ),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [/a*b]}]\n",
                "final character",
            ),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, omitStages: [x]}]\n",
                "allowed stages",
            ),
        ] {
            assert!(Policy::parse(text.as_bytes()).expect_err("refused").contains(want), "{text}");
        }
    }

    #[test]
    fn the_built_in_policy_knows_what_matters() {
        let p = Policy::built_in();
        let alice = User { username: "alice".into(), ..User::default() };
        let ask = |user: Option<&User>, verb: &str, resource: &str, sub: &str| {
            let a = Attributes {
                user,
                verb,
                is_resource: true,
                resource,
                subresource: sub,
                namespace: "ns",
                ..Attributes::default()
            };
            p.evaluate(&a).level
        };
        assert_eq!(ask(Some(&alice), "create", "secrets", ""), Level::Metadata);
        assert_eq!(ask(Some(&alice), "create", "serviceaccounts", "token"), Level::Metadata);
        assert_eq!(ask(Some(&alice), "get", "pods", "exec"), Level::Metadata);
        assert_eq!(ask(Some(&alice), "delete", "pods", ""), Level::RequestResponse);
        assert_eq!(ask(None, "list", "pods", ""), Level::Metadata);
        let kubelet =
            User { username: "system:node:n".into(), groups: vec!["system:nodes".into()], ..User::default() };
        assert_eq!(ask(Some(&kubelet), "patch", "nodes", "status"), Level::None);
    }
}
