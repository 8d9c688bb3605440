//! A ConfigMap says since which day the use of tokens is written down.
//!
//! upstream: `pkg/controlplane/controller/legacytokentracking`

use super::{CONFIG_MAP, NAMESPACE, SINCE, day, day_of};
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, Kind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// The map is made again at most this often: servers that do not track may remove it (upstream: `rate.Every`).
const BETWEEN: Duration = Duration::from_secs(30 * 60);

struct Tracking {
    client: Client,
    maps: Informer<ConfigMap>,
    clock: SharedClock,
    /// When it was last made, on the monotonic clock.
    made: Mutex<Option<Duration>>,
}

pub(super) fn start(setup: &Setup) -> Handle {
    let maps = setup.informers.of_selected::<ConfigMap>(&format!("metadata.name={CONFIG_MAP}"));
    let this = Tracking {
        client: setup.system.clone(),
        maps: maps.clone(),
        clock: setup.clock.clone(),
        made: Mutex::default(),
    };
    let controller = Controller::new("legacy-token-tracking", Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller
        .watches(&maps, |c, q| {
            if c.latest().is_some_and(|m| m.namespace() == NAMESPACE) {
                q.add(());
            }
        })
        .start(setup.cancel.clone())
}

/// The map as it should be, where it is not. Pure.
fn plan(there: Option<&ConfigMap>, now: Timestamp) -> Option<ConfigMap> {
    let said = there.and_then(|m| m.data.as_ref()?.get(SINCE));
    if said.is_some_and(|text| day(text).is_some()) {
        return None;
    }
    let mut new = there.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(NAMESPACE.into()),
            name: Some(CONFIG_MAP.into()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    new.data.get_or_insert_default().insert(SINCE.into(), day_of(now).to_string());
    Some(new)
}

#[async_trait]
impl Reconcile for Tracking {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        let there = self.maps.store().get(NAMESPACE, CONFIG_MAP);
        let Some(new) = plan(there.as_deref(), self.clock.now()) else { return Ok(After::Done) };
        if there.is_some() {
            return match self.client.update(&new).await {
                Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e.into()),
                _ => Ok(After::Done),
            };
        }
        let now = self.clock.monotonic();
        let last = *self.made.lock();
        let wait = last.map_or(Duration::ZERO, |at| (at + BETWEEN).saturating_sub(now));
        if !wait.is_zero() {
            return Ok(After::Again(wait));
        }
        match self.client.create(&new).await {
            Err(e) if !e.is_already_exists() => return Err(e.into()),
            _ => *self.made.lock() = Some(now),
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_day_is_said_once() {
        let now: Timestamp = "2026-03-04T23:59:59Z".parse().unwrap();
        let map = |data| -> ConfigMap { serde_json::from_value(json!({"data": data})).unwrap() };
        let said = |there: Option<&ConfigMap>| plan(there, now).map(|m| m.data.unwrap()[SINCE].clone());
        assert_eq!(said(None).as_deref(), Some("2026-03-04"));
        assert_eq!(said(Some(&map(json!({"since": "2025-01-01"})))), None);
        for bad in ["", "yesterday", "2025-1-1", "2025-01-01T00:00:00"] {
            assert_eq!(said(Some(&map(json!({"since": bad})))).as_deref(), Some("2026-03-04"), "{bad}");
        }
        assert_eq!(said(Some(&map(json!(null)))).as_deref(), Some("2026-03-04"));
    }
}
