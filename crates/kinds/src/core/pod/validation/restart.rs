//! When a container is started again (upstream: `validateContainerRestartPolicy`).

use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const ACTIONS: &[&str] = &["Restart", "RestartAllContainers"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const RULES_MAX: usize = 20;
const VALUES_MAX: usize = 255;

/// Errors of a container's policy and rules.
pub fn errors(c: &Value, at: &Path, errors: &mut ErrorList) {
    let rules = items(c, "restartPolicyRules");
    match c["restartPolicy"].as_str() {
        None if rules.is_empty() => return,
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(Error::required(&at.child("restartPolicy"), detail));
            // upstream looks no further at an init container
            if at.as_str().contains("initContainers[") {
                return;
            }
        }
        Some(policy) if !POLICIES.contains(&policy) => {
            errors.push(Error::not_supported(&at.child("restartPolicy"), policy, POLICIES));
        }
        Some(_) => {}
    }
    let path = at.child("restartPolicyRules");
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let (at, action) = (path.index(i), text(rule, "action"));
        if !ACTIONS.contains(&action) {
            errors.push(Error::not_supported(&at.child("action"), action, ACTIONS));
        }
        let (codes, at) = (&rule["exitCodes"], at.child("exitCodes"));
        if codes.is_null() {
            errors.push(Error::required(&at, "must be specified"));
            continue;
        }
        let operator = text(codes, "operator");
        if !OPERATORS.contains(&operator) {
            errors.push(Error::not_supported(&at.child("operator"), operator, OPERATORS));
        }
        let values = items(codes, "values").len();
        if values > VALUES_MAX {
            errors.push(Error::too_many(&at.child("values"), values, VALUES_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestValidateContainerRestartPolicy`.
    #[test]
    fn policies_and_rules() {
        let found = |c: Value| {
            let mut all = Vec::new();
            errors(&c, &Path::new("c"), &mut all);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
        assert!(found(json!({"restartPolicy": "Never", "restartPolicyRules": [rule]})).is_empty());
        assert_eq!(
            found(json!({"restartPolicyRules": [{"action": "Nope"}]})),
            [
                "c.restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                "c.restartPolicyRules[0].action: Unsupported value: \"Nope\": supported values: \"Restart\", \"RestartAllContainers\"",
                "c.restartPolicyRules[0].exitCodes: Required value: must be specified",
            ]
        );
    }
}
