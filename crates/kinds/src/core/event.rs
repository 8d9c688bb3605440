//! Event, in the core group's shape, which is also how events are stored.

use crate::columns::{NAME, age, column, wide};
use crate::def::{KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::text;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        kind: "Event".into(),
        plural: "events".into(),
        singular: "event".into(),
        short: &["ev"],
        schema: "io.k8s.api.core.v1.Event".into(),
        storage: "events".into(),
        columns: COLUMNS,
        selectable: FIELDS,
        strategy: StrategyRef::Static(&Event),
        sample: include_str!("samples/event.yaml"),
        ..KindDef::BASE
    }
}

/// Fields by which events are selected (upstream: `pkg/registry/core/event/strategy.go#ToSelectableFields`).
pub const FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// Names of members: in the words of the group `events.k8s.io`, and of the stored shape.
pub const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Read events of both groups.
const COLUMNS: &[crate::def::Column] = &[
    column("Last Seen", "string", |o, now| age(&last_seen(o), now).into()),
    column("Type", "string", |o, _| text(o, "type").into()),
    column("Reason", "string", |o, _| text(o, "reason").into()),
    column("Object", "string", |o, _| involved(o).into()),
    wide("Subobject", "string", |o, _| text(member(o, "involvedObject"), "fieldPath").into()),
    wide("Source", "string", |o, _| source(o).into()),
    column("Message", "string", |o, _| member_text(o, "message").trim().into()),
    wide("First Seen", "string", |o, now| age(&first_seen(o), now).into()),
    wide("Count", "string", |o, _| count(o).into()),
    crate::def::Column { priority: 1, ..NAME },
];

/// A member by its stored name, in the words of either group.
fn member<'a>(o: &'a Value, name: &str) -> &'a Value {
    let newer = || NAMES.iter().find(|(_, stored)| *stored == name).and_then(|(newer, _)| o.get(newer));
    o.get(name).or_else(newer).unwrap_or(&Value::Null)
}

fn member_text<'a>(o: &'a Value, name: &str) -> &'a str {
    member(o, name).as_str().unwrap_or("")
}

fn first_seen(o: &Value) -> String {
    let first = member_text(o, "firstTimestamp");
    if first.is_empty() { text(o, "eventTime") } else { first }.to_owned()
}

fn last_seen(o: &Value) -> String {
    if o["series"].is_object() {
        return text(&o["series"], "lastObservedTime").to_owned();
    }
    let last = member_text(o, "lastTimestamp");
    if last.is_empty() { first_seen(o) } else { last.to_owned() }
}

/// A series has its own count; what is there without any happened once.
fn count(o: &Value) -> i64 {
    let of = |v: &Value| v.as_i64().unwrap_or(0);
    match (o["series"].is_object(), of(member(o, "count"))) {
        (true, _) => of(&o["series"]["count"]),
        (false, 0) => 1,
        (false, count) => count,
    }
}

fn involved(o: &Value) -> String {
    let of = member(o, "involvedObject");
    let kind = text(of, "kind").to_lowercase();
    let name = text(of, "name");
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

fn source(o: &Value) -> String {
    let source = member(o, "source");
    let component = Some(text(source, "component")).filter(|c| !c.is_empty());
    let component = component.unwrap_or_else(|| member_text(o, "reportingComponent"));
    let host = Some(text(source, "host")).filter(|h| !h.is_empty());
    let host = host.unwrap_or_else(|| text(o, "reportingInstance"));
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

/// The behaviour of events in both groups.
pub struct Event;

impl Strategy for Event {
    fn checks_metadata(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn has_dependents(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        errors(obj, "reportingComponent")
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        fields(obj)
    }
}

/// What is wrong with an event in the core shape; `reporting` is how errors name the controller that reports
/// (upstream: `legacyValidateEvent`).
pub fn errors(obj: &Value, reporting: &str) -> ErrorList {
    let mut errors = Vec::new();
    let (namespace, own) = (text(&obj["involvedObject"], "namespace"), object::namespace(obj));
    // Events about cluster-scoped objects live in `default`. One with a time of its own may be anywhere.
    let fits = match (obj["eventTime"].is_null(), namespace.is_empty()) {
        (true, true) => matches!(own, "" | "default"),
        (true, false) => namespace == own,
        (false, true) => matches!(own, "default" | "kube-system"),
        (false, false) => true,
    };
    if !fits {
        let at = Path::new("involvedObject").child("namespace");
        errors.push(Error::invalid(&at, namespace, "does not match event.namespace"));
    }
    if obj["eventTime"].is_null() {
        return errors;
    }
    let texts = [
        ("reportingComponent", reporting, None),
        ("reportingInstance", "reportingInstance", Some(128)),
        ("action", "action", Some(128)),
        ("reason", "reason", Some(128)),
        ("message", "message", Some(1024)),
    ];
    for (field, called, max) in texts {
        let (value, at) = (text(obj, field), Path::new(called));
        if value.is_empty() && field != "message" {
            errors.push(Error::required(&at, ""));
        }
        match max {
            Some(max) if value.len() > max => {
                errors.push(Error::invalid(&at, "", format!("can have at most {max} characters")));
            }
            Some(_) => {}
            None => errors.extend(
                helpers::qualified_name_errors(value).into_iter().map(|m| Error::invalid(&at, value, m)),
            ),
        }
    }
    errors
}

/// The selectable values of an event in the core shape.
pub fn fields(obj: &Value) -> Vec<(&'static str, String)> {
    let of = &obj["involvedObject"];
    let reporting = Some(text(obj, "reportingComponent")).filter(|c| !c.is_empty());
    let component = Some(text(&obj["source"], "component")).filter(|c| !c.is_empty());
    let value = |f: &str| match f {
        "source" => component.or(reporting).unwrap_or("").to_owned(),
        "reportingComponent" => reporting.unwrap_or("").to_owned(),
        _ => match f.strip_prefix("involvedObject.") {
            Some(field) => text(of, field).to_owned(),
            None => text(obj, f).to_owned(),
        },
    };
    FIELDS.iter().map(|f| (*f, value(f))).collect()
}
