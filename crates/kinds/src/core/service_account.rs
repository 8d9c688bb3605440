//! ServiceAccount.

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, Subresource};
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        kind: "ServiceAccount".into(),
        plural: "serviceaccounts".into(),
        singular: "serviceaccount".into(),
        short: &["sa"],
        schema: "io.k8s.api.core.v1.ServiceAccount".into(),
        storage: "serviceaccounts".into(),
        subresources: const {
            &[Subresource {
                name: "token",
                verbs: &["create"],
                body: Some(("authentication.k8s.io", "v1", "TokenRequest")),
            }]
        },
        columns: const {
            &[
                NAME,
                column("Secrets", "string", |o, _| {
                    o["secrets"].as_array().map_or(0, Vec::len).to_string().into()
                }),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&ServiceAccount),
        sample: include_str!("samples/service_account.yaml"),
        ..KindDef::BASE
    }
}

struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        // Secret names are written by the token controller alone.
        if let Some(map) = obj.as_object_mut() {
            map.remove("secrets");
        }
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}
