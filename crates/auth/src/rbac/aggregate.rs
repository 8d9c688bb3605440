//! The rules of ClusterRoles that collect those of others
//! (upstream: `pkg/controller/clusterroleaggregation`).

use meta::object;
use meta::selector::LabelSelector;
use serde_json::Value;

/// The rules that an aggregating ClusterRole should have: those of the roles that its selectors select, by name, each
/// rule once. `None` when the role does not aggregate.
///
/// # Errors
/// The text of a selector that cannot be read; the role then stays as it is.
pub fn aggregated(role: &Value, all: &[&Value]) -> Result<Option<Vec<Value>>, String> {
    if role["aggregationRule"].is_null() {
        return Ok(None);
    }
    let mut sorted: Vec<&Value> =
        all.iter().copied().filter(|r| object::name(r) != object::name(role)).collect();
    sorted.sort_by_key(|r| object::name(r));
    let mut out: Vec<Value> = Vec::new();
    for selector in role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
        let selector = LabelSelector::from_value(selector)?;
        for r in sorted.iter().filter(|r| selector.matches_object(r)) {
            for rule in r["rules"].as_array().into_iter().flatten() {
                if !out.contains(rule) {
                    out.push(rule.clone());
                }
            }
        }
    }
    Ok(Some(out))
}

/// The ClusterRoles whose rules must change, with their new rules, until nothing more would: roles may aggregate
/// aggregating roles (`admin` ⊃ `edit` ⊃ `view`). Bounded by the number of roles.
pub fn aggregate_all(mut roles: Vec<Value>) -> Vec<Value> {
    let mut changed = vec![false; roles.len()];
    for _ in 0..roles.len() {
        let mut steady = true;
        for i in 0..roles.len() {
            let all: Vec<&Value> = roles.iter().collect();
            let Ok(Some(rules)) = aggregated(&roles[i], &all) else { continue };
            if roles[i]["rules"].as_array().map_or(&[][..], Vec::as_slice) != rules.as_slice() {
                roles[i]["rules"] = rules.into();
                (changed[i], steady) = (true, false);
            }
        }
        if steady {
            break;
        }
    }
    roles.into_iter().zip(changed).filter(|(_, c)| *c).map(|(r, _)| r).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn part(name: &str, to: &str, rules: Value) -> Value {
        json!({"metadata": {"name": name, "labels": {"to": to}}, "rules": rules})
    }

    fn whole(name: &str, from: &str, to: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"to": to}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": from}}]}, "rules": null})
    }

    #[test]
    fn rules_are_collected_once_and_by_name() {
        let (a, b) = (
            part("a", "x", json!([{"verbs": ["1"]}])),
            part("b", "x", json!([{"verbs": ["0"]}, {"verbs": ["1"]}])),
        );
        let role = whole("role", "x", "x");
        let got = aggregated(&role, &[&b, &role, &a]).expect("good selectors");
        assert_eq!(got, Some(vec![json!({"verbs": ["1"]}), json!({"verbs": ["0"]})]));
        assert_eq!(aggregated(&a, &[&b]), Ok(None));
        let bad = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"-": "x"}}]}});
        assert!(aggregated(&bad, &[]).is_err());
    }

    #[test]
    fn chains_of_aggregation_settle() {
        let roles = vec![
            whole("admin", "admin", ""),
            whole("edit", "edit", "admin"),
            part("p", "edit", json!([{"verbs": ["get"]}])),
            whole("loop1", "l1", "l2"),
            whole("loop2", "l2", "l1"),
        ];
        let changed = aggregate_all(roles.clone());
        let names: Vec<&str> = changed.iter().map(object::name).collect();
        assert_eq!(names, ["admin", "edit"]);
        assert_eq!(changed[0]["rules"], json!([{"verbs": ["get"]}]));
        let mut settled = roles;
        settled[0] = changed[0].clone();
        settled[1] = changed[1].clone();
        assert!(aggregate_all(settled).is_empty());
    }
}
