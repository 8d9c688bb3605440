//! Patches every object of a resource with nothing but its revision, so that it is stored anew.
//!
//! Invariant: an object that somebody else changed meanwhile is left to that write, which stored it anew as well.
//! upstream: `pkg/controller/storageversionmigrator/storageversionmigrator.go`

use super::{
    FAILED, FAILED_REASON, NAME, Parts, RUNNING, RUNNING_REASON, SUCCEEDED, find, has_ended, is_young,
    resource_of, running_message, set, version_of,
};
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::{ApiResource, Kind, ListOptions, Patch};
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use meta::{Reason, Status, object};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Upstream: `workers`.
const WORKERS: usize = 5;
/// Objects that are listed at a time.
const PAGE: u32 = 500;

struct Migrator {
    parts: Parts,
    cancel: CancellationToken,
}

/// An object to be written once more.
struct Candidate {
    namespace: String,
    name: String,
    version: String,
}

/// How a run over all objects ended.
enum Outcome {
    Done,
    /// It is tried again.
    Later(Status),
    Failed(Status),
}

pub(super) fn start(setup: &Setup) -> Handle {
    let this = Migrator { parts: Parts::of(setup), cancel: setup.cancel.clone() };
    let migrations = this.parts.migrations.clone();
    Controller::new(NAME, Arc::new(this), setup.clock.clone())
        .workers(WORKERS)
        .watches(&migrations, |c, q| c.new.iter().for_each(|m| q.add(m.name().to_owned())))
        .start(setup.cancel.clone())
}

/// Upstream: `isRetriableError`.
fn may_pass(e: &Status) -> bool {
    let reasons = [
        Reason::ServerTimeout,
        Reason::TooManyRequests,
        Reason::ServiceUnavailable,
        Reason::InternalError,
        Reason::Timeout,
    ];
    reasons.contains(&e.reason)
}

fn number(version: &str) -> Result<u64, String> {
    version.parse().map_err(|_| format!("resource version is not well formed: {version}"))
}

impl Migrator {
    /// All objects that are not newer than a revision, and how many there are in all.
    async fn candidates(&self, resource: &ApiResource, until: u64) -> Result<(Vec<Candidate>, usize), Error> {
        let (mut out, mut all) = (Vec::new(), 0);
        let mut options = ListOptions { limit: Some(PAGE), ..ListOptions::default() };
        loop {
            let page = self.parts.client.dynamic(resource).list("", &options).await?;
            all += page.items.len();
            for item in &page.items {
                let version = object::resource_version(item);
                if number(version)? <= until {
                    let [namespace, name] = [object::namespace(item), object::name(item)].map(str::to_owned);
                    out.push(Candidate { namespace, name, version: version.to_owned() });
                }
            }
            match page.continue_token {
                Some(token) => options.continue_token = Some(token),
                None => return Ok((out, all)),
            }
        }
    }

    /// Patches all; `left` counts down.
    async fn patch(&self, resource: &ApiResource, all: &[Candidate], left: &mut usize) -> Outcome {
        let dynamic = self.parts.client.dynamic(resource);
        for c in all {
            if self.cancel.is_cancelled() {
                return Outcome::Later(Status::unavailable("the controller is stopping"));
            }
            let patch = Patch::Merge(json!({
                "apiVersion": resource.api_version(), "kind": resource.kind,
                "metadata": {"resourceVersion": c.version},
            }));
            match dynamic.patch(&c.namespace, &c.name, "", &patch).await {
                Err(e) if e.is_conflict() || e.is_not_found() => {}
                Err(e) if may_pass(&e) => return Outcome::Later(e),
                Err(e) => return Outcome::Failed(e),
                Ok(_) => {}
            }
            *left -= 1;
        }
        Outcome::Done
    }

    async fn fail(&self, migration: &StorageVersionMigration, why: &str) -> Result<After, Error> {
        let mut new = migration.clone();
        let text = format!("migration encountered unhandled error: {why}");
        if set(&mut new, (FAILED, true), (FAILED_REASON, text), self.parts.clock.now()) {
            self.parts.client.update_status(&new).await?;
        }
        Ok(After::Done)
    }

    async fn run(
        &self,
        migration: &StorageVersionMigration,
        resource: &ApiResource,
        until: u64,
    ) -> Result<After, Error> {
        let (all, total) = self.candidates(resource, until).await?;
        let mut left = all.len();
        let outcome = self.patch(resource, &all, &mut left).await;
        let (mut new, now) = (migration.clone(), self.parts.clock.now());
        let obstacle = match &outcome {
            Outcome::Later(e) => Some(e.message.as_str()),
            _ => None,
        };
        let text = running_message(Some((left, total)), obstacle);
        let mut changed = set(&mut new, (RUNNING, true), (RUNNING_REASON, text), now);
        match &outcome {
            Outcome::Later(_) => {}
            Outcome::Done => {
                let end = ("StorageVersionMigrationSucceeded", "Migration completed".to_owned());
                changed |= set(&mut new, (SUCCEEDED, true), end, now);
            }
            Outcome::Failed(e) => {
                let text = format!(
                    "{left}/{total} not yet migrated. migration encountered unhandled error: {}",
                    e.message
                );
                changed |= set(&mut new, (FAILED, true), (FAILED_REASON, text), now);
            }
        }
        if changed {
            self.parts.client.update_status(&new).await?;
        }
        match outcome {
            Outcome::Later(e) => Err(e.into()),
            _ => Ok(After::Done),
        }
    }
}

#[async_trait]
impl Reconcile for Migrator {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Result<After, Error> {
        let Some(migration) = self.parts.migrations.store().get("", name) else { return Ok(After::Done) };
        if has_ended(&migration) || version_of(&migration).is_empty() {
            return Ok(After::Done);
        }
        let Some(resource) = find(&self.parts.client, &resource_of(&migration)).await? else {
            if is_young(&migration, self.parts.clock.now()) {
                return Err("resource does not exist in rest mapper, requeuing to attempt again".into());
            }
            return self.fail(&migration, "unable to obtain GVR from discovery").await;
        };
        match number(version_of(&migration)) {
            Ok(until) => self.run(&migration, &resource, until).await,
            Err(why) => self.fail(&migration, &why).await,
        }
    }
}
