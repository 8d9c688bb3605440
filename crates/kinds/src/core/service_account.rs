//! ServiceAccount.

use crate::columns::{AGE, NAME};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, Subresource};
use meta::object;
use serde_json::{Value, json};

const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

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
        columns: const { &[NAME, AGE] },
        strategy: StrategyRef::Static(&ServiceAccount),
        sample: include_str!("samples/service_account.yaml"),
        ..KindDef::BASE
    }
}

struct ServiceAccount;

/// Of a reference to a secret only the name stays (upstream: `cleanSecretReferences`).
fn only_names(obj: &mut Value) {
    for secret in obj.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        *secret = match secret["name"].as_str() {
            Some(name) if !name.is_empty() => json!({ "name": name }),
            _ => json!({}),
        };
    }
}

impl Strategy for ServiceAccount {
    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        only_names(obj);
    }

    fn prepare_update(&self, new: &mut Value, _: &Value, _: &Ctx) {
        only_names(new);
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let set = |o: &Value| object::annotation(o, ENFORCE_MOUNTABLE).is_some();
        if !set(new) || old.is_some_and(set) {
            return Vec::new();
        }
        let at = format!("metadata.annotations[{ENFORCE_MOUNTABLE}]");
        vec![format!(
            "{at}: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}
