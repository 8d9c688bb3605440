//! The `token` subresource of service accounts: what is asked, checked and made
//! (upstream: `pkg/registry/core/serviceaccount/storage/token.go`).

use super::{Bound, Issued, Ref, Signer};
use jiff::{SignedDuration, Timestamp};
use meta::field::{Error, ErrorList, Path};
use meta::status::Result;
use meta::{GroupKind, GroupResource, Status, object};
use serde_json::{Value, json};

/// Lifetime in seconds of tokens that kubelets mount at the usual place; users that never read them anew are warned
/// about instead of refused (upstream: `ExpirationExtensionSeconds`).
pub const EXTENDED_SECONDS: i64 = 24 * 365 * 60 * 60;
/// The lifetime that kubelets ask for in those mounts (upstream: `WarnOnlyBoundTokenExpirationSeconds`).
const MOUNTED_SECONDS: i64 = 60 * 60 + 7;
const DEFAULT_SECONDS: i64 = 60 * 60;
const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;
const GROUP: &str = "authentication.k8s.io";

/// The circumstances of a request.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    pub namespace: &'a str,
    /// The account of the URL, as stored.
    pub account: &'a Value,
    /// The API server's audiences: what a token is for that names none.
    pub own_audiences: &'a [String],
    /// Longest lifetime in seconds; 0 for no bound (upstream: `--service-account-max-token-expiration`).
    pub max_seconds: i64,
    /// Whether mounted tokens live longer than asked (upstream: `--service-account-extend-token-expiration`).
    pub extend: bool,
    pub now: Timestamp,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The TokenRequest with its status.
    pub object: Value,
    pub issued: Issued,
    pub warnings: Vec<String>,
}

impl TokenRequest<'_> {
    /// The body with its defaults, checked: what admission is to see.
    ///
    /// # Errors
    /// 409 or 422 as upstream.
    pub fn complete(&self, body: &Value) -> Result<Value> {
        let mut out = body.clone();
        let account = self.account;
        let gk = || GroupKind { group: GROUP.into(), kind: "TokenRequest".into() };
        let name = object::name(account);
        for (field, want, what) in [("name", name, "name"), ("namespace", self.namespace, "namespace")] {
            let given = object::meta_str(body, field);
            if !given.is_empty() && given != want {
                let path = Path::new("metadata").child(field);
                let why = format!("must match the service account {what} if specified");
                return Err(Status::invalid(&gk(), name, &vec![Error::invalid(&path, given, why)]));
            }
            object::set_meta(&mut out, field, want);
        }
        let (given, uid) = (object::uid(body), object::uid(account));
        if !given.is_empty() && given != uid {
            let why = format!(
                "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
            );
            return Err(Status::conflict(&GroupResource::new(GROUP, "TokenRequest"), name, &why));
        }
        object::set_meta(&mut out, "uid", uid);
        object::set_meta(&mut out, "creationTimestamp", meta::time::rfc3339(self.now));
        out["apiVersion"] = format!("{GROUP}/v1").into();
        out["kind"] = "TokenRequest".into();
        if out["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
            out["spec"]["audiences"] = json!(self.own_audiences);
        }
        if out["spec"]["expirationSeconds"].is_null() {
            out["spec"]["expirationSeconds"] = DEFAULT_SECONDS.into();
        }
        out["status"] = json!({"token": "", "expirationTimestamp": null});
        let errors = spec_errors(&out["spec"]);
        if errors.is_empty() { Ok(out) } else { Err(Status::invalid(&gk(), "", &errors)) }
    }
}

/// Upstream: `ValidateTokenRequest`.
fn spec_errors(spec: &Value) -> ErrorList {
    let at = Path::new("spec").child("expirationSeconds");
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(0);
    if seconds < MIN_SECONDS {
        return vec![Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes")];
    }
    if seconds > MAX_SECONDS {
        return vec![Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds")];
    }
    Vec::new()
}

/// Makes the token of a completed request. `get` reads `pods`, `secrets` (in the request's namespace) and `nodes` by
/// name.
///
/// # Errors
/// The object that the token is to be bound to does not exist, is another one, or cannot be bound to.
pub fn token_request(
    signer: &Signer,
    r: &TokenRequest<'_>,
    completed: Value,
    get: &dyn Fn(&str, &str) -> Option<Value>,
) -> Result<Answer> {
    let mut bound =
        Bound { namespace: r.namespace.to_owned(), serviceaccount: Ref::of(r.account), ..Bound::default() };
    bind(&mut bound, &completed["spec"]["boundObjectRef"], r, get)?;
    let mut object = completed;
    let mut warnings = Vec::new();
    let mut seconds = object["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if r.max_seconds > 0 && seconds > r.max_seconds {
        let max = r.max_seconds;
        warnings.push(format!("requested expiration of {seconds} seconds shortened to {max} seconds"));
        seconds = max;
        object["spec"]["expirationSeconds"] = max.into();
    }
    let list = object["spec"]["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
    let ours = !audiences.is_empty() && audiences.iter().all(|a| r.own_audiences.contains(a));
    let mut lifetime = seconds;
    if r.extend && bound.pod.is_some() && seconds == MOUNTED_SECONDS && ours {
        bound.warnafter = Some(r.now.as_second().saturating_add(seconds));
        lifetime = EXTENDED_SECONDS;
    }
    let issued = signer
        .issue(bound, &audiences, lifetime, r.now)
        .map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
    // The client is told what it asked for, so that it comes back in time.
    let told = r.now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    object["status"] = json!({"token": issued.token, "expirationTimestamp": meta::time::rfc3339(told)});
    Ok(Answer { object, issued, warnings })
}

fn bind(
    bound: &mut Bound,
    to: &Value,
    r: &TokenRequest<'_>,
    get: &dyn Fn(&str, &str) -> Option<Value>,
) -> Result<()> {
    if to.is_null() {
        return Ok(());
    }
    let text = |f: &str| to[f].as_str().unwrap_or("");
    let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let find = |resource: &str| {
        get(resource, name).ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))
    };
    let core = !version.contains('/');
    let uid = match kind {
        "Pod" if core => {
            let pod = find("pods")?;
            let account = object::name(r.account);
            if pod["spec"]["serviceAccountName"] != account {
                let why = "to pod running with different serviceaccount name.";
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} {why}"
                )));
            }
            bound.pod = Some(Ref::of(&pod));
            if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                let nameless = Ref { name: node.to_owned(), ..Ref::default() };
                bound.node = Some(get("nodes", node).map_or(nameless, |n| Ref::of(&n)));
            }
            bound.pod.as_ref().map(|p| p.uid.clone())
        }
        "Node" if core => {
            bound.node = Some(Ref::of(&find("nodes")?));
            bound.node.as_ref().map(|n| n.uid.clone())
        }
        "Secret" if core => {
            bound.secret = Some(Ref::of(&find("secrets")?));
            bound.secret.as_ref().map(|s| s.uid.clone())
        }
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let what = format!("{group}/{version}, Kind={kind}");
            return Err(Status::bad_request(format!("cannot bind token to object of type {what}")));
        }
    };
    let given = text("uid");
    if !given.is_empty() && uid.as_deref() != Some(given) {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), name, &why));
    }
    Ok(())
}
