//! The same odd requests to both servers.

use super::http::{Answer, Ask, Connection};
use super::{Finding, diff};
use crate::bench::side::Side;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const FILES: [&str; 9] = [
    include_str!("requests/protocol.yaml"),
    include_str!("requests/validation.yaml"),
    include_str!("requests/writes.yaml"),
    include_str!("requests/extensions.yaml"),
    include_str!("requests/pods.yaml"),
    include_str!("requests/workloads.yaml"),
    include_str!("requests/made.yaml"),
    include_str!("requests/kinds.yaml"),
    include_str!("requests/tables.yaml"),
];
pub const NAMESPACE: &str = "compare";
/// An answer that takes longer is told: a watch that does not end makes the comparison slow without a difference.
const SLOW: Duration = Duration::from_secs(5);
/// Fields whose values come by chance or from the clock.
const CHANCE: [&str; 10] = [
    "ca.crt",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "time",
    "lastTransitionTime",
    "remainingItemCount",
    "continue",
    "token",
    "expirationTimestamp",
];
/// Depth of nesting of an answer.
const DEPTH_MAX: usize = 64;

/// Steps that build on each other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Method and path.
    r: String,
    /// The body, as JSON.
    b: Option<Value>,
    /// The body, as it is.
    raw: Option<String>,
    /// The raw body so many times.
    times: Option<usize>,
    /// Seconds to wait before, in which controllers come to an end.
    #[serde(default)]
    after: u64,
    /// Headers; an empty one is left out.
    #[serde(default)]
    h: BTreeMap<String, String>,
}

impl Step {
    fn ask(&self) -> Ask {
        let (method, path) = self.r.split_once(' ').unwrap_or(("GET", &self.r));
        let body = match (&self.b, &self.raw) {
            (Some(tree), _) => tree.to_string(),
            (None, Some(text)) => text.repeat(self.times.unwrap_or(1)),
            (None, None) => String::new(),
        };
        Ask {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: self.h.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
            body: Bytes::from(body),
            after: Duration::from_secs(self.after),
        }
    }
}

/// Asks both; of cases whose names contain `only` and not `skip`.
pub fn all(real: &Side, ours: &Side, only: &str, skip: Option<&str>) -> Result<Vec<Finding>, String> {
    let mut cases = Vec::new();
    for file in FILES {
        let read: Vec<Case> = serde_saphyr::from_str(file).map_err(|e| format!("requests: {e}"))?;
        cases.extend(
            read.into_iter().filter(|c| c.case.contains(only) && !skip.is_some_and(|s| c.case.contains(s))),
        );
    }
    let asks: Vec<Ask> = cases.iter().flat_map(|c| &c.steps).map(Step::ask).collect();
    let (theirs, mine) = both(|| answers(real, "the real one", &asks), || answers(ours, "ours", &asks))?;
    let mut out = Vec::new();
    let mut at = theirs.iter().zip(&mine);
    let mut asked = 0;
    for case in &cases {
        for (step, (theirs, mine)) in case.steps.iter().zip(&mut at) {
            asked += 1;
            diff::documents(&format!("{} | {}", case.case, step.r), theirs, mine, &mut out);
        }
    }
    println!("{} cases, {asked} requests", cases.len());
    Ok(out)
}

/// Does the same with both servers at once, as each has time when the other is at work.
pub fn both<T: Send>(
    real: impl FnOnce() -> Result<T, String> + Send,
    ours: impl FnOnce() -> Result<T, String>,
) -> Result<(T, T), String> {
    std::thread::scope(|scope| {
        let real = scope.spawn(real);
        let ours = ours();
        let real = real.join().unwrap_or_else(|_| Err("the thread that asks the real one panicked".into()));
        Ok((real?, ours?))
    })
}

fn answers(side: &Side, called: &str, asks: &[Ask]) -> Result<Vec<Value>, String> {
    side.with(async |side| {
        let mut connection = Connection::new(side);
        prepare(&mut connection).await?;
        let mut out = Vec::new();
        for ask in asks {
            tokio::time::sleep(ask.after).await;
            let since = Instant::now();
            out.push(match connection.send(ask).await {
                Ok(answer) => told(answer),
                Err(error) => json!({ "error": error }),
            });
            if since.elapsed() > SLOW {
                println!(
                    "slow, {called}: {:.1} s for {} {}",
                    since.elapsed().as_secs_f64(),
                    ask.method,
                    ask.path
                );
            }
        }
        Ok(out)
    })
}

/// Makes the namespace in which all is asked.
pub async fn prepare(connection: &mut Connection<'_>) -> Result<(), String> {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let made =
        Ask { method: "POST".into(), body: namespace.to_string().into(), ..Ask::get("/api/v1/namespaces") };
    connection.send(&made).await?;
    wait_for_account(connection).await
}

/// Pods can be made once their namespace has its service account.
async fn wait_for_account(connection: &mut Connection<'_>) -> Result<(), String> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    for _ in 0..300 {
        if connection.send(&Ask::get(&path)).await?.code == 200 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the namespace got no service account".into())
}

pub fn told(answer: Answer) -> Value {
    let mut body = answer.document();
    hide(&mut body, 0);
    settle_causes(&mut body);
    settle_typed(&mut body);
    settle_rules(&mut body);
    settle_table(&mut body);
    let warnings: Vec<Value> = answer.warnings.into_iter().map(Value::from).collect();
    json!({"code": answer.code, "type": answer.content_type, "warnings": warnings, "body": body})
}

/// Several causes come in an order that upstream does not promise, and values of its own types in Go's words: both are
/// set aside, and the message, which repeats them.
fn settle_causes(body: &mut Value) {
    let Some(causes) = body.pointer_mut("/details/causes").and_then(Value::as_array_mut) else { return };
    for cause in causes.iter_mut() {
        if let Some(message) = cause["message"].as_str() {
            cause["message"] = without_tree(message).into();
        }
    }
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or("").to_owned();
    let each = causes.iter().map(|c| (text(c, "field") + ": " + &text(c, "message"), c["reason"].clone()));
    let causes: serde_json::Map<String, Value> = each.collect();
    body["details"]["causes"] = causes.into();
    let message = body["message"].as_str().unwrap_or("");
    if let Some((head, _)) = message.split_once(" is invalid: ") {
        body["message"] = head.into();
    }
}

/// What does not fit a type comes in the order of Go maps, of which the rest is left out behind a field that is not
/// declared.
fn settle_typed(body: &mut Value) {
    const HEAD: &str = "failed to create typed patch object (";
    let Some(text) = body["message"].as_str().filter(|m| m.starts_with(HEAD)) else { return };
    let Some((head, errors)) = text.split_once("): ") else { return };
    let mut errors: Vec<&str> = errors.trim_start_matches("errors:\n").lines().map(str::trim).collect();
    errors.sort_unstable();
    if errors.iter().any(|e| e.ends_with("field not declared in schema")) {
        errors = vec!["a field is not declared"];
    }
    body["message"] = format!("{head}): {}", errors.join("; ")).into();
}

/// A message without the tree that it shows.
fn without_tree(message: &str) -> String {
    // Go's escapes in quoted texts as JSON's
    let message = &message.replace("\\x", "\\u00");
    let Some((head, rest)) = message.split_once(" value: ") else { return message.to_owned() };
    // a patch in Go's words, some of whose directives upstream takes out as it goes
    if rest.starts_with("\"map[") {
        return match rest.rsplit_once("]\": ") {
            Some((_, why)) => format!("{head} value: …: {why}"),
            None => message.to_owned(),
        };
    }
    // or the text of one, whose members come in no order that matters
    let is_text = rest.starts_with("\"{\\\"");
    if !rest.starts_with(['{', '[', 'n']) && !is_text {
        return message.to_owned();
    }
    let mut trees = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    match trees.next() {
        Some(Ok(_)) => format!("{head} value: …{}", &rest[trees.byte_offset()..]),
        _ => message.to_owned(),
    }
}

/// The rules of a user come in the order of a Go map, and what kept others from being found.
fn settle_rules(body: &mut Value) {
    if let Some(Value::String(text)) = body.pointer_mut("/status/evaluationError")
        && let Some(all) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'))
    {
        let mut all: Vec<&str> = all.split(", ").collect();
        all.sort_unstable();
        *text = format!("[{}]", all.join(", "));
    }
    for at in ["/status/resourceRules", "/status/nonResourceRules"] {
        if let Some(rules) = body.pointer_mut(at).and_then(Value::as_array_mut) {
            rules.sort_by_key(Value::to_string);
        }
    }
}

fn list_at<'a>(v: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> {
    v.pointer_mut(path).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Tables tell ages, and what columns mean in words of their own.
fn settle_table(body: &mut Value) {
    for column in list_at(body, "/columnDefinitions") {
        column["description"] = "".into();
    }
    let is_age = |cell: &str| {
        cell.strip_suffix(['s', 'm']).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    for row in list_at(body, "/rows") {
        for cell in list_at(row, "/cells") {
            if cell.as_str().is_some_and(is_age) {
                *cell = "*".into();
            }
        }
    }
}

fn hide(v: &mut Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match v {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if CHANCE.contains(&key.as_str()) && (value.is_string() || value.is_number()) {
                    *value = "*".into();
                } else {
                    hide(value, depth + 1);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| hide(v, depth + 1)),
        Value::String(text) => *text = plain(text),
        _ => {}
    }
}

/// A text without what looks like a uid, a time or an address of chance.
fn plain(text: &str) -> String {
    let is_uid = |w: &str| {
        w.len() == 36 && w.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && w.matches('-').count() == 4
    };
    let is_time = |w: &str| w.len() >= 20 && w.starts_with("20") && w.contains('T') && w.contains(':');
    let is_revision = |before: &str, w: &str| {
        let begins = ["current: ", "in record (", "resourceVersion: \"", "\"resourceVersion\":\""]
            .iter()
            .any(|b| before.ends_with(b));
        begins && w.bytes().all(|b| b.is_ascii_digit())
    };
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.') {
            word.push(c);
            continue;
        }
        if is_uid(&word) || is_time(&word) || is_revision(&out, &word) {
            out.push('*');
        } else if let Some((before, _)) = word.split_once("kube-api-access-") {
            out.push_str(before);
            out.push_str("kube-api-access-*");
        } else {
            out.push_str(&word);
        }
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_well_formed() {
        let mut names = std::collections::HashSet::new();
        for file in FILES {
            let cases: Vec<Case> = serde_saphyr::from_str(file).expect("cases");
            for case in cases {
                assert!(!case.steps.is_empty() && names.insert(case.case.clone()), "{}", case.case);
                for step in &case.steps {
                    assert!(step.r.contains(" /"), "{}: {}", case.case, step.r);
                }
            }
        }
    }

    #[test]
    fn chance_is_hidden() {
        let text = "a 0b1f8a52-3c1d-4e5f-8a9b-0c1d2e3f4a5b at 2026-01-01T00:00:00Z, \"x\"";
        assert_eq!(plain(text), "a * at *, \"x\"");
    }
}
