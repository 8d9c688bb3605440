//! The controllers of certificate requests: approve, sign, clean up; and the bundle by which pods trust the API server.
//!
//! upstream: `pkg/controller/certificates`

pub mod approve;
pub mod clean;
pub mod pod_requests;
pub mod sign;
pub mod trust_bundle;

use client::controller::{Controller, ObjectKey, Queue, RateLimiter, Reconcile};
use client::informer::Informer;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use std::sync::Arc;
use std::time::Duration;

use crate::start::Setup;

/// The service account that all of them but the publisher and the cleaner of pods' requests run as.
const ACCOUNT: &str = "certificate-controller";
/// Upstream: `ConcurrentSyncs` of its certificate controllers.
const WORKERS: usize = 5;
/// First wait after a failure.
const BACKOFF: Duration = Duration::from_millis(200);

fn conditions(csr: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    csr.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn has(csr: &CertificateSigningRequest, ty: &str) -> bool {
    conditions(csr).iter().any(|c| c.type_ == ty)
}

/// Its certificate, PEM; empty until it is issued.
fn certificate(csr: &CertificateSigningRequest) -> &[u8] {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).map_or(&[], |c| c.0.as_slice())
}

fn status(csr: &mut CertificateSigningRequest) -> &mut CertificateSigningRequestStatus {
    csr.status.get_or_insert_default()
}

/// A controller that gets every request that changes (upstream: `NewCertificateController`).
fn controller<R>(
    name: &'static str,
    this: R,
    requests: &Informer<CertificateSigningRequest>,
    setup: &Setup,
) -> Controller<R>
where
    R: Reconcile<Key = ObjectKey>,
{
    let limiter = RateLimiter { base: BACKOFF, ..RateLimiter::default() };
    Controller::new(name, Arc::new(this), setup.clock.clone())
        .with_queue(Arc::new(Queue::new(setup.clock.clone(), limiter)))
        .workers(WORKERS)
        .watches(requests, |c, q| c.new.iter().for_each(|r| q.add(ObjectKey::of(&**r))))
}

#[cfg(test)]
mod tests;
