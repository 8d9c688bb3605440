//! Requests on their way: approved, signed or refused, and deleted.

use super::*;
use auth::pki::Pki;
use auth::signing::Authority;
use base::clock::ManualClock;
use client::controller::After;
use client::fake::FakeApi;
use client::informer::Store;
use client::{Client, Kind};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, PodCertificateRequest};
use kinds::certificates::asked::Asked;
use serde_json::{Value, json};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const NOW: &str = "2026-01-02T03:04:05Z";

/// A kubelet's request: `O=system:nodes`, `CN=system:node:n1`, no names.
const KUBELET: &str = include_str!("samples/kubelet.csr");

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn informer<K: Kind>(objects: &[Value]) -> Informer<K> {
    let store = Arc::new(Store::new(K::metadata));
    for object in objects {
        store.apply(serde_json::from_value(object.clone()).unwrap());
    }
    Informer::of_store(store)
}

fn request(signer: &str, username: &str, status: Value) -> Value {
    let pem = k8s_openapi::ByteString(KUBELET.as_bytes().to_vec());
    json!({"metadata": {"name": "r"}, "status": status, "spec": {"request": pem, "signerName": signer,
        "username": username, "usages": ["client auth", "digital signature"]}})
}

const KUBELET_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

async fn approve(signer: &str, username: &str, answers: &[bool]) -> (Arc<FakeApi>, Result<After, String>) {
    let api = Arc::new(FakeApi::new());
    for allowed in answers {
        api.rig(Method::POST, REVIEWS, json!({"spec": {}, "status": {"allowed": allowed}}));
    }
    let request = request(signer, username, json!({}));
    api.seed(REQUESTS, &request);
    let this = approve::Approver { client: Client::new(api.clone()), requests: informer(&[request]) };
    let result = this.reconcile(&ObjectKey::new("", "r")).await.map_err(|e| e.to_string());
    (api, result)
}

#[tokio::test]
async fn kubelets_are_approved_when_they_may() {
    let (api, result) = approve(KUBELET_SIGNER, "system:node:n1", &[true]).await;
    assert_eq!(result, Ok(After::Done));
    let writes = api.writes();
    assert_eq!(
        writes[0].body["spec"]["resourceAttributes"],
        json!({"group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
            "subresource": "selfnodeclient", "version": "*"})
    );
    assert_eq!(writes[1].path, format!("{REQUESTS}/r/approval"));
    assert_eq!(
        writes[1].body["status"]["conditions"],
        json!([{"type": "Approved", "status": "True", "reason": "AutoApproved",
            "message": "Auto approving self kubelet client certificate after SubjectAccessReview."}])
    );
    let (api, result) = approve(KUBELET_SIGNER, "bootstrapper", &[true]).await;
    assert_eq!(result, Ok(After::Done));
    assert_eq!(api.writes()[0].body["spec"]["resourceAttributes"]["subresource"], "nodeclient");
    let (_, result) = approve(KUBELET_SIGNER, "system:node:n1", &[false, false]).await;
    let want =
        "recognized csr \"r\" as [selfnodeclient nodeclient] but subject access review was not approved";
    assert_eq!(result, Err(want.to_owned()));
    let (api, result) = approve("kubernetes.io/kube-apiserver-client", "system:node:n1", &[]).await;
    assert_eq!((result, api.writes().len()), (Ok(After::Done), 0));
}

fn authority() -> Authority {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), Arc::new(ManualClock::new(now()))).unwrap().authority().unwrap()
}

async fn sign(request: Value) -> Value {
    let api = Arc::new(FakeApi::new());
    api.seed(REQUESTS, &request);
    let this = sign::Signer {
        client: Client::new(api.clone()),
        requests: informer(&[request]),
        authority: Arc::new(authority()),
        lifetime: SignedDuration::from_hours(24 * 365),
        clock: Arc::new(ManualClock::new(now())),
    };
    this.reconcile(&ObjectKey::new("", "r")).await.unwrap();
    api.writes().pop().map_or(Value::Null, |w| w.body["status"].clone())
}

#[tokio::test]
async fn approved_requests_are_signed_or_fail() {
    let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let status = sign(request(KUBELET_SIGNER, "a", approved.clone())).await;
    let pem: k8s_openapi::ByteString = serde_json::from_value(status["certificate"].clone()).unwrap();
    let end = Timestamp::from_second(kinds::certificates::end_of(&pem.0).unwrap()).unwrap();
    assert_eq!(end, now() + SignedDuration::from_hours(24 * 365) - SignedDuration::from_mins(5));
    let status = sign(request("kubernetes.io/kubelet-serving", "a", approved.clone())).await;
    assert_eq!(
        status["conditions"][1],
        json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "lastUpdateTime": NOW,
            "message": "DNS or IP subjectAltName is required"})
    );
    let mut other = request("example.com/signer", "a", approved.clone());
    assert_eq!(sign(other.clone()).await, Value::Null);
    other["spec"]["signerName"] = "kubernetes.io/other".into();
    assert_eq!(sign(other).await, Value::Null);
    assert_eq!(sign(request(KUBELET_SIGNER, "a", json!({}))).await, Value::Null);
    let both =
        json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]});
    assert_eq!(sign(request(KUBELET_SIGNER, "a", both)).await, Value::Null);
    let failed =
        json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]});
    assert_eq!(sign(request(KUBELET_SIGNER, "a", failed)).await, Value::Null);
}

#[test]
fn which_requests_go() {
    let ago = |hours: i64| (now() - SignedDuration::from_mins(hours * 60 + 1)).to_string();
    let check = |made: i64, condition: &str, at: i64, certificate: &str| {
        let mut csr = request("a.b/c", "", json!({}));
        csr["metadata"]["creationTimestamp"] = ago(made).into();
        if !condition.is_empty() {
            csr["status"]["conditions"] =
                json!([{"type": condition, "status": "True", "lastUpdateTime": ago(at)}]);
        }
        if !certificate.is_empty() {
            let pem = k8s_openapi::ByteString(certificate.as_bytes().to_vec());
            csr["status"]["certificate"] = serde_json::to_value(pem).unwrap();
        }
        clean::why(&serde_json::from_value(csr).unwrap(), now())
    };
    let (asked, then) = (Asked::from_pem(KUBELET.as_bytes()).unwrap(), now() - SignedDuration::from_hours(2));
    let ended = &authority().sign(&asked, &[], SignedDuration::from_hours(1), then).unwrap();
    assert_eq!(check(23, "", 0, ""), None);
    assert_eq!(check(24, "", 0, ""), Some("pending"));
    assert_eq!(check(30, "Approved", 0, "x"), None);
    assert_eq!(check(30, "Approved", 1, "x"), Some("issued"));
    assert_eq!(check(30, "Denied", 0, ""), None);
    assert_eq!(check(30, "Denied", 1, ""), Some("denied"));
    assert_eq!(check(30, "Failed", 1, ""), Some("failed"));
    assert_eq!(check(30, "Approved", 23, ""), None);
    assert_eq!(check(30, "Approved", 24, ""), Some("approved, but not issued"));
    assert_eq!(check(30, "Approved", 0, ended), Some("expired"));
    assert_eq!(check(30, "Other", 24, ended), None);
}

#[tokio::test]
async fn old_requests_of_pods_go() {
    const PATH: &str = "/apis/certificates.k8s.io/v1/namespaces/n/podcertificaterequests";
    let api = Arc::new(FakeApi::new());
    let request = |name: &str, at: &str| {
        json!({"metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": at}, "spec": {
            "signerName": "a.b/c", "podName": "p", "podUID": "p", "serviceAccountName": "s",
            "serviceAccountUID": "s", "nodeName": "n", "nodeUID": "n", "stubPKCS10Request": ""}})
    };
    let all = [request("old", "2026-01-02T02:49:05Z"), request("new", "2026-01-02T02:49:06Z")];
    all.iter().for_each(|r| drop(api.seed(PATH, r)));
    let this = pod_requests::Cleaner {
        client: Client::new(api.clone()),
        requests: informer::<PodCertificateRequest>(&all),
        clock: Arc::new(ManualClock::new(now())),
    };
    assert_eq!(this.reconcile(&()).await.unwrap(), After::Again(Duration::from_secs(300)));
    let writes = api.writes();
    assert_eq!(writes.len(), 1);
    assert_eq!(
        (writes[0].path.as_str(), &writes[0].body["preconditions"]["uid"]),
        (format!("{PATH}/old").as_str(), &json!("old"))
    );
}

#[tokio::test]
async fn the_bundle_is_published_and_others_go() {
    const PATH: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
    let api = Arc::new(FakeApi::new());
    let stale = json!({"metadata": {"name": "stale"}, "spec": {"trustBundle": "old"}});
    api.seed(PATH, &stale);
    let this = |there: &[Value]| trust_bundle::Publisher {
        client: Client::new(api.clone()),
        bundles: informer::<ClusterTrustBundle>(there),
        pem: "test".to_owned(),
    };
    // the digest of "test" begins 9f86d081884c7d659a2feaa0
    let name = "kubernetes.io:kube-apiserver-serving:9f86d081884c7d659a2feaa0";
    assert_eq!(trust_bundle::name("test"), name);
    assert_eq!(this(&[stale]).reconcile(&()).await.unwrap(), After::Done);
    let there = api.objects(PATH);
    assert_eq!(there.len(), 1);
    assert_eq!(
        (&there[0]["metadata"]["name"], &there[0]["spec"]["trustBundle"]),
        (&json!(name), &json!("test"))
    );
    let mut changed = there[0].clone();
    changed["spec"]["trustBundle"] = "other".into();
    this(&[changed]).reconcile(&()).await.unwrap();
    assert_eq!(api.writes().pop().unwrap().body["spec"]["trustBundle"], "test");
}
