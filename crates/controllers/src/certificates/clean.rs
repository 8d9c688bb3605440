//! Old certificate requests are deleted.
//!
//! upstream: `pkg/controller/certificates/cleaner/cleaner.go`

use super::{ACCOUNT, certificate, conditions};
use crate::start::Setup;
use async_trait::async_trait;
use base::clock::SharedClock;
use client::controller::{After, Controller, Error, Handle, Reconcile};
use client::informer::Informer;
use client::{Client, DeleteOptions, Kind};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

/// Time between two passes (upstream: `pollingInterval`).
const PERIOD: Duration = Duration::from_hours(1);
/// How long requests are kept after their end, and how long without one (upstream: `approvedExpiration`,
/// `deniedExpiration`, `pendingExpiration`).
const ENDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub(super) struct Cleaner {
    pub(super) client: Client,
    pub(super) requests: Informer<CertificateSigningRequest>,
    pub(super) clock: SharedClock,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let requests = setup.informers.of::<CertificateSigningRequest>();
    let this =
        Cleaner { client: setup.client(ACCOUNT), requests: requests.clone(), clock: setup.clock.clone() };
    let controller =
        Controller::new("certificatesigningrequest-cleaner", Arc::new(this), setup.clock.clone());
    controller.queue().add(());
    controller.needs(&requests).start(setup.cancel.clone())
}

/// Why a request goes; `None` when it stays.
pub fn why(csr: &CertificateSigningRequest, now: Timestamp) -> Option<&'static str> {
    let older = |t: Option<&Time>, than: SignedDuration| t.is_some_and(|t| now.duration_since(t.0) > than);
    let is = |ty: &str, than: SignedDuration| {
        conditions(csr).iter().any(|c| c.type_ == ty && older(c.last_update_time.as_ref(), than))
    };
    let issued = !certificate(csr).is_empty();
    if issued && is("Approved", ENDED) {
        return Some("issued");
    }
    if is("Denied", ENDED) {
        return Some("denied");
    }
    if is("Failed", ENDED) {
        return Some("failed");
    }
    if conditions(csr).is_empty() && older(csr.metadata.creation_timestamp.as_ref(), PENDING) {
        return Some("pending");
    }
    let end = || kinds::certificates::end_of(certificate(csr)).and_then(|t| Timestamp::from_second(t).ok());
    if issued && super::has(csr, "Approved") && end().is_some_and(|end| now > end) {
        return Some("expired");
    }
    (!issued && is("Approved", PENDING)).then_some("approved, but not issued")
}

#[async_trait]
impl Reconcile for Cleaner {
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<After, Error> {
        for csr in self.requests.store().list() {
            let Some(why) = why(&csr, self.clock.now()) else { continue };
            let options = DeleteOptions::default();
            match self.client.delete::<CertificateSigningRequest>("", csr.name(), &options).await {
                Ok(()) => tracing::info!(csr = %csr.name(), why, "certificate request deleted"),
                Err(e) => tracing::warn!(csr = %csr.name(), why, "certificate request not deleted: {e}"),
            }
        }
        Ok(After::Again(PERIOD))
    }
}
