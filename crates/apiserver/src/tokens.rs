//! Service account tokens at the API: TokenRequest, and the keys that verify tokens elsewhere
//! (upstream: `pkg/registry/core/serviceaccount/storage/token.go`).

use crate::context::Context;
use crate::reply::Reply;
use crate::server::Server;
use auth::tokens::{Bound, Objects, Ref, Signer};
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::object;
use meta::status::{Result, Status};
use registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;

const SCHEMA: &str = "io.k8s.api.authentication.v1.TokenRequest";
/// Upstream: `validation.MinTokenAgeSec`.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// Kubelets ask for this long; they get a year, and are warned (upstream: `ExpirationExtensionSeconds`).
const INJECTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 24 * 365 * 3600;
const DEFAULT_SECONDS: i64 = 3600;

pub struct Tokens {
    pub signer: Arc<Signer>,
    pub audiences: Vec<String>,
    pub jwks_uri: String,
}

impl Tokens {
    pub fn openid_configuration(&self) -> Value {
        self.signer.openid_configuration(&self.jwks_uri)
    }

    pub fn jwks(&self) -> Value {
        self.signer.jwks()
    }
}

/// Objects that tokens are bound to, straight from the store.
pub struct Stored(pub Arc<Registry>);

impl Objects for Stored {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let row = self.0.kinds().resource("", "v1", resource)?;
        let entry = self.0.store().get(&row.key(namespace, name))?;
        let obj: Value = serde_json::from_slice(&entry.value).ok()?;
        Some(object::uid(&obj).to_owned())
    }
}

/// Answers a TokenRequest for an account.
pub async fn request(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let server = &ctx.server;
    let info = &ctx.info;
    let mut asked = crate::verbs::of_type(ctx, "authentication.k8s.io/v1", "TokenRequest", SCHEMA)?;
    crate::verbs::record(ctx, &asked);
    let account = server.registry.get_value(&ctx.permit, kind, &info.namespace, &info.name)?;
    let seconds = asked["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds, &info.name)?;
    let mut audiences = object::strings(&asked["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.clone_from(&server.tokens.audiences);
    }
    let mut bound = Bound {
        namespace: info.namespace.clone(),
        serviceaccount: Ref { name: info.name.clone(), uid: object::uid(&account).to_owned() },
        ..Bound::default()
    };
    bind(ctx, server, &asked["spec"]["boundObjectRef"], &mut bound)?;
    let now = server.clock.now();
    let extend = seconds == INJECTED_SECONDS && bound.pod.is_some() && audiences == server.tokens.audiences;
    let lifetime = if extend { EXTENDED_SECONDS } else { seconds };
    if extend {
        bound.warnafter = Some(now.as_second() + seconds);
    }
    let issued = server.tokens.signer.issue(bound, &audiences, lifetime, now).map_err(Status::internal)?;
    ctx.audit.annotate("authentication.kubernetes.io/issued-credential-id", &issued.credential_id);
    asked["spec"]["audiences"] = json!(audiences);
    asked["spec"]["expirationSeconds"] = seconds.into();
    // The client is told the time that it asked for, so that it renews early.
    let told = now.as_second() + seconds;
    let told = jiff::Timestamp::from_second(told).unwrap_or(issued.expires);
    asked["status"] = json!({"token": issued.token, "expirationTimestamp": meta::time::rfc3339(told)});
    asked["metadata"] = json!({
        "name": info.name, "namespace": info.namespace, "creationTimestamp": meta::time::rfc3339(now),
    });
    Ok(Reply::Document { code: 201, value: asked })
}

fn check_seconds(seconds: i64, name: &str) -> Result<()> {
    let at = Path::new("spec").child("expirationSeconds");
    let error = if seconds < SECONDS_MIN {
        Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes")
    } else if seconds > SECONDS_MAX {
        Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds")
    } else {
        return Ok(());
    };
    let gk = meta::GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
    Err(Status::invalid(&gk, name, &vec![error]))
}

/// Binds to the pod, secret or node that the request names, which must exist as named.
fn bind(ctx: &Context, server: &Server, reference: &Value, bound: &mut Bound) -> Result<()> {
    if reference.is_null() {
        return Ok(());
    }
    let text = |f: &str| reference[f].as_str().unwrap_or("");
    let (resource, namespaced) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pods", true),
        ("v1", "Secret") => ("secrets", true),
        ("v1", "Node") => ("nodes", false),
        (version, kind) => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to {version}, Kind={kind}",
                ctx.info.name
            )));
        }
    };
    let row =
        server.registry.kinds().resource("", "v1", resource).cloned().ok_or_else(Status::no_such_resource)?;
    let namespace = if namespaced { ctx.info.namespace.as_str() } else { "" };
    let obj = server.registry.get_value(&ctx.permit, &row, namespace, text("name"))?;
    let uid = object::uid(&obj).to_owned();
    if !text("uid").is_empty() && text("uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        );
        return Err(Status::conflict(&row.group_resource(), text("name"), &why));
    }
    let found = Ref { name: text("name").to_owned(), uid };
    match resource {
        "pods" => {
            let account = obj["spec"]["serviceAccountName"].as_str().unwrap_or("");
            if account != ctx.info.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    ctx.info.name
                )));
            }
            let node = obj["spec"]["nodeName"].as_str().unwrap_or("");
            if !node.is_empty() {
                let uid = Stored(server.registry.clone()).uid("nodes", "", node);
                bound.node = uid.map(|uid| Ref { name: node.to_owned(), uid });
            }
            bound.pod = Some(found);
        }
        "secrets" => bound.secret = Some(found),
        _ => bound.node = Some(found),
    }
    Ok(())
}
