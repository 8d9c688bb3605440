//! Service account tokens at the API: TokenRequest, and the keys that verify tokens elsewhere
//! (upstream: `pkg/registry/core/serviceaccount/storage/token.go`).

use crate::context::Context;
use crate::reply::Reply;
use auth::tokens::{
    INVALID_SINCE_LABEL, LAST_USED_LABEL, Live, Objects, Signer, TokenRequest, TokenSecret, token_request,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kinds::KindDef;
use meta::field::{Error, Path};
use meta::object;
use meta::status::{Result, Status};
use registry::Registry;
use serde_json::Value;
use std::sync::Arc;

mod last_used;

pub use last_used::LastUsed;

const SCHEMA: &str = "io.k8s.api.authentication.v1.TokenRequest";
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
pub struct Stored {
    registry: Arc<Registry>,
    last_used: Option<LastUsed>,
}

impl Stored {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, last_used: None }
    }

    /// As [`Self::new`]; of tokens that live in Secrets it is written down when they were used.
    pub fn tracking(registry: Arc<Registry>, last_used: LastUsed) -> Self {
        Self { registry, last_used: Some(last_used) }
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let row = self.registry.kinds().resource("", "v1", resource)?;
        let entry = self.registry.store().get(&row.key(namespace, name))?;
        serde_json::from_slice(&entry.value).ok()
    }

    fn live(&self, resource: &str, namespace: &str, name: &str) -> Option<Live> {
        self.get(resource, namespace, name).as_ref().map(Live::of)
    }
}

impl Objects for Stored {
    fn service_account(&self, namespace: &str, name: &str) -> Option<Live> {
        self.live("serviceaccounts", namespace, name)
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Live> {
        self.live("pods", namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Live> {
        self.live("secrets", namespace, name)
    }

    fn node(&self, name: &str) -> Option<Live> {
        self.live("nodes", "", name)
    }

    fn token_secret(&self, namespace: &str, name: &str) -> Option<TokenSecret> {
        let secret = self.get("secrets", namespace, name)?;
        let account = object::annotation(&secret, "kubernetes.io/service-account.name").unwrap_or("");
        let account = self.get("serviceaccounts", namespace, account).unwrap_or_default();
        let named = account["secrets"].as_array();
        Some(TokenSecret {
            uid: object::uid(&secret).to_owned(),
            last_used: object::label(&secret, LAST_USED_LABEL).unwrap_or("").to_owned(),
            token: STANDARD.decode(secret["data"]["token"].as_str()?).ok()?,
            deleting: object::is_deleting(&secret),
            invalid: object::label(&secret, INVALID_SINCE_LABEL).is_some_and(|since| !since.is_empty()),
            of_account: named.into_iter().flatten().any(|s| s["name"] == name),
        })
    }

    fn token_used(&self, namespace: &str, name: &str, secret: &TokenSecret, day: String) {
        if let Some(last_used) = &self.last_used {
            last_used.note(namespace, name, &secret.uid, day);
        }
    }
}

/// How long a token is good when nothing is asked (upstream: `SetDefaults_TokenRequestSpec`).
const EXPIRATION_SECONDS: i64 = 60 * 60;

/// Answers a TokenRequest for an account.
pub async fn request(ctx: &Context, kind: &Arc<KindDef>) -> Result<Reply> {
    let (server, info) = (&ctx.server, &ctx.info);
    crate::negotiate::without_table(&ctx.headers)?;
    crate::verbs::check_create(ctx)?;
    let mut asked = crate::verbs::of_type(ctx, "authentication.k8s.io/v1", "TokenRequest", SCHEMA)?;
    crate::verbs::record(ctx, &asked);
    let row = kinds::KindDef {
        group: "authentication.k8s.io".into(),
        kind: "TokenRequest".into(),
        schema: SCHEMA.into(),
        ..kinds::KindDef::BASE
    };
    object::default_at(&mut asked, &["spec"], "expirationSeconds", EXPIRATION_SECONDS);
    crate::verbs::track(ctx, &row, &mut asked);
    if asked["spec"]["attestations"].as_object().is_some_and(|all| !all.is_empty()) {
        let at = Path::new("spec").child("attestations");
        let text = "attestations may only be specified with a webhook bound object reference";
        let error = Error::invalid(&at, asked["spec"]["attestations"].clone(), text);
        let gk = meta::GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
        return Err(Status::invalid(&gk, "", &vec![error]));
    }
    server.registry.consistent().await?;
    let account = server.registry.get_value(&ctx.permit, kind, &info.namespace, &info.name)?;
    let request = TokenRequest {
        namespace: &info.namespace,
        account: &account,
        own_audiences: &server.tokens.audiences,
        max_seconds: 0,
        extend: true,
        now: server.clock.now(),
    };
    let stored = Stored::new(server.registry.clone());
    let get = |resource: &str, name: &str| {
        stored.get(resource, if resource == "nodes" { "" } else { &info.namespace }, name)
    };
    let answer = token_request(&server.tokens.signer, &request, request.complete(&asked)?, &get)?;
    ctx.audit.annotate("authentication.kubernetes.io/issued-credential-id", &answer.issued.credential_id);
    answer.warnings.iter().for_each(|w| ctx.warnings.add(w));
    Ok(Reply::Document { code: 201, value: answer.object })
}
