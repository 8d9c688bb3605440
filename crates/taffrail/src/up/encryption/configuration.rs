//! Upstream's EncryptionConfiguration (upstream: apiserver `pkg/server/options/encryptionconfig`,
//! `pkg/apis/apiserver/validation/validation_encryption.go`).
//!
//! Invariants: the providers aesgcm and identity are understood, any other is refused by name; a resource named alone
//! goes before `*.group`, and that before `*.*`; of one resource's providers the first writes and all read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::seal::{Key, Rule};

/// The largest configuration, in bytes.
const BYTES_MAX: usize = 1 << 20;
/// Where everything is.
const ROOT: &str = "/registry/";
const OVERLAP: &str = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";

/// What a configuration says.
pub struct Configured {
    pub rules: Vec<Rule>,
    /// All keys in it, to open with.
    pub keys: Vec<Arc<Key>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    resources: Option<Vec<Element>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Element {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Keys {
    #[serde(default)]
    keys: Vec<KeyText>,
}

#[derive(Deserialize)]
struct KeyText {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

/// A resource of the list; the order is that in which rules are looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    One { group: String, resource: String },
    Group(String),
    All,
}

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it, or not supported, with the place.
pub fn parse(text: &str) -> Result<Configured, String> {
    let (value, _) = meta::yaml::parse_yaml(text.as_bytes(), BYTES_MAX).map_err(|e| e.to_string())?;
    let document: Document = serde_json::from_value(value).map_err(|e| e.to_string())?;
    if document.kind != "EncryptionConfiguration" || document.api_version != "apiserver.config.k8s.io/v1" {
        return Err(format!(
            "expected an EncryptionConfiguration of apiserver.config.k8s.io/v1, found {} of {}",
            document.kind, document.api_version
        ));
    }
    let resources = document.resources.unwrap_or_default();
    if resources.is_empty() {
        return Err("resources: Required value: at least one resources is required".to_owned());
    }
    let mut by_pattern: BTreeMap<Pattern, Option<Arc<Key>>> = BTreeMap::new();
    let mut keys = Vec::new();
    for (i, element) in resources.iter().enumerate() {
        let at = format!("resources[{i}]");
        let patterns = patterns(&element.resources, &at)?;
        let (first, all) = providers(&element.providers, &at)?;
        keys.extend(all);
        for pattern in patterns {
            masked(&pattern, &by_pattern)?;
            // Of a resource in two elements the first one writes.
            by_pattern.entry(pattern).or_insert_with(|| first.clone());
        }
    }
    let table = kinds::table();
    let rules = by_pattern.into_iter().map(|(p, key)| Rule { prefixes: prefixes(&p, &table), key });
    Ok(Configured { rules: rules.collect(), keys })
}

/// An earlier `*.group` or `*.*` already decides.
fn masked(pattern: &Pattern, earlier: &BTreeMap<Pattern, Option<Arc<Key>>>) -> Result<(), String> {
    let group = match pattern {
        Pattern::One { group, .. } | Pattern::Group(group) => Some(group.clone()),
        Pattern::All => None,
    };
    let by = group.map(Pattern::Group).into_iter().chain([Pattern::All]).find(|p| earlier.contains_key(p));
    match by {
        Some(by) => {
            Err(format!("resource {:?} is masked by earlier rule {:?}", by_name(pattern), by_name(&by)))
        }
        None => Ok(()),
    }
}

fn by_name(pattern: &Pattern) -> String {
    match pattern {
        Pattern::One { group, resource } if group.is_empty() => resource.clone(),
        Pattern::One { group, resource } => format!("{resource}.{group}"),
        Pattern::Group(group) => format!("*.{group}"),
        Pattern::All => "*.*".to_owned(),
    }
}

fn patterns(resources: &[String], at: &str) -> Result<Vec<Pattern>, String> {
    if resources.is_empty() {
        return Err(format!("{at}.resources: Required value: at least one {at}.resources is required"));
    }
    let mut out = Vec::new();
    for (j, text) in resources.iter().enumerate() {
        out.push(pattern(text).map_err(|e| format!("{at}.resources[{j}]: Invalid value: {text:?}: {e}"))?);
    }
    let invalid = |why: &str| Err(format!("{at}.resources: Invalid value: {resources:?}: {why}"));
    for (i, a) in out.iter().enumerate() {
        for b in &out[i + 1..] {
            let overlap = match (a, b) {
                _ if a == b => return invalid("the same resource cannot be specified multiple times"),
                (Pattern::All, _) | (_, Pattern::All) => true,
                (Pattern::Group(g), Pattern::One { group, .. })
                | (Pattern::One { group, .. }, Pattern::Group(g)) => g == group,
                _ => false,
            };
            if overlap {
                return invalid(OVERLAP);
            }
        }
    }
    Ok(out)
}

fn pattern(text: &str) -> Result<Pattern, &'static str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("resource name should not contain capital letters");
    }
    if text == "*" {
        return Err(
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        );
    }
    if matches!(text, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
        return Err("resources which do not have REST API/s cannot be encrypted");
    }
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    match (resource, group) {
        (_, "events.k8s.io") => Err(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (_, "extensions") => Err("'extensions' group has been removed and cannot be used for encryption"),
        ("*", "*") => Ok(Pattern::All),
        (_, "*") => Err("encrypting the same resource across groups is not supported"),
        ("*", group) => Ok(Pattern::Group(group.to_owned())),
        (resource, group) => Ok(Pattern::One { group: group.to_owned(), resource: resource.to_owned() }),
    }
}

/// The key that writes, `None` for plain, and all keys.
fn providers(list: &[Map<String, Value>], at: &str) -> Result<(Option<Arc<Key>>, Vec<Arc<Key>>), String> {
    let mut first: Option<Option<Arc<Key>>> = None;
    let mut all = Vec::new();
    for (j, provider) in list.iter().enumerate() {
        let at = format!("{at}.providers[{j}]");
        let mut given = provider.iter().filter(|(_, v)| !v.is_null());
        let (name, value) = match (given.next(), given.next()) {
            (Some(one), None) => one,
            (None, _) => {
                return Err(format!(
                    "{at}: Invalid value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
                ));
            }
            (Some(_), Some(_)) => {
                return Err(format!(
                    "{at}: Invalid value: more than one provider specified in a single element, should split into different list elements"
                ));
            }
        };
        match name.as_str() {
            "identity" => {
                first.get_or_insert(None);
            }
            "aesgcm" => {
                let keys = keys(value, &format!("{at}.aesgcm.keys"))?;
                first.get_or_insert(keys.first().cloned());
                all.extend(keys);
            }
            other => {
                return Err(format!("{at}: the provider {other} is not supported; aesgcm and identity are"));
            }
        }
    }
    match first {
        Some(first) => Ok((first, all)),
        None => Err(format!("{at}.providers: Required value: at least one {at}.providers is required")),
    }
}

fn keys(value: &Value, at: &str) -> Result<Vec<Arc<Key>>, String> {
    let keys = Keys::deserialize(value).map_err(|e| format!("{at}: {e}"))?.keys;
    if keys.is_empty() {
        return Err(format!("{at}: Required value: at least one keys is required"));
    }
    let made = keys.iter().enumerate().map(|(k, key)| {
        if key.name.is_empty() {
            return Err(format!("{at}[{k}].name: Required value: name is a mandatory field for a key"));
        }
        if key.secret.is_empty() {
            return Err(format!("{at}[{k}].secret: Required value: secret is a mandatory field for a key"));
        }
        let invalid = |why: &str| format!("{at}[{k}].secret: Invalid value: \"REDACTED\": {why}");
        let secret = STANDARD.decode(&key.secret).map_err(|_| invalid("secrets must be base64 encoded"))?;
        Key::aesgcm(&key.name, &secret).map(Arc::new).map_err(|e| invalid(&e))
    });
    made.collect()
}

/// The keys of the store that a pattern stands for. Custom resources are under their group.
fn prefixes(pattern: &Pattern, table: &[Arc<kinds::KindDef>]) -> Vec<String> {
    match pattern {
        Pattern::All => vec![ROOT.to_owned()],
        Pattern::Group(group) => {
            let rows = table.iter().map(|k| (k.group_resource(), k.key_prefix()));
            let mut all: Vec<String> = rows.filter(|(gr, _)| gr.group == *group).map(|(_, p)| p).collect();
            if !group.is_empty() {
                all.push(format!("{ROOT}{group}/"));
            }
            all
        }
        Pattern::One { group, resource } => {
            let row = table.iter().map(|k| (k.group_resource(), k.key_prefix()));
            let mut found = row.filter(|(gr, _)| gr.group == *group && gr.resource == *resource);
            // A resource that is not built in.
            let custom = || {
                if group.is_empty() {
                    format!("{ROOT}{resource}/")
                } else {
                    format!("{ROOT}{group}/{resource}/")
                }
            };
            vec![found.next().map_or_else(custom, |(_, p)| p)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::seal::{Seal, is_sealed};

    const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

    fn with(elements: &str) -> Result<Configured, String> {
        let head = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n";
        parse(&format!("{head}{elements}").replace("SECRET", SECRET))
    }

    fn aesgcm(resources: &str) -> String {
        format!(
            "- resources: [{resources}]\n  providers:\n  - aesgcm: {{keys: [{{name: k1, secret: SECRET}}]}}\n  - identity: {{}}\n"
        )
    }

    fn identity(resources: &str) -> String {
        format!("- resources: [{resources}]\n  providers: [{{identity: {{}}}}]\n")
    }

    /// Whether the value of a key is written sealed.
    fn seals(c: &Configured, key: &str) -> bool {
        let seal = Seal::new("FILE", c.rules.clone(), None, c.keys.clone());
        is_sealed(&seal.seal(key, key.as_bytes(), &bytes::Bytes::from_static(b"x")).expect("sealed"))
    }

    #[test]
    fn the_narrow_rule_goes_before_the_wide() {
        let text =
            format!("{}{}{}", identity("events, pods"), aesgcm("'*.', deployments.apps"), identity("'*.*'"));
        let c = with(&text).expect("read");
        for (key, sealed) in [
            ("/registry/secrets/ns/a", true),
            ("/registry/pods/ns/a", false),
            ("/registry/events/ns/a", false),
            ("/registry/deployments/ns/a", true),
            ("/registry/daemonsets/ns/a", false),
            ("/registry/services/specs/ns/a", true),
            ("/registry/example.com/things/ns/a", false),
        ] {
            assert_eq!(seals(&c, key), sealed, "{key}");
        }
        let c = with(&aesgcm("'*.example.com', things.other.org")).expect("read");
        assert!(
            seals(&c, "/registry/example.com/things/ns/a") && seals(&c, "/registry/other.org/things/ns/a")
        );
        assert!(!seals(&c, "/registry/secrets/ns/a"));
    }

    #[test]
    fn the_first_provider_writes_and_all_open() {
        let c = with("- resources: [secrets]\n  providers:\n  - identity: {}\n  - aesgcm: {keys: [{name: k1, secret: SECRET}]}\n").expect("read");
        assert!(!seals(&c, "/registry/secrets/ns/a"));
        assert_eq!(c.keys.len(), 1);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let key = |k: &str| format!("- resources: [secrets]\n  providers:\n  - aesgcm: {{keys: [{k}]}}\n");
        for (text, want) in [
            (String::new(), "resources: Required value"),
            (
                "- resources: []\n  providers: [{identity: {}}]\n".to_owned(),
                "resources[0].resources: Required value",
            ),
            ("- resources: [secrets]\n".to_owned(), "resources[0].providers: Required value"),
            (
                "- resources: [secrets]\n  providers: [{}]\n".to_owned(),
                "does not contain any of the expected",
            ),
            (
                "- resources: [secrets]\n  providers: [{identity: {}, aesgcm: {}}]\n".to_owned(),
                "more than one provider",
            ),
            (
                "- resources: [secrets]\n  providers: [{secretbox: {}}]\n".to_owned(),
                "the provider secretbox is not supported; aesgcm and identity are",
            ),
            (
                "- resources: [secrets]\n  providers: [{kms: {}}]\n".to_owned(),
                "the provider kms is not supported",
            ),
            (key(""), "aesgcm.keys: Required value"),
            (key("{secret: SECRET}"), "keys[0].name: Required value"),
            (key("{name: a}"), "keys[0].secret: Required value"),
            (key("{name: a, secret: '!'}"), "\"REDACTED\": secrets must be base64 encoded"),
            (key("{name: a, secret: AAAA}"), "\"REDACTED\": secret is not of the expected length, got 3"),
            (identity("Secrets"), "capital letters"),
            (identity("'*'"), "use '*.'"),
            (identity("'pods.*'"), "across groups"),
            (identity("events.events.k8s.io"), "'events' API group"),
            (identity("secrets, secrets"), "cannot be specified multiple times"),
            (identity("secrets, '*.'"), "overlapping resources"),
            (
                format!("{}{}", identity("'*.*'"), identity("secrets")),
                "resource \"secrets\" is masked by earlier rule \"*.*\"",
            ),
            (
                format!("{}{}", identity("'*.'"), identity("secrets")),
                "resource \"secrets\" is masked by earlier rule \"*.\"",
            ),
        ] {
            let why = with(&text).err().unwrap_or_default();
            assert!(why.contains(want), "{text}: {why}");
        }
    }
}
