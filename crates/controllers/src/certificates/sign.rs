//! Approved requests for the cluster's own signers get their certificates.
//!
//! upstream: `pkg/controller/certificates/signer`, there a controller for each signer

use super::{ACCOUNT, certificate, conditions, controller, has, status};
use crate::common::time;
use crate::start::Setup;
use async_trait::async_trait;
use auth::signing::Authority;
use base::clock::SharedClock;
use client::Client;
use client::controller::{After, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kinds::certificates::asked::{Asked, kubelet_client, kubelet_serving};
use std::sync::Arc;

/// The least that is given, whatever a request asks for: twice what certificates are back-dated by.
const LIFETIME_MIN: SignedDuration = SignedDuration::from_mins(10);

pub(super) struct Signer {
    pub(super) client: Client,
    pub(super) requests: Informer<CertificateSigningRequest>,
    pub(super) authority: Arc<Authority>,
    /// The most that is given.
    pub(super) lifetime: SignedDuration,
    pub(super) clock: SharedClock,
}

/// Starts it; `None` without an authority to sign with.
pub(crate) fn start(setup: &Setup) -> Option<Handle> {
    let authority = setup.config.signing.clone()?;
    let requests = setup.informers.of::<CertificateSigningRequest>();
    let this = Signer {
        client: setup.client(ACCOUNT),
        requests: requests.clone(),
        authority,
        lifetime: setup.config.signing_duration,
        clock: setup.clock.clone(),
    };
    let controller = controller("certificatesigningrequest-signing", this, &requests, setup);
    Some(controller.start(setup.cancel.clone()))
}

/// Whether a signer would sign this; `None` for signers that are not ours.
fn verdict(csr: &CertificateSigningRequest, asked: &Asked) -> Option<Result<(), String>> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    Some(match csr.spec.signer_name.as_str() {
        "kubernetes.io/kubelet-serving" => kubelet_serving(asked, usages),
        "kubernetes.io/kube-apiserver-client-kubelet" => kubelet_client(asked, usages),
        "kubernetes.io/kube-apiserver-client" => client_usages(usages),
        "kubernetes.io/legacy-unknown" => Ok(()),
        _ => return None,
    })
}

/// Upstream: `validAPIServerClientUsages`.
fn client_usages(usages: &[String]) -> Result<(), String> {
    const CLIENT: &str = "client auth";
    let known = ["digital signature", "key encipherment", CLIENT];
    if let Some(other) = usages.iter().find(|u| !known.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.iter().any(|u| u == CLIENT) {
        return Ok(());
    }
    Err(format!("missing required usage for client certificate: {CLIENT}"))
}

/// How long a certificate is to live.
fn lifetime(wanted_seconds: Option<i32>, max: SignedDuration) -> SignedDuration {
    let Some(wanted) = wanted_seconds.map(|s| SignedDuration::from_secs(s.into())) else { return max };
    if wanted > max { max } else { wanted.max(LIFETIME_MIN) }
}

/// Upstream: `HasTrueCondition`.
fn failed(csr: &CertificateSigningRequest) -> bool {
    conditions(csr).iter().any(|c| c.type_ == "Failed" && matches!(c.status.as_str(), "" | "True"))
}

#[async_trait]
impl Reconcile for Signer {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(csr) = self.requests.store().get("", &key.name) else { return Ok(After::Done) };
        let approved = has(&csr, "Approved") && !has(&csr, "Denied");
        if !certificate(&csr).is_empty() || !approved || failed(&csr) {
            return Ok(After::Done);
        }
        if !kinds::certificates::is_kubernetes_signer(&csr.spec.signer_name) {
            return Ok(After::Done);
        }
        let asked = Asked::from_pem(&csr.spec.request.0);
        let asked = asked.map_err(|e| format!("unable to parse csr {:?}: {e}", key.name))?;
        let Some(verdict) = verdict(&csr, &asked) else { return Ok(After::Done) };
        let mut csr = (*csr).clone();
        let now = self.clock.now();
        if let Err(why) = verdict {
            status(&mut csr).conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(why),
                last_update_time: Some(time(now)),
                ..CertificateSigningRequestCondition::default()
            });
            let done = self.client.update_status(&csr).await;
            done.map_err(|e| format!("error adding failure condition for csr: {e}"))?;
            return Ok(After::Done);
        }
        let usages = csr.spec.usages.clone().unwrap_or_default();
        let lifetime = lifetime(csr.spec.expiration_seconds, self.lifetime);
        let pem = self.authority.sign(&asked, &usages, lifetime, now);
        let pem = pem.map_err(|e| format!("error auto signing csr: {e}"))?;
        status(&mut csr).certificate = Some(ByteString(pem.into_bytes()));
        let done = self.client.update_status(&csr).await;
        done.map_err(|e| format!("error updating signature for csr: {e}"))?;
        Ok(After::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_of_clients() {
        let check = |usages: &[&str]| {
            client_usages(&usages.iter().map(|u| (*u).to_owned()).collect::<Vec<_>>()).err()
        };
        assert_eq!(check(&["client auth"]), None);
        assert_eq!(check(&["key encipherment", "client auth", "digital signature"]), None);
        assert_eq!(
            check(&["client auth", "server auth"]).as_deref(),
            Some("invalid usage for client certificate: server auth")
        );
        assert_eq!(
            check(&["digital signature"]).as_deref(),
            Some("missing required usage for client certificate: client auth")
        );
    }

    #[test]
    fn lifetimes() {
        let max = SignedDuration::from_hours(1);
        for (wanted, want) in [
            (None, max),
            (Some(10), LIFETIME_MIN),
            (Some(1800), SignedDuration::from_mins(30)),
            (Some(9999), max),
        ] {
            assert_eq!(lifetime(wanted, max), want, "{wanted:?}");
        }
    }
}
