//! Whether the caller may do what is asked; the permit that says so.

use crate::filters::audit::AuditScope;
use crate::metrics::Authorization;
use crate::request_info::RequestInfo;
use crate::server::Server;
use auth::authorize::{Attributes, Decision, forbidden};
use auth::identity::Identity;
use meta::permit::Permit;
use meta::status::{Result, Status};
use std::sync::Arc;

/// Upstream: `pkg/endpoints/filters/authorization.go`.
const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";
const INTERNAL: &str = "internal error";

/// The attributes of a request.
pub fn attributes<'a>(info: &'a RequestInfo, user: &'a Identity) -> Attributes<'a> {
    let mut a = Attributes::for_path(user, &info.verb, &info.path)
        .in_namespace(&info.namespace)
        .named(&info.name)
        .sub(&info.subresource);
    a.is_resource = info.is_resource;
    a.api_group = (&info.group).into();
    a.api_version = (&info.version).into();
    a.resource = (&info.resource).into();
    match info.verb.as_str() {
        "list" | "watch" | "deletecollection" => {
            a.selecting(info.query.get("fieldSelector"), info.query.get("labelSelector"))
        }
        _ => a,
    }
}

/// Decides, and puts the decision on the record.
pub async fn permit(
    server: &Server,
    info: &RequestInfo,
    user: &Arc<Identity>,
    scope: &AuditScope,
) -> Result<Permit> {
    let a = attributes(info, user);
    let decided = server.authorizer.decide(&a).await;
    let result = match &decided {
        (Decision::Allow { .. }, _) => Authorization::Allowed,
        (_, Some(_)) => Authorization::Error,
        (Decision::Deny { .. }, None) => Authorization::Denied,
        (Decision::NoOpinion { .. }, None) => Authorization::NoOpinion,
    };
    server.metrics.authorized(result);
    match decided {
        (Decision::Allow { reason }, _) => {
            scope.annotate(DECISION, "allow");
            scope.annotate(REASON, &reason);
            Ok(server.permits.permit())
        }
        (_, Some(error)) => {
            scope.annotate(REASON, INTERNAL);
            Err(Status::internal(format!("Internal Server Error: {:?}: {error}", info.path)))
        }
        (Decision::Deny { reason } | Decision::NoOpinion { reason }, None) => {
            scope.annotate(DECISION, "forbid");
            scope.annotate(REASON, &reason);
            Err(forbidden(&a, &reason))
        }
    }
}
