//! Event of the group `events.k8s.io`: the same objects as the core group's, in newer words
//! (upstream: `pkg/apis/events/v1/conversion.go`).

use crate::core::event::{self, NAMES};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::validate::text;
use meta::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};

pub fn kind() -> KindDef {
    KindDef {
        group: "events.k8s.io".into(),
        schema: "io.k8s.api.events.v1.Event".into(),
        strategy: StrategyRef::Static(&Event),
        stored_as: Some(("".into(), "v1".into())),
        selectable: &[
            "reason",
            "reportingController",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "type",
        ],
        sample: "apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: web.2, namespace: default}\nregarding: {kind: Pod, namespace: default, name: web}\nreason: Scheduled\naction: Binding\ntype: Normal\neventTime: \"2026-01-02T03:04:05.000000Z\"\nreportingController: default-scheduler\nreportingInstance: n1\nnote: assigned\n",
        ..event::kind()
    }
}

/// How errors name the controller that reports.
const REPORTING: &str = "reportingController";
/// What an update cannot change, and how errors name it (upstream: `ValidateEventUpdate`).
const FIXED: [(&str, &str); 13] = [
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", REPORTING),
    ("reportingInstance", "reportingInstance"),
];

struct Event;

impl Strategy for Event {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn has_dependents(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut stored = obj.clone();
        self.to_storage(&mut stored);
        let mut errors = event::errors(&stored, REPORTING);
        series(&stored, &mut errors);
        strict(&stored, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let [new, old] = [new, old].map(|o| {
            let mut o = o.clone();
            self.to_storage(&mut o);
            o
        });
        let mut errors = event::errors(&new, REPORTING);
        if new["series"] != old["series"] {
            series(&new, &mut errors);
        }
        for (field, called) in FIXED {
            // Texts and objects are always there in Go, but for the one that is a pointer.
            let none = |v: &Value| v == "" || field != "related" && v.as_object().is_some_and(Map::is_empty);
            let empty = |v: &Value| v.is_null() || none(v);
            if new[field] == old[field] || empty(&new[field]) && empty(&old[field]) {
                continue;
            }
            let shown = match field {
                "count" => new[field].as_i64().unwrap_or(0).into(),
                _ if old[field].is_string() && !field.contains("ime") => text(&new, field).into(),
                _ => new[field].clone(),
            };
            errors.push(Error::invalid(&Path::new(called), shown, "field is immutable"));
        }
        errors
    }

    fn decode_stored(&self, obj: &mut Value) {
        rename(obj, |(new, stored)| (stored, new));
        // which the core's form always has
        for field in ["reportingController", "reportingInstance"] {
            if obj[field] == "" {
                obj.as_object_mut().map(|map| map.remove(field));
            }
        }
    }

    fn to_storage(&self, obj: &mut Value) {
        rename(obj, |names| names);
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let mut stored = obj.clone();
        self.to_storage(&mut stored);
        let named = |f: &'static str| match f {
            "involvedObject.kind" => "regarding.kind",
            "involvedObject.namespace" => "regarding.namespace",
            "involvedObject.name" => "regarding.name",
            "involvedObject.uid" => "regarding.uid",
            "involvedObject.apiVersion" => "regarding.apiVersion",
            "involvedObject.resourceVersion" => "regarding.resourceVersion",
            "involvedObject.fieldPath" => "regarding.fieldPath",
            "reportingComponent" => "reportingController",
            other => other,
        };
        event::fields(&stored).into_iter().map(|(f, v)| (named(f), v)).collect()
    }
}

/// Upstream: `validateV1EventSeries`.
fn series(stored: &Value, errors: &mut ErrorList) {
    let (series, at) = (&stored["series"], Path::new("series"));
    if series.is_null() {
        return;
    }
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.push(Error::invalid(&at.child("count"), "", "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        errors.push(Error::required(&at.child("lastObservedTime"), ""));
    }
}

/// What is new in this group (upstream: `ValidateEventCreate`).
fn strict(stored: &Value, errors: &mut ErrorList) {
    if stored["eventTime"].is_null() {
        errors.push(Error::required(&Path::new("eventTime"), ""));
    }
    let kind = text(stored, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let source = &stored["source"];
    let old = [
        ("firstTimestamp", !stored["firstTimestamp"].is_null()),
        ("lastTimestamp", !stored["lastTimestamp"].is_null()),
        ("count", stored["count"].as_i64().unwrap_or(0) != 0),
        ("source", ["component", "host"].iter().any(|f| !text(source, f).is_empty())),
    ];
    for (field, _) in old.iter().filter(|(_, is_set)| *is_set) {
        errors.push(Error::invalid(&Path::new(field), "", "needs to be unset"));
    }
}

fn rename(obj: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(map) = obj.as_object_mut() else { return };
    for (from, to) in NAMES.iter().map(|n| direction(*n)) {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conversion_goes_both_ways() {
        let new = json!({"regarding": {"name": "web"}, "note": "n", "eventTime": "t", "deprecatedCount": 3});
        let mut obj = new.clone();
        Event.to_storage(&mut obj);
        assert_eq!(
            obj,
            json!({"involvedObject": {"name": "web"}, "message": "n", "eventTime": "t", "count": 3})
        );
        Event.decode_stored(&mut obj);
        assert_eq!(obj, new);
    }
}
