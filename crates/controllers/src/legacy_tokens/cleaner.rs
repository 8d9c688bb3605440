//! Tokens in accounts' own Secrets that nobody used for long are marked as invalid, and go when that, too, is long ago.
//!
//! Invariant: a token goes only after its use was written down for the whole time.
//! upstream: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`

use super::{CONFIG_MAP, NAMESPACE, SINCE, day, day_of};
use crate::start::Setup;
use async_trait::async_trait;
use auth::tokens::{INVALID_SINCE_LABEL, LAST_USED_LABEL};
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Patch, Preconditions};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "legacy-service-account-token-cleaner";
/// Upstream: `DefaultCleanerSyncInterval`.
const EVERY: Duration = Duration::from_secs(24 * 3600);
const TYPE: &str = "kubernetes.io/service-account-token";

struct Cleaner {
    client: Client,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    pods: Informer<Pod>,
    kept: Duration,
    clock: SharedClock,
}

pub(super) fn start(setup: &Setup) -> Handle {
    let accounts = setup.informers.of::<ServiceAccount>();
    let secrets = setup.informers.of_selected::<Secret>(&format!("type={TYPE}"));
    let pods = setup.informers.of::<Pod>();
    let this = Cleaner {
        client: setup.client(NAME),
        accounts: accounts.clone(),
        secrets: secrets.clone(),
        pods: pods.clone(),
        kept: setup.config.unused_tokens_kept,
        clock: setup.clock.clone(),
    };
    let controller = Controller::new(NAME, Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller
        .needs(&accounts)
        .needs(&secrets)
        .needs(&pods)
        .resync(EVERY, || vec![()])
        .start(setup.cancel.clone())
}

/// What becomes of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It is marked with this day.
    Invalid(String),
    Goes,
}

/// Whether use was written down for long enough (upstream: `latestPossibleTrackedSinceTime`).
fn tracked_long_enough(map: &ConfigMap, kept: Duration, now: Timestamp) -> Result<bool, String> {
    let since = map.data.as_ref().and_then(|d| d.get(SINCE)).ok_or("configMap does not have since label")?;
    let since = day(since).ok_or_else(|| format!("{since:?} is no day"))?;
    // the day itself counts only once it is over
    let from = since.tomorrow().and_then(|d| d.in_tz("UTC")).map_err(|e| e.to_string())?.timestamp();
    Ok(Duration::try_from(now.duration_since(from)).is_ok_and(|passed| passed >= kept))
}

/// Pure. `account` is the one that the Secret names, if it is there.
fn fate(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    mounted: impl FnOnce() -> bool,
    kept: Duration,
    now: Timestamp,
) -> Fate {
    let limit = SignedDuration::try_from(kept).ok().and_then(|kept| now.checked_sub(kept).ok());
    let Some(limit) = limit else { return Fate::Stays };
    let created = secret.metadata.creation_timestamp.as_ref().map(|t| t.0);
    if secret.type_.as_deref() != Some(TYPE) || created.is_some_and(|c| c >= limit) || secret.is_deleting() {
        return Fate::Stays;
    }
    let limit = day_of(limit).to_string();
    if let Some(used) = secret.label(LAST_USED_LABEL)
        && (day(used).is_none() || *used >= *limit)
    {
        return Fate::Stays;
    }
    let names =
        |a: &ServiceAccount| a.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret.name()));
    // one that the account does not name was made by somebody on purpose
    if !account.is_some_and(names) || mounted() {
        return Fate::Stays;
    }
    match secret.label(INVALID_SINCE_LABEL).filter(|text| day(text).is_some()) {
        None => Fate::Invalid(day_of(now).to_string()),
        Some(since) if *since >= *limit => Fate::Stays,
        Some(_) => Fate::Goes,
    }
}

impl Cleaner {
    fn account(&self, secret: &Secret) -> Option<Arc<ServiceAccount>> {
        let name = secret.annotation("kubernetes.io/service-account.name").filter(|n| !n.is_empty())?;
        let uid = secret.annotation("kubernetes.io/service-account.uid").unwrap_or("");
        self.accounts.store().get(secret.namespace(), name).filter(|a| uid.is_empty() || a.uid() == uid)
    }

    /// The Secrets that pods of a namespace use.
    fn mounted(&self, ns: &str) -> HashSet<String> {
        let pods = self.pods.store().by_namespace(ns);
        let trees = pods.iter().filter_map(|p| serde_json::to_value(&**p).ok());
        trees
            .flat_map(|p| auth::node::secrets(&p).into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    async fn act(&self, secret: &Secret, fate: Fate) -> Result<(), Error> {
        let (ns, name) = (secret.namespace(), secret.name());
        match fate {
            Fate::Stays => {}
            Fate::Invalid(day) => {
                tracing::info!(target: "controllers", ns, name, "unused token marked as invalid");
                let metadata = json!({"uid": secret.uid(), "labels": {INVALID_SINCE_LABEL: day}});
                let patch = Patch::Merge(json!({"metadata": metadata}));
                self.client.patch::<Secret>(ns, name, None, patch).await?;
            }
            Fate::Goes => {
                tracing::info!(target: "controllers", ns, name, "unused token deleted");
                let resource_version = Some(secret.resource_version().to_owned());
                let preconditions = Some(Preconditions { resource_version, ..Preconditions::default() });
                let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
                match self.client.delete::<Secret>(ns, name, &options).await {
                    Err(e) if !e.is_conflict() && !e.is_not_found() => return Err(e.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for Cleaner {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        let now = self.clock.now();
        let map = match self.client.get::<ConfigMap>(NAMESPACE, CONFIG_MAP).await {
            // it comes; tomorrow is soon enough
            Err(e) if e.is_not_found() => return Ok(After::Done),
            other => other?,
        };
        if !tracked_long_enough(&map, self.kept, now)? {
            return Ok(After::Done);
        }
        let mut mounted: HashMap<String, HashSet<String>> = HashMap::new();
        for secret in self.secrets.store().list() {
            let account = self.account(&secret);
            let is_mounted = || {
                let ns = secret.namespace();
                let names = mounted.entry(ns.to_owned()).or_insert_with(|| self.mounted(ns));
                names.contains(secret.name())
            };
            let fate = fate(&secret, account.as_deref(), is_mounted, self.kept, now);
            // one that fails is looked at again tomorrow
            if let Err(e) = self.act(&secret, fate).await {
                let (ns, name) = (secret.namespace(), secret.name());
                tracing::warn!(target: "controllers", ns, name, "token not cleaned: {e}");
            }
        }
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn secret(created: &str, labels: Value) -> Secret {
        let metadata = json!({"namespace": "n", "name": "s", "creationTimestamp": created, "labels": labels});
        serde_json::from_value(json!({"metadata": metadata, "type": TYPE})).unwrap()
    }

    fn account(secrets: &[&str]) -> ServiceAccount {
        let secrets: Vec<Value> = secrets.iter().map(|n| json!({"name": n})).collect();
        serde_json::from_value(json!({"secrets": secrets})).unwrap()
    }

    #[test]
    fn an_unused_token_is_marked_and_then_goes() {
        let now: Timestamp = "2026-03-11T12:00:00Z".parse().unwrap();
        let own = account(&["s"]);
        let judge = |s: &Secret, a: Option<&ServiceAccount>| fate(s, a, || false, 10 * DAY, now);
        let old = "2026-01-01T00:00:00Z";
        assert_eq!(judge(&secret(old, json!({})), Some(&own)), Fate::Invalid("2026-03-11".into()));
        assert_eq!(judge(&secret("2026-03-05T00:00:00Z", json!({})), Some(&own)), Fate::Stays);
        let used = |day: &str| secret(old, json!({LAST_USED_LABEL: day}));
        assert_eq!(judge(&used("2026-03-01"), Some(&own)), Fate::Stays);
        assert_eq!(judge(&used("sometime"), Some(&own)), Fate::Stays);
        assert_eq!(judge(&used("2026-02-28"), Some(&own)), Fate::Invalid("2026-03-11".into()));
        let marked = |day: &str| secret(old, json!({INVALID_SINCE_LABEL: day}));
        assert_eq!(judge(&marked("2026-03-02"), Some(&own)), Fate::Stays);
        assert_eq!(judge(&marked("2026-02-27"), Some(&own)), Fate::Goes);
        assert_eq!(judge(&marked("true"), Some(&own)), Fate::Invalid("2026-03-11".into()));
        // made on purpose, of nobody, mounted, of another kind
        assert_eq!(judge(&marked("2026-02-27"), Some(&account(&["other"]))), Fate::Stays);
        assert_eq!(judge(&marked("2026-02-27"), None), Fate::Stays);
        assert_eq!(fate(&marked("2026-02-27"), Some(&own), || true, 10 * DAY, now), Fate::Stays);
        let mut opaque = marked("2026-02-27");
        opaque.type_ = Some("Opaque".into());
        assert_eq!(judge(&opaque, Some(&own)), Fate::Stays);
    }

    #[test]
    fn nothing_goes_before_use_was_written_down_for_the_whole_time() {
        let map = |since| -> ConfigMap { serde_json::from_value(json!({"data": {"since": since}})).unwrap() };
        let long = |now: &str| tracked_long_enough(&map("2026-03-01"), 10 * DAY, now.parse().unwrap());
        assert_eq!(long("2026-03-11T23:59:59Z"), Ok(false));
        assert_eq!(long("2026-03-12T00:00:00Z"), Ok(true));
        assert!(tracked_long_enough(&ConfigMap::default(), DAY, Timestamp::UNIX_EPOCH).is_err());
    }
}
