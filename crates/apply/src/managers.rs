//! `metadata.managedFields`: one entry for each manager, operation and subresource.
//!
//! Entries are identified as upstream does: an applier by its name, an updater also by the version it used.

use crate::set::FieldSet;
use jiff::Timestamp;
use meta::field::quoted;
use serde_json::{Map, Value};

/// How a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// When the set last changed, whole seconds; absent in entries of those who changed nothing.
    pub time: Option<Timestamp>,
    pub fields: FieldSet,
}

impl Entry {
    /// Whether both are the entry of the same manager (upstream: apimachinery
    /// `managedfields/internal/managedfields.go#BuildManagerIdentifier`).
    pub fn is_same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// What orders managers in messages: upstream's identifier.
    pub(crate) fn identifier(&self) -> String {
        let mut parts = Vec::new();
        let version = if self.operation == Operation::Apply { "" } else { self.api_version.as_str() };
        for (name, text) in [
            ("manager", self.manager.as_str()),
            ("operation", self.operation.name()),
            ("apiVersion", version),
            ("subresource", &self.subresource),
        ] {
            if !text.is_empty() {
                parts.push(format!("\"{name}\":{}", Value::from(text)));
            }
        }
        format!("{{{}}}", parts.join(","))
    }

    fn seconds(&self) -> i64 {
        self.time.map_or(0, Timestamp::as_second)
    }
}

/// Reads `metadata.managedFields`; null is empty.
///
/// # Errors
/// An entry is not valid (upstream: apimachinery `managedfields/internal/managedfields.go#DecodeManagedFields`).
pub fn decode(managed: &Value) -> Result<Vec<Entry>, String> {
    let list = match managed {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err("managedFields must be a list".to_owned()),
    };
    let mut out: Vec<Entry> = Vec::with_capacity(list.len());
    for (at, json) in list.iter().enumerate() {
        let entry = decode_entry(json, at)?;
        match out.iter_mut().find(|e| e.is_same_manager(&entry)) {
            Some(earlier) => *earlier = entry,
            None => out.push(entry),
        }
    }
    Ok(out)
}

fn decode_entry(json: &Value, at: usize) -> Result<Entry, String> {
    let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    if text("apiVersion").is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
        other => {
            return Err(format!(
                "invalid fieldsType {other} in managed fields entry {at}",
                other = quoted(other)
            ));
        }
    }
    let fields = match json.get("fieldsV1") {
        None | Some(Value::Null) => FieldSet::default(),
        Some(fields) => FieldSet::from_json(fields)
            .map_err(|e| format!("error decoding versioned set from entry {at}: error decoding set: {e}"))?,
    };
    let time = match text("time") {
        "" => None,
        text => Some(meta::time::parse(text)?),
    };
    Ok(Entry {
        manager: text("manager").to_owned(),
        operation,
        api_version: text("apiVersion").to_owned(),
        subresource: text("subresource").to_owned(),
        time,
        fields,
    })
}

/// Writes the entries in upstream's order: appliers first, then by time, name, version and subresource.
pub fn encode(mut entries: Vec<Entry>) -> Value {
    entries.sort_by(|a, b| {
        a.operation
            .cmp(&b.operation)
            .then_with(|| a.seconds().cmp(&b.seconds()))
            .then_with(|| a.manager.cmp(&b.manager))
            .then_with(|| a.api_version.cmp(&b.api_version))
            .then_with(|| a.subresource.cmp(&b.subresource))
    });
    Value::Array(entries.into_iter().map(encode_entry).collect())
}

fn encode_entry(entry: Entry) -> Value {
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("apiVersion", Value::String(entry.api_version));
    set("fieldsType", Value::from("FieldsV1"));
    set("fieldsV1", entry.fields.to_json());
    if !entry.manager.is_empty() {
        set("manager", Value::String(entry.manager));
    }
    set("operation", Value::from(entry.operation.name()));
    if !entry.subresource.is_empty() {
        set("subresource", Value::String(entry.subresource));
    }
    if let Some(time) = entry.time {
        set("time", Value::String(meta::time::rfc3339(time)));
    }
    Value::Object(out)
}

/// How many update entries an object may have before the oldest are merged.
pub const MAX_UPDATE_MANAGERS: usize = 10;

const OLD_UPDATES: &str = "ancient-changes";

/// Merges the oldest update entries of each version into one until no more than [`MAX_UPDATE_MANAGERS`] are left
/// (upstream: apimachinery `managedfields/internal/capmanagers.go`).
pub(crate) fn cap(entries: &mut Vec<Entry>) {
    let mut updates: Vec<Entry> =
        entries.iter().filter(|e| e.operation == Operation::Update).cloned().collect();
    let mut left = updates.len();
    if left <= MAX_UPDATE_MANAGERS {
        return;
    }
    updates.sort_by_cached_key(|e| (e.seconds(), e.identifier()));
    let mut first_of: Vec<Entry> = Vec::new();
    for oldest in updates {
        if left <= MAX_UPDATE_MANAGERS {
            break;
        }
        let Some(first) = first_of.iter().find(|e| e.api_version == oldest.api_version) else {
            first_of.push(oldest);
            continue;
        };
        let bucket = |e: &Entry| {
            e.operation == Operation::Update
                && e.manager == OLD_UPDATES
                && e.subresource.is_empty()
                && e.api_version == oldest.api_version
        };
        if bucket(&oldest) {
            // already what others are merged into
            continue;
        }
        let at = match entries.iter().position(&bucket) {
            Some(at) => at,
            None => {
                let Some(at) = entries.iter().position(|e| e.is_same_manager(first)) else { continue };
                entries[at].manager = OLD_UPDATES.to_owned();
                entries[at].subresource = String::new();
                at
            }
        };
        entries[at].time = oldest.time;
        entries[at].fields.absorb(oldest.fields.clone());
        entries.retain(|e| !e.is_same_manager(&oldest));
        left -= 1;
    }
}
