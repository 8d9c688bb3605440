//! Every active namespace has the ConfigMap `kube-root-ca.crt`, by which pods trust the API server.
//!
//! upstream: `pkg/controller/certificates/rootcacertpublisher`

use crate::deployment::is_terminating_namespace;
use crate::service_account::is_active;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Kind};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

struct Publisher {
    client: Client,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    data: BTreeMap<String, String>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let namespaces = setup.informers.of::<Namespace>();
    let maps = setup.informers.of_selected::<ConfigMap>(&format!("metadata.name={NAME}"));
    let data = BTreeMap::from([("ca.crt".to_owned(), setup.config.root_ca_pem.clone())]);
    let client = setup.client("root-ca-cert-publisher");
    let this = Publisher { client, namespaces: namespaces.clone(), maps: maps.clone(), data };
    Controller::new("root-ca-certificate-publisher", Arc::new(this), setup.clock.clone())
        .watches(&namespaces, |c, q| c.new.iter().for_each(|n| q.add(ObjectKey::of(&**n))))
        .watches(&maps, |c, q| {
            if let Some(map) = c.latest().filter(|m| m.name() == NAME) {
                q.add(ObjectKey::new("", map.namespace()));
            }
        })
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Publisher {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        if self.data["ca.crt"].is_empty()
            || !self.namespaces.store().get("", &key.name).is_some_and(|n| is_active(&n))
        {
            return Ok(After::Done);
        }
        let Some(there) = self.maps.store().get(&key.name, NAME) else {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(key.name.clone()),
                annotations: Some(BTreeMap::from([(DESCRIPTION_KEY.into(), DESCRIPTION.into())])),
                ..ObjectMeta::default()
            };
            let map = ConfigMap { metadata, data: Some(self.data.clone()), ..ConfigMap::default() };
            return match self.client.create(&map).await {
                Err(e) if !e.is_already_exists() && !is_terminating_namespace(&e) => Err(e.into()),
                _ => Ok(After::Done),
            };
        };
        let described = there.annotation(DESCRIPTION_KEY).is_some_and(|d| !d.is_empty());
        if there.data.as_ref() == Some(&self.data) && described {
            return Ok(After::Done);
        }
        let mut map = (*there).clone();
        map.data = Some(self.data.clone());
        map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION_KEY.into(), DESCRIPTION.into());
        self.client.update(&map).await?;
        Ok(After::Done)
    }
}
