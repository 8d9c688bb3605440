//! Whether the caller may do what is asked; the permit that says so.

use crate::filters::audit::AuditScope;
use crate::request_info::RequestInfo;
use crate::server::Server;
use auth::authorize::{Attributes, Decision, forbidden};
use auth::identity::Identity;
use meta::permit::Permit;
use meta::status::Result;
use std::sync::Arc;

/// Upstream: `pkg/endpoints/filters/authorization.go`.
const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";

/// The attributes of a request.
pub fn attributes<'a>(info: &'a RequestInfo, user: &'a Identity) -> Attributes<'a> {
    Attributes {
        user: Some(user),
        verb: &info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        field_selector: info.query.get("fieldSelector"),
    }
}

/// Decides, and puts the decision on the record.
pub fn permit(
    server: &Server,
    info: &RequestInfo,
    user: &Arc<Identity>,
    scope: &AuditScope,
) -> Result<Permit> {
    let a = attributes(info, user);
    match server.authorizer.authorize(&a) {
        Decision::Allow(reason) => {
            scope.annotate(DECISION, "allow");
            scope.annotate(REASON, &reason);
            Ok(server.permits.permit())
        }
        Decision::Deny(reason) => {
            scope.annotate(DECISION, "forbid");
            scope.annotate(REASON, &reason);
            Err(forbidden(&a, &reason))
        }
    }
}
