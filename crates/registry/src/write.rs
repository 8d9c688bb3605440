//! Create and update (PUT, PATCH and subresources), for every kind
//! (upstream: apiserver `pkg/registry/generic/registry/store.go#Create`, `#Update`).

use crate::{Admit, Companion, Operation, Recorder, Registry, commit_failure, encode, object_meta};
use bytes::Bytes;
use kinds::{Ctx, KindDef};
use meta::field::Error;
use meta::object;
use meta::permit::Permit;
use meta::status::{Result, Status};
use serde_json::Value;
use std::borrow::Cow;
use store::{CommitError, Expect, Op, Revision, Txn};

/// How often an update without a resourceVersion is tried against a changing object before the client is told.
const CONFLICT_RETRIES_MAX: usize = 64;
/// How often a generated name is tried again when it is taken (upstream: 8 since `RetryGenerateName`).
const GENERATE_NAME_TRIES: usize = 8;
/// How often a write is tried again because what it claims was claimed by another.
const CLAIM_TRIES_MAX: usize = 16;
/// Letters that generateName appends.
const NAME_SUFFIX_LETTERS: usize = 5;
/// The longest generateName that is kept whole; the rest is cut so that the name fits a DNS label.
const GENERATE_NAME_BASE_MAX: usize = 63 - NAME_SUFFIX_LETTERS;

/// What a write is about, and the capabilities that it needs.
pub struct Request<'a> {
    pub permit: Permit,
    pub kind: &'a KindDef,
    pub namespace: &'a str,
    /// Empty on create, where the object carries its name.
    pub name: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub dry_run: bool,
    /// The new object is made from the current one: its version is the current one unless the client named another.
    pub is_patch: bool,
    /// Who asks, for kinds that write it into their objects.
    pub requester: kinds::Requester<'a>,
    pub admit: &'a dyn Admit,
    pub recorder: &'a dyn Recorder,
}

/// A finished write: the object's bytes in the storage encoding, revision included.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub bytes: Bytes,
    /// The same as a tree but for its revision, where that was stored in the row's own version.
    pub tree: Option<Value>,
    /// The revision of what was stored; 0 when nothing was.
    pub revision: Revision,
    pub created: bool,
    /// The update emptied the finalizers of a terminating object, which is gone now.
    pub deleted: bool,
    pub warnings: Vec<String>,
}

/// Why nothing was committed.
pub(crate) enum Lost {
    /// The object is not as it was.
    Object,
    /// Another object has this key.
    Claim(String),
}

/// The new object from the current one; `None` when there is none. Runs again after a lost race.
pub type Transform<'a> = dyn Fn(Option<&Value>) -> Result<Value> + Send + Sync + 'a;

impl Registry {
    /// Stores a new object. `obj` is decoded, normalised and defaulted.
    pub async fn create(&self, r: &Request<'_>, obj: Value) -> Result<Written> {
        if !object::name(&obj).is_empty() || object::meta_str(&obj, "generateName").is_empty() {
            return self.create_once(r, obj).await;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.create_once(r, obj.clone()).await {
                Err(e) if e.is_already_exists() && tries >= GENERATE_NAME_TRIES => {
                    return Err(generated_name_exhausted(r.kind, &e));
                }
                Err(e) if e.is_already_exists() => {}
                other => return other,
            }
        }
    }

    async fn create_once(&self, r: &Request<'_>, mut obj: Value) -> Result<Written> {
        match_namespace(r.kind, r.namespace, &mut obj)?;
        wipe_system_fields(&mut obj);
        let asked_name = object::name(&obj).to_owned();
        r.admit.mutate(Operation::Create, &asked_name, &mut obj, None).await?;
        self.fill_system_fields(r.kind, &mut obj);
        let now = self.clock.now();
        let ctx = Ctx { now, subresource: r.subresource };
        for warning in r.kind.strategy.early_warnings(&obj) {
            r.recorder.warn(&warning);
        }
        r.kind.strategy.prepare_create(&mut obj, &ctx);
        r.kind.strategy.requested_by(&mut obj, &r.requester);
        if r.kind.generation {
            object::set_meta(&mut obj, "generation", 1);
        }
        let Some(companion) = self.companion(r.kind) else {
            return match self.store_new(r, obj, None).await? {
                Ok(written) => Ok(written),
                Err((_, obj)) => Err(self.exists(r, &obj).await),
            };
        };
        for _ in 0..CLAIM_TRIES_MAX {
            let mut full = obj.clone();
            // as upstream's `BeginCreate`, before the validation
            let taking = companion.begin(&mut full, None, r.dry_run).await?;
            let result = self.store_new(r, full, Some(companion)).await;
            taking.end(matches!(result, Ok(Ok(_)))).await;
            match result? {
                Ok(written) => return Ok(written),
                Err((Lost::Claim(key), _)) => companion.contended(&key),
                Err((Lost::Object, _)) => return Err(self.exists(r, &obj).await),
            }
        }
        Err(Status::too_many_requests("others claimed what this object would have got; try again", 1))
    }

    /// Validates and commits a new object; gives it back when it cannot be.
    async fn store_new(
        &self,
        r: &Request<'_>,
        mut obj: Value,
        companion: Option<&dyn Companion>,
    ) -> Result<std::result::Result<Written, (Lost, Value)>> {
        let mut errors = match r.kind.strategy.checks_metadata() {
            true => object_meta::validate(r.kind, &obj),
            false => Vec::new(),
        };
        errors.extend(r.kind.strategy.validate(&obj));
        errors.extend(self.namespace_error(r, &obj, None).await?);
        if errors.is_empty() {
            errors = object_meta::validate_common(r.kind, &obj);
        }
        let name = object::name(&obj);
        if !errors.is_empty() {
            return Err(Status::invalid(&told_kind(r.kind), name, &errors));
        }
        r.admit.validate(Operation::Create, name, Some(&obj), None).await?;
        let warnings = r.kind.strategy.warnings(&obj, None);
        let key = r.kind.key(object::namespace(&obj), name);
        if !r.kind.is_custom() {
            // upstream reads what it keeps with its defaults
            r.kind.strategy.default(&mut obj);
        }
        if let Cow::Owned(kept) = r.kind.as_kept(&obj) {
            obj = kept;
        }
        let written = Written { created: true, warnings, ..Written::default() };
        if r.dry_run {
            self.consistent().await?;
            if self.store.get(&key).is_some() {
                return Ok(Err((Lost::Object, obj)));
            }
            // Only a store minds a revision, and a dry run does not come to it: the client gets back what it sent.
            let bytes = encode::reencode(r.kind, &obj).into();
            return Ok(Ok(Written { bytes, ..written }));
        }
        if object::resource_version(&obj).parse::<u64>().is_ok_and(|revision| revision > 0) {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(Status::new(500, meta::Reason::Unknown, text));
        }
        let value = self.stamped(r.kind, &obj).await?;
        let op = Op::Put { key, value, expect: Expect::Absent };
        let claims = companion.map(|c| c.claims(Some(&obj), None)).unwrap_or_default();
        Ok(match self.commit(r, op, claims).await? {
            Ok((bytes, revision)) => Ok(Written { bytes, tree: own_tree(r.kind, obj), revision, ..written }),
            Err(lost) => Err((lost, obj)),
        })
    }

    /// The error for an object whose name is taken (upstream: registry `store.go#create`).
    async fn exists(&self, r: &Request<'_>, obj: &Value) -> Status {
        let name = object::name(obj);
        let mut status = Status::already_exists(&r.kind.group_resource(), name);
        if let Some(entry) = self.store.get(&r.kind.key(object::namespace(obj), name))
            && let Ok(there) = self.decode(r.kind, &entry.value).await
            && object::is_deleting(&there)
        {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    /// Changes an object. `transform` makes the new object from the current one; a resourceVersion in it must be the
    /// current one, without one the update is tried again when it loses a race. `force_create` lets kinds be created
    /// by an update that do not otherwise allow it.
    pub async fn update(
        &self,
        r: &Request<'_>,
        transform: &Transform<'_>,
        force_create: bool,
    ) -> Result<Written> {
        let key = r.kind.key(r.namespace, r.name);
        self.consistent().await?;
        for _ in 0..CONFLICT_RETRIES_MAX {
            let Some(entry) = self.store.get(&key) else {
                // a part of an object makes no whole
                let creates = r.kind.strategy.create_on_update() && r.subresource.is_empty();
                if !(creates || force_create) {
                    return Err(Status::not_found(&r.kind.group_resource(), r.name));
                }
                let obj = transform(None)?;
                revision_number(object::resource_version(&obj))?;
                precondition_uid(r, &obj, "")?;
                return self.create_once(r, obj).await;
            };
            let old = self.decode(r.kind, &entry.value).await?;
            if let Some(done) = self.update_once(r, transform, &key, &entry, &old).await? {
                return Ok(done);
            }
        }
        Err(Status::modified(&r.kind.group_resource(), r.name))
    }

    /// One attempt; `None` when the object changed meanwhile and the client did not pin a version.
    async fn update_once(
        &self,
        r: &Request<'_>,
        transform: &Transform<'_>,
        key: &str,
        entry: &store::Entry,
        old: &Value,
    ) -> Result<Option<Written>> {
        let mut new = transform(Some(old))?;
        // What a patch makes is no precondition: another uid is a change that is not allowed.
        if !r.is_patch {
            precondition_uid(r, &new, object::uid(old))?;
        }
        let pinned = pinned_version(r, &new, old)?;
        r.admit.mutate(Operation::Update, r.name, &mut new, Some(old)).await?;
        self.prepare_update(r, &mut new, old)?;
        // as upstream's `BeginUpdate`, which a status does not have
        let companion = self.companion(r.kind).filter(|_| r.subresource.is_empty());
        let taking = match companion {
            Some(c) => Some(c.begin(&mut new, Some(old), r.dry_run).await?),
            None => None,
        };
        let result = self.store_changed(r, new, key, entry, old, companion).await;
        if let Some(taking) = taking {
            taking.end(matches!(result, Ok(Ok(_)))).await;
        }
        match (result?, companion) {
            (Ok(written), _) => Ok(Some(written)),
            (Err(Lost::Object), _) if pinned => Err(Status::modified(&r.kind.group_resource(), r.name)),
            (Err(Lost::Claim(key)), Some(c)) => {
                c.contended(&key);
                Ok(None)
            }
            (Err(_), _) => Ok(None),
        }
    }

    /// Validates and commits a changed object.
    async fn store_changed(
        &self,
        r: &Request<'_>,
        mut new: Value,
        key: &str,
        entry: &store::Entry,
        old: &Value,
        companion: Option<&dyn Companion>,
    ) -> Result<std::result::Result<Written, Lost>> {
        let ctx = Ctx { now: self.clock.now(), subresource: r.subresource };
        let mut errors = object_meta::validate_changed(r.kind, &new, r.subresource);
        errors.extend(object_meta::validate_update(&new, old));
        errors.extend(r.kind.strategy.validate_update(&new, old, &ctx));
        errors.extend(self.namespace_error(r, &new, Some(old)).await?);
        if !errors.is_empty() {
            return Err(Status::invalid(&told_kind(r.kind), r.name, &errors));
        }
        r.admit.validate(Operation::Update, r.name, Some(&new), Some(old)).await?;
        let warnings = r.kind.strategy.warnings(&new, Some(old));
        if let Some(expect_delete) = self.emptied(r.kind, &new, old) {
            let bytes = self.remove(r, key, entry, old, &expect_delete).await?;
            let written = |bytes| Written { bytes, deleted: true, warnings, ..Written::default() };
            return Ok(bytes.map(written).ok_or(Lost::Object));
        }
        if !r.subresource.is_empty() && !r.kind.is_custom() {
            // upstream reads what it keeps with its defaults, of what this path put back too
            r.kind.strategy.default(&mut new);
        }
        if let Cow::Owned(kept) = r.kind.as_kept(&new) {
            new = kept;
        }
        // one that is stored in an old version is written again, as upstream's store does with stale bytes
        if same(&new, old) && encode::is_stored_form(r.kind, &entry.value) {
            let bytes = entry.value.clone();
            return Ok(Ok(Written { bytes, warnings, ..Written::default() }));
        }
        if r.dry_run {
            object::set_meta(&mut new, "resourceVersion", object::resource_version(old));
            let bytes = encode::reencode(r.kind, &new).into();
            return Ok(Ok(Written { bytes, warnings, ..Written::default() }));
        }
        let value = self.stamped(r.kind, &new).await?;
        let op = Op::Put { key: key.to_owned(), value, expect: Expect::At(entry.modified) };
        let claims = companion.map(|c| c.claims(Some(&new), Some(old))).unwrap_or_default();
        let done = self.commit(r, op, claims).await?;
        Ok(done.map(|(bytes, revision)| Written {
            bytes,
            tree: own_tree(r.kind, new),
            revision,
            warnings,
            ..Written::default()
        }))
    }

    /// A field of the object that its namespace does not allow.
    async fn namespace_error(
        &self,
        r: &Request<'_>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<Option<Error>> {
        let Some(needed) = r.kind.strategy.asks_namespace(new, old, r.subresource) else { return Ok(None) };
        let kinds = self.kinds();
        let Some(row) = kinds.resource("", "v1", "namespaces") else { return Ok(None) };
        let namespace = match self.store.get(&row.key("", object::namespace(new))) {
            Some(entry) => self.decode(&row, &entry.value).await?,
            None => Value::Null,
        };
        let allowed = namespace["metadata"]["labels"][needed.label] == "true";
        Ok((!allowed).then(|| Error::forbidden(&needed.field, needed.detail)))
    }

    /// What an update may not change is put back (upstream: `rest.BeforeUpdate`).
    fn prepare_update(&self, r: &Request<'_>, new: &mut Value, old: &Value) -> Result<()> {
        match_namespace(r.kind, r.namespace, new)?;
        let ctx = Ctx { now: self.clock.now(), subresource: r.subresource };
        restore(new, old, "generation");
        r.kind.strategy.prepare_update(new, old, &ctx);
        if object::uid(new).is_empty() {
            restore(new, old, "uid");
        }
        restore(new, old, "creationTimestamp");
        // An update never takes these away; validation refuses one that brings or changes them.
        if object::is_deleting(old) {
            restore(new, old, "deletionTimestamp");
        }
        if new["metadata"].get("deletionGracePeriodSeconds").is_none() {
            restore(new, old, "deletionGracePeriodSeconds");
        }
        // A binding is no change of what is asked for (upstream: it goes past the strategy).
        let counts = !matches!(r.subresource, "status" | "binding");
        if r.kind.generation && counts && object::spec_differs(new, old, &["status"]) {
            object::set_meta(new, "generation", object::generation(old) + 1);
        }
        Ok(())
    }

    /// Commits one change with its audit core, and what its object claims; tells which expectation failed.
    pub(crate) async fn commit(
        &self,
        r: &Request<'_>,
        op: Op,
        claims: Vec<Op>,
    ) -> Result<std::result::Result<(Bytes, Revision), Lost>> {
        let ops = std::iter::once(op).chain(claims).collect();
        let txn = Txn { ops, record: r.recorder.core() };
        let begun = tokio::time::Instant::now();
        let committed = self.store.commit(txn).await;
        r.recorder.stored(begun.elapsed());
        match committed {
            Ok(done) => {
                if let Some(record) = done.record {
                    r.recorder.committed(record);
                }
                Ok(Ok((done.values.into_iter().next().unwrap_or_default(), done.revision)))
            }
            Err(CommitError::Conflict { op: 0, .. }) => Ok(Err(Lost::Object)),
            Err(CommitError::Conflict { key, .. }) => Ok(Err(Lost::Claim(key))),
            Err(e) => Err(commit_failure(e)),
        }
    }

    fn fill_system_fields(&self, kind: &KindDef, obj: &mut Value) {
        if object::name(obj).is_empty() {
            let base = object::meta_str(obj, "generateName");
            if !base.is_empty() {
                let mut cut = base.len().min(GENERATE_NAME_BASE_MAX);
                while !base.is_char_boundary(cut) {
                    cut -= 1;
                }
                let name = format!("{}{}", &base[..cut], self.rng.name_suffix(NAME_SUFFIX_LETTERS));
                object::set_meta(obj, "name", name);
            }
        }
        if object::name(obj).is_empty() && kind.strategy.names_itself() {
            object::set_meta(obj, "name", uuid::Uuid::new_v4().to_string());
        }
        object::set_meta(obj, "creationTimestamp", meta::time::rfc3339(self.clock.now()));
        object::set_meta(obj, "uid", uuid::Uuid::new_v4().to_string());
        if let Some(map) = obj.as_object_mut() {
            map.insert("apiVersion".into(), kind.api_version().into());
            map.insert("kind".into(), Value::from(&*kind.kind));
        }
    }
}

/// Clients cannot set these on create (upstream: `rest.WipeObjectMetaSystemFields`).
pub fn wipe_system_fields(obj: &mut Value) {
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        object::remove_meta(obj, field);
    }
}

/// The object's namespace must be the request's, or empty (upstream: `EnsureObjectNamespaceMatchesRequestNamespace`).
pub fn match_namespace(kind: &KindDef, namespace: &str, obj: &mut Value) -> Result<()> {
    let own = object::namespace(obj);
    match (own.is_empty(), kind.namespaced()) {
        (true, true) => object::set_meta(obj, "namespace", namespace),
        (true, false) => object::remove_meta(obj, "namespace"),
        (false, false) => object::remove_meta(obj, "namespace"),
        (false, true) if own != namespace => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        _ => {}
    }
    Ok(())
}

/// The kind that errors name: upstream's is that of its own form of the object, which is in the group that stores it.
fn told_kind(kind: &KindDef) -> meta::GroupKind {
    let group = kind.stored_as.as_ref().map_or(&kind.group, |(group, _)| group);
    meta::GroupKind { group: group.to_string(), kind: kind.kind.to_string() }
}

/// Refuses an update of an object with another uid than the new one names (upstream: `Preconditions.Check`).
///
/// # Errors
/// A conflict.
pub fn precondition_uid(r: &Request<'_>, new: &Value, current: &str) -> Result<()> {
    let asked = object::uid(new);
    if asked.is_empty() || asked == current {
        return Ok(());
    }
    let key = r.kind.key(r.namespace, r.name);
    // A dry run does not come to upstream's store, which is what puts this before keys.
    let shown = key.strip_prefix("/registry").filter(|_| r.dry_run).unwrap_or(&key);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {shown}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {asked}, UID in object meta: {current}"
    );
    Err(Status::conflict(&r.kind.group_resource(), r.name, &why))
}

/// Whether the client pinned the version; an error when it pinned another one than the current.
fn pinned_version(r: &Request<'_>, new: &Value, old: &Value) -> Result<bool> {
    let asked = object::resource_version(new);
    if asked.is_empty() || asked == "0" {
        if r.kind.strategy.unconditional_update() {
            return Ok(false);
        }
        let field = meta::field::Path::new("metadata").child("resourceVersion");
        let error = meta::field::Error::invalid(&field, 0, "must be specified for an update");
        let gk = meta::GroupKind { group: r.kind.group.to_string(), kind: r.kind.plural.to_string() };
        return Err(Status::invalid(&gk, r.name, &vec![error]));
    }
    revision_number(asked)?;
    if asked != object::resource_version(old) {
        return Err(Status::modified(&r.kind.group_resource(), r.name));
    }
    Ok(!r.is_patch)
}

/// What was stored, when that is the form in which the row shows it.
fn own_tree(kind: &KindDef, obj: Value) -> Option<Value> {
    (kind.stored_as.is_none() && kind.convert.is_none() && !kind.reads_through).then_some(obj)
}

/// Refuses what is no revision, in upstream's words and with its code.
fn revision_number(asked: &str) -> Result<()> {
    match asked.is_empty() || asked.parse::<u64>().is_ok() {
        true => Ok(()),
        false => {
            let text = format!("strconv.ParseUint: parsing {}: invalid syntax", meta::field::quoted(asked));
            Err(Status::new(500, meta::Reason::Unknown, text))
        }
    }
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    match old["metadata"].get(field) {
        Some(v) if !v.is_null() => object::set_meta(new, field, v.clone()),
        _ => object::remove_meta(new, field),
    }
}

/// Whether an update changes nothing: such a write leaves the revision alone, as upstream's does.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new["metadata"].as_object(), old["metadata"].as_object()) else {
        return new == old;
    };
    let strip = |k: &String| k == "resourceVersion";
    a.iter().filter(|(k, _)| !strip(k)).eq(b.iter().filter(|(k, _)| !strip(k)))
        && !object::spec_differs(new, old, &["apiVersion", "kind"])
}

fn generated_name_exhausted(kind: &KindDef, e: &Status) -> Status {
    let mut s = e.clone();
    s.message = format!(
        "{}, the server was not able to generate a unique name for the object",
        Status::already_exists(&kind.group_resource(), s.details.as_ref().map_or("", |d| &d.name)).message
    );
    s
}
