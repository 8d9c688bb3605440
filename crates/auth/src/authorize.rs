//! May this user do that: Node, then RBAC; what neither allows is refused
//! (upstream: apiserver `pkg/authorization/union`, `pkg/endpoints/filters/authorization.go`).

use crate::identity::{Identity, SYSTEM_MASTERS};
use crate::node::NodeGraph;
use crate::rbac::Rbac;
use meta::GroupResource;
use meta::status::Status;
use std::sync::Arc;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    pub user: Option<&'a Identity>,
    pub verb: &'a str,
    pub is_resource: bool,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Of non-resource requests.
    pub path: &'a str,
    /// The raw field selector, for rules that need one (`spec.nodeName=…`).
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    pub fn resource(user: &'a Identity, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self { user: Some(user), verb, is_resource: true, group, resource, ..Self::default() }
    }

    pub fn non_resource(user: &'a Identity, verb: &'a str, path: &'a str) -> Self {
        Self { user: Some(user), verb, path, ..Self::default() }
    }

    fn resource_with_sub(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// The answer, with the reason that goes on the audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allowed it; the reason is usually empty.
    Deny(String),
}

/// The authorisers in order.
pub struct Authorizer {
    pub nodes: Arc<NodeGraph>,
    pub rbac: Arc<Rbac>,
}

impl Authorizer {
    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let Some(user) = a.user else { return Decision::Deny(String::new()) };
        if user.in_group(SYSTEM_MASTERS) {
            return Decision::Allow(String::new());
        }
        if let Some(node) = user.node_name() {
            match self.nodes.authorize(node, a) {
                crate::node::NodeDecision::Allow => return Decision::Allow(String::new()),
                // Upstream's node authorizer has no opinion rather than a veto: RBAC may still allow.
                crate::node::NodeDecision::NoOpinion(_) => {}
            }
        }
        match self.rbac.authorize(user, a) {
            Some(reason) => Decision::Allow(reason),
            None => Decision::Deny(String::new()),
        }
    }
}

impl Authorizer {
    /// # Errors
    /// The refusal that a client sees, when it is not allowed.
    pub fn require(&self, a: &Attributes<'_>) -> meta::status::Result<()> {
        match self.authorize(a) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) => Err(forbidden(a, &reason)),
        }
    }
}

/// The refusal that a client sees (upstream: `responsewriters.Forbidden`).
pub fn forbidden(a: &Attributes<'_>, reason: &str) -> Status {
    let user = a.user.map_or("", |u| u.name.as_str());
    if !a.is_resource {
        let mut message = format!("forbidden: User {user:?} cannot {} path {:?}", a.verb, a.path);
        if !reason.is_empty() {
            message.push_str(&format!(": {reason}"));
        }
        let mut s = Status::new(403, meta::Reason::Forbidden, message);
        s.details = Some(meta::status::Details::default());
        return s;
    }
    let gr = GroupResource::new(a.group, a.resource);
    let mut why = format!(
        "User {user:?} cannot {} resource {:?} in API group {:?}",
        a.verb,
        a.resource_with_sub(),
        a.group
    );
    if a.namespace.is_empty() {
        why.push_str(" at the cluster scope");
    } else {
        why.push_str(&format!(" in the namespace {:?}", a.namespace));
    }
    if !reason.is_empty() {
        why.push_str(&format!(": {reason}"));
    }
    Status::forbidden(&gr, a.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = Identity::new("alice", &[]);
        let a =
            Attributes { namespace: "ns", name: "s", ..Attributes::resource(&user, "get", "", "secrets") };
        assert_eq!(
            forbidden(&a, "").message,
            "secrets \"s\" is forbidden: User \"alice\" cannot get resource \"secrets\" in API group \"\" in the namespace \"ns\""
        );
        let a = Attributes::resource(&user, "list", "apps", "deployments");
        assert_eq!(
            forbidden(&a, "").message,
            "deployments.apps is forbidden: User \"alice\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope"
        );
        let a = Attributes::non_resource(&user, "get", "/metrics");
        assert_eq!(forbidden(&a, "").message, "forbidden: User \"alice\" cannot get path \"/metrics\"");
    }
}
