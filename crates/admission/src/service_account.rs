//! ServiceAccount: pods run as an account that exists, and get its token, the cluster's CA and their namespace
//! (upstream: `plugin/pkg/admission/serviceaccount`).

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use meta::field::quoted;
use meta::object;
use meta::status::{Result, Status};
use registry::{Operation, Registry};
use serde_json::{Value, json};
use std::sync::Arc;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Letters after the prefix.
const SUFFIX_LETTERS: usize = 5;
/// An hour and seven seconds: kubelets renew before that (upstream: `WarnOnlyBoundTokenExpirationPeriod`).
const TOKEN_SECONDS: i64 = 3607;

pub struct ServiceAccount {
    registry: Arc<Registry>,
    rng: base::rng::Rng,
}

impl ServiceAccount {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, rng: base::rng::Rng::from_os() }
    }

    async fn account(&self, a: &Attributes<'_>, new: &Value, name: &str) -> Result<Value> {
        let row = self
            .registry
            .kinds()
            .resource("", "v1", "serviceaccounts")
            .ok_or_else(Status::no_such_resource)?;
        self.registry.get_live(&a.permit, &row, a.namespace, name).await.map_err(|e| {
            if !e.is_not_found() {
                return e;
            }
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount {} not found",
                a.namespace,
                quoted(name)
            );
            a.forbidden(Some(new), &why)
        })
    }
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        let new_pod = a.operation == Operation::Create && a.is("", "pods") && a.subresource.is_empty();
        phase == Phase::Admit && new_pod
    }

    async fn admit(&self, a: &Attributes<'_>, new: &mut Value, _old: Option<&Value>) -> Result<()> {
        // Mirror pods are made by kubelets and may not carry an account.
        if object::annotation(new, "kubernetes.io/config.mirror").is_some() {
            if !new["spec"]["serviceAccountName"].as_str().unwrap_or("").is_empty() {
                let why = "a mirror pod may not reference service accounts";
                return Err(a.forbidden(Some(new), why));
            }
            return Ok(());
        }
        let name = match new["spec"]["serviceAccountName"].as_str().unwrap_or("") {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        new["spec"]["serviceAccountName"] = name.as_str().into();
        new["spec"]["serviceAccount"] = name.as_str().into();
        let account = self.account(a, new, &name).await?;
        let wants = new["spec"]["automountServiceAccountToken"]
            .as_bool()
            .or_else(|| account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if wants {
            mount_token(new, || format!("{VOLUME_PREFIX}{}", self.rng.name_suffix(SUFFIX_LETTERS)));
        }
        let none = new["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
        if none && account["imagePullSecrets"].as_array().is_some_and(|l| !l.is_empty()) {
            new["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }
}

/// Adds the projected volume, and a mount of it to each container that has none at the path.
fn mount_token(pod: &mut Value, volume_name: impl Fn() -> String) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let existing = spec["volumes"].as_array().into_iter().flatten().find_map(|v| {
        let name = v["name"].as_str()?;
        (name.starts_with(VOLUME_PREFIX) && v["projected"].is_object()).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(volume_name);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let has =
                c["volumeMounts"].as_array().is_some_and(|m| m.iter().any(|m| m["mountPath"] == MOUNT_PATH));
            if has {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match c.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                Some(mounts) => mounts.push(mount),
                None => c["volumeMounts"] = json!([mount]),
            }
            mounted = true;
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let volume = json!({
        "name": name,
        "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
            ]}},
        ]},
    });
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": MOUNT_PATH, "name": "own"}]}]}});
        mount_token(&mut pod, || "kube-api-access-x".into());
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-x");
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1));
        let once = pod.clone();
        mount_token(&mut pod, || "other".into());
        assert_eq!(pod, once);
    }
}
