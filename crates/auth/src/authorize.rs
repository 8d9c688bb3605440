//! May this user do that: administrators, then Node and RBAC or the modes given; what none allows is refused
//! (upstream: apiserver `pkg/authorization/union`, `pkg/endpoints/filters/authorization.go`).

mod webhook;

pub use webhook::Webhook;

use crate::authenticate::cache::Key;
use crate::identity::{Identity, SYSTEM_MASTERS};
use crate::node::NodeAuthorizer;
use crate::rbac::Rbac;
use crate::text::{aggregate, sanitized};
use meta::GroupResource;
use meta::selector::{FieldSelector, LabelSelector};
use meta::status::{Details, Reason, Status};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use webhook::Question;

/// How often one decision is made again with new answers of the webhook.
const ROUNDS_MAX: usize = 64;

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

/// One way to decide (upstream: `pkg/kubeapiserver/authorizer/modes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Node,
    Rbac,
    Webhook,
}

impl Mode {
    /// How reasons name it (upstream: `AuthorizerName`, of what flags configure).
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Rbac => "rbac",
            Self::Webhook => "default",
        }
    }

    /// Reads `--authorization-mode`.
    ///
    /// # Errors
    /// A mode is not known, or is there twice.
    pub fn parse_list(text: &str) -> Result<Vec<Mode>, String> {
        let mut modes = Vec::new();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            let mode = match name {
                "Node" => Self::Node,
                "RBAC" => Self::Rbac,
                "Webhook" => Self::Webhook,
                "ABAC" | "AlwaysAllow" | "AlwaysDeny" => {
                    return Err(format!("authorization-mode {name:?} is not supported"));
                }
                _ => return Err(format!("authorization-mode {name:?} is not a valid mode")),
            };
            if modes.contains(&mode) {
                return Err(format!("authorization-mode {name:?} is specified more than once"));
            }
            modes.push(mode);
        }
        // The cluster's own parts live by what these two allow.
        if ![Self::Node, Self::Rbac].iter().all(|m| modes.contains(m)) {
            return Err("authorization-mode must have Node and RBAC in it".to_owned());
        }
        Ok(modes)
    }
}

/// The authorisers in order.
#[derive(Clone)]
pub struct Authorizer {
    pub nodes: Arc<NodeAuthorizer>,
    pub rbac: Arc<Rbac>,
    modes: Vec<Mode>,
    webhook: Option<Arc<Webhook>>,
    /// The webhook's answers for one decision, which is made again until none is missing.
    answers: Option<Arc<Mutex<Answers>>>,
}

#[derive(Default)]
struct Answers {
    known: HashMap<Key, webhook::Answer>,
    missing: Vec<Question>,
}

impl Authorizer {
    pub fn new(nodes: Arc<NodeAuthorizer>, rbac: Arc<Rbac>) -> Self {
        Self { nodes, rbac, modes: vec![Mode::Node, Mode::Rbac], webhook: None, answers: None }
    }

    /// With other modes, or in another order.
    ///
    /// # Errors
    /// The modes and the webhook do not fit together.
    pub fn with_modes(mut self, modes: Vec<Mode>, webhook: Option<Webhook>) -> Result<Self, String> {
        match (modes.contains(&Mode::Webhook), &webhook) {
            (true, None) => {
                return Err("authorization-mode Webhook's authorization config file not passed".to_owned());
            }
            (false, Some(_)) => {
                return Err(
                    "cannot specify --authorization-webhook-config-file without mode Webhook".to_owned()
                );
            }
            _ => {}
        }
        self.modes = modes;
        self.webhook = webhook.map(Arc::new);
        Ok(self)
    }

    /// Whether another server decides too, whose rules cannot be listed.
    pub fn has_webhook(&self) -> bool {
        self.webhook.is_some()
    }

    /// Decides with what is known here. Only [`Decision::Allow`] lets a request through. With a webhook this belongs
    /// into [`Authorizer::settle`], which asks it; without, an answer that is not at hand counts as a refusal.
    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        if a.user.in_group(SYSTEM_MASTERS) {
            return Decision::allow();
        }
        let mut reasons = Vec::new();
        for mode in &self.modes {
            let decision = match mode {
                Mode::Node => self.nodes.authorize(a),
                Mode::Rbac => self.rbac.authorize(a),
                Mode::Webhook => self.remote(a),
            };
            match decision {
                Decision::NoOpinion { reason } if reason.is_empty() => {}
                Decision::NoOpinion { reason } => reasons.push(format!("{}: {reason}", mode.name())),
                decided => return decided,
            }
        }
        Decision::no_opinion(reasons.join("\n"))
    }

    /// Makes a decision that may need the webhook: `decide` runs again until every answer that it wants is there. It
    /// must want the same each time but for what the answers change.
    pub async fn settle<R>(&self, decide: impl Fn(&Authorizer) -> R) -> R {
        let Some(webhook) = &self.webhook else { return decide(self) };
        let answers = Arc::new(Mutex::new(Answers::default()));
        let asking = Self { answers: Some(answers.clone()), ..self.clone() };
        for _ in 0..ROUNDS_MAX {
            let missing = {
                let result = decide(&asking);
                let missing = std::mem::take(&mut answers.lock().missing);
                if missing.is_empty() {
                    return result;
                }
                missing
            };
            for question in missing {
                let answer = webhook.ask(&question).await;
                answers.lock().known.insert(question.key, answer);
            }
        }
        // Who wants ever more answers gets refusals.
        decide(&Self { answers: None, ..self.clone() })
    }

    /// Decides, asking the webhook when it is its turn; with the error of that, which did not decide.
    pub async fn decide(&self, a: &Attributes<'_>) -> (Decision, Option<String>) {
        self.settle(|z| (z.authorize(a), z.error())).await
    }

    /// What went wrong with the webhook in the decision that [`Authorizer::settle`] is making.
    pub fn error(&self) -> Option<String> {
        let answers = self.answers.as_ref()?.lock();
        let errors: Vec<String> = answers.known.values().filter_map(|(_, e)| e.clone()).collect();
        if errors.is_empty() { None } else { Some(aggregate(&errors)) }
    }

    fn remote(&self, a: &Attributes<'_>) -> Decision {
        let Some(webhook) = &self.webhook else { return Decision::no_opinion("") };
        let question = Question::of(a);
        let unknown = || Decision::Deny { reason: "the webhook was not asked".to_owned() };
        let Some(answers) = &self.answers else { return webhook.known(&question).unwrap_or_else(unknown) };
        let mut answers = answers.lock();
        if let Some((decision, _)) = answers.known.get(&question.key) {
            return decision.clone();
        }
        if let Some(decision) = webhook.known(&question) {
            // It stays the same for this decision, even if its time ends meanwhile.
            answers.known.insert(question.key, (decision.clone(), None));
            return decision;
        }
        answers.missing.push(question);
        unknown()
    }

    /// Lets an allowed request through with its reason, and refuses others with 403.
    ///
    /// # Errors
    /// The refusal that the client sees.
    pub async fn require(&self, a: &Attributes<'_>) -> Result<String, Status> {
        match self.decide(a).await {
            (Decision::Allow { reason }, _) => Ok(reason),
            (_, Some(error)) => Err(Status::internal(error)),
            (other, None) => Err(forbidden(a, other.reason())),
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
mod tests;
