//! Differences of many answers, gathered by what they are about.
//!
//! Invariant: a group is bounded to one example, the shortest.

use crate::compare::http::Ask;
use crate::compare::{Finding, diff};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Fields whose values come from a server's own choice, in objects that are only tried.
const CHOSEN: [&str; 6] = [
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "healthCheckNodePort",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
];
/// The managers that the requests name.
const MANAGERS: [&str; 4] = ["unknown", "fuzz", "other", "a b"];
/// Names that are made up are not compared.
const GENERATE: &[u8] = b"generateName";
/// Kinds that are named for a group.
const KINDS_SHOWN: usize = 6;
/// Members of a path that a group goes by, from its end.
const STEPS: usize = 3;
/// Characters of an example that are shown.
const EXAMPLE_MAX: usize = 4000;
/// Characters of a message that a group goes by.
const GIST_MAX: usize = 70;
/// Characters of a difference that are shown.
const SHOWN_MAX: usize = 600;

#[derive(Default)]
pub struct Groups {
    found: BTreeMap<String, Group>,
}

struct Group {
    count: usize,
    resources: BTreeSet<String>,
    place: String,
    text: String,
    example: String,
}

impl Groups {
    /// Compares two answers as [`crate::compare::requests::told`] tells them.
    pub fn compare(
        &mut self,
        ask: &Ask,
        resource: &str,
        real: &Value,
        ours: &Value,
        accepted: &mut dyn FnMut(&str) -> bool,
    ) {
        let (real, ours) = (settled(ask, real), settled(ask, ours));
        let path = ask.path.split('?').next().unwrap_or(&ask.path);
        let place = format!("fuzz | {} {path}", ask.method);
        let mut findings = Vec::new();
        if real["code"] == ours["code"] {
            diff::documents(&place, &real, &ours, &mut findings);
        } else {
            let text = format!("{} {} != {} {}", real["code"], said(&real), ours["code"], said(&ours));
            let codes = format!("{place}: code {} != {}", real["code"], ours["code"]);
            findings.push(Finding { place: codes, text });
        }
        for finding in findings.into_iter().filter(|f| !accepted(&f.place)) {
            let at = finding.place.split_once(": ").map_or("", |(_, p)| p);
            let key = match real["code"] == ours["code"] {
                // a warning is known by its words alone
                true if at.starts_with("warnings") => cut(&shape(&finding.text.replace('"', " ")), GIST_MAX),
                true if at == "body.message" => format!("message {} != {}", gist(&real), gist(&ours)),
                true => format!("{} {}", tail(at), shape(&finding.text)),
                false => format!("code {} != {}", gist(&real), gist(&ours)),
            };
            self.add(ask, resource, finding, key);
        }
    }

    fn add(&mut self, ask: &Ask, resource: &str, finding: Finding, key: String) {
        let example = example(ask);
        let group = self.found.entry(key).or_insert_with(|| Group {
            count: 0,
            resources: BTreeSet::new(),
            place: finding.place.clone(),
            text: finding.text.clone(),
            example: example.clone(),
        });
        group.count += 1;
        group.resources.insert(resource.to_owned());
        if example.len() < group.example.len() {
            (group.place, group.text, group.example) = (finding.place, finding.text, example);
        }
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Prints the groups, the most frequent first.
    pub fn print(&self) {
        let mut all: Vec<&Group> = self.found.values().collect();
        all.sort_by_key(|g| std::cmp::Reverse(g.count));
        for group in all {
            let mut kinds: Vec<&str> = group.resources.iter().map(String::as_str).collect();
            let more = kinds.len().saturating_sub(KINDS_SHOWN);
            kinds.truncate(KINDS_SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            println!("\n# {} times, {}{more}", group.count, kinds.join(" "));
            println!("# {}", cut(&format!("{}: {}", group.place, group.text).replace('\n', " "), SHOWN_MAX));
            println!("  - {}", group.example);
        }
    }
}

/// The answer without what differs by itself: what others wrote to objects, lists of what each server has.
fn settled(ask: &Ask, told: &Value) -> Value {
    let mut out = told.clone();
    let body = &mut out["body"];
    if ask.method == "GET" && body["kind"] != "Status" {
        *body = json!({"kind": body["kind"], "columns": body["columnDefinitions"]});
    }
    let path = ask.path.split('?').next().unwrap_or("");
    let is_there = ask.method != "POST" && body["kind"] != "Status";
    let fields = body.as_object_mut();
    if let Some(fields) = fields.filter(|_| is_there && !path.ends_with("/status")) {
        fields.remove("status");
    }
    if ask.method == "DELETE" && body["kind"] != "Status" {
        *body = json!({"kind": body["kind"]});
    }
    if ask.body.windows(GENERATE.len()).any(|w| w == GENERATE) {
        for at in ["/metadata/name", "/details/name", "/message"] {
            body.pointer_mut(at).into_iter().for_each(|v| *v = "*".into());
        }
    }
    if let Some(entries) = body.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        entries.retain(|e| e["manager"].as_str().is_some_and(|m| MANAGERS.contains(&m)));
    }
    // the rows of a table tell of all managers
    for row in body.pointer_mut("/rows").and_then(Value::as_array_mut).into_iter().flatten() {
        let metadata = row.pointer_mut("/object/metadata").and_then(Value::as_object_mut);
        metadata.map(|m| m.remove("managedFields"));
    }
    hide(body);
    out
}

fn hide(v: &mut Value) {
    match v {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if CHOSEN.contains(&key.as_str()) && *value != "None" {
                    *value = "*".into();
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(hide),
        _ => {}
    }
}

fn said(told: &Value) -> String {
    if told["error"].is_string() {
        return told["error"].to_string();
    }
    let causes = &told["body"]["details"]["causes"];
    let causes = if causes.is_null() { String::new() } else { causes.to_string() };
    format!("{}{causes}", told["body"]["message"])
}

/// What an answer with another code than the other's says, as a group goes by it.
fn gist(told: &Value) -> String {
    let message = told["error"].as_str().or(told["body"]["message"].as_str()).unwrap_or("");
    let causes = told["body"]["details"]["causes"].as_object();
    let cause = causes.and_then(|c| c.keys().next()).map_or(String::new(), |c| tail(&format!("causes.{c}")));
    format!("{} {} {cause}", told["code"], cut(&shape(message), GIST_MAX))
}

/// The end of a place, without positions in lists; of a cause its field and message are one member.
fn tail(place: &str) -> String {
    let place = shape(place);
    if let Some((_, cause)) = place.split_once("causes.") {
        let (field, message) = cause.split_once(": ").unwrap_or((cause, ""));
        return format!("cause {}: {message}", last_steps(field));
    }
    last_steps(&place)
}

fn last_steps(path: &str) -> String {
    let steps: Vec<&str> = path.split('.').collect();
    steps[steps.len().saturating_sub(STEPS)..].join(".")
}

/// A text without its quoted parts, numbers and positions.
fn shape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut escaped = false;
                for c in chars.by_ref() {
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                out.push('"');
            }
            '[' => {
                out.extend(['[', ']']);
                chars.by_ref().find(|c| *c == ']');
            }
            c if c.is_ascii_digit() => {
                if !out.ends_with('0') {
                    out.push('0');
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// The request as a step of a case.
fn example(ask: &Ask) -> String {
    let text = String::from_utf8_lossy(&ask.body);
    let mut step = json!({"r": format!("{} {}", ask.method, ask.path)});
    if let Ok(tree) = serde_json::from_str::<Value>(&text)
        && tree.to_string() == text
    {
        step["b"] = tree;
    } else if !text.is_empty() {
        step["raw"] = text.into_owned().into();
    }
    if !ask.headers.is_empty() {
        step["h"] = ask.headers.iter().map(|(n, v)| (n.clone(), Value::from(v.as_str()))).collect();
    }
    cut(&step.to_string(), EXAMPLE_MAX)
}

fn cut(text: &str, max: usize) -> String {
    let end = text.floor_char_boundary(max);
    if end < text.len() { format!("{}… (cut)", &text[..end]) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_differences_are_one_group() {
        let ask = |name: &str| Ask { method: "POST".into(), ..Ask::get(&format!("/api/v1/{name}")) };
        let answer = |cause: &str| {
            let causes = json!({ format!("{cause}: Invalid value: \"q\": nope"): "FieldValueInvalid" });
            json!({"code": 422, "body": {"kind": "Status", "details": {"causes": causes}}})
        };
        let mut groups = Groups::default();
        let none = json!({"code": 422, "body": {"kind": "Status", "details": {"causes": {}}}});
        groups.compare(&ask("pods"), "pods", &answer("spec.a[0].name"), &none, &mut |_| false);
        groups.compare(&ask("jobs"), "jobs", &answer("spec.t.spec.a[12].name"), &none, &mut |_| false);
        assert_eq!(groups.len(), 1);
        groups.compare(&ask("toys"), "toys", &answer("spec.q.t.spec.a[7].name"), &none, &mut |_| false);
        assert_eq!(groups.len(), 1);
        groups.compare(&ask("toys"), "toys", &answer("x"), &none, &mut |place| {
            place.starts_with("fuzz | POST")
        });
        assert_eq!(groups.len(), 1);
    }

    #[test]
    fn other_codes_are_one_difference() {
        let real = json!({"code": 422, "body": {"kind": "Status", "message": "no"}});
        let ours = json!({"code": 201, "body": {"kind": "Pod", "spec": {}}});
        let mut groups = Groups::default();
        groups.compare(&Ask::get("/api/v1/pods/x"), "pods", &real, &ours, &mut |_| false);
        assert_eq!(groups.len(), 1);
    }

    #[test]
    fn examples_are_steps() {
        let ask = Ask { body: r#"{"a":1}"#.into(), method: "POST".into(), ..Ask::get("/x") };
        assert_eq!(example(&ask), r#"{"b":{"a":1},"r":"POST /x"}"#);
        let raw = Ask { body: r#"{"a":1,"a":1}"#.into(), ..Ask::get("/x") };
        assert!(example(&raw).contains("raw"));
    }
}
