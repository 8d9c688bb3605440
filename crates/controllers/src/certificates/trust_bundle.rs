//! One ClusterTrustBundle has the certificates by which clients trust the API server.
//!
//! upstream: `pkg/controller/certificates/clustertrustbundlepublisher`

use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use data_encoding::HEXLOWER;
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
const NAME: &str = "kube-apiserver-serving-clustertrustbundle-publisher";
/// Bytes of the content's digest that are in the bundle's name.
const DIGEST_BYTES: usize = 12;

pub(super) struct Publisher {
    pub(super) client: Client,
    pub(super) bundles: Informer<ClusterTrustBundle>,
    pub(super) pem: String,
}

/// Starts it; `None` without certificates to publish.
pub(crate) fn start(setup: &Setup) -> Option<Handle> {
    let pem = setup.config.root_ca_pem.clone();
    if pem.is_empty() {
        return None;
    }
    let bundles = setup.informers.of_selected::<ClusterTrustBundle>(&format!("spec.signerName={SIGNER}"));
    let this = Publisher { client: setup.client(NAME), bundles: bundles.clone(), pem };
    let controller = Controller::new(NAME, Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    Some(controller.watches(&bundles, |_, q| q.add(())).start(setup.cancel.clone()))
}

/// Upstream: `constructBundleName`.
pub(super) fn name(pem: &str) -> String {
    let digest = Sha256::digest(pem);
    format!("{}:{}", SIGNER.replace('/', ":"), HEXLOWER.encode(&digest[..DIGEST_BYTES]))
}

#[async_trait]
impl Reconcile for Publisher {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        let name = name(&self.pem);
        match self.bundles.store().get("", &name) {
            None => {
                let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
                let spec = ClusterTrustBundleSpec {
                    signer_name: Some(SIGNER.into()),
                    trust_bundle: self.pem.clone(),
                };
                self.client.create(&ClusterTrustBundle { metadata, spec }).await?;
            }
            Some(there) if there.spec.trust_bundle != self.pem => {
                let mut bundle = (*there).clone();
                bundle.spec.trust_bundle.clone_from(&self.pem);
                self.client.update(&bundle).await?;
            }
            Some(_) => {}
        }
        let mut failed = None;
        for other in self.bundles.store().list().iter().filter(|b| b.name() != name) {
            let options = DeleteOptions::default();
            match self.client.delete::<ClusterTrustBundle>("", other.name(), &options).await {
                Err(e) if !e.is_not_found() => failed = Some(e),
                _ => {}
            }
        }
        failed.map_or(Ok(After::Done), |e| Err(e.into()))
    }
}
