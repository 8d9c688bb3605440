//! StorageVersionMigrations: all objects of a resource are written once more, in the version that they are stored in now.
//!
//! One of a resource runs at a time ([`runner`]); it learns the revision to begin at ([`version`]) and then patches
//! every object that is not newer with nothing ([`migrate`]).
//! upstream: `pkg/controller/storageversionmigrator`

mod migrate;
mod runner;
mod version;

use crate::common::time;
use crate::start::Setup;
use base::clock::SharedClock;
use client::controller::Handle;
use client::informer::Informer;
use client::{ApiResource, Client};
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, GroupResource};
use meta::Status;
use std::time::Duration;

/// Whose name the requests have.
const NAME: &str = "storage-version-migrator-controller";
const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
const RUNNING_REASON: &str = "MigrationRunning";
const FAILED_REASON: &str = "StorageVersionMigrationFailed";
/// How long a resource may be unknown: its definition may be new.
const UNKNOWN_MAX: Duration = Duration::from_secs(60);

/// What each of the three works with.
struct Parts {
    client: Client,
    migrations: Informer<StorageVersionMigration>,
    clock: SharedClock,
}

impl Parts {
    fn of(setup: &Setup) -> Self {
        let (client, clock) = (setup.client(NAME), setup.clock.clone());
        Self { client, migrations: setup.informers.of(), clock }
    }
}

/// Starts the three.
pub(crate) fn start(setup: &Setup) -> [Handle; 3] {
    [runner::start(setup), version::start(setup), migrate::start(setup)]
}

fn is_true(migration: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = migration.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

fn has_ended(migration: &StorageVersionMigration) -> bool {
    is_true(migration, SUCCEEDED) || is_true(migration, FAILED)
}

fn version_of(migration: &StorageVersionMigration) -> &str {
    migration.status.as_ref().and_then(|s| s.resource_version.as_deref()).unwrap_or("")
}

fn resource_of(migration: &StorageVersionMigration) -> GroupResource {
    migration.spec.as_ref().map(|s| s.resource.clone()).unwrap_or_default()
}

/// Sets a condition; whether that is news (upstream: `meta.SetStatusCondition`).
fn set(
    migration: &mut StorageVersionMigration,
    (kind, is_true): (&str, bool),
    (reason, message): (&str, String),
    now: Timestamp,
) -> bool {
    let list = migration.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut new = Condition {
        type_: kind.into(),
        status: if is_true { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        last_transition_time: time(now),
        observed_generation: None,
    };
    let Some(old) = list.iter_mut().find(|c| c.type_ == kind) else {
        list.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

/// What a running one tells: objects left and in all, and what is in its way for now.
fn running_message(counts: Option<(usize, usize)>, obstacle: Option<&str>) -> String {
    let mut text = "The migration is running".to_owned();
    match counts {
        Some((0, all)) if all > 0 => text.push_str(&format!(", {all} objects verified migrated")),
        Some((left, all)) if all > 0 => text.push_str(&format!(", {left}/{all} objects not yet migrated")),
        _ => {}
    }
    if let Some(obstacle) = obstacle {
        text.push_str(&format!("; transient error: {obstacle}"));
    }
    text
}

/// The served resource, in its group's preferred version.
async fn find(client: &Client, wanted: &GroupResource) -> Result<Option<ApiResource>, Status> {
    let found = client.discover().await?;
    let mut all = found.resources.into_iter();
    Ok(all.find(|r| r.group == wanted.group && r.plural == wanted.resource))
}

/// Whether it was made so lately that its resource may still come.
fn is_young(migration: &StorageVersionMigration, now: Timestamp) -> bool {
    let made = migration.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    Duration::try_from(now.duration_since(made)).unwrap_or_default() < UNKNOWN_MAX
}

#[cfg(test)]
mod tests;
