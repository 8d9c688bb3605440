//! The group `coordination.k8s.io`.

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::text;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

pub fn lease() -> KindDef {
    KindDef {
        group: "coordination.k8s.io".into(),
        kind: "Lease".into(),
        plural: "leases".into(),
        singular: "lease".into(),
        schema: "io.k8s.api.coordination.v1.Lease".into(),
        storage: "leases".into(),
        columns: const {
            &[
                NAME,
                column("Holder", "string", |o, _| o["spec"]["holderIdentity"].as_str().unwrap_or("").into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&Lease),
        sample: "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: n1, namespace: kube-node-lease}\nspec: {holderIdentity: n1, leaseDurationSeconds: 40, renewTime: \"2026-01-02T03:04:05.000000Z\"}\n",
        ..KindDef::BASE
    }
}

struct Lease;

impl Strategy for Lease {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        without_coordination(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        if old["spec"]["strategy"].is_null() && old["spec"]["preferredHolder"].is_null() {
            without_coordination(new);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let spec = Path::new("spec");
        if let Some(n) = obj["spec"]["leaseDurationSeconds"].as_i64().filter(|n| *n <= 0) {
            errors.push(Error::invalid(&spec.child("leaseDurationSeconds"), n, "must be greater than 0"));
        }
        if let Some(n) = obj["spec"]["leaseTransitions"].as_i64().filter(|n| *n < 0) {
            errors.push(Error::invalid(
                &spec.child("leaseTransitions"),
                n,
                "must be greater than or equal to 0",
            ));
        }
        let strategy = text(&obj["spec"], "strategy");
        if obj["spec"]["strategy"].is_string() {
            lease_strategy(strategy, &spec.child("strategy"), &mut errors);
        }
        if !text(&obj["spec"], "preferredHolder").is_empty() && strategy.is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            errors.push(Error::forbidden(&spec.child("preferredHolder"), detail));
        }
        errors
    }
}

/// Upstream: `ValidateCoordinatedLeaseStrategy`, which names the field twice.
/// Fields of a feature that is off by default (upstream: `CoordinatedLeaderElection`).
fn without_coordination(obj: &mut Value) {
    for field in ["strategy", "preferredHolder"] {
        object::map_at(obj, &["spec"]).map(|spec| spec.remove(field));
    }
}

fn lease_strategy(strategy: &str, path: &Path, errors: &mut ErrorList) {
    let at = path.child("strategy");
    if strategy.contains('/') {
        let messages = helpers::qualified_name_errors(strategy);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, strategy, m)));
    } else if strategy != "OldestEmulationVersion" {
        errors.push(Error::not_supported(&at, strategy, &["OldestEmulationVersion"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leases() {
        let found = |spec: Value| -> Vec<String> {
            Lease.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
        };
        assert!(found(json!({"leaseDurationSeconds": 40, "strategy": "OldestEmulationVersion", "preferredHolder": "x"})).is_empty());
        assert_eq!(
            found(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1, "strategy": "x"})),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.strategy.strategy: Unsupported value: \"x\": supported values: \"OldestEmulationVersion\""
            ]
        );
        assert_eq!(found(json!({"preferredHolder": "x"})).len(), 1);
    }
}
