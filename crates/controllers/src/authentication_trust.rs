//! The ConfigMap `kube-system/extension-apiserver-authentication`: by whom other API servers know clients, and this server
//! where it speaks for clients.
//!
//! Invariant: what others put there stays; what is missing is added; authorities whose time is over go.
//! Runs as the API server itself (upstream: `pkg/controlplane/controller/clusterauthenticationtrust`).

use crate::start::Setup;
use async_trait::async_trait;
use auth::pki::bundle;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// How often it is looked whether an authority has ended.
const RESYNC: Duration = Duration::from_secs(12 * 3600);

/// What other API servers are told.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// PEM of those who sign clients' certificates.
    pub client_ca_pem: String,
    /// PEM of those who sign the certificates of proxies in front, this server among them.
    pub proxy_ca_pem: String,
    /// Common names that such certificates may have; empty for any.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

struct Publisher {
    client: Client,
    maps: Informer<ConfigMap>,
    trust: Trust,
    clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Option<Handle> {
    let trust = setup.config.trust.clone()?;
    let maps = setup.informers.of_selected::<ConfigMap>(&format!("metadata.name={NAME}"));
    let client = setup.system.clone();
    let this = Publisher { client, maps: maps.clone(), trust, clock: setup.clock.clone() };
    let key = || ObjectKey::new(NAMESPACE, NAME);
    let controller = Controller::new("cluster-authentication-trust", Arc::new(this), setup.clock.clone());
    controller.queue().add(key());
    let controller = controller
        .watches(&maps, move |c, q| {
            if c.latest().is_some_and(|m| m.namespace() == NAMESPACE && m.name() == NAME) {
                q.add(key());
            }
        })
        .resync(RESYNC, move || vec![key()]);
    Some(controller.start(setup.cancel.clone()))
}

/// What the ConfigMap should hold, given what it does.
///
/// # Errors
/// What it holds cannot be read.
pub fn data(
    there: &BTreeMap<String, String>,
    trust: &Trust,
    now: Timestamp,
) -> Result<BTreeMap<String, String>, String> {
    let text = |field: &str| there.get(field).map_or("", String::as_str);
    let list = |field: &str, ours: &[String]| -> Result<String, String> {
        let mut all: Vec<String> = match text(field) {
            "" => Vec::new(),
            json => serde_json::from_str(json).map_err(|e| format!("{field}: {e}"))?,
        };
        all.extend_from_slice(ours);
        let mut each: Vec<String> = Vec::new();
        for one in all {
            if !each.contains(&one) {
                each.push(one);
            }
        }
        serde_json::to_string(&each).map_err(|e| e.to_string())
    };
    let mut out = BTreeMap::new();
    let clients = bundle::join(text("client-ca-file"), &trust.client_ca_pem, now)?;
    if !clients.is_empty() {
        out.insert("client-ca-file".to_owned(), clients);
    }
    let proxies = bundle::join(text("requestheader-client-ca-file"), &trust.proxy_ca_pem, now)?;
    if !proxies.is_empty() {
        out.insert("requestheader-client-ca-file".to_owned(), proxies);
        for (field, ours) in [
            ("requestheader-username-headers", &trust.username_headers),
            ("requestheader-uid-headers", &trust.uid_headers),
            ("requestheader-group-headers", &trust.group_headers),
            ("requestheader-extra-headers-prefix", &trust.extra_prefixes),
            ("requestheader-allowed-names", &trust.allowed_names),
        ] {
            let all = list(field, ours)?;
            if !(field == "requestheader-uid-headers" && all == "[]") {
                out.insert(field.to_owned(), all);
            }
        }
    }
    Ok(out)
}

#[async_trait]
impl Reconcile for Publisher {
    type Key = ObjectKey;

    async fn reconcile(&self, _: &ObjectKey) -> Result<After, Error> {
        let there = self.maps.store().get(NAMESPACE, NAME);
        let before = there.as_ref().and_then(|m| m.data.clone()).unwrap_or_default();
        let data = data(&before, &self.trust, self.clock.now())?;
        let Some(there) = there else {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            };
            let made = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            return match self.client.create(&made).await {
                Err(e) if !e.is_already_exists() => Err(e.into()),
                _ => Ok(After::Done),
            };
        };
        if data == before {
            return Ok(After::Done);
        }
        let changed = ConfigMap { data: Some(data), ..(*there).clone() };
        match self.client.update(&changed).await {
            // Too much was put there: it begins anew, with what is needed.
            Err(e) if e.code == 413 || e.code == 422 && e.message.contains("Too long") => {
                self.client.delete::<ConfigMap>(NAMESPACE, NAME, &DeleteOptions::default()).await?;
                Err(e.into())
            }
            other => other.map(|_| After::Done).map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_put_there_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let pki =
            auth::pki::Pki::open(dir.path(), Arc::new(base::clock::ManualClock::new(now))).expect("made");
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let trust = Trust {
            client_ca_pem: pki.ca_pem().to_owned(),
            proxy_ca_pem: pki.front_proxy_ca_pem().to_owned(),
            allowed_names: list(&["front-proxy-client"]),
            username_headers: list(&["X-Remote-User"]),
            uid_headers: list(&["X-Remote-Uid"]),
            group_headers: list(&["X-Remote-Group"]),
            extra_prefixes: list(&["X-Remote-Extra-"]),
        };
        let first = data(&BTreeMap::new(), &trust, now).expect("made");
        assert_eq!(first["requestheader-allowed-names"], "[\"front-proxy-client\"]");
        assert_eq!(first["requestheader-username-headers"], "[\"X-Remote-User\"]");
        assert_eq!(first["client-ca-file"].matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(first.len(), 7);
        assert_eq!(data(&first, &trust, now), Ok(first.clone()));
        let mut theirs = first.clone();
        theirs.insert("requestheader-allowed-names".into(), "[\"other\"]".into());
        theirs.insert("client-ca-file".into(), pki.front_proxy_ca_pem().to_owned());
        let joined = data(&theirs, &trust, now).expect("joined");
        assert_eq!(joined["requestheader-allowed-names"], "[\"other\",\"front-proxy-client\"]");
        assert_eq!(joined["client-ca-file"].matches("BEGIN CERTIFICATE").count(), 2);
        theirs.insert("requestheader-allowed-names".into(), "nonsense".into());
        assert!(data(&theirs, &trust, now).is_err());
    }
}
