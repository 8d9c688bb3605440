//! Patches that do what a mutated object does.

use super::dice::Dice;
use super::mutate::{Mutated, write};
use serde_json::{Map, Value, json};

pub struct Patch {
    pub content_type: &'static str,
    pub body: String,
    pub is_apply: bool,
}

pub fn patch(changed: &[Mutated], dice: &Dice) -> Option<Patch> {
    let last = changed.last()?;
    let (content_type, body) = match dice.below(10) {
        0 | 1 => ("application/json-patch+json", json_patch(changed, dice).to_string()),
        2 | 3 => ("application/merge-patch+json", fragment(last, changed).to_string()),
        4 | 5 => {
            let mut part = fragment(last, changed);
            if dice.one_in(4) {
                direct(&mut part, dice);
            }
            ("application/strategic-merge-patch+json", part.to_string())
        }
        _ => {
            let mut whole = last.value.clone();
            if let Some(fields) = whole.as_object_mut().filter(|_| !dice.one_in(8)) {
                fields.remove("status");
            }
            ("application/apply-patch+yaml", write(&whole, last.twice.as_deref()))
        }
    };
    Some(Patch { content_type, body, is_apply: content_type.contains("apply") })
}

/// What changed, and the way to it; lists as a whole.
fn fragment(last: &Mutated, changed: &[Mutated]) -> Value {
    let mut out = json!({});
    for one in changed {
        let mut from = &last.value;
        let mut to = &mut out;
        let mut names = one.at.split('/').skip(1).peekable();
        while let Some(name) = names.next() {
            let name = name.replace("~1", "/").replace("~0", "~");
            let Some(fields) = to.as_object_mut() else { break };
            let next = from.get(&name).unwrap_or(&Value::Null);
            let empty = if next.is_object() && names.peek().is_some() { json!({}) } else { next.clone() };
            to = fields.entry(name).or_insert(empty);
            from = next;
        }
    }
    out
}

/// A directive of strategic merges, rightly or wrongly used.
fn direct(part: &mut Value, dice: &Dice) {
    let directives = [
        ("$patch", json!("replace")),
        ("$patch", json!("delete")),
        ("$patch", json!("nope")),
        ("$patch", json!(5)),
        ("$retainKeys", json!(["a"])),
        ("$retainKeys", json!("a")),
        ("$setElementOrder/containers", json!([{"name": "x"}])),
        ("$setElementOrder/containers", json!(["x"])),
        ("$deleteFromPrimitiveList/finalizers", json!(["example.com/x"])),
        ("$deleteFromPrimitiveList/finalizers", json!("x")),
        ("$nope", json!(true)),
    ];
    let mut inner = part;
    while dice.one_in(2) && inner.as_object().is_some_and(|f| f.values().any(Value::is_object)) {
        let Some(next) = inner.as_object_mut().and_then(|f| f.values_mut().find(|v| v.is_object())) else {
            return;
        };
        inner = next;
    }
    if let (Some(fields), Some((name, value))) = (inner.as_object_mut(), dice.pick_of(&directives)) {
        fields.insert((*name).into(), value.clone());
    }
}

fn json_patch(changed: &[Mutated], dice: &Dice) -> Value {
    let mut operations = Vec::new();
    for one in changed {
        let op = match one.value.pointer(&one.at) {
            Some(value) => {
                json!({"op": dice.pick(&["add", "replace", "add", "test"]), "path": one.at, "value": value})
            }
            None => json!({"op": "remove", "path": one.at}),
        };
        operations.push(op);
    }
    if dice.one_in(2) {
        let odd = [
            json!({"op": "nope", "path": "/metadata"}),
            json!({"op": "ADD", "path": "/metadata/labels", "value": {}}),
            json!({"path": "/metadata/labels", "value": {}}),
            json!({"op": "add", "value": 5}),
            json!({"op": "add", "path": "/metadata/labels"}),
            json!({"op": "add", "path": "metadata/labels", "value": {}}),
            json!({"op": "remove", "path": "/spec/nope"}),
            json!({"op": "replace", "path": "/spec/nope/deep", "value": 1}),
            json!({"op": "move", "from": "/metadata/labels", "path": "/metadata/annotations"}),
            json!({"op": "copy", "from": "/nope", "path": "/metadata/annotations"}),
            json!({"op": "move", "path": "/metadata/annotations"}),
            json!({"op": "test", "path": "/metadata/name", "value": "other"}),
            json!({"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/y"}),
            json!({"op": "add", "path": "/metadata/finalizers/9", "value": "example.com/y"}),
            json!({"op": "remove", "path": ""}),
            json!({"op": "replace", "path": "", "value": {}}),
            json!({"op": "add", "path": "/metadata/labels/a~1b", "value": "c"}),
            json!({"op": "add", "path": "/metadata/labels/a~2b", "value": "c"}),
            json!({"op": 5, "path": "/metadata"}),
            json!("x"),
            Value::Null,
        ];
        operations.extend(dice.pick_of(&odd).cloned());
    }
    if dice.one_in(30) {
        return Value::Object(Map::new());
    }
    operations.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutated(at: &str, value: Value) -> Mutated {
        Mutated { value, at: at.to_owned(), twice: None }
    }

    #[test]
    fn a_fragment_has_what_changed() {
        let value = json!({"metadata": {"name": "x"}, "spec": {"a": 1, "list": [{"b": 2}, {"b": 3}]}});
        let one = mutated("/spec/list/1/b", value.clone());
        assert_eq!(
            fragment(&one, std::slice::from_ref(&one)),
            json!({"spec": {"list": [{"b": 2}, {"b": 3}]}})
        );
        let gone = mutated("/spec/gone", value);
        assert_eq!(fragment(&gone, std::slice::from_ref(&gone)), json!({"spec": {"gone": null}}));
    }

    #[test]
    fn patches_are_of_all_kinds() {
        let one = mutated("/spec/a", json!({"metadata": {"name": "x"}, "spec": {"a": 1}}));
        let all = (0..100).filter_map(|seed| patch(std::slice::from_ref(&one), &Dice::seeded(seed)));
        let types: std::collections::BTreeSet<_> = all.map(|p| p.content_type).collect();
        assert_eq!(types.len(), 4);
    }
}
