//! Aggregated cluster roles: the rules of all roles that their selectors select.
//!
//! upstream: `pkg/controller/clusterroleaggregation`

use crate::common::select;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Kind, Patch};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use std::sync::Arc;

struct Aggregation {
    client: Client,
    roles: Informer<ClusterRole>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let roles = setup.informers.of::<ClusterRole>();
    let client = setup.client("clusterrole-aggregation-controller");
    let store = roles.store().clone();
    let this = Aggregation { client, roles: roles.clone() };
    Controller::new("clusterrole-aggregation", Arc::new(this), setup.clock.clone())
        // any role may be part of any aggregate
        .watches(&roles, move |_, q| {
            for role in store.list().iter().filter(|r| r.aggregation_rule.is_some()) {
                q.add(ObjectKey::of(&**role));
            }
        })
        .start(setup.cancel.clone())
}

/// The rules that a role must have; `None` for one that does not aggregate. `all` are sorted by name.
pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.iter().flatten();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.map(select::selector) {
        let parts = all.iter().filter(|r| r.name() != role.name());
        for part in parts.filter(|r| select::matches(&selector, r.metadata.labels.as_ref())) {
            for rule in part.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[async_trait]
impl Reconcile for Aggregation {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let store = self.roles.store();
        let Some(role) = store.get("", &key.name) else { return Ok(After::Done) };
        if let Some(rules) = plan(&role, &store.list())
            && rules != role.rules.clone().unwrap_or_default()
        {
            // upstream applies; a merge patch of the one field has the same effect
            self.client
                .patch::<ClusterRole>("", &key.name, None, Patch::Merge(json!({"rules": rules})))
                .await?;
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_joined_once_each() {
        let role = |name: &str, label: &str, verbs: &[&str]| -> Arc<ClusterRole> {
            let rules: Vec<_> = verbs.iter().map(|v| json!({"verbs": [v]})).collect();
            let v = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
            Arc::new(serde_json::from_value(v).unwrap())
        };
        let all = [role("a", "x", &["get"]), role("b", "x", &["get", "list"]), role("c", "y", &["delete"])];
        let rule = json!({"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]});
        let admin: ClusterRole =
            serde_json::from_value(json!({"metadata": {"name": "admin"}, "aggregationRule": rule})).unwrap();
        let verbs: Vec<_> = plan(&admin, &all).unwrap().into_iter().flat_map(|r| r.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert!(plan(&all[0], &all).is_none());
    }
}
