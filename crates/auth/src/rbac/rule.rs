//! One rule of a role: what it allows, what it covers, how it reads
//! (upstream: `pkg/apis/rbac/v1/evaluation_helpers.go`, component-helpers `auth/rbac/validation`).

use crate::authorize::Attributes;
use crate::text::quoted;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;

/// A rule of a role (upstream: `rbacv1.PolicyRule`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "list")]
    pub non_resource_urls: Vec<String>,
}

/// Go reads null as an empty list.
fn list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Rule {
    /// The rules of a Role or ClusterRole; ones that cannot be read allow nothing and are left out.
    pub fn of_role(role: &Value) -> Vec<Self> {
        let rules = role["rules"].as_array().into_iter().flatten();
        rules.filter_map(|r| Self::deserialize(r).ok()).collect()
    }

    /// Whether the rule allows a request (upstream: `rbac.RuleAllows`).
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !any(&self.verbs, &a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.non_resource_urls.iter().any(|u| u == "*" || url_covers(u, &a.path));
        }
        any(&self.api_groups, &a.api_group)
            && self.resources.iter().any(|r| resource_matches(r, &a.resource, &a.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| *n == a.name))
    }

    /// As one permission each (upstream: `validation.BreakdownRule`).
    fn breakdown(&self) -> Vec<Self> {
        let mut out = Vec::new();
        let one = |s: &String| vec![s.clone()];
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let single = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(single.clone());
                    }
                    for name in &self.resource_names {
                        out.push(Self { resource_names: one(name), ..single.clone() });
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                out.push(Self { non_resource_urls: one(url), verbs: one(verb), ..Self::default() });
            }
        }
        out
    }

    /// Whether this rule includes a single permission (upstream: `validation.ruleCovers`).
    fn covers(&self, one: &Self) -> bool {
        let all = |held: &[String], wanted: &[String]| {
            held.iter().any(|h| h == "*") || wanted.iter().all(|w| held.contains(w))
        };
        let names = self.resource_names.is_empty()
            || (!one.resource_names.is_empty()
                && one.resource_names.iter().all(|n| self.resource_names.contains(n)));
        all(&self.verbs, &one.verbs)
            && all(&self.api_groups, &one.api_groups)
            && resources_cover(&self.resources, &one.resources)
            && one.non_resource_urls.iter().all(|u| self.non_resource_urls.iter().any(|h| url_covers(h, u)))
            && names
    }

    /// The JSON form, empty fields left out.
    pub fn to_value(&self) -> Value {
        let mut out = json!({});
        for (field, list) in [
            ("apiGroups", &self.api_groups),
            ("nonResourceURLs", &self.non_resource_urls),
            ("resourceNames", &self.resource_names),
            ("resources", &self.resources),
        ] {
            if !list.is_empty() {
                out[field] = json!(list);
            }
        }
        out["verbs"] = json!(self.verbs);
        out
    }
}

impl fmt::Display for Rule {
    /// As refusals show it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}` (upstream: `CompactString`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

/// The single permissions of `wanted` that no rule of `held` includes (upstream: `validation.Covers`).
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::breakdown).filter(|w| !held.iter().any(|h| h.covers(w))).collect()
}

/// Joins the verbs of rules about one resource; others come first, unchanged (upstream: `validation.CompactRules`).
pub fn compact(rules: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    let mut simple: Vec<Rule> = Vec::new();
    let mut at: HashMap<(String, String, Option<String>), usize> = HashMap::new();
    for rule in rules {
        let is_simple = rule.resource_names.len() <= 1 && rule.non_resource_urls.is_empty();
        match (rule.api_groups.as_slice(), rule.resources.as_slice()) {
            ([group], [resource]) if is_simple => {
                let key = (group.clone(), resource.clone(), rule.resource_names.first().cloned());
                if let Some(i) = at.get(&key) {
                    simple[*i].verbs.extend(rule.verbs.iter().cloned());
                } else {
                    at.insert(key, simple.len());
                    simple.push(rule.clone());
                }
            }
            _ => out.push(rule.clone()),
        }
    }
    out.extend(simple);
    out
}

fn any(list: &[String], value: &str) -> bool {
    list.iter().any(|x| x == "*" || x == value)
}

/// `*`, `pods`, `pods/log`, `*/scale` (upstream: `ResourceMatches`).
fn resource_matches(rule: &str, resource: &str, sub: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if sub.is_empty() {
        return rule == resource;
    }
    match rule.strip_suffix(sub).and_then(|r| r.strip_suffix('/')) {
        Some(of) => of == "*" || of == resource,
        None => false,
    }
}

fn resources_cover(held: &[String], wanted: &[String]) -> bool {
    held.iter().any(|h| h == "*")
        || wanted.iter().all(|w| {
            held.contains(w)
                || w.split_once('/')
                    .is_some_and(|(_, sub)| held.iter().any(|h| h.strip_prefix("*/") == Some(sub)))
        })
}

/// Whether a rule's URL, perhaps ending in stars, is or begins the path.
fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use meta::GroupResource;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let split = |s: &str| if s == "-" { Vec::new() } else { s.split(',').map(str::to_owned).collect() };
        Rule {
            verbs: split(verbs),
            api_groups: split(groups),
            resources: split(resources),
            resource_names: split(names),
            non_resource_urls: Vec::new(),
        }
    }

    fn urls(verbs: &str, urls: &str) -> Rule {
        let split = |s: &str| s.split(',').map(str::to_owned).collect();
        Rule { verbs: split(verbs), non_resource_urls: split(urls), ..Rule::default() }
    }

    #[test]
    fn rules_allow_what_upstreams_table_says() {
        let user = Identity::new("u", &[]);
        // Rule, verb, resource with subresource, name, allowed.
        let cases = [
            (rule("get", "", "pods", "-"), "get", "pods", "", true),
            (rule("get", "", "pods", "-"), "get", "pods/log", "", false),
            (rule("get", "", "pods", "-"), "list", "pods", "", false),
            (rule("*", "", "pods", "-"), "list", "pods", "", true),
            (rule("get", "*", "*", "-"), "get", "pods/log", "", true),
            (rule("get", "", "pods/*", "-"), "get", "pods/log", "", false),
            (rule("get", "", "*/log", "-"), "get", "pods/log", "", true),
            (rule("get", "", "*/log", "-"), "get", "pods/catalog", "", false),
            (rule("get", "", "*/log", "-"), "get", "log", "", false),
            (rule("get", "", "pods/log", "-"), "get", "pods/log", "", true),
            (rule("get", "", "pods/log", "-"), "get", "pods", "", false),
            (rule("get", "", "pods", "a,b"), "get", "pods", "b", true),
            (rule("get", "", "pods", "a,b"), "get", "pods", "c", false),
            (rule("list", "", "pods", "a"), "list", "pods", "", false),
            (rule("get", "apps", "pods", "-"), "get", "pods", "", false),
            (urls("get", "*"), "get", "pods", "", false),
        ];
        for (rule, verb, resource, name, want) in cases {
            let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let a = Attributes::for_resource(&user, verb, GroupResource::new("", resource), "v1")
                .sub(sub)
                .named(name);
            assert_eq!(rule.allows(&a), want, "{rule} {verb} {resource}/{sub} {name}");
        }
        for (rule, path, want) in [
            (urls("get", "/healthz"), "/healthz", true),
            (urls("get", "/healthz"), "/healthz/a", false),
            (urls("get", "/healthz/*"), "/healthz/a", true),
            (urls("get", "/healthz/*"), "/healthz", false),
            (urls("get", "/healthz*"), "/healthz", true),
            (urls("get", "*"), "/any", true),
            (urls("post", "*"), "/any", false),
        ] {
            assert_eq!(rule.allows(&Attributes::for_path(&user, "get", path)), want, "{rule} {path}");
        }
    }

    #[test]
    fn coverage_is_upstreams() {
        let covered = |held: &[Rule], wanted: Rule| uncovered(held, &[wanted]).is_empty();
        let held = [
            rule("get,list", "", "pods", "-"),
            rule("delete", "", "pods", "a"),
            rule("get", "", "*/scale", "-"),
        ];
        assert!(covered(&held, rule("get", "", "pods", "-")));
        assert!(covered(&held, rule("get,list", "", "pods", "a,b")));
        assert!(covered(&held, rule("delete", "", "pods", "a")));
        assert!(
            !covered(&held, rule("delete", "", "pods", "-")),
            "a named permission is not the general one"
        );
        assert!(!covered(&held, rule("*", "", "pods", "-")));
        assert!(!covered(&held, rule("get", "", "*", "-")));
        assert!(covered(&held, rule("get", "", "deployments/scale", "-")));
        assert!(!covered(&held, rule("get", "", "pods/log", "-")));
        assert!(covered(&[rule("*", "*", "*", "-")], rule("x", "y", "z/w", "n")));
        assert!(!covered(&[rule("*", "*", "*", "-")], urls("get", "/a")));
        assert!(covered(&[urls("get", "/a/*")], urls("get", "/a/b")));
        assert!(covered(&[urls("get", "*")], urls("get", "/a/*")));
        assert!(!covered(&[urls("get", "/a/b")], urls("get", "/a/*")));
    }

    #[test]
    fn missing_rights_are_told_compactly() {
        let missing = uncovered(&[], &[rule("get,list", "", "pods,secrets", "-"), urls("get", "/x")]);
        let texts: Vec<String> = compact(&missing).iter().map(Rule::to_string).collect();
        assert_eq!(
            texts,
            [
                "{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}",
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}",
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}",
            ]
        );
    }

    #[test]
    fn odd_roles_allow_nothing() {
        let role = json!({"rules": [{"verbs": null}, {"verbs": 5}, "x", {"verbs": ["get"], "apiGroups": [""], "resources": null}]});
        assert_eq!(Rule::of_role(&role).len(), 2);
        assert!(Rule::of_role(&json!({"rules": null})).is_empty());
    }
}
