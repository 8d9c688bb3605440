//! One migration of a resource at a time; a custom resource's definition says that it is migrated, and forgets versions
//! in which nothing is stored any more.
//!
//! upstream: `pkg/controller/storageversionmigrator/migrationrunner.go`

use super::{
    Parts, RUNNING, RUNNING_REASON, SUCCEEDED, has_ended, is_true, resource_of, running_message, set,
};
use crate::common::time;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::{Kind, Patch};
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::GroupResource;
use serde_json::{Value, json};
use std::sync::Arc;

const RUNNER: &str = "migration-runner-controller";
const MIGRATING: &str = "StorageMigrating";

struct Runner(Parts);

pub(super) fn start(setup: &Setup) -> Handle {
    let this = Runner(Parts::of(setup));
    let migrations = this.0.migrations.clone();
    Controller::new(RUNNER, Arc::new(this), setup.clock.clone())
        .watches(&migrations, |c, q| {
            if let Some(migration) = c.latest() {
                let GroupResource { group, resource } = resource_of(migration);
                q.add((group, resource));
            }
        })
        .start(setup.cancel.clone())
}

/// Those that have ended and still say that they run, and the one that may begin. Pure
/// (upstream: `getSVMsForResource`).
pub(super) fn plan(
    all: &[Arc<StorageVersionMigration>],
) -> (Vec<Arc<StorageVersionMigration>>, Option<Arc<StorageVersionMigration>>) {
    let (running, waiting): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|m| is_true(m, RUNNING));
    let (ended, busy): (Vec<_>, Vec<_>) = running.into_iter().partition(|m| has_ended(m));
    let order = |m: &Arc<StorageVersionMigration>| {
        (m.metadata.creation_timestamp.as_ref().map(|t| t.0), m.name().to_owned())
    };
    let next = waiting.into_iter().filter(|m| !has_ended(m)).min_by_key(order);
    (ended, next.filter(|_| busy.is_empty()))
}

/// What a definition says of its migration. Pure (upstream: `finishCRDMigration`).
pub(super) fn finished(crd: &Value, succeeded: bool) -> (&'static str, String, Option<String>) {
    let conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
    let seen = conditions
        .into_iter()
        .find(|c| c["type"] == MIGRATING)
        .and_then(|c| c["observedGeneration"].as_i64());
    let unchanged = seen.is_some_and(|seen| seen == meta::object::generation(crd));
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let stored = versions.into_iter().find(|v| v["storage"] == true).and_then(|v| v["name"].as_str());
    let stored = stored.filter(|_| unchanged).map(str::to_owned);
    if !succeeded {
        return ("MigrationFailed", "The migration has failed".to_owned(), stored);
    }
    let rest = match unchanged {
        true => "and the stored versions have been updated",
        false => "but the stored versions have not been updated due to a generation mismatch",
    };
    ("MigrationSucceeded", format!("The migration has succeeded {rest}"), stored)
}

impl Runner {
    /// Applies a condition to the definition of a resource, if it has one and was not changed meanwhile.
    async fn tell(
        &self,
        resource: &GroupResource,
        status: impl Fn(&Value, Timestamp) -> Value + Send + Sync,
    ) -> Result<(), Error> {
        let name = format!("{}.{}", resource.resource, resource.group);
        let crd = match self.0.client.get::<CustomResourceDefinition>("", &name).await {
            Err(e) if e.is_not_found() => return Ok(()),
            other => serde_json::to_value(other?)?,
        };
        let version = meta::object::resource_version(&crd);
        let object = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "resourceVersion": version},
            "status": status(&crd, self.0.clock.now()),
        });
        let patch = Patch::Apply { manager: RUNNER, object };
        self.0.client.patch::<CustomResourceDefinition>("", &name, Some("status"), patch).await?;
        Ok(())
    }

    async fn end(&self, migration: &StorageVersionMigration) -> Result<(), Error> {
        let succeeded = is_true(migration, SUCCEEDED);
        let status = |crd: &Value, now| {
            let (reason, message, stored) = finished(crd, succeeded);
            let mut status = json!({"conditions": [condition(crd, "False", reason, &message, now)]});
            if let Some(stored) = stored {
                status["storedVersions"] = json!([stored]);
            }
            status
        };
        self.tell(&resource_of(migration), status).await?;
        let mut new = migration.clone();
        set(
            &mut new,
            (RUNNING, false),
            ("MigrationCompleted", "Migration completed".into()),
            self.0.clock.now(),
        );
        self.0.client.update_status(&new).await?;
        Ok(())
    }

    async fn begin(&self, migration: &StorageVersionMigration) -> Result<(), Error> {
        let text = format!("Migration {} is running", migration.name());
        let status =
            |crd: &Value, now| json!({"conditions": [condition(crd, "True", RUNNING_REASON, &text, now)]});
        self.tell(&resource_of(migration), status).await?;
        let mut new = migration.clone();
        set(&mut new, (RUNNING, true), (RUNNING_REASON, running_message(None, None)), self.0.clock.now());
        self.0.client.update_status(&new).await?;
        Ok(())
    }
}

fn condition(crd: &Value, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({
        "type": MIGRATING, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": time(now), "observedGeneration": meta::object::generation(crd),
    })
}

#[async_trait]
impl Reconcile for Runner {
    /// Group and plural name.
    type Key = (String, String);

    async fn reconcile(&self, (group, plural): &(String, String)) -> Result<After, Error> {
        let mut all = self.0.migrations.store().list();
        all.retain(|m| {
            let r = resource_of(m);
            (&r.group, &r.resource) == (group, plural)
        });
        let (ended, next) = plan(&all);
        for migration in ended {
            self.end(&migration).await?;
        }
        if let Some(migration) = next {
            self.begin(&migration).await?;
        }
        Ok(After::Done)
    }
}
