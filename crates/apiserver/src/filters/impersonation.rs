//! Acting as somebody else (upstream: apiserver `pkg/endpoints/filters/impersonation`).
//!
//! The constrained form (KEP-5284) is tried first: leave to impersonate such users at all, and to do this to that
//! resource as somebody else. The old form, one verb for everything, is still honoured.

use super::authorization::attributes;
use crate::filters::audit::AuditScope;
use crate::request_info::RequestInfo;
use crate::server::Server;
use auth::authorize::Attributes;
use auth::identity::{Identity, split_service_account};
use auth::impersonate::{self, Need};
use http::HeaderMap;
use meta::status::Result;
use std::sync::Arc;

/// The identity that the rest of the request has.
pub fn resolve(
    server: &Server,
    info: &RequestInfo,
    headers: &HeaderMap,
    user: Arc<Identity>,
    scope: &AuditScope,
) -> Result<Arc<Identity>> {
    let Some((wanted, needs)) = impersonate::wanted(headers)? else { return Ok(user) };
    let kind = kind_of(&wanted);
    match constrained(server, info, &user, kind, &needs) {
        Ok(()) => scope.impersonated(&wanted, &format!("impersonate:{kind}")),
        Err(refused) => {
            let plain = |n: &Need| {
                server.authorizer.require(&need_attributes(&user, "impersonate", n.group, n)).is_ok()
            };
            if !needs.iter().all(plain) {
                return Err(refused);
            }
            scope.impersonated(&wanted, "");
        }
    }
    Ok(Arc::new(wanted))
}

/// Which kind of identity this is, in the words of the constrained verbs.
fn kind_of(wanted: &Identity) -> &'static str {
    if split_service_account(&wanted.name).is_some() {
        "serviceaccount"
    } else if wanted.name.starts_with("system:node:") {
        "arbitrary-node"
    } else {
        "user-info"
    }
}

fn constrained(
    server: &Server,
    info: &RequestInfo,
    user: &Identity,
    kind: &str,
    needs: &[Need],
) -> Result<()> {
    let verb = format!("impersonate-on:{kind}:{}", info.verb);
    let on = Attributes { verb: &verb, ..attributes(info, user) };
    server.authorizer.require(&on)?;
    let verb = format!("impersonate:{kind}");
    needs.iter().try_for_each(|n| {
        server.authorizer.require(&need_attributes(user, &verb, "authentication.k8s.io", n))
    })
}

fn need_attributes<'a>(user: &'a Identity, verb: &'a str, group: &'a str, need: &'a Need) -> Attributes<'a> {
    Attributes {
        subresource: &need.subresource,
        namespace: &need.namespace,
        name: &need.name,
        ..Attributes::resource(user, verb, group, need.resource)
    }
}
