//! Refusals, the order of the modes, and the webhook.

use super::*;
use crate::remote::{Post, PostError};
use async_trait::async_trait;
use base::clock::ManualClock;
use serde_json::Value;
use serde_json::json;

fn secrets() -> GroupResource {
    GroupResource::new("", "secrets")
}

#[test]
fn refusals_read_as_upstreams() {
    let user = Identity::new("alice", &[]);
    let a = Attributes::for_resource(&user, "get", secrets(), "v1").in_namespace("ns").named("s");
    assert_eq!(
        forbidden(&a, "").message,
        "secrets \"s\" is forbidden: User \"alice\" cannot get resource \"secrets\" in API group \"\" in the namespace \"ns\""
    );
    let a =
        Attributes::for_resource(&user, "list", GroupResource::new("apps", "deployments"), "v1").sub("scale");
    assert_eq!(
        forbidden(&a, "because").message,
        "deployments.apps is forbidden: User \"alice\" cannot list resource \"deployments/scale\" in API group \"apps\" at the cluster scope: because"
    );
    let a = Attributes::for_path(&user, "get", "/metrics");
    assert_eq!(forbidden(&a, "").message, "forbidden: User \"alice\" cannot get path \"/metrics\"");
    let markup = Identity::new("<b>&", &[]);
    let a = Attributes::for_path(&markup, "get", "/");
    assert_eq!(forbidden(&a, "").message, "forbidden: User \"&lt;b&gt;&amp;\" cannot get path \"/\"");
}

#[test]
fn administrators_then_nodes_then_roles() {
    let rbac = Arc::new(Rbac::default());
    let authorizer = Authorizer::new(Arc::new(NodeAuthorizer::default()), rbac.clone());
    let ask = |user: &Identity| {
        authorizer
            .authorize(&Attributes::for_resource(user, "get", secrets(), "v1").in_namespace("ns").named("s"))
    };
    assert_eq!(ask(&Identity::new("root", &[SYSTEM_MASTERS])), Decision::allow());
    assert_eq!(ask(&Identity::new("alice", &[])), Decision::no_opinion(""));
    let node = Identity::node("n1");
    assert_eq!(
        ask(&node),
        Decision::no_opinion("node: no relationship found between node 'n1' and this object")
    );
    // What the Node authorizer does not know, a role may still allow; a binding to a lost role says so.
    rbac.apply(
        "ClusterRoleBinding",
        &json!({"metadata": {"name": "b"}, "subjects": [{"kind": "Group", "name": "system:nodes"}],
        "roleRef": {"kind": "ClusterRole", "name": "r"}}),
    );
    assert_eq!(
        ask(&node),
        Decision::no_opinion(
            "node: no relationship found between node 'n1' and this object\nrbac: RBAC: clusterrole.rbac.authorization.k8s.io \"r\" not found"
        )
    );
    rbac.apply("ClusterRole", &json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}));
    assert_eq!(
        ask(&node),
        Decision::Allow {
            reason:
                "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"r\" to Group \"system:nodes\""
                    .into()
        }
    );
}

/// Allows what has the verb of its list, and counts how often it is asked.
struct Hook {
    status: Mutex<Result<Value, PostError>>,
    asked: Mutex<Vec<Value>>,
}

#[async_trait]
impl Post for Hook {
    async fn post(&self, review: &Value) -> Result<Value, PostError> {
        self.asked.lock().push(review["spec"].clone());
        let status = self.status.lock().clone()?;
        Ok(json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "status": status}))
    }
}

fn hooked(modes: &str, version: &str, status: Value) -> (Arc<Hook>, Authorizer, Arc<ManualClock>) {
    let hook = Arc::new(Hook { status: Mutex::new(Ok(status)), asked: Mutex::default() });
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let webhook = Webhook::new(hook.clone(), version, 300, 30, clock.clone());
    let authorizer = Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(Rbac::default()));
    let modes = Mode::parse_list(modes).expect("modes");
    (hook, authorizer.with_modes(modes, Some(webhook)).expect("fits"), clock)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn the_webhook_is_asked_the_whole_question_and_remembered() {
    let (hook, authorizer, clock) =
        hooked("Node,RBAC,Webhook", "v1", json!({"allowed": true, "reason": "ok"}));
    let user = Identity { uid: "1".into(), ..Identity::new("alice", &["dev"]) };
    let a = Attributes::for_resource(&user, "list", secrets(), "v1")
        .in_namespace("ns")
        .selecting("metadata.name=x,a!=b", "l in (v,w),!m");
    let allowed = (Decision::Allow { reason: "ok".into() }, None);
    assert_eq!(wait(authorizer.decide(&a)), allowed);
    assert_eq!(
        hook.asked.lock()[0],
        json!({"user": "alice", "uid": "1", "groups": ["dev"], "resourceAttributes": {
            "namespace": "ns", "verb": "list", "version": "v1", "resource": "secrets",
            "fieldSelector": {"requirements": [
                {"key": "a", "operator": "NotIn", "values": ["b"]},
                {"key": "metadata.name", "operator": "In", "values": ["x"]}]},
            "labelSelector": {"requirements": [
                {"key": "l", "operator": "In", "values": ["v", "w"]}, {"key": "m", "operator": "DoesNotExist"}]},
        }})
    );
    *hook.status.lock() = Ok(json!({"allowed": false, "denied": true, "reason": "no"}));
    clock.advance(std::time::Duration::from_secs(299));
    assert_eq!(wait(authorizer.decide(&a)), allowed, "forgotten too early");
    clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(wait(authorizer.decide(&a)), (Decision::Deny { reason: "no".into() }, None));
    assert_eq!(hook.asked.lock().len(), 2);
    let root = Identity::new("root", &[SYSTEM_MASTERS]);
    assert_eq!(wait(authorizer.decide(&Attributes::for_path(&root, "get", "/x"))).0, Decision::allow());
    assert_eq!(hook.asked.lock().len(), 2, "administrators need nobody");
}

#[test]
fn an_outage_decides_nothing_and_is_told() {
    let (hook, authorizer, _) = hooked("Webhook,Node,RBAC", "v1beta1", json!({}));
    let user = Identity::new("alice", &["dev"]);
    let a = Attributes::for_path(&user, "get", "/x");
    assert_eq!(wait(authorizer.decide(&a)), (Decision::no_opinion(""), None));
    assert_eq!(hook.asked.lock()[0]["group"], json!(["dev"]), "as v1beta1 calls it");
    *hook.status.lock() = Err(PostError { message: "down".into(), retry: false });
    let b = Attributes::for_path(&user, "get", "/y");
    assert_eq!(wait(authorizer.decide(&b)), (Decision::no_opinion(""), Some("down".into())));
    assert_eq!(wait(authorizer.require(&b)).expect_err("refused").code, 500);
    *hook.status.lock() = Ok(json!({"allowed": true, "denied": true}));
    let (decision, error) = wait(authorizer.decide(&b));
    assert!(
        matches!(decision, Decision::Deny { .. }) && error.is_some_and(|e| e.contains("both allow and deny"))
    );
    assert!(!authorizer.authorize(&b).is_allowed(), "without asking nothing is allowed");
}

#[test]
fn several_questions_of_one_decision_are_asked_in_turn() {
    let (hook, authorizer, _) = hooked("Webhook,Node,RBAC", "v1", json!({"allowed": true}));
    let user = Identity::new("alice", &[]);
    let all = wait(authorizer.settle(|z| {
        ["/a", "/b", "/c"].iter().all(|p| z.authorize(&Attributes::for_path(&user, "get", *p)).is_allowed())
    }));
    assert!(all);
    assert_eq!(hook.asked.lock().len(), 3);
}

#[test]
fn modes() {
    assert_eq!(Mode::parse_list("Node,RBAC"), Ok(vec![Mode::Node, Mode::Rbac]));
    for (text, part) in [
        ("", "must have Node and RBAC"),
        ("Webhook,RBAC", "must have Node and RBAC"),
        ("X", "not a valid mode"),
        ("AlwaysAllow", "not supported"),
        ("Node,Node", "more than once"),
    ] {
        assert!(Mode::parse_list(text).expect_err("refused").contains(part), "{text}");
    }
    let bare = || Authorizer::new(Arc::new(NodeAuthorizer::default()), Arc::new(Rbac::default()));
    assert!(bare().with_modes(vec![Mode::Webhook], None).is_err());
}
