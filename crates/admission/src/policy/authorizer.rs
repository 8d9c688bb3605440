//! `authorizer` in expressions: may the user of the request, or a service account, do this
//! (upstream: apiserver `pkg/cel/library/authz.go`).

use crate::chain::Attributes;
use auth::Authorizer;
use auth::authorize;
use auth::identity::Identity;
use kinds::declared::engine::{HostObject, Value};
use meta::GroupResource;
use std::sync::Arc;

/// Who is asked about, and who decides.
#[derive(Clone)]
pub struct Who {
    user: Arc<Identity>,
    authorizer: Arc<Authorizer>,
}

impl Who {
    pub fn new(user: &Identity, authorizer: &Authorizer) -> Self {
        Self { user: Arc::new(user.clone()), authorizer: Arc::new(authorizer.clone()) }
    }

    pub fn value(self) -> Value {
        Value::Host(Arc::new(self))
    }
}

impl std::fmt::Debug for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Who").field("user", &self.user.name).finish_non_exhaustive()
    }
}

/// `authorizer.path(…)`
#[derive(Debug)]
struct Path {
    who: Who,
    path: String,
}

/// `authorizer.group(…)`
#[derive(Debug)]
struct Group {
    who: Who,
    group: String,
}

/// `authorizer.group(…).resource(…)`
#[derive(Clone, Debug)]
pub struct Check {
    who: Who,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    fields: String,
    labels: String,
}

/// An answer.
#[derive(Debug)]
struct Decision {
    allowed: bool,
    reason: String,
    error: String,
}

impl Check {
    /// The resource of the request.
    pub fn of_request(a: &Attributes<'_>, authorizer: &Authorizer) -> Self {
        Self {
            who: Who::new(a.user, authorizer),
            group: a.kind.group.to_string(),
            resource: a.kind.plural.to_string(),
            subresource: a.subresource.to_owned(),
            namespace: a.namespace.to_owned(),
            name: a.name.to_owned(),
            fields: String::new(),
            labels: String::new(),
        }
    }

    pub fn value(self) -> Value {
        Value::Host(Arc::new(self))
    }
}

fn text(args: &[Value], at: usize) -> Result<String, String> {
    match args.get(at) {
        Some(Value::String(s)) => Ok(s.to_string()),
        _ => Err("no such overload".to_owned()),
    }
}

fn host(object: impl HostObject + 'static) -> Result<Value, String> {
    Ok(Value::Host(Arc::new(object)))
}

fn unknown() -> Result<Value, String> {
    Err("no such overload".to_owned())
}

fn decide(who: &Who, a: &authorize::Attributes<'_>) -> Result<Value, String> {
    let decision = who.authorizer.authorize(a);
    let error = who.authorizer.error().unwrap_or_default();
    host(Decision { allowed: decision.is_allowed(), reason: decision.reason().to_owned(), error })
}

impl HostObject for Who {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Authorizer"
    }

    fn call(&self, function: &str, args: &[Value]) -> Result<Value, String> {
        match function {
            "path" => match text(args, 0)? {
                path if path.is_empty() => Err("path must not be empty".to_owned()),
                path => host(Path { who: self.clone(), path }),
            },
            "group" => host(Group { who: self.clone(), group: text(args, 0)? }),
            "serviceAccount" => {
                let (namespace, name) = (text(args, 0)?, text(args, 1)?);
                if !kinds::helpers::dns_subdomain_errors(&name, false).is_empty() {
                    return Err("Invalid service account name".to_owned());
                }
                if !kinds::helpers::dns_label_errors(&namespace, false).is_empty() {
                    return Err("Invalid service account namespace".to_owned());
                }
                let user = Arc::new(Identity::service_account(&namespace, &name));
                host(Self { user, authorizer: self.authorizer.clone() })
            }
            _ => unknown(),
        }
    }
}

impl HostObject for Path {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.PathCheck"
    }

    fn call(&self, function: &str, args: &[Value]) -> Result<Value, String> {
        match function {
            "check" => {
                let a = authorize::Attributes::for_path(&self.who.user, text(args, 0)?, self.path.as_str());
                decide(&self.who, &a)
            }
            _ => unknown(),
        }
    }
}

impl HostObject for Group {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.GroupCheck"
    }

    fn call(&self, function: &str, args: &[Value]) -> Result<Value, String> {
        match function {
            "resource" => match text(args, 0)? {
                resource if resource.is_empty() => Err("resource must not be empty".to_owned()),
                resource => host(Check {
                    who: self.who.clone(),
                    group: self.group.clone(),
                    resource,
                    subresource: String::new(),
                    namespace: String::new(),
                    name: String::new(),
                    fields: String::new(),
                    labels: String::new(),
                }),
            },
            _ => unknown(),
        }
    }
}

impl HostObject for Check {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.ResourceCheck"
    }

    fn call(&self, function: &str, args: &[Value]) -> Result<Value, String> {
        let mut out = self.clone();
        let arg = text(args, 0)?;
        match function {
            "subresource" => out.subresource = arg,
            "namespace" => out.namespace = arg,
            "name" => out.name = arg,
            "fieldSelector" => out.fields = arg,
            "labelSelector" => out.labels = arg,
            "check" => {
                let resource = GroupResource::new(&self.group, &self.resource);
                let a = authorize::Attributes::for_resource(&self.who.user, arg, resource, "*")
                    .sub(self.subresource.as_str())
                    .in_namespace(self.namespace.as_str())
                    .named(self.name.as_str())
                    .selecting(&self.fields, &self.labels);
                return decide(&self.who, &a);
            }
            _ => return unknown(),
        }
        host(out)
    }
}

impl HostObject for Decision {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }

    fn call(&self, function: &str, _: &[Value]) -> Result<Value, String> {
        Ok(match function {
            "allowed" => Value::Bool(self.allowed),
            "errored" => Value::Bool(!self.error.is_empty()),
            "reason" => Value::String(self.reason.as_str().into()),
            "error" => Value::String(self.error.as_str().into()),
            _ => return unknown(),
        })
    }
}
