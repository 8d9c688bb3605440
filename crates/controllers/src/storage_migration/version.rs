//! A running migration learns the newest revision of its resource: what was written later needs no migration.
//!
//! upstream: `pkg/controller/storageversionmigrator/resourceversion.go`

use super::{
    FAILED, FAILED_REASON, Parts, RUNNING, find, has_ended, is_true, is_young, resource_of, set, version_of,
};
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::{ApiResource, Kind, ListOptions};
use std::sync::Arc;

const NEEDED: [&str; 3] = ["update", "patch", "list"];

struct Versions(Parts);

pub(super) fn start(setup: &Setup) -> Handle {
    let this = Versions(Parts::of(setup));
    let migrations = this.0.migrations.clone();
    Controller::new("resource-version-controller", Arc::new(this), setup.clock.clone())
        .watches(&migrations, |c, q| c.new.iter().for_each(|m| q.add(m.name().to_owned())))
        .start(setup.cancel.clone())
}

/// Why a resource cannot be migrated.
fn obstacle(resource: Option<&ApiResource>) -> Option<String> {
    let Some(r) = resource else { return Some("resource does not exist in discovery".into()) };
    (!NEEDED.iter().all(|verb| r.can(verb))).then(|| {
        let name = format!("{}/{}, Resource={}", r.group, r.version, r.plural);
        format!("resource {name:?} does not support discovery operations: [{}]", NEEDED.join(" "))
    })
}

#[async_trait]
impl Reconcile for Versions {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Result<After, Error> {
        let Some(migration) = self.0.migrations.store().get("", name) else { return Ok(After::Done) };
        if !is_true(&migration, RUNNING) || has_ended(&migration) || !version_of(&migration).is_empty() {
            return Ok(After::Done);
        }
        let resource = find(&self.0.client, &resource_of(&migration)).await?;
        if resource.is_none() && is_young(&migration, self.0.clock.now()) {
            return Err("resource does not exist in our rest mapper, requeuing to attempt again".into());
        }
        let mut new = (*migration).clone();
        match (obstacle(resource.as_ref()), &resource) {
            (None, Some(resource)) => {
                let one = ListOptions { limit: Some(1), ..ListOptions::default() };
                let list = self.0.client.dynamic(resource).list("", &one).await?;
                new.status.get_or_insert_default().resource_version = Some(list.resource_version);
            }
            (why, _) => {
                set(&mut new, (FAILED, true), (FAILED_REASON, why.unwrap_or_default()), self.0.clock.now());
            }
        }
        self.0.client.update_status(&new).await?;
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_migrated() {
        let mut r = ApiResource::new("apps", "v1", "Deployment", "deployments", true);
        r.verbs = NEEDED.map(str::to_owned).to_vec();
        assert_eq!(obstacle(Some(&r)), None);
        r.verbs.pop();
        assert_eq!(
            obstacle(Some(&r)).as_deref(),
            Some(
                "resource \"apps/v1, Resource=deployments\" does not support discovery operations: [update patch list]"
            )
        );
        assert_eq!(obstacle(None).as_deref(), Some("resource does not exist in discovery"));
    }
}
