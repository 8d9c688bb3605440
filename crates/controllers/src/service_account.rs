//! Every active namespace has a `default` service account.
//!
//! upstream: `pkg/controller/serviceaccount/serviceaccounts_controller.go`

use crate::deployment::is_terminating_namespace;
use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Kind};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;

const NAME: &str = "default";

struct ServiceAccountController {
    client: Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let namespaces = setup.informers.of::<Namespace>();
    let accounts = setup.informers.of::<ServiceAccount>();
    let client = setup.client("service-account-controller");
    let this =
        ServiceAccountController { client, namespaces: namespaces.clone(), accounts: accounts.clone() };
    Controller::new("serviceaccount", Arc::new(this), setup.clock.clone())
        .watches(&namespaces, |c, q| c.new.iter().for_each(|n| q.add(ObjectKey::of(&**n))))
        .watches(&accounts, |c, q| {
            if let (Some(gone), None) = (&c.old, &c.new)
                && gone.name() == NAME
            {
                q.add(ObjectKey::new("", gone.namespace()));
            }
        })
        .start(setup.cancel.clone())
}

/// Whether things may be made in a namespace.
pub(crate) fn is_active(ns: &Namespace) -> bool {
    !ns.is_deleting() && ns.status.as_ref().and_then(|s| s.phase.as_deref()).is_none_or(|p| p == "Active")
}

#[async_trait]
impl Reconcile for ServiceAccountController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let active = self.namespaces.store().get("", &key.name).is_some_and(|n| is_active(&n));
        if !active || self.accounts.store().get(&key.name, NAME).is_some() {
            return Ok(After::Done);
        }
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(key.name.clone()),
            ..ObjectMeta::default()
        };
        match self.client.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
            Err(e) if !e.is_already_exists() && !is_terminating_namespace(&e) => Err(e.into()),
            _ => Ok(After::Done),
        }
    }
}
