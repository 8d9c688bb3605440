//! Certificate requests of pods are deleted soon: whoever asked has long read the answer.
//!
//! upstream: `pkg/controller/certificates/cleaner/pcrcleaner.go`

use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind, Preconditions};
use jiff::SignedDuration;
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use std::sync::Arc;
use std::time::Duration;

/// Time between two passes, and how old a request may be.
const PERIOD: Duration = Duration::from_mins(5);
const AGE_MAX: SignedDuration = SignedDuration::from_mins(15);

pub(super) struct Cleaner {
    pub(super) client: Client,
    pub(super) requests: Informer<PodCertificateRequest>,
    pub(super) clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let requests = setup.informers.of::<PodCertificateRequest>();
    let client = setup.client("podcertificaterequestcleaner");
    let this = Cleaner { client, requests: requests.clone(), clock: setup.clock.clone() };
    let controller = Controller::new("podcertificaterequest-cleaner", Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller.needs(&requests).start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for Cleaner {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        for request in self.requests.store().list() {
            let now = self.clock.now();
            let made = request.metadata.creation_timestamp.as_ref();
            if made.is_some_and(|t| now.duration_since(t.0) < AGE_MAX) {
                continue;
            }
            let (ns, name) = (request.namespace(), request.name());
            let uid = request.metadata.uid.clone();
            let preconditions = Some(Preconditions { uid, ..Preconditions::default() });
            let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
            match self.client.delete::<PodCertificateRequest>(ns, name, &options).await {
                Err(e) if !e.is_not_found() => {
                    tracing::warn!(request = %format!("{ns}/{name}"), "pod certificate request not deleted: {e}");
                }
                _ => {}
            }
        }
        Ok(After::Again(PERIOD))
    }
}
