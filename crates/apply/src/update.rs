//! Ownership after a create, update or patch: what a writer changed becomes its own.
//!
//! Only sets are made here; the object keeps every field but `metadata.managedFields`.

use crate::managers::{self, Entry, Operation};
use crate::set::FieldSet;
use crate::typed::{self, Comparison};
use crate::{Options, View};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// Never part of a manager's fields (upstream: apimachinery `managedfields/internal/stripmeta.go`).
static STRIPPED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

static MANAGED: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&["metadata.managedFields"]));

/// Sets `metadata.managedFields` of an object about to be stored: what differs from `live` is the writer's, other
/// managers lose what changed or went. `live` is `None` for a creation. Without a change the entries stay as they are.
/// Entries sent with the object count if they can be read (a subresource's are ignored); an empty list, or one empty
/// entry, clears them. Where what changed has no fields, all stays as it was (upstream: apimachinery
/// `managedfields/internal/fieldmanager.go#Update`).
pub fn update(live: Option<&Value>, new: &mut Value, o: &Options<'_>) {
    let sent = take_managed(new);
    let stored = live.and_then(managed_of);
    let (mut entries, as_stored) = starting_entries(sent.as_ref(), stored, o);
    // objects whose managers nobody knows stay untracked
    if entries.is_empty() && live.is_some() {
        return;
    }
    let as_stored = !drop_foreign(&mut entries, o) && as_stored;
    let zero;
    let old = match live {
        Some(live) => live,
        None => {
            zero = o.view.zero();
            &zero
        }
    };
    let changes = changes(old, new, o);
    if changes.unfit {
        // upstream: `UpdateNoErrors`
        if let Some(stored) = stored {
            set_managed(new, stored.clone());
        }
        return;
    }
    if let Some(stored) = stored.filter(|_| as_stored && changes.is_empty()) {
        set_managed(new, stored.clone());
        return;
    }
    let mut entries = take_over(changes, entries, o);
    managers::cap(&mut entries);
    put_managed(new, entries);
}

/// Puts the old times back when `new`, as it is about to be stored, differs from `live` in nothing else: a write that
/// changes nothing makes no new version (upstream: apiserver
/// `endpoints/handlers/fieldmanager/equality.go#IgnoreManagedFieldsTimestampsTransformer`).
pub fn keep_times(live: &Value, new: &mut Value) {
    let (Some(Value::Array(old)), Some(Value::Array(own))) = (managed_of(live), managed_of(new)) else {
        return;
    };
    let same_but_time = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => same_but(a, b, "time"),
        _ => a == b,
    };
    let same = old.len() == own.len() && old.iter().zip(own).all(|(a, b)| same_but_time(a, b));
    if same && same_but_managed(live, new) {
        let old = Value::Array(old.clone());
        set_managed(new, old);
    }
}

fn same_but(a: &Map<String, Value>, b: &Map<String, Value>, left_out: &str) -> bool {
    let count = |m: &Map<String, Value>| m.len() - usize::from(m.contains_key(left_out));
    count(a) == count(b) && a.iter().all(|(name, value)| name == left_out || b.get(name) == Some(value))
}

/// Whether the objects differ in managed fields only.
pub(crate) fn same_but_managed(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let metadata = match (a.get("metadata"), b.get("metadata")) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => same_but(a, b, "managedFields"),
        (a, b) => a == b,
    };
    metadata && same_but(a, b, "metadata")
}

/// Drops entries in versions of another group, which the object does not become any more; whether there were any (upstream:
/// structured-merge-diff `merge/update.go#Update`, where a version is missing).
pub(crate) fn drop_foreign(entries: &mut Vec<Entry>, o: &Options<'_>) -> bool {
    let group = |api_version: &str| api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let (own, before) = (group(o.api_version), entries.len());
    entries.retain(|e| group(&e.api_version) == own);
    entries.len() < before
}

/// The entries before the write, and whether they are those stored.
fn starting_entries(sent: Option<&Value>, stored: Option<&Value>, o: &Options<'_>) -> (Vec<Entry>, bool) {
    let decoded = |v: Option<&Value>| {
        let mut entries = v.and_then(|v| managers::decode(v).ok()).unwrap_or_default();
        reconcile(&mut entries, o);
        entries
    };
    if !o.subresource.is_empty() {
        return (decoded(stored), true);
    }
    if sent.is_some_and(is_reset) {
        return (Vec::new(), false);
    }
    // a client that sends back what it read changes nothing here
    let sent = if sent == stored { Vec::new() } else { decoded(sent) };
    if sent.is_empty() { (decoded(stored), true) } else { (sent, false) }
}

/// Brings entries written under an older schema in line; only custom resources change theirs.
pub(crate) fn reconcile(entries: &mut [Entry], o: &Options<'_>) {
    if matches!(o.view, View::Structural { .. }) {
        for entry in entries {
            typed::reconcile(&mut entry.fields, o.view.root());
        }
    }
}

/// `[]` and `[{}]`.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.is_empty(),
        _ => false,
    }
}

/// The entries when the writer has made these changes.
pub(crate) fn take_over(changes: Comparison, mut entries: Vec<Entry>, o: &Options<'_>) -> Vec<Entry> {
    let Comparison { added, modified, removed, .. } = changes;
    let mut changed = modified;
    changed.absorb(added);
    for entry in &mut entries {
        entry.fields.subtract(&changed);
        entry.fields.subtract(&removed);
    }
    entries.retain(|e| !e.fields.is_empty());
    changed.subtract(&STRIPPED);
    if !changed.is_empty() {
        let mut own = o.entry(Operation::Update);
        own.time = Some(o.now);
        own.fields = changed;
        add(&mut entries, own);
    }
    entries
}

/// Adds the entry; what its manager already owns stays its own.
fn add(entries: &mut Vec<Entry>, own: Entry) {
    match entries.iter_mut().find(|e| e.is_same_manager(&own)) {
        Some(entry) => {
            entry.fields.absorb(own.fields);
            entry.time = own.time;
        }
        None => entries.push(own),
    }
}

/// What a writer changed, without what it cannot change and without the managed fields themselves.
pub(crate) fn changes(old: &Value, new: &Value, o: &Options<'_>) -> Comparison {
    let mut out = typed::compare(old, new, o.view.root());
    out.exclude(o.reset);
    out.exclude(&MANAGED);
    out
}

/// Takes the fields out that are never owned.
pub(crate) fn strip(fields: &mut FieldSet) {
    fields.subtract(&STRIPPED);
}

pub(crate) fn managed_of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

pub(crate) fn take_managed(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

fn set_managed(object: &mut Value, managed: Value) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("managedFields".to_owned(), managed);
    }
}

/// Puts the entries into the object; none leave it without the field.
pub(crate) fn put_managed(object: &mut Value, entries: Vec<Entry>) {
    if entries.is_empty() {
        take_managed(object);
        return;
    }
    set_managed(object, managers::encode(entries));
}
