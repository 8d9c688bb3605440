//! The group `coordination.k8s.io`.

use crate::columns::{AGE, NAME, column};
use crate::def::{KindDef, Strategy, StrategyRef};
use meta::field::{Error, ErrorList, Path};
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
    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
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
        errors
    }
}
