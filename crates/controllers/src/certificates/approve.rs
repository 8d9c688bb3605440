//! Requests of kubelets for their client certificates are approved, when who asks may have them.
//!
//! upstream: `pkg/controller/certificates/approver`

use super::{ACCOUNT, certificate, controller, has, status};
use crate::start::Setup;
use async_trait::async_trait;
use client::Client;
use client::controller::{After, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kinds::certificates::asked::{Asked, kubelet_client};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// A sort of request: the subresource that one must be allowed to create, and what the approval says.
struct Sort {
    subresource: &'static str,
    message: &'static str,
}

const SELF_NODE: Sort = Sort {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE: Sort = Sort {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

pub(super) struct Approver {
    pub(super) client: Client,
    pub(super) requests: Informer<CertificateSigningRequest>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let requests = setup.informers.of::<CertificateSigningRequest>();
    let this = Approver { client: setup.client(ACCOUNT), requests: requests.clone() };
    controller("certificatesigningrequest-approving", this, &requests, setup).start(setup.cancel.clone())
}

/// What a request may be approved as, in the order in which it is tried.
fn sorts(csr: &CertificateSigningRequest, asked: &Asked) -> Vec<&'static Sort> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if csr.spec.signer_name != SIGNER || kubelet_client(asked, usages).is_err() {
        return Vec::new();
    }
    let own = csr.spec.username.as_deref().unwrap_or("") == asked.subject.common_name;
    if own { vec![&SELF_NODE, &NODE] } else { vec![&NODE] }
}

impl Approver {
    async fn may(&self, csr: &CertificateSigningRequest, sort: &Sort) -> Result<bool, Error> {
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".into()),
            resource: Some("certificatesigningrequests".into()),
            verb: Some("create".into()),
            subresource: Some(sort.subresource.into()),
            version: Some("*".into()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        Ok(self.client.create(&review).await?.status.is_some_and(|s| s.allowed))
    }
}

#[async_trait]
impl Reconcile for Approver {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(csr) = self.requests.store().get("", &key.name) else { return Ok(After::Done) };
        if !certificate(&csr).is_empty() || has(&csr, "Approved") || has(&csr, "Denied") {
            return Ok(After::Done);
        }
        let asked = Asked::from_pem(&csr.spec.request.0);
        let asked = asked.map_err(|e| format!("unable to parse csr {:?}: {e}", key.name))?;
        let mut tried = Vec::new();
        for sort in sorts(&csr, &asked) {
            tried.push(sort.subresource);
            if !self.may(&csr, sort).await? {
                continue;
            }
            let mut csr = (*csr).clone();
            status(&mut csr).conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(sort.message.into()),
                ..CertificateSigningRequestCondition::default()
            });
            let done = self.client.update_subresource(&csr, "approval").await;
            done.map_err(|e| format!("error updating approval for csr: {e}"))?;
            return Ok(After::Done);
        }
        if tried.is_empty() {
            return Ok(After::Done);
        }
        let tried = tried.join(" ");
        Err(format!("recognized csr {:?} as [{tried}] but subject access review was not approved", key.name)
            .into())
    }
}
