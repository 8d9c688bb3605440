//! Get and list: the stored bytes, selected and sliced, never re-encoded
//! (upstream: apiserver `pkg/storage/cacher`, `pkg/storage/etcd3/store.go#GetList`).

use crate::Registry;
use crate::cursor::Cursor;
use crate::labels::{self, Labels, METADATA};
use bytes::Bytes;
use kinds::KindDef;
use meta::permit::Permit;
use meta::selector::{FieldSelector, LabelSelector};
use meta::status::{Result, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
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

/// What is read of an object's metadata.
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
        if self.fields.is_empty()
            && let Some(own) = Labels::of(bytes)
        {
            return self.labels.matches(|key| own.get(key));
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
    pub fn get_value(&self, permit: &Permit, kind: &KindDef, namespace: &str, name: &str) -> Result<Value> {
        self.get_as(permit, kind, namespace, name)
    }

    /// As [`Self::get_value`], of which no more is read than `T` has.
    pub fn get_as<T: DeserializeOwned>(
        &self,
        permit: &Permit,
        kind: &KindDef,
        namespace: &str,
        name: &str,
    ) -> Result<T> {
        let stored = self.get_stored(permit, kind, namespace, name)?;
        serde_json::from_slice(&stored).map_err(Status::internal)
    }

    /// As [`Self::get_value`], not read.
    fn get_stored(&self, _permit: &Permit, kind: &KindDef, namespace: &str, name: &str) -> Result<Bytes> {
        let entry = self.store.get(&kind.key(namespace, name));
        Ok(entry.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?.value)
    }

    /// As [`Self::get_as`], but what is not here is looked for among what other servers wrote (upstream: a lister first,
    /// and a live request where it has nothing).
    pub async fn get_live<T: DeserializeOwned>(
        &self,
        permit: &Permit,
        kind: &KindDef,
        namespace: &str,
        name: &str,
    ) -> Result<T> {
        let stored = self.get_stored_live(permit, kind, namespace, name).await?;
        serde_json::from_slice(&stored).map_err(Status::internal)
    }

    /// As [`Self::get_live`], not read.
    pub async fn get_stored_live(
        &self,
        permit: &Permit,
        kind: &KindDef,
        namespace: &str,
        name: &str,
    ) -> Result<Bytes> {
        match self.get_stored(permit, kind, namespace, name) {
            Err(e) if e.is_not_found() => {
                self.consistent().await?;
                self.get_stored(permit, kind, namespace, name)
            }
            found => found,
        }
    }

    /// Whether there is an object of a kind in a namespace.
    pub fn has_any(&self, _permit: &Permit, kind: &KindDef, namespace: &str) -> bool {
        self.store.count(&format!("{}{namespace}/", kind.key_prefix())) > 0
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
        let bloom = if early { labels::bloom_of(&query.selectors.labels) } else { 0 };
        let mut out = Listed { items: Vec::new(), revision: 0, next: None, remaining: None };
        loop {
            let limit = if selective { SCAN_PAGE } else { query.limit };
            let range = Range { prefix, after: after.as_deref(), limit, at, bloom };
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            let page = self.store.visit(&range, &mut |entry| {
                values.push(entry.value.clone());
                // Where the list is cut is known only when it is known what is selected.
                if selective && query.limit > 0 {
                    keys.push(entry.key.clone());
                }
            });
            let page = page.map_err(|e| read_failure(&e, query, prefix, after.as_deref()))?;
            out.revision = page.revision;
            // Later pages of one answer show the same revision as its first.
            at = Some(page.revision);
            let values = self.all_in_version(kind, values).await?;
            if !selective {
                out.items = values;
                if let Some(last) = page.last.filter(|_| page.more) {
                    out.next = Some(next_cursor(prefix, &last, page.revision));
                    out.remaining = Some(page.remaining);
                }
                return Ok(out);
            }
            let total = values.len();
            for (i, value) in values.into_iter().enumerate() {
                if !query.selectors.matches(kind, &value) {
                    continue;
                }
                out.items.push(value);
                if query.limit > 0 && out.items.len() == query.limit && (i + 1 < total || page.more) {
                    out.next = Some(next_cursor(prefix, &keys[i], page.revision));
                    return Ok(out);
                }
            }
            match page.last {
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
