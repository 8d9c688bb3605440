//! Acting as somebody else: what the headers ask, which permissions it takes
//! (upstream: apiserver `pkg/endpoints/filters/impersonation`).
//!
//! Constrained modes come first: they need one permission for the person and another for the verb, and never give
//! `system:masters`. The verb `impersonate` alone is the last resort, as it always was.

use crate::authorize::{Attributes, Decision, forbidden};
use crate::identity::{
    self, AUTHENTICATED, Identity, SYSTEM_MASTERS, UNAUTHENTICATED, split_node, split_service_account,
};
use http::{HeaderMap, HeaderName};
use kinds::helpers::{dns_subdomain_errors, path_segment_errors};
use meta::GroupResource;
use meta::status::{Result, Status};
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// From this many values on, one permission for all of them is tried first.
const MANY: usize = 4;

/// Somebody whom a request may act as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonated {
    pub identity: Identity,
    /// The constrained mode's verb, for the audit record; empty for plain `impersonate`.
    pub constraint: String,
}

/// Whom the headers ask for, exactly as they say it; `None` when they ask for nobody.
///
/// # Errors
/// 400 when there are groups, extras or a uid but no user.
pub fn wanted(headers: &HeaderMap) -> Result<Option<Identity>> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    };
    let first = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.entry(unescape(key)).or_default().extend(all(name.as_str()));
        }
    }
    let out = Identity { name: first(USER), uid: first(UID), groups: all(GROUP), extra };
    if !out.name.is_empty() {
        return Ok(Some(out));
    }
    if out.uid.is_empty() && out.groups.is_empty() && out.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {} without impersonating a user name", go_syntax(&out))))
}

/// Takes the headers away, so that nothing behind the filter can act on them.
pub fn clear(headers: &mut HeaderMap) {
    let asked = |n: &HeaderName| matches!(n.as_str(), USER | GROUP | UID) || n.as_str().starts_with(EXTRA);
    let names: Vec<HeaderName> = headers.keys().filter(|n| asked(n)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Finds the first mode that lets the requester of `request` act as `wanted`.
///
/// # Errors
/// 403 with the first permission that the first mode in question lacked.
pub fn resolve(
    wanted: &Identity,
    request: &Attributes<'_>,
    authorize: &dyn Fn(&Attributes<'_>) -> Decision,
) -> Result<Impersonated> {
    let mut first: Option<Status> = None;
    for mode in
        [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy]
    {
        if !mode.applies(wanted, request.user) {
            continue;
        }
        match (Attempt { mode, request, authorize }).check(wanted) {
            Ok(found) => return Ok(found),
            Err(refused) => first = first.or(Some(refused)),
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A service account acts as the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Everybody who is no node and no service account.
    UserInfo,
    /// The verb `impersonate`.
    Legacy,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn applies(self, wanted: &Identity, requester: &Identity) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = split_node(&wanted.name);
        let account = split_service_account(&wanted.name);
        match self {
            Self::AssociatedNode => {
                only_name
                    && node.is_some_and(|n| n == requester.extra_value(identity::NODE_NAME))
                    && split_service_account(&requester.name).is_some()
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }
}

struct Attempt<'a> {
    mode: Mode,
    request: &'a Attributes<'a>,
    authorize: &'a dyn Fn(&Attributes<'_>) -> Decision,
}

impl Attempt<'_> {
    fn check(&self, wanted: &Identity) -> Result<Impersonated> {
        let constrained = self.mode != Mode::Legacy;
        // All nodes' accounts are alike to the associated-node mode, so nothing but the extras' names counts.
        let mut requester = self.request.user.clone();
        if self.mode == Mode::AssociatedNode {
            let keys = requester.extra.keys().cloned().collect();
            requester.extra =
                BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]);
        }
        if constrained {
            let mut on = self.request.clone();
            on.user = &requester;
            on.verb = format!("impersonate-on:{}:{}", self.mode.name(), self.request.verb).into();
            self.require(&on)?;
        }
        let mut actual = wanted.clone();
        self.name(&requester, wanted, &mut actual)?;
        if !wanted.uid.is_empty() {
            self.require(&self.about(&requester, "authentication.k8s.io", "uids", &wanted.uid))?;
        }
        self.groups(&requester, &wanted.groups)?;
        self.extras(&requester, &wanted.extra)?;
        if actual.name == identity::ANONYMOUS {
            if !actual.in_group(UNAUTHENTICATED) {
                actual.groups.push(UNAUTHENTICATED.to_owned());
            }
        } else if !actual.in_group(UNAUTHENTICATED) && !actual.in_group(AUTHENTICATED) {
            actual.groups.push(AUTHENTICATED.to_owned());
        }
        let constraint =
            if constrained { format!("impersonate:{}", self.mode.name()) } else { String::new() };
        Ok(Impersonated { identity: actual, constraint })
    }

    fn name(&self, requester: &Identity, wanted: &Identity, actual: &mut Identity) -> Result<()> {
        let mut a = self.about(requester, self.group(), "users", &wanted.name);
        if let Some(node) = split_node(&wanted.name).filter(|_| self.mode != Mode::Legacy) {
            a.resource = "nodes".into();
            a.name = if self.mode == Mode::AssociatedNode { "*".into() } else { node.to_owned().into() };
            actual.groups = vec![identity::NODES.to_owned()];
        }
        if let Some((namespace, name)) = split_service_account(&wanted.name) {
            a.resource = "serviceaccounts".into();
            a.namespace = namespace.to_owned().into();
            a.name = name.to_owned().into();
            if wanted.groups.is_empty() {
                actual.groups = identity::service_account_groups(namespace).to_vec();
            }
        }
        self.require(&a)
    }

    fn groups(&self, requester: &Identity, groups: &[String]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let about = |name: &str| self.about(requester, self.group(), "groups", name);
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return Err(forbidden(&about(""), "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|g| g == SYSTEM_MASTERS) {
                return Err(forbidden(
                    &about(SYSTEM_MASTERS),
                    "impersonating the system:masters group is not allowed",
                ));
            }
            if groups.len() >= MANY && self.require(&about("*")).is_ok() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|g| self.require(&about(g)))
    }

    fn extras(&self, requester: &Identity, extra: &BTreeMap<String, Vec<String>>) -> Result<()> {
        let about = |key: &str, value: &str| {
            self.about(requester, "authentication.k8s.io", "userextras", value).sub(key.to_owned())
        };
        if self.mode != Mode::Legacy && !extra.is_empty() {
            check_extra(extra).map_err(|why| forbidden(&about("", ""), &why))?;
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.require(&about("*", "*")).is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.require(&about(key, value))?;
            }
        }
        Ok(())
    }

    /// The group of users, groups, nodes and service accounts in a permission.
    fn group(&self) -> &'static str {
        if self.mode == Mode::Legacy { "" } else { "authentication.k8s.io" }
    }

    fn about<'b>(&self, requester: &'b Identity, group: &str, resource: &str, name: &str) -> Attributes<'b> {
        let verb = match self.mode {
            Mode::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        };
        Attributes::for_resource(requester, verb, GroupResource::new(group, resource), "v1")
            .named(name.to_owned())
    }

    fn require(&self, a: &Attributes<'_>) -> Result<()> {
        match (self.authorize)(a) {
            Decision::Allow { .. } => Ok(()),
            other => Err(forbidden(a, other.reason())),
        }
    }
}

/// Upstream: `validateExtra`.
fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> std::result::Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".to_owned());
        }
        if let Some(why) = domain_prefixed_error(key) {
            return Err(format!("impersonating an invalid key in extra is not allowed: {why}"));
        }
        if *key != key.to_lowercase() {
            return Err(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
        }
        if values.is_empty() {
            return Err("impersonating empty values in extra is not allowed".to_owned());
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".to_owned());
        }
    }
    Ok(())
}

/// What is wrong with a key such as `example.com/path` (upstream: `validation.IsDomainPrefixedPath`).
fn domain_prefixed_error(key: &str) -> Option<String> {
    let at = |detail: &str| format!("extra.key: Invalid value: {key:?}: {detail}");
    let Some((domain, path)) = key.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty()) else {
        return Some(at("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    };
    if let Some(why) = dns_subdomain_errors(domain, false).first() {
        return Some(format!("extra.key: Invalid value: {domain:?}: {why}"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:/%@".contains(c);
    let segments = path.split('/').all(|s| path_segment_errors(s, false).is_empty());
    (!path.chars().all(good) || !segments)
        .then(|| format!("extra.key: Invalid value: {path:?}: Invalid path"))
}

/// A header's extra key; one that cannot be decoded is taken as it is.
fn unescape(key: &str) -> String {
    let key = key.to_lowercase();
    let bytes = key.as_bytes();
    let hex = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
    if (0..bytes.len()).any(|i| bytes[i] == b'%' && !(hex(i + 1) && hex(i + 2))) {
        return key;
    }
    percent_encoding::percent_decode_str(&key).decode_utf8_lossy().into_owned()
}

/// As Go's `%#v` prints a `user.DefaultInfo`.
fn go_syntax(id: &Identity) -> String {
    let strings = |list: &[String]| {
        let all: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
        format!("[]string{{{}}}", all.join(", "))
    };
    let groups = if id.groups.is_empty() { "[]string(nil)".to_owned() } else { strings(&id.groups) };
    let extra = if id.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let all: Vec<String> = id.extra.iter().map(|(k, v)| format!("{k:?}:{}", strings(v))).collect();
        format!("map[string][]string{{{}}}", all.join(", "))
    };
    format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}", id.name, id.uid)
}

/// A user as the server's log shows it: `alice[dev,ops]`.
pub fn short(id: &Identity) -> String {
    if id.groups.is_empty() { id.name.clone() } else { format!("{}[{}]", id.name, id.groups.join(",")) }
}

#[cfg(test)]
mod tests;
