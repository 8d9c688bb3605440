//! May this user do that: administrators, then Node, then RBAC; what none allows is refused
//! (upstream: apiserver `pkg/authorization/union`, `pkg/endpoints/filters/authorization.go`).

use crate::identity::{Identity, SYSTEM_MASTERS};
use crate::node::NodeAuthorizer;
use crate::rbac::Rbac;
use crate::text::sanitized;
use meta::GroupResource;
use meta::selector::{FieldSelector, LabelSelector};
use meta::status::{Details, Reason, Status};
use std::borrow::Cow;
use std::sync::Arc;

/// What is asked (upstream: `authorizer.AttributesRecord`).
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a Identity,
    /// `get`, `list` … for resources, else the lower-cased HTTP method.
    pub verb: Cow<'a, str>,
    pub is_resource: bool,
    pub api_group: Cow<'a, str>,
    pub api_version: Cow<'a, str>,
    pub resource: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: Cow<'a, str>,
    pub name: Cow<'a, str>,
    /// Of non-resource requests.
    pub path: Cow<'a, str>,
    /// The selectors of a list, watch or deletecollection, for rules that need one; `None` also when it did not parse.
    pub field_selector: Option<FieldSelector>,
    pub label_selector: Option<LabelSelector>,
}

impl<'a> Attributes<'a> {
    /// A request for a resource, cluster-wide until a namespace is given.
    pub fn for_resource(
        user: &'a Identity,
        verb: impl Into<Cow<'a, str>>,
        resource: GroupResource,
        version: impl Into<Cow<'a, str>>,
    ) -> Self {
        let mut out = Self::for_path(user, verb, "");
        out.is_resource = true;
        out.api_group = resource.group.into();
        out.resource = resource.resource.into();
        out.api_version = version.into();
        out
    }

    /// A request for a path that is no resource, such as `/metrics`.
    pub fn for_path(
        user: &'a Identity,
        verb: impl Into<Cow<'a, str>>,
        path: impl Into<Cow<'a, str>>,
    ) -> Self {
        let none = Cow::Borrowed("");
        Self {
            user,
            verb: verb.into(),
            is_resource: false,
            api_group: none.clone(),
            api_version: none.clone(),
            resource: none.clone(),
            subresource: none.clone(),
            namespace: none.clone(),
            name: none,
            path: path.into(),
            field_selector: None,
            label_selector: None,
        }
    }

    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<Cow<'a, str>>) -> Self {
        self.namespace = namespace.into();
        self
    }

    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'a, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Of a subresource; empty for the resource itself.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // nobody subtracts attributes
    pub fn sub(mut self, subresource: impl Into<Cow<'a, str>>) -> Self {
        self.subresource = subresource.into();
        self
    }

    /// With the selectors of a request's query, as text; what does not parse counts as absent, which asks for more.
    #[must_use]
    pub fn selecting(mut self, fields: &str, labels: &str) -> Self {
        self.field_selector = FieldSelector::parse(fields).ok().filter(|s| !s.is_empty());
        self.label_selector = LabelSelector::parse(labels).ok().filter(|s| !s.is_empty());
        self
    }

    /// `pods` or `pods/log`.
    pub fn full_resource(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.resource)
        } else {
            Cow::Owned(format!("{}/{}", self.resource, self.subresource))
        }
    }
}

/// An answer, with the reason that goes on the audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    /// A veto: nobody else is asked.
    Deny {
        reason: String,
    },
    /// Not allowed by this one; another may.
    NoOpinion {
        reason: String,
    },
}

impl Decision {
    /// Allowed, with nothing to say.
    pub fn allow() -> Self {
        Self::Allow { reason: String::new() }
    }

    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self::NoOpinion { reason: reason.into() }
    }

    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Allow { reason } | Self::Deny { reason } | Self::NoOpinion { reason } => reason,
        }
    }
}

/// The authorisers in order.
pub struct Authorizer {
    pub nodes: Arc<NodeAuthorizer>,
    pub rbac: Arc<Rbac>,
}

impl Authorizer {
    pub fn new(nodes: Arc<NodeAuthorizer>, rbac: Arc<Rbac>) -> Self {
        Self { nodes, rbac }
    }

    /// Decides. Only [`Decision::Allow`] lets a request through.
    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        if a.user.in_group(SYSTEM_MASTERS) {
            return Decision::allow();
        }
        let first = match self.nodes.authorize(a) {
            Decision::NoOpinion { reason } => reason,
            decided => return decided,
        };
        match self.rbac.authorize(a) {
            Decision::NoOpinion { reason } if reason.is_empty() => Decision::no_opinion(first),
            Decision::NoOpinion { reason } if first.is_empty() => Decision::no_opinion(reason),
            Decision::NoOpinion { reason } => Decision::no_opinion(format!("{first}\n{reason}")),
            decided => decided,
        }
    }

    /// Lets an allowed request through with its reason, and refuses others with 403.
    ///
    /// # Errors
    /// The refusal that the client sees.
    pub fn require(&self, a: &Attributes<'_>) -> Result<String, Status> {
        match self.authorize(a) {
            Decision::Allow { reason } => Ok(reason),
            other => Err(forbidden(a, other.reason())),
        }
    }
}

/// What a refusal says after `… is forbidden: ` (upstream: `responsewriters.ForbiddenStatusError`).
pub fn forbidden_reason(a: &Attributes<'_>, reason: &str) -> String {
    let user = &a.user.name;
    let text = if !a.is_resource {
        format!("User {user:?} cannot {} path {:?}", a.verb, a.path)
    } else {
        let whose = format!(
            "User {user:?} cannot {} resource {:?} in API group {:?}",
            a.verb,
            a.full_resource(),
            a.api_group
        );
        if a.namespace.is_empty() {
            format!("{whose} at the cluster scope")
        } else {
            format!("{whose} in the namespace {:?}", a.namespace)
        }
    };
    let text = sanitized(&text);
    if reason.is_empty() { text } else { format!("{text}: {reason}") }
}

/// The refusal that a client sees.
pub fn forbidden(a: &Attributes<'_>, reason: &str) -> Status {
    let why = forbidden_reason(a, reason);
    if a.resource.is_empty() {
        let mut s = Status::new(403, Reason::Forbidden, format!("forbidden: {why}"));
        s.details = Some(Details::default());
        return s;
    }
    Status::forbidden(&GroupResource::new(&a.api_group, &a.resource), &a.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let a = Attributes::for_resource(&user, "list", GroupResource::new("apps", "deployments"), "v1")
            .sub("scale");
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
            authorizer.authorize(
                &Attributes::for_resource(user, "get", secrets(), "v1").in_namespace("ns").named("s"),
            )
        };
        assert_eq!(ask(&Identity::new("root", &[SYSTEM_MASTERS])), Decision::allow());
        assert_eq!(ask(&Identity::new("alice", &[])), Decision::no_opinion(""));
        let node = Identity::node("n1");
        assert_eq!(
            ask(&node),
            Decision::no_opinion("no relationship found between node 'n1' and this object")
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
                "no relationship found between node 'n1' and this object\nRBAC: clusterrole.rbac.authorization.k8s.io \"r\" not found"
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
}
