//! Bringing stored bootstrap objects up to what this version wants, without undoing what people added
//! (upstream: component-helpers `auth/rbac/reconciliation`).

use crate::rbac::{Rule, uncovered};
use serde_json::{Value, json};

/// Set to `false` on an object, it keeps start-up from touching it.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What to do about one stored object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It has all that is wanted.
    None,
    /// It lacks something, but its owner opted out.
    Protected,
    /// Write this in its place.
    Update(Value),
    /// Its role differs, which no update can change: delete it and create this.
    Recreate(Value),
}

/// Compares a stored role or binding with the wanted one.
pub fn reconcile(existing: &Value, wanted: &Value) -> Action {
    let action =
        if wanted.get("roleRef").is_some() { binding(existing, wanted) } else { role(existing, wanted) };
    let protected = existing["metadata"]["annotations"][AUTOUPDATE] == "false";
    if protected && action != Action::None { Action::Protected } else { action }
}

/// Labels and annotations of both; the stored object's win.
fn with_metadata(existing: &Value, wanted: &Value) -> Value {
    let mut new = existing.clone();
    for map in ["labels", "annotations"] {
        for (k, v) in wanted["metadata"][map].as_object().into_iter().flatten() {
            if new["metadata"][map].get(k).is_none() {
                new["metadata"][map][k] = v.clone();
            }
        }
    }
    new
}

fn update(existing: &Value, new: Value) -> Action {
    if new == *existing { Action::None } else { Action::Update(new) }
}

fn role(existing: &Value, wanted: &Value) -> Action {
    let mut new = with_metadata(existing, wanted);
    let missing = uncovered(&Rule::of_role(existing), &Rule::of_role(wanted));
    if !missing.is_empty() {
        append(&mut new["rules"], missing.iter().map(Rule::to_value));
    }
    let selectors =
        |v: &Value| v["aggregationRule"]["clusterRoleSelectors"].as_array().cloned().unwrap_or_default();
    let have = selectors(existing);
    let lacking: Vec<Value> = selectors(wanted).into_iter().filter(|s| !have.contains(s)).collect();
    if wanted["aggregationRule"].is_null() {
        if let Some(m) = new.as_object_mut() {
            m.remove("aggregationRule");
        }
    } else if !lacking.is_empty() {
        if new["aggregationRule"].is_null() {
            new["aggregationRule"] = json!({});
        }
        append(&mut new["aggregationRule"]["clusterRoleSelectors"], lacking.into_iter());
    }
    update(existing, new)
}

fn binding(existing: &Value, wanted: &Value) -> Action {
    if existing["roleRef"] != wanted["roleRef"] {
        return Action::Recreate(wanted.clone());
    }
    let mut new = with_metadata(existing, wanted);
    let list = |v: &Value| v["subjects"].as_array().cloned().unwrap_or_default();
    let have = list(existing);
    let missing: Vec<Value> = list(wanted).into_iter().filter(|s| !have.contains(s)).collect();
    if !missing.is_empty() {
        append(&mut new["subjects"], missing.into_iter());
    }
    update(existing, new)
}

fn append(list: &mut Value, more: impl Iterator<Item = Value>) {
    let mut all = list.as_array().cloned().unwrap_or_default();
    all.extend(more);
    *list = all.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Value {
        json!({"metadata": {"name": "r", "labels": {"a": "1"}, "annotations": {AUTOUPDATE: "true"}},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]})
    }

    #[test]
    fn roles_gain_what_they_lack_and_keep_what_was_added() {
        assert_eq!(reconcile(&wanted(), &wanted()), Action::None);
        let mut mine = wanted();
        mine["rules"] = json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]}]);
        mine["metadata"]["labels"] = json!({"a": "2", "b": "3"});
        let Action::Update(new) = reconcile(&mine, &wanted()) else { panic!("nothing to do") };
        assert_eq!(new["metadata"]["labels"], json!({"a": "2", "b": "3"}));
        assert_eq!(
            new["rules"],
            json!([mine["rules"][0], {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}])
        );
        mine["rules"] = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        assert_eq!(reconcile(&mine, &wanted()), Action::None, "a wider rule covers the wanted one");
        mine["rules"] = Value::Null;
        mine["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(&mine, &wanted()), Action::Protected);
    }

    #[test]
    fn aggregation_comes_and_goes() {
        let mut aggregating = wanted();
        aggregating["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]});
        let Action::Update(new) = reconcile(&wanted(), &aggregating) else { panic!("nothing to do") };
        assert_eq!(new["aggregationRule"], aggregating["aggregationRule"]);
        assert_eq!(reconcile(&aggregating, &wanted()), Action::Update(wanted()));
    }

    #[test]
    fn bindings_gain_subjects_and_are_made_anew_for_another_role() {
        let subject = |n: &str| json!({"kind": "User", "name": n});
        let b = |role: &str, subjects: Value| json!({"metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": subjects});
        let want = b("r", json!([subject("a"), subject("b")]));
        let Action::Update(new) = reconcile(&b("r", json!([subject("x"), subject("b")])), &want) else {
            panic!("nothing to do")
        };
        assert_eq!(new["subjects"], json!([subject("x"), subject("b"), subject("a")]));
        assert_eq!(reconcile(&b("other", json!([])), &want), Action::Recreate(want.clone()));
        assert_eq!(
            reconcile(&b("r", json!([subject("b"), subject("a"), subject("c")])), &want),
            Action::None
        );
    }
}
