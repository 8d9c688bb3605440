//! What a job says about failures and successes: podFailurePolicy and successPolicy.
//!
//! upstream: `pkg/controller/job/pod_failure_policy.go`, `success_policy.go`

use super::indexes::Indexes;
use client::Kind;
use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// What is done about one failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the limits: no rule matched, or one that says so.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The job has failed, with this message.
    FailJob(String),
}

/// The first rule that matches decides (upstream: `matchPodFailurePolicy`).
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let status = pod.status.clone().unwrap_or_default();
    for (number, rule) in policy.iter().flat_map(|p| &p.rules).enumerate() {
        let what = if let Some(codes) = &rule.on_exit_codes {
            let Some((container, code)) = by_exit_code(&status, codes) else { continue };
            format!(
                "Container {container} for pod {}/{} failed with exit code {code}",
                pod.namespace(),
                pod.name()
            )
        } else {
            let patterns = rule.on_pod_conditions.iter().flatten();
            let matched = status.conditions.iter().flatten().find(|c| {
                patterns.clone().any(|p| p.type_ == c.type_ && p.status.as_deref() == Some(c.status.as_str()))
            });
            let Some(condition) = matched else { continue };
            format!("Pod {}/{} has condition {}", pod.namespace(), pod.name(), condition.type_)
        };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => {
                return Verdict::FailJob(format!("{what} matching FailJob rule at index {number}"));
            }
            _ => {}
        }
    }
    Verdict::Count
}

fn by_exit_code<'a>(
    status: &'a PodStatus,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |c: &ContainerStatus| c.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
    all.filter(|c| wanted.container_name.as_ref().is_none_or(|n| *n == c.name))
        .filter_map(|c| Some((c.name.as_str(), code(c)?)))
        .find(|(_, code)| {
            let listed = wanted.values.contains(code);
            *code != 0
                && match wanted.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    _ => false,
                }
        })
}

/// The message when the successes so far suffice (upstream: `matchSuccessPolicy`).
pub fn suffices(policy: Option<&SuccessPolicy>, completions: usize, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let enough = |have: usize, count: Option<i32>| {
        count.is_some_and(|c| have >= usize::try_from(c).unwrap_or(usize::MAX))
    };
    let met = |rule: &k8s_openapi::api::batch::v1::SuccessPolicyRule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.common(succeeded);
            !wanted.is_empty() && (have == wanted.total() || enough(have, rule.succeeded_count))
        }
        None => enough(succeeded.total(), rule.succeeded_count),
    };
    let number = policy?.rules.iter().position(met)?;
    Some(format!("Matched rules at index {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(code: i32, condition: &str) -> Pod {
        let container = |name: &str, code: i32| {
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}})
        };
        let status = json!({
            "containerStatuses": [container("main", code)], "initContainerStatuses": [container("init", 0)],
            "conditions": [{"type": condition, "status": "True"}],
        });
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "status": status}))
            .unwrap()
    }

    fn rules(rules: Value) -> Option<PodFailurePolicy> {
        Some(serde_json::from_value(json!({"rules": rules})).unwrap())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = rules(json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42, 43]}},
            {"action": "FailIndex", "onExitCodes": {"containerName": "main", "operator": "In", "values": [5]}},
            {"action": "FailIndex", "onExitCodes": {"containerName": "other", "operator": "In", "values": [6]}},
            {"action": "FailJob", "onPodConditions": [{"type": "Bad", "status": "True"}]},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [7]}},
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        ]));
        let of = |code, condition| judge(policy.as_ref(), &pod(code, condition));
        assert_eq!(of(42, "DisruptionTarget"), Verdict::Ignore);
        let text = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(of(42, "Ready"), Verdict::FailJob(text.into()));
        assert_eq!(of(5, "Ready"), Verdict::FailIndex);
        assert_eq!(of(6, "Ready"), Verdict::Count);
        let text = "Pod n/p has condition Bad matching FailJob rule at index 4";
        assert_eq!(of(7, "Bad"), Verdict::FailJob(text.into()));
        assert_eq!(of(7, "Ready"), Verdict::Ignore);
        assert_eq!(of(0, "Ready"), Verdict::Count);
        assert_eq!(judge(None, &pod(42, "")), Verdict::Count);
    }

    #[test]
    fn when_successes_suffice() {
        let cases = [
            (json!([{"succeededCount": 2}]), "0,5", Some(0)),
            (json!([{"succeededCount": 3}]), "0,5", None),
            (json!([{"succeededIndexes": "0-2"}]), "0-2,7", Some(0)),
            (json!([{"succeededIndexes": "0-2"}]), "0,2,7", None),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), "0,2,7", Some(0)),
            (json!([{"succeededIndexes": "30"}, {"succeededIndexes": "7"}]), "0,2,7", Some(1)),
            (json!([{"succeededCount": 0}]), "", None),
        ];
        for (rules, succeeded, want) in cases {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            let got = suffices(Some(&policy), 10, &Indexes::parse(succeeded, 10));
            assert_eq!(got, want.map(|n| format!("Matched rules at index {n}")), "{policy:?} {succeeded}");
        }
        assert_eq!(suffices(None, 10, &Indexes::parse("1", 10)), None);
    }
}
