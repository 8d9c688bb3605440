//! What a Job's spec says about failure and success of its pods (upstream: `validatePodFailurePolicy`,
//! `validateSuccessPolicy`).

use super::indexes;
use crate::helpers::qualified_name_errors;
use crate::rest::omitted;
use crate::validate::{items, non_negative, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
/// Longest list of indexes in a rule, in bytes.
const INDEXES_BYTES_MAX: usize = 64 * 1024;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// Go's `%q` of a list of strings.
fn quoted(list: &[&str]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn one_of_required(v: &Value, field: &str, at: &Path, known: &[&str], errors: &mut ErrorList) {
    match text(v, field) {
        "" => errors.push(Error::required(&at.child(field), quoted(known))),
        value if !known.contains(&value) => errors.push(Error::not_supported(&at.child(field), value, known)),
        _ => {}
    }
}

/// Errors of `podFailurePolicy`.
pub fn failure(spec: &Value, at: &Path, errors: &mut ErrorList) {
    let rules = items(&spec["podFailurePolicy"], "rules");
    let at = at.child("rules");
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(&at, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &at.index(i), errors);
    }
}

fn failure_rule(spec: &Value, rule: &Value, at: &Path, errors: &mut ErrorList) {
    if rule["action"] == "FailIndex" {
        if spec["backoffLimitPerIndex"].is_null() {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(Error::invalid(&at.child("action"), "FailIndex", detail));
        }
    } else {
        one_of_required(rule, "action", at, ACTIONS, errors);
    }
    let codes = &rule["onExitCodes"];
    if !codes.is_null() {
        exit_codes(spec, codes, &at.child("onExitCodes"), errors);
    }
    let conditions = items(rule, "onPodConditions");
    let path = at.child("onPodConditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(&path, conditions.len(), CONDITIONS_MAX));
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let at = path.index(i);
        let kind = text(pattern, "type");
        let messages = qualified_name_errors(kind);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("type"), kind, m)));
        one_of_required(pattern, "status", &at, STATUSES, errors);
    }
    match (codes.is_null(), conditions.is_empty()) {
        (false, false) => {
            errors.push(omitted(at, "specifying both OnExitCodes and OnPodConditions is not supported"));
        }
        (true, true) => {
            errors.push(omitted(at, "specifying one of OnExitCodes and OnPodConditions is required"));
        }
        _ => {}
    }
}

fn exit_codes(spec: &Value, codes: &Value, at: &Path, errors: &mut ErrorList) {
    one_of_required(codes, "operator", at, OPERATORS, errors);
    if let Some(name) = codes["containerName"].as_str() {
        let pod = &spec["template"]["spec"];
        let mut all = items(pod, "containers").iter().chain(items(pod, "initContainers"));
        if !all.any(|c| text(c, "name") == name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(Error::invalid(&at.child("containerName"), name, detail));
        }
    }
    let values: Vec<i64> = items(codes, "values").iter().filter_map(Value::as_i64).collect();
    let at = at.child("values");
    if values.is_empty() {
        errors.push(Error::invalid(&at, codes["values"].clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(Error::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    for (i, n) in values.iter().enumerate() {
        if *n == 0 && codes["operator"] == "In" {
            errors.push(Error::invalid(&at.index(i), 0, "must not be 0 for the In operator"));
        }
        if values[..i].contains(n) {
            errors.push(Error::duplicate(&at.index(i), *n));
        }
    }
    if !values.is_sorted() {
        errors.push(Error::invalid(&at, codes["values"].clone(), "must be ordered"));
    }
}

/// Errors of `successPolicy`, of an indexed Job.
pub fn success(spec: &Value, at: &Path, errors: &mut ErrorList) {
    let rules = items(&spec["successPolicy"], "rules");
    let at = at.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(Error::required(&at, detail));
    }
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(&at, rules.len(), RULES_MAX));
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &at.index(i), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, at: &Path, errors: &mut ErrorList) {
    let (wanted, listed) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if wanted.is_none() && listed.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(Error::required(at, detail));
    }
    let mut total = 0;
    if let Some(list) = listed {
        let path = at.child("succeededIndexes");
        if list.len() > INDEXES_BYTES_MAX {
            errors.push(Error::too_long(&path, INDEXES_BYTES_MAX));
        }
        match indexes::count(list, completions) {
            Ok(n) => total = n,
            Err(why) => {
                errors.push(Error::invalid(&path, list, format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    let Some(n) = wanted else { return };
    non_negative(rule, "succeededCount", at, errors);
    let path = at.child("succeededCount");
    if n > completions {
        let detail =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(Error::invalid(&path, n, detail));
    }
    if listed.is_some() && n > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(Error::invalid(&path, n, detail));
    }
}
