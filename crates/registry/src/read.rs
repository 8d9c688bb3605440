//! Get and list: the stored bytes, selected and sliced, never re-encoded
//! (upstream: apiserver `pkg/storage/cacher`, `pkg/storage/etcd3/store.go#GetList`).

use crate::Registry;
use crate::cursor::Cursor;
use bytes::Bytes;
use kinds::KindDef;
use memchr::memmem::{self, Finder};
use meta::permit::Permit;
use meta::selector::{FieldSelector, LabelSelector};
use meta::status::{Result, Status};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use store::{Range, ReadError, Revision};

/// Keys read at a time while a selector thins them out.
const SCAN_PAGE: usize = 10_000;

/// How a list's resourceVersion is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Unset,
    Exact,
    NotOlderThan,
}

/// Label and field selectors of a request; empty ones select everything.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

#[derive(Clone, Debug)]
pub struct ListQuery {
    pub selectors: Selectors,
    /// 0 is no limit.
    pub limit: usize,
    pub resume: Option<Cursor>,
    /// As the client sent it.
    pub resource_version: String,
    pub matching: Match,
}

/// A listing: whole objects (see [`crate::item_slice`] for list items).
#[derive(Clone, Debug)]
pub struct Listed {
    pub items: Vec<Bytes>,
    pub revision: Revision,
    pub next: Option<Cursor>,
    /// How many follow; known only without selectors.
    pub remaining: Option<u64>,
}

/// Where an object's metadata begins, and what is read of it.
static METADATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"metadata\":"));

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl<'a> Head<'a> {
    /// Reads no further than the metadata, which stands first (see [`crate::encode`]).
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let at = METADATA.find(bytes)? + METADATA.needle().len();
        serde_json::Deserializer::from_slice(&bytes[at..]).into_iter().next()?.ok()
    }
}

impl Selectors {
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether bytes of an object in the row's version are selected. Bytes that cannot be read are not.
    pub fn matches(&self, kind: &KindDef, bytes: &[u8]) -> bool {
        if self.is_empty() {
            return true;
        }
        if !may_have(bytes, &self.labels) {
            return false;
        }
        if self.fields.is_empty()
            && let Some(labels) = own_labels(bytes)
        {
            return self.labels.matches(|key| labels.get(key).map(|v| &**v));
        }
        let Some(head) = Head::read(bytes) else { return false };
        if !self.labels.matches(|key| head.labels.get(key).map(|v| &**v)) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let own = if self.fields.keys().all(is_meta_field) {
            Vec::new()
        } else {
            match serde_json::from_slice::<Value>(bytes) {
                Ok(obj) => kind.strategy.selected(&obj),
                Err(_) => return false,
            }
        };
        self.fields.matches(|field| match field {
            "metadata.name" => head.name.to_string(),
            "metadata.namespace" => head.namespace.to_string(),
            other => own.iter().find(|(f, _)| f == other).map_or_else(String::new, |(_, v)| v.clone()),
        })
    }

    /// Refuses fields that the kind cannot select by (upstream: the kind's field label conversion function).
    pub fn check(&self, kind: &KindDef) -> Result<()> {
        self.fields.keys().try_for_each(|field| kind.check_field(field).map_err(Status::bad_request))
    }
}

/// Whether an object's bytes can have the labels that a selector asks for by their values. Most objects that a selector
/// leaves out are left out by this, at a fraction of what reading them costs.
fn may_have(bytes: &[u8], labels: &LabelSelector) -> bool {
    let mut wanted = labels.values_asked_for().peekable();
    if wanted.peek().is_none() {
        return true;
    }
    match labels_of(bytes) {
        Labels::Text(own) => wanted.all(|value| memmem::find(own, value.as_bytes()).is_some()),
        Labels::None => false,
        Labels::Unknown => true,
    }
}

/// The labels of an object, when they can be told without reading what else there is.
fn own_labels(bytes: &[u8]) -> Option<BTreeMap<Cow<'_, str>, Cow<'_, str>>> {
    match labels_of(bytes) {
        Labels::Text(text) => serde_json::Deserializer::from_slice(text).into_iter().next()?.ok(),
        Labels::None => Some(BTreeMap::new()),
        Labels::Unknown => None,
    }
}

/// Where an object's labels stand.
enum Labels<'a> {
    /// With their braces.
    Text(&'a [u8]),
    None,
    Unknown,
}

/// Looks for labels where they stand in what [`crate::encode`] writes: among members of the metadata in the order of their
/// names. No more of the object is looked at, as most of it is in no cache.
fn labels_of(bytes: &[u8]) -> Labels<'_> {
    let Some(at) = METADATA.find(bytes) else { return Labels::Unknown };
    let Some(mut rest) = bytes[at + METADATA.needle().len()..].strip_prefix(b"{") else {
        return Labels::Unknown;
    };
    let mut before: &[u8] = b"";
    loop {
        let Some((name, value)) = member(rest) else { return Labels::Unknown };
        match name.cmp(b"labels") {
            Ordering::Equal => {
                // Labels have nothing in them that JSON escapes, and no braces.
                let end = memchr::memchr(b'}', value).filter(|_| value.starts_with(b"{"));
                return end.map_or(Labels::Unknown, |end| Labels::Text(&value[..=end]));
            }
            // Only where the members are in order.
            Ordering::Greater if !before.is_empty() => return Labels::None,
            Ordering::Less if before < name => {}
            _ => return Labels::Unknown,
        }
        before = name;
        match value_end(value).map(|end| value.split_at(end).1) {
            Some([b',', next @ ..]) => rest = next,
            Some([b'}', ..]) => return Labels::None,
            _ => return Labels::Unknown,
        }
    }
}

/// A member's name and what comes after its colon.
fn member(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"\"")?;
    let (name, rest) = rest.split_at(memchr::memchr(b'"', rest)?);
    Some((name, rest.strip_prefix(b"\":")?))
}

/// Where a value of compact JSON ends.
fn value_end(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at + 1)?,
            b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
            // The end of what the value stands in.
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => (depth, at) = (depth - 1, at + 1),
            _ => at += 1,
        }
    }
}

/// What comes after the closing quote of a text that begins here.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn is_meta_field(field: &str) -> bool {
    matches!(field, "metadata.name" | "metadata.namespace")
}

impl Registry {
    /// The object's bytes in the row's version. `resource_version` is the client's, usually empty.
    pub async fn get(
        &self,
        _permit: &Permit,
        kind: &KindDef,
        namespace: &str,
        name: &str,
        resource_version: &str,
    ) -> Result<Bytes> {
        self.fresh(resource_version).await?;
        let entry = self.store.get(&kind.key(namespace, name));
        let entry = entry.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
        self.in_version(kind, entry.value).await
    }

    /// The object as a tree, of a kind that is stored as it is served: what the server itself needs to know.
    pub fn get_value(&self, _permit: &Permit, kind: &KindDef, namespace: &str, name: &str) -> Result<Value> {
        let entry = self.store.get(&kind.key(namespace, name));
        let entry = entry.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
        serde_json::from_slice(&entry.value).map_err(Status::internal)
    }

    /// As [`Self::get_value`], but what is not here is looked for among what other servers wrote (upstream: a lister first,
    /// and a live request where it has nothing).
    pub async fn get_live(
        &self,
        permit: &Permit,
        kind: &KindDef,
        namespace: &str,
        name: &str,
    ) -> Result<Value> {
        match self.get_value(permit, kind, namespace, name) {
            Err(e) if e.is_not_found() => {
                self.consistent().await?;
                self.get_value(permit, kind, namespace, name)
            }
            found => found,
        }
    }

    pub async fn list(
        &self,
        _permit: &Permit,
        kind: &KindDef,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<Listed> {
        query.selectors.check(kind)?;
        let all = kind.key_prefix();
        let prefix = match namespace {
            Some(ns) if kind.namespaced() => format!("{all}{ns}/"),
            _ => all,
        };
        parse_revision(&query.resource_version)?;
        self.fresh(&query.resource_version).await?;
        let mut at = self.list_revision(query)?;
        let mut after = None;
        if let Some(cursor) = &query.resume {
            // The store wants the last key seen; a token names the first that may come.
            after = Some(format!("{prefix}{}", cursor.start.trim_end_matches('\0')));
            at = (cursor.revision > 0).then_some(cursor.revision.unsigned_abs());
        }
        self.scan(kind, &prefix, after, at, query).await
    }

    async fn scan(
        &self,
        kind: &KindDef,
        prefix: &str,
        mut after: Option<String>,
        mut at: Option<Revision>,
        query: &ListQuery,
    ) -> Result<Listed> {
        let selective = !query.selectors.is_empty();
        // A conversion may change labels; and where there is a limit, keys that are left out count as keys that follow.
        let early = selective && query.limit == 0 && !kind.reads_through && kind.convert.is_none();
        let keep = |bytes: &[u8]| !early || may_have(bytes, &query.selectors.labels);
        let mut out = Listed { items: Vec::new(), revision: 0, next: None, remaining: None };
        loop {
            let limit = if selective { SCAN_PAGE } else { query.limit };
            let range = Range { prefix, after: after.as_deref(), limit, at };
            let page = self.store.list_where(&range, &keep);
            let page = page.map_err(|e| read_failure(&e, query, prefix, after.as_deref()))?;
            out.revision = page.revision;
            // Later pages of one answer show the same revision as its first.
            at = Some(page.revision);
            let total = page.entries.len();
            let (keys, values): (Vec<_>, Vec<_>) = page.entries.into_iter().map(|e| (e.key, e.value)).unzip();
            let values = self.all_in_version(kind, values).await?;
            for (i, (key, value)) in keys.iter().zip(values).enumerate() {
                if selective && !query.selectors.matches(kind, &value) {
                    continue;
                }
                out.items.push(value);
                let more = i + 1 < total || page.more;
                if query.limit > 0 && out.items.len() == query.limit && more {
                    out.next = Some(next_cursor(prefix, key, page.revision));
                    let following = page.remaining + (total - i - 1) as u64;
                    out.remaining = (!selective).then_some(following);
                    return Ok(out);
                }
            }
            match keys.last() {
                Some(last) if page.more => after = Some(last.to_string()),
                _ => return Ok(out),
            }
        }
    }

    /// The revision that a list shows: `None` is the newest.
    fn list_revision(&self, query: &ListQuery) -> Result<Option<Revision>> {
        let asked = parse_revision(&query.resource_version)?;
        if asked == 0 {
            return Ok(None);
        }
        let exact = query.matching == Match::Exact || (query.matching == Match::Unset && query.limit > 0);
        Ok(exact.then_some(asked))
    }

    /// Waits until the store shows what must be seen: everything that was acknowledged anywhere, or the version that the
    /// client names. `0` takes what is there.
    pub(crate) async fn fresh(&self, resource_version: &str) -> Result<()> {
        let asked = parse_own_revision(resource_version)?;
        if resource_version.is_empty() {
            return self.consistent().await;
        }
        if asked > 0 {
            self.store.reach(Some(asked)).await.map_err(unavailable)?;
        }
        self.check_not_ahead(resource_version)
    }

    /// Waits until the store shows everything that was acknowledged before, by whichever server.
    pub async fn consistent(&self) -> Result<()> {
        self.store.reach(None).await.map(drop).map_err(unavailable)
    }

    /// A version from the future is a timeout, since waiting would not help (upstream: `NewTooLargeResourceVersionError`).
    fn check_not_ahead(&self, resource_version: &str) -> Result<()> {
        let asked = parse_revision(resource_version)?;
        let current = self.store.revision();
        if asked <= current {
            return Ok(());
        }
        let mut s = Status::timeout(format!("Too large resource version: {asked}, current: {current}"), 1);
        if let Some(d) = &mut s.details {
            let message = "Too large resource version".to_owned();
            d.causes = vec![meta::status::Cause {
                reason: "ResourceVersionTooLarge".into(),
                message,
                ..Default::default()
            }];
        }
        Err(s)
    }
}

fn unavailable(e: store::Unavailable) -> Status {
    Status::unavailable(e.to_string())
}

/// A resourceVersion as a number; empty is 0.
pub fn parse_revision(text: &str) -> Result<Revision> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|e: std::num::ParseIntError| {
        let why = match e.kind() {
            std::num::IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let error = meta::field::Error::invalid(
            &meta::field::Path::new("resourceVersion"),
            text,
            format!("strconv.ParseUint: parsing {}: {why}", meta::field::quoted(text)),
        );
        Status::bad_request(format!("invalid resource version: resourceVersion: {}", error.body()))
    })
}

/// As [`parse_revision`], of reads that answer with the storage's own error (upstream: get and watch).
///
/// # Errors
/// It is no number.
fn parse_own_revision(text: &str) -> Result<Revision> {
    parse_revision(text).map_err(|e| {
        let text = e.message.strip_prefix("invalid resource version: ").unwrap_or(&e.message).to_owned();
        Status::new(500, meta::Reason::Unknown, text)
    })
}

fn next_cursor(prefix: &str, last: &str, revision: Revision) -> Cursor {
    let key = last.strip_prefix(prefix).unwrap_or(last);
    Cursor { start: format!("{key}\0"), revision: i64::try_from(revision).unwrap_or(i64::MAX) }
}

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";
const CONTINUE_INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// The answer to a read of a revision that is gone; a continued list gets a token that goes on at the newest revision.
fn read_failure(e: &ReadError, query: &ListQuery, prefix: &str, after: Option<&str>) -> Status {
    match e {
        ReadError::Compacted { .. } if query.resume.is_some() => {
            let Some(key) = after.and_then(|k| k.strip_prefix(prefix)) else {
                return Status::expired(CONTINUE_EXPIRED);
            };
            let mut s = Status::expired(CONTINUE_INCONSISTENT);
            s.continue_token = Some(Cursor { start: format!("{key}\0"), revision: -1 }.encode());
            s
        }
        ReadError::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        ReadError::Future { asked, current } => {
            Status::timeout(format!("Too large resource version: {asked}, current: {current}"), 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(labels: &str, bytes: &str) -> bool {
        let labels = LabelSelector::parse(labels).expect("a selector");
        let kind = KindDef { plural: "pods".into(), ..KindDef::BASE };
        Selectors { labels, fields: FieldSelector::default() }.matches(&kind, bytes.as_bytes())
    }

    #[test]
    fn labels_are_those_of_the_object_and_of_nothing_in_it() {
        let own = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":{"a":"\"labels\":{\"app\":\"db\"}"},"labels":{"app":"web","tier":"x"},"name":"n"},"spec":{}}"#;
        let inner = r#"{"kind":"D","apiVersion":"v1","metadata":{"name":"n"},"spec":{"template":{"metadata":{"labels":{"app":"web"}}}}}"#;
        let none = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"creationTimestamp":"x","generation":1,"managedFields":[{"f":{"labels":{"app":"web"}}}],"name":"n"}}"#;
        let unordered = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"n","labels":{"app":"web"}}}"#;
        for (labels, bytes, expected) in [
            ("app=web", own, true),
            ("app=web,tier in (x)", own, true),
            ("app in (web,db)", own, true),
            ("app=we", own, false),
            ("tier=web", own, false),
            ("app=db", own, false),
            ("app=web", inner, false),
            ("app=web", none, false),
            ("!app", none, true),
            ("app=web", unordered, true),
            ("app=db", unordered, false),
            ("app!=web", inner, true),
            ("!app", inner, true),
            ("app", own, true),
        ] {
            assert_eq!(selected(labels, bytes), expected, "{labels} {bytes}");
        }
    }
}
