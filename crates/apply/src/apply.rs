//! Server-side apply: a configuration laid over the live object by its manager.
//!
//! Nothing changes when it is refused; ownership and object come from one comparison.

use crate::conflict::{ApplyError, Conflict};
use crate::managers::{self, Entry, Operation};
use crate::set::FieldSet;
use crate::{Options, View, last_applied, typed, update, validate};
use serde_json::{Map, Value};

/// Who owns what was there before anything was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const ENTRY: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry";

/// The object that results when the manager applies `config` over `live` (`None` creates), with its managed fields. What
/// the manager applied before and applies no more goes, unless somebody else owns it. `force` takes fields over from
/// other managers (upstream: apimachinery `managedfields/internal/fieldmanager.go#Apply`). The result is not defaulted
/// and may hold nulls where lists or objects became empty.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    o: &Options<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    check(config, o)?;
    let mut entries = match live.and_then(update::managed_of) {
        Some(managed) => managers::decode(managed)
            .map_err(|e| ApplyError::Other(format!("failed to decode managed fields: {e}")))?,
        None => Vec::new(),
    };
    let empty = Value::Object(Map::new());
    let live_object = live.unwrap_or(&empty);
    update::reconcile(&mut entries, o);
    let entries = match live {
        Some(live) if entries.is_empty() => untracked(live, o),
        _ => entries,
    };
    let mut entries = entries;
    update::drop_foreign(&mut entries, o);
    let plan = Plan { live: live_object, config, o };
    let (mut object, mut entries) = match plan.run(entries.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if o.manager == last_applied::MANAGER => {
            let left = last_applied::left_over(live_object, conflicts, o);
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            plan.run(entries, true)?
        }
        other => other?,
    };
    // without a change the times stay, and somebody new has none
    let changed = live.is_none_or(|live| !update::same_but_managed(live, &object));
    if changed {
        let own = o.entry(Operation::Apply);
        if let Some(entry) = entries.iter_mut().find(|e| e.is_same_manager(&own)) {
            entry.time = Some(o.now);
        }
    }
    if o.manager == last_applied::MANAGER {
        last_applied::renew(&mut object, config);
    }
    update::put_managed(&mut object, entries);
    Ok(object)
}

/// Upstream: apimachinery `managedfields/internal/structuredmerge.go#Apply`.
fn check(config: &Value, o: &Options<'_>) -> Result<(), ApplyError> {
    let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text(config.get("apiVersion"));
    if version != o.api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            o.api_version
        )));
    }
    if update::managed_of(config).is_some_and(|managed| is_list_of_entries(managed, o)) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    validate::validate(config, o.view.root()).map_err(|e| {
        let slashed = if version.contains('/') { version.clone() } else { format!("/{version}") };
        let metadata = |name: &str| text(config.get("metadata").and_then(|m| m.get(name)));
        ApplyError::Other(format!(
            "failed to create typed patch object ({}/{}; {slashed}, Kind={}): {e}",
            metadata("namespace"),
            metadata("name"),
            text(config.get("kind")),
        ))
    })
}

/// What cannot be read as entries is taken for none here, and refused with the type (upstream:
/// `Unstructured.GetManagedFields`).
fn is_list_of_entries(managed: &Value, o: &Options<'_>) -> bool {
    let types = match o.view {
        View::Typed { types, .. } | View::Structural { types, .. } => Some(types),
        View::Deduced => None,
    };
    let fits = |entry: &Value| types.is_none_or(|t| t.from_unstructured(&mut entry.clone(), ENTRY).is_ok());
    managed.as_array().is_some_and(|entries| entries.iter().all(|entry| entry.is_object() && fits(entry)))
}

/// The entries of an object nobody tracked: all that is there belongs to one manager (upstream: apimachinery
/// `managedfields/internal/skipnonapplied.go`).
fn untracked(live: &Value, o: &Options<'_>) -> Vec<Entry> {
    let before = Options { manager: BEFORE_FIRST_APPLY, ..*o };
    update::take_over(update::changes(&o.view.zero(), live, &before), Vec::new(), &before)
}

struct Plan<'a> {
    live: &'a Value,
    config: &'a Value,
    o: &'a Options<'a>,
}

impl Plan<'_> {
    /// Upstream: structured-merge-diff `merge/update.go#Apply`.
    fn run(&self, mut entries: Vec<Entry>, force: bool) -> Result<(Value, Vec<Entry>), ApplyError> {
        let ty = self.o.view.root();
        let merged = typed::merge(self.live, self.config, ty)
            .map_err(|e| ApplyError::Other(format!("failed to merge config: {e}")))?;
        let mut own = self.o.entry(Operation::Apply);
        own.fields = typed::to_set(self.config, ty);
        own.fields.subtract_recursive(self.o.reset);
        let last = match entries.iter_mut().find(|e| e.is_same_manager(&own)) {
            Some(entry) => {
                own.time = entry.time;
                std::mem::replace(entry, own.clone()).fields
            }
            None => {
                entries.push(own.clone());
                FieldSet::default()
            }
        };
        let object = self.prune(merged, &entries, &last);
        let entries = self.settle(&object, entries, &own, force)?;
        Ok((object, entries))
    }

    /// Removes what the manager applied last time, except what somebody owns now and what was not its own (upstream:
    /// structured-merge-diff `merge/update.go#prune`).
    fn prune(&self, merged: Value, entries: &[Entry], last: &FieldSet) -> Value {
        if last.is_empty() {
            return merged;
        }
        let ty = self.o.view.root();
        let last = typed::with_named(last, ty);
        let whole = typed::with_named(&typed::to_set(&merged, ty), ty);
        let rest = |gone: &FieldSet| {
            let mut object = merged.clone();
            typed::remove(&mut object, gone, ty);
            let fields = typed::with_named(&typed::to_set(&object, ty), ty);
            (object, fields)
        };
        let (_, mut kept) = rest(&last);
        for entry in entries {
            kept.absorb(typed::with_named(&entry.fields, ty));
        }
        let (_, kept) = rest(&whole.difference(&kept));
        let gone = whole.difference(&kept).intersection(&last);
        if gone.is_empty() { merged } else { rest(&gone).0 }
    }

    /// Finds conflicts, and takes what changed from others (upstream: structured-merge-diff `merge/update.go#update`).
    fn settle(
        &self,
        object: &Value,
        mut entries: Vec<Entry>,
        own: &Entry,
        force: bool,
    ) -> Result<Vec<Entry>, ApplyError> {
        let changes = update::changes(self.live, object, self.o);
        let mut changed = changes.modified;
        changed.absorb(changes.added);
        let others = || entries.iter().filter(|e| !e.is_same_manager(own));
        if !force {
            let mut found: Vec<(String, Vec<Conflict>)> = others()
                .map(|e| (e.identifier(), e, e.fields.intersection(&changed).texts()))
                .filter(|(_, _, fields)| !fields.is_empty())
                .map(|(id, e, fields)| (id, Conflict::all_of(e, fields).collect()))
                .collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            let conflicts: Vec<Conflict> = found.into_iter().flat_map(|(_, c)| c).collect();
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
        }
        for entry in &mut entries {
            if entry.is_same_manager(own) {
                update::strip(&mut entry.fields);
            } else {
                entry.fields.subtract(&changed);
                entry.fields.subtract(&changes.removed);
            }
        }
        entries.retain(|e| !e.fields.is_empty());
        Ok(entries)
    }
}
