//! Who may approve, sign and attest for a signer, and what no certificate of a client may say
//! (upstream: `plugin/pkg/admission/certificates`).
//!
//! Invariant: a signer is asked for as it is stored, or, of a bundle, as it can never change; a write that does not say
//! anything in a signer's name needs no permission.

use crate::chain::{Attributes, Phase, Plugin};
use async_trait::async_trait;
use auth::{Authorizer, Identity};
use kinds::KindDef;
use kinds::certificates::asked::Asked;
use meta::GroupResource;
use meta::field::{Error, Path, quoted};
use meta::status::{Result, Status};
use registry::Operation;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// A permission on a signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Approve,
    Sign,
    Attest,
}

/// A write, as far as the rules look at it.
struct Write<'a> {
    kind: &'a KindDef,
    operation: Operation,
    subresource: &'a str,
    new: &'a Value,
    old: &'a Value,
}

impl Rule {
    fn verb(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Sign => "sign",
            Self::Attest => "attest",
        }
    }

    /// The signer in whose name something is written.
    fn signer<'a>(self, w: &Write<'a>) -> Option<&'a str> {
        let is = |plural: &str| w.kind.group == GROUP && w.kind.plural == plural;
        let update = w.operation == Operation::Update;
        let of = |object: &'a Value| object["spec"]["signerName"].as_str().unwrap_or("");
        match self {
            Self::Approve => (is(REQUESTS) && update && w.subresource == "approval").then(|| of(w.old)),
            Self::Sign => {
                let status = is(REQUESTS) && update && w.subresource == "status";
                (status && signs(w.new, w.old)).then(|| of(w.old))
            }
            Self::Attest => {
                let writes = is("clustertrustbundles") && (update || w.operation == Operation::Create);
                let signer = of(w.new);
                let collected = update && only_for_collection(w.new, w.old);
                (writes && !signer.is_empty() && !collected).then_some(signer)
            }
        }
    }

    fn refusal(self, signer: &str) -> String {
        let what = match self {
            Self::Approve => "approve requests with",
            Self::Sign => "sign requests with",
            Self::Attest => "attest for",
        };
        format!("user not permitted to {what} signerName {signer}", signer = quoted(signer))
    }
}

/// Whether the certificate or the conditions of a request change.
fn signs(new: &Value, old: &Value) -> bool {
    let conditions = |o: &Value| o["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let certificate = |o: &Value| o["status"]["certificate"].as_str().unwrap_or("").to_owned();
    certificate(new) != certificate(old) || conditions(new) != conditions(old)
}

/// Whether an update changes only what the garbage collector writes (upstream: `rbac.IsOnlyMutatingGCFields`).
fn only_for_collection(new: &Value, old: &Value) -> bool {
    let stripped = |o: &Value| {
        let mut o = o.clone();
        if let Some(metadata) = o.get_mut("metadata").and_then(Value::as_object_mut) {
            // an update at another version than the present one never gets here
            for field in ["ownerReferences", "finalizers", "selfLink", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        o
    };
    stripped(new) == stripped(old)
}

/// Whether a user has a verb on a signer, or on all signers of its domain (upstream: `IsAuthorizedForSignerName`).
async fn may(authorizer: &Authorizer, user: &Identity, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or("");
    let all = format!("{domain}/*");
    let ask = |z: &Authorizer, name: &str| {
        let resource = GroupResource::new(GROUP, "signers");
        z.authorize(&auth::Attributes::for_resource(user, verb, resource, "*").named(name)).is_allowed()
    };
    authorizer.settle(|z| ask(z, signer) || ask(z, &all)).await
}

/// `CertificateApproval`, `CertificateSigning` and `ClusterTrustBundleAttest`.
pub struct Signers {
    rule: Rule,
    authorizer: Arc<Authorizer>,
}

impl Signers {
    pub fn approval(authorizer: &Arc<Authorizer>) -> Self {
        Self { rule: Rule::Approve, authorizer: authorizer.clone() }
    }

    pub fn signing(authorizer: &Arc<Authorizer>) -> Self {
        Self { rule: Rule::Sign, authorizer: authorizer.clone() }
    }

    pub fn attest(authorizer: &Arc<Authorizer>) -> Self {
        Self { rule: Rule::Attest, authorizer: authorizer.clone() }
    }
}

#[async_trait]
impl Plugin for Signers {
    fn name(&self) -> &'static str {
        match self.rule {
            Rule::Approve => "CertificateApproval",
            Rule::Sign => "CertificateSigning",
            Rule::Attest => "ClusterTrustBundleAttest",
        }
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate && a.kind.group == GROUP
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let (new, old) = (new.unwrap_or(&Value::Null), old.unwrap_or(&Value::Null));
        let write = Write { kind: a.kind, operation: a.operation, subresource: a.subresource, new, old };
        let Some(signer) = self.rule.signer(&write) else { return Ok(()) };
        if may(&self.authorizer, a.user, self.rule.verb(), signer).await {
            return Ok(());
        }
        Err(Status::forbidden(&a.kind.group_resource(), a.name, &self.rule.refusal(signer)))
    }
}

/// `CertificateSubjectRestriction`: nobody becomes an administrator by a certificate of a client.
pub struct SubjectRestriction;

#[async_trait]
impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate
            && a.operation == Operation::Create
            && a.subresource.is_empty()
            && a.is(GROUP, REQUESTS)
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, _old: Option<&Value>) -> Result<()> {
        let Some(new) = new else { return Ok(()) };
        forbidden_subject(new)
            .map_or(Ok(()), |why| Err(Status::forbidden(&a.kind.group_resource(), a.name, &why)))
    }
}

/// What is wrong with the subject that a request is for.
fn forbidden_subject(request: &Value) -> Option<String> {
    use base64::Engine as _;
    if request["spec"]["signerName"] != CLIENT_SIGNER {
        return None;
    }
    let pem = request["spec"]["request"].as_str().unwrap_or("");
    let pem = base64::engine::general_purpose::STANDARD.decode(pem).unwrap_or_default();
    match Asked::from_pem(&pem) {
        Err(why) => Some(format!("failed to parse CSR: {why}")),
        Ok(asked) => asked
            .subject
            .organization
            .iter()
            .any(|o| o == MASTERS)
            .then(|| format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")),
    }
}

/// Who writes the status of a pod's request signs for its signer (upstream: `pkg/registry/certificates/
/// podcertificaterequest/strategy.go#ValidateUpdate`, there a part of validation; it comes first of the plugins that see
/// the validated object).
pub struct PodCertificateSigning {
    authorizer: Arc<Authorizer>,
}

impl PodCertificateSigning {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for PodCertificateSigning {
    fn name(&self) -> &'static str {
        "PodCertificateRequestSigning"
    }

    fn handles(&self, phase: Phase, a: &Attributes<'_>) -> bool {
        phase == Phase::Validate
            && a.operation == Operation::Update
            && a.subresource == "status"
            && a.is(GROUP, "podcertificaterequests")
    }

    async fn validate(&self, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<()> {
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        if new["status"] == old["status"] {
            return Ok(());
        }
        let signer = old["spec"]["signerName"].as_str().unwrap_or("");
        if may(&self.authorizer, a.user, "sign", signer).await {
            return Ok(());
        }
        let name = &a.user.name;
        let why = format!(
            "User {name} is not permitted to \"sign\" for signer {signer}",
            name = quoted(name),
            signer = quoted(signer)
        );
        let error = Error::forbidden(&Path::new("spec").child("signerName"), why);
        Err(Status::invalid(&a.kind.group_kind(), a.name, &vec![error]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auth::node::NodeAuthorizer;
    use auth::rbac::Rbac;
    use serde_json::json;

    const SIGNER: &str = "example.com/a";

    fn signer(
        rule: Rule,
        kind: &KindDef,
        what: (Operation, &str),
        new: &Value,
        old: &Value,
    ) -> Option<String> {
        let write = Write { kind, operation: what.0, subresource: what.1, new, old };
        rule.signer(&write).map(str::to_owned)
    }

    #[test]
    fn which_writes_need_a_permission() {
        let (requests, bundles) =
            (kinds::certificates::csr::kind(), kinds::certificates::trust_bundle::kind());
        let old = json!({"metadata": {"name": "r"}, "spec": {"signerName": SIGNER}});
        let mut renamed = old.clone();
        renamed["spec"]["signerName"] = "example.com/b".into();
        let is = Some(SIGNER.to_owned());
        let update = |sub| (Operation::Update, sub);
        assert_eq!(signer(Rule::Approve, &requests, update("approval"), &renamed, &old), is);
        assert_eq!(signer(Rule::Approve, &requests, update("status"), &old, &old), None);
        assert_eq!(signer(Rule::Approve, &bundles, update("approval"), &old, &old), None);
        let mut signed = old.clone();
        signed["status"] = json!({"conditions": []});
        assert_eq!(signer(Rule::Sign, &requests, update("status"), &signed, &old), None);
        signed["status"]["certificate"] = "AAAA".into();
        assert_eq!(signer(Rule::Sign, &requests, update("status"), &signed, &old), is);
        signed["status"] = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        assert_eq!(signer(Rule::Sign, &requests, update("status"), &signed, &old), is);
        assert_eq!(signer(Rule::Sign, &requests, update("approval"), &signed, &old), None);
        let create = (Operation::Create, "");
        assert_eq!(signer(Rule::Attest, &bundles, create, &old, &Value::Null), is);
        assert_eq!(signer(Rule::Attest, &bundles, create, &json!({"spec": {}}), &Value::Null), None);
        assert_eq!(signer(Rule::Attest, &requests, create, &old, &Value::Null), None);
        let mut collected = old.clone();
        collected["metadata"]["finalizers"] = json!(["a.b/c"]);
        assert_eq!(signer(Rule::Attest, &bundles, update(""), &collected, &old), None);
        collected["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(signer(Rule::Attest, &bundles, update(""), &collected, &old), is);
    }

    #[tokio::test]
    async fn permissions_are_for_a_signer_or_a_domain() {
        let rbac = Rbac::default();
        let role = |names: Value| {
            json!({"metadata": {"name": names[0]}, "rules": [{"apiGroups": [GROUP], "resources": ["signers"],
                "verbs": ["sign"], "resourceNames": names}]})
        };
        let binding = |user: &str, role: &str| {
            json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
        };
        for name in [SIGNER, "example.com/*", "*"] {
            rbac.apply("ClusterRole", &role(json!([name])));
        }
        for (user, role) in [("one", SIGNER), ("domain", "example.com/*"), ("star", "*")] {
            rbac.apply("ClusterRoleBinding", &binding(user, role));
        }
        let authorizer = Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(rbac));
        for (user, verb, signer, want) in [
            ("one", "sign", SIGNER, true),
            ("one", "approve", SIGNER, false),
            ("one", "sign", "example.com/b", false),
            ("domain", "sign", "example.com/b", true),
            ("domain", "sign", "example.org/b", false),
            ("star", "sign", SIGNER, false),
        ] {
            let user = Identity::new(user, &[]);
            assert_eq!(may(&authorizer, &user, verb, signer).await, want, "{} {verb} {signer}", user.name);
        }
    }

    #[test]
    fn refusals_and_subjects() {
        assert_eq!(
            Rule::Approve.refusal(SIGNER),
            "user not permitted to approve requests with signerName \"example.com/a\""
        );
        assert_eq!(
            Rule::Attest.refusal(SIGNER),
            "user not permitted to attest for signerName \"example.com/a\""
        );
        let mut request = json!({"spec": {"signerName": SIGNER, "request": "AAAA"}});
        assert_eq!(forbidden_subject(&request), None);
        request["spec"]["signerName"] = CLIENT_SIGNER.into();
        assert_eq!(
            forbidden_subject(&request).as_deref(),
            Some("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST")
        );
        request["spec"]["request"] = include_str!("certificates/masters.csr.base64").trim().into();
        assert_eq!(
            forbidden_subject(&request).as_deref(),
            Some(
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
            )
        );
    }
}
