//! Delete: grace, propagation, preconditions and finalizers
//! (upstream: apiserver `pkg/registry/rest/delete.go#BeforeDelete` and `generic/registry/store.go#Delete`).

use crate::read::{ListQuery, Listed, Match};
use crate::write::Request;
use crate::{Operation, Registry, encode};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::object;
use meta::status::{Result, Status};
use meta::time::rfc3339;
use serde_json::Value;
use std::time::Duration;
use store::{Entry, Expect, Op};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a delete is tried against a changing object.
const RETRIES_MAX: usize = 64;
/// Objects read at a time by a collection delete.
const COLLECTION_PAGE: usize = 500;

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// `metav1.DeleteOptions`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub preconditions: Preconditions,
    pub propagation: Option<Propagation>,
    /// The old field; never together with `propagation`.
    pub orphan_dependents: Option<bool>,
    pub dry_run: bool,
    /// What is stored need not be readable.
    pub ignore_read_errors: bool,
}

impl DeleteOptions {
    /// Reads a decoded DeleteOptions object (upstream: `ValidateDeleteOptions`).
    pub fn from_value(v: &Value) -> Result<Self> {
        let mut errors = Vec::new();
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let propagation = v.get("propagationPolicy").and_then(Value::as_str);
        if v.get("orphanDependents").is_some_and(|o| !o.is_null()) && propagation.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(Error::invalid(&Path::new("propagationPolicy"), propagation.unwrap_or(""), detail));
        }
        let propagation = match propagation {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(Error::not_supported(&Path::new("propagationPolicy"), other, &supported));
                None
            }
        };
        let dry_run: Vec<&str> =
            v["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if dry_run.iter().any(|d| *d != "All") {
            let at = Path::new("dryRun");
            errors.push(Error::not_supported(&at, Value::from(dry_run.clone()), &["All"]));
        }
        errors.extend(read_errors_ignored(v));
        if !errors.is_empty() {
            let gk = meta::GroupKind { group: "meta.k8s.io".into(), kind: "DeleteOptions".into() };
            return Err(Status::invalid(&gk, "", &errors));
        }
        Ok(Self {
            grace_period_seconds: v["gracePeriodSeconds"].as_i64(),
            preconditions: Preconditions {
                uid: text(&v["preconditions"]["uid"]),
                resource_version: text(&v["preconditions"]["resourceVersion"]),
            },
            propagation,
            orphan_dependents: v["orphanDependents"].as_bool(),
            dry_run: !dry_run.is_empty(),
            ignore_read_errors: v[IGNORE_READ_ERRORS] == true,
        })
    }
}

/// The option of a delete of what cannot be read.
const IGNORE_READ_ERRORS: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// What cannot go with a delete of what cannot be read (upstream: `ValidateIgnoreStoreReadError`).
fn read_errors_ignored(v: &Value) -> Vec<Error> {
    const FIELD: &str = IGNORE_READ_ERRORS;
    let others = ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"];
    let set = |field: &&str| v[FIELD] == true && v.get(*field).is_some_and(|o| !o.is_null());
    let error = |field: &str| {
        Error::invalid(&Path::new(FIELD), true, format!("cannot be set together with .{field}"))
    };
    others.iter().filter(|f| set(f)).map(|f| error(f)).collect()
}

/// How a delete ended.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Bytes),
    /// The object is terminating; its state now.
    Pending(Bytes),
}

/// A deletion that is not immediate: the object to store instead.
enum Plan {
    /// It goes now; the state in which it is last seen.
    Remove(Box<Value>),
    Store(Box<Value>),
    Nothing,
}

impl Registry {
    pub async fn delete(&self, r: &Request<'_>, options: &DeleteOptions) -> Result<Deleted> {
        let key = r.kind.key(r.namespace, r.name);
        self.consistent().await?;
        for _ in 0..RETRIES_MAX {
            let Some(entry) = self.store.get(&key) else {
                return Err(Status::not_found(&r.kind.group_resource(), r.name));
            };
            if options.ignore_read_errors {
                let why = format!(
                    "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage"
                );
                return Err(Status::conflict(&r.kind.group_resource(), r.name, &why));
            }
            let old = self.decode(r.kind, &entry.value).await?;
            self.check_preconditions(r, &old, &options.preconditions)?;
            r.admit.validate(Operation::Delete, r.name, None, Some(&old)).await?;
            match plan(r.kind, &old, options, self.clock.now()) {
                Plan::Nothing => return Ok(Deleted::Pending(entry.value)),
                Plan::Remove(last) => {
                    if let Some(bytes) = self.remove(r, &key, &entry, &old, &last).await? {
                        return Ok(Deleted::Gone(bytes));
                    }
                }
                Plan::Store(new) => {
                    if r.dry_run {
                        let bytes = encode::reencode(r.kind, &new).into();
                        return Ok(Deleted::Pending(bytes));
                    }
                    let value = self.stamped(r.kind, &new).await?;
                    let op = Op::Put { key: key.clone(), value, expect: Expect::At(entry.modified) };
                    if let Ok((bytes, _)) = self.commit(r, op, Vec::new()).await? {
                        return Ok(Deleted::Pending(bytes));
                    }
                }
            }
        }
        Err(Status::modified(&r.kind.group_resource(), r.name))
    }

    /// Deletes every object that a list with these options has, or with a limit its first ones; returns the objects as
    /// they were (upstream: `DeleteCollection`).
    pub async fn delete_collection(
        &self,
        r: &Request<'_>,
        mut query: ListQuery,
        options: &DeleteOptions,
    ) -> Result<Listed> {
        let limited = query.limit > 0;
        if !limited {
            query.limit = COLLECTION_PAGE;
        }
        let namespace = Some(r.namespace).filter(|n| !n.is_empty());
        let mut all: Option<Listed> = None;
        loop {
            let page = self.list(&r.permit, r.kind, namespace, &query).await?;
            for bytes in &page.items {
                let obj: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
                let one = Request { name: object::name(&obj), namespace: object::namespace(&obj), ..*r };
                match self.delete(&one, options).await {
                    Ok(_) => {}
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                }
            }
            if limited {
                return Ok(page);
            }
            let next = page.next.clone();
            let listed = match all.take() {
                Some(mut before) => {
                    before.items.extend(page.items);
                    before
                }
                None => Listed { next: None, remaining: None, ..page },
            };
            if next.is_none() {
                return Ok(listed);
            }
            all = Some(listed);
            query.resume = next;
            query.resource_version.clear();
            query.matching = Match::Unset;
        }
    }

    /// The final object when an update leaves a terminating object with nothing that holds it
    /// (upstream: `ShouldDeleteDuringUpdate`).
    pub(crate) fn emptied(&self, kind: &KindDef, new: &Value, old: &Value) -> Option<Value> {
        let now = self.clock.now();
        let held = |obj: &Value| {
            !object::finalizers(obj).is_empty() || kind.strategy.holds_deletion(&mut obj.clone(), now)
        };
        let (was_held, held) = (held(old), held(new));
        let grace = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        (object::is_deleting(new) && was_held && !held && grace == 0).then(|| new.clone())
    }

    /// Removes an object, which is `old` in the store and last seen as `last`; `None` when it changed meanwhile.
    pub(crate) async fn remove(
        &self,
        r: &Request<'_>,
        key: &str,
        entry: &Entry,
        old: &Value,
        last: &Value,
    ) -> Result<Option<Bytes>> {
        if r.dry_run {
            return Ok(Some(entry.value.clone()));
        }
        let value = self.stamped(r.kind, last).await?;
        let op = Op::Delete { key: key.to_owned(), last: Some(value), expect: Expect::At(entry.modified) };
        let companion = self.companion(r.kind);
        // what is claimed is what was stored
        let claims = companion.map(|c| c.claims(None, Some(old))).unwrap_or_default();
        let removed = self.commit(r, op, claims).await?.ok().map(|(bytes, _)| bytes);
        if let (Some(_), Some(c)) = (&removed, companion) {
            c.deleted(last).await;
        }
        Ok(removed)
    }

    fn check_preconditions(&self, r: &Request<'_>, obj: &Value, p: &Preconditions) -> Result<()> {
        // upstream names the kind here, not the resource
        let gr = meta::GroupResource::new(&r.kind.group, &r.kind.kind);
        if let Some(uid) = p.uid.as_deref().filter(|u| *u != object::uid(obj)) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object::uid(obj)
            );
            return Err(Status::conflict(&gr, r.name, &why));
        }
        if let Some(rv) = p.resource_version.as_deref().filter(|v| *v != object::resource_version(obj)) {
            let why = format!(
                "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({}). The object might have been modified",
                object::resource_version(obj)
            );
            return Err(Status::conflict(&gr, r.name, &why));
        }
        Ok(())
    }
}

/// Decides how a delete proceeds. Pure.
fn plan(kind: &KindDef, old: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let asked = options.grace_period_seconds.map(|g| if g < 0 { 1 } else { g });
    let deleting = object::is_deleting(old);
    let current_grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let mut new = old.clone();
    let mut graceful = false;
    if let Some(grace) = kind.strategy.grace_seconds(old, asked) {
        if !deleting {
            set_deletion(&mut new, now, grace);
            graceful = grace > 0;
        } else if current_grace > 0 {
            match asked {
                Some(period) if period < current_grace => {
                    shorten(&mut new, now, current_grace, period);
                    graceful = period > 0;
                }
                _ => return pending_with_finalizers(kind, old, new, options),
            }
        }
    }
    let finalizers_changed = set_finalizers(kind, &mut new, options);
    if graceful {
        return Plan::Store(Box::new(new));
    }
    // Asked in any case, as it marks the object.
    let holds_itself = kind.strategy.holds_deletion(&mut new, now);
    let held = holds_itself || !object::finalizers(&new).is_empty();
    if !held {
        // what goes gracefully is last seen with the end that it was given, all else as it was
        let graceful_kind = kind.strategy.grace_seconds(old, asked).is_some();
        return Plan::Remove(Box::new(if graceful_kind { new } else { old.clone() }));
    }
    if !deleting {
        // Terminating from now on, with no grace left: finalizers alone hold it.
        if object::generation(&new) > 0 && object::generation(&new) == object::generation(old) {
            object::set_meta(&mut new, "generation", object::generation(old) + 1);
        }
        object::set_meta(&mut new, "deletionTimestamp", rfc3339(now));
        // A kind that holds itself back (a namespace) has no grace to speak of.
        if !object::finalizers(&new).is_empty() {
            object::set_meta(&mut new, "deletionGracePeriodSeconds", 0);
        }
        return Plan::Store(Box::new(new));
    }
    if current_grace > 0 {
        object::set_meta(&mut new, "deletionGracePeriodSeconds", 0);
        return Plan::Store(Box::new(new));
    }
    if finalizers_changed { Plan::Store(Box::new(new)) } else { Plan::Nothing }
}

/// A graceful deletion already runs; only the propagation may still change.
fn pending_with_finalizers(kind: &KindDef, old: &Value, mut new: Value, options: &DeleteOptions) -> Plan {
    if set_finalizers(kind, &mut new, options) && new != *old {
        Plan::Store(Box::new(new))
    } else {
        Plan::Nothing
    }
}

fn set_deletion(obj: &mut Value, now: Timestamp, grace_seconds: i64) {
    let at = now.saturating_add(SignedDuration::from_secs(grace_seconds)).unwrap_or(now);
    object::set_meta(obj, "deletionTimestamp", rfc3339(at));
    object::set_meta(obj, "deletionGracePeriodSeconds", grace_seconds);
    let generation = object::generation(obj);
    if generation > 0 {
        object::set_meta(obj, "generation", generation + 1);
    }
}

/// Moves the deadline of a running deletion forward, never into the past.
fn shorten(obj: &mut Value, now: Timestamp, from_seconds: i64, to_seconds: i64) {
    let deadline: Timestamp = object::meta_str(obj, "deletionTimestamp").parse().unwrap_or(now);
    let moved = deadline
        .saturating_sub(Duration::from_secs(from_seconds.unsigned_abs()))
        .and_then(|t| t.saturating_add(Duration::from_secs(to_seconds.unsigned_abs())))
        .unwrap_or(now);
    let (at, grace) = if moved < now { (now, i64::from(to_seconds != 0)) } else { (moved, to_seconds) };
    object::set_meta(obj, "deletionTimestamp", rfc3339(at));
    object::set_meta(obj, "deletionGracePeriodSeconds", grace);
}

/// Sets the garbage collector's finalizers as the options ask; whether anything changed
/// (upstream: `deletionFinalizersForGarbageCollection`).
fn set_finalizers(kind: &KindDef, obj: &mut Value, options: &DeleteOptions) -> bool {
    let had: Vec<String> = object::finalizers(obj).into_iter().map(str::to_owned).collect();
    let has = |f: &str| had.iter().any(|h| h == f);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        _ if !kind.strategy.has_dependents() => (false, false),
        (Some(orphan), _) => (orphan, false),
        (None, Some(p)) => (p == Propagation::Orphan, p == Propagation::Foreground),
        (None, None) if has(ORPHAN) => (true, false),
        (None, None) if has(FOREGROUND) => (false, true),
        (None, None) => (kind.strategy.orphans_by_default(), false),
    };
    let mut new: Vec<String> = had.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        new.push(ORPHAN.to_owned());
    }
    if foreground {
        new.push(FOREGROUND.to_owned());
    }
    if new == had {
        return false;
    }
    if new.is_empty() {
        object::remove_meta(obj, "finalizers");
    } else {
        object::set_meta(obj, "finalizers", new);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinds::{Strategy, StrategyRef};
    use serde_json::json;

    struct Graceful;
    impl Strategy for Graceful {
        fn grace_seconds(&self, _: &Value, asked: Option<i64>) -> Option<i64> {
            Some(asked.unwrap_or(30))
        }
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    fn stored(p: Plan) -> Value {
        match p {
            Plan::Store(v) => *v,
            Plan::Remove(_) => panic!("removed"),
            Plan::Nothing => panic!("nothing"),
        }
    }

    #[test]
    fn an_ordinary_object_goes_at_once_and_finalizers_hold_it() {
        let kind = KindDef::BASE;
        assert!(matches!(
            plan(&kind, &json!({"metadata": {}}), &DeleteOptions::default(), now()),
            Plan::Remove(_)
        ));
        let held = json!({"metadata": {"finalizers": ["a/b"], "generation": 3}});
        let new = stored(plan(&kind, &held, &DeleteOptions::default(), now()));
        assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-02T03:04:05Z");
        assert_eq!(
            (&new["metadata"]["deletionGracePeriodSeconds"], &new["metadata"]["generation"]),
            (&json!(0), &json!(4))
        );
        assert!(matches!(plan(&kind, &new, &DeleteOptions::default(), now()), Plan::Nothing));
    }

    #[test]
    fn grace_is_given_once_and_can_only_be_shortened() {
        let kind = KindDef { strategy: StrategyRef::Static(&Graceful), ..KindDef::BASE };
        let new = stored(plan(&kind, &json!({"metadata": {}}), &DeleteOptions::default(), now()));
        assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-02T03:04:35Z");
        let asked = |g| DeleteOptions { grace_period_seconds: Some(g), ..DeleteOptions::default() };
        assert!(matches!(plan(&kind, &new, &asked(60), now()), Plan::Nothing));
        let shorter = stored(plan(&kind, &new, &asked(10), now()));
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-02T03:04:15Z");
        assert!(matches!(plan(&kind, &new, &asked(0), now()), Plan::Remove(_)));
    }

    #[test]
    fn a_kind_marks_what_finalizers_hold_too() {
        let rows = kinds::table();
        let kind = rows.iter().find(|r| r.plural == "customresourcedefinitions").expect("a row");
        for finalizers in [json!([]), json!(["a/b"])] {
            let old = json!({"metadata": {"finalizers": finalizers}, "status": {}});
            let new = stored(plan(kind, &old, &DeleteOptions::default(), now()));
            let condition = &new["status"]["conditions"][0];
            assert_eq!(condition["reason"], "InstanceDeletionPending", "{finalizers}");
            assert_eq!(condition["lastTransitionTime"], "2026-01-02T03:04:05Z");
            let wanted = finalizers.as_array().map_or(0, Vec::len) + 1;
            assert_eq!(object::finalizers(&new).len(), wanted);
            assert!(matches!(plan(kind, &new, &DeleteOptions::default(), now()), Plan::Nothing));
        }
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let options =
            DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        let new =
            stored(plan(&KindDef::BASE, &json!({"metadata": {"finalizers": ["orphan"]}}), &options, now()));
        assert_eq!(new["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    }

    #[test]
    fn options_are_checked() {
        let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
        assert_eq!(DeleteOptions::from_value(&both).expect_err("refused").code, 422);
        let odd = DeleteOptions::from_value(&json!({"propagationPolicy": "Sideways"})).expect_err("refused");
        assert!(
            odd.message.contains("supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""),
            "{}",
            odd.message
        );
    }
}
