//! What expressions of policies and webhooks see, and what they must give
//! (upstream: apiserver `pkg/admission/plugin/cel/{compile,composition}.go`).
//!
//! Invariant: a program that is made here has the type that its place asks for.

use super::engine::{self, Env, Program, Type};
use super::escape::RESERVED;
use super::{Decl, Shape};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub const OBJECT: &str = "object";
pub const OLD_OBJECT: &str = "oldObject";
pub const PARAMS: &str = "params";
pub const REQUEST: &str = "request";
pub const NAMESPACE: &str = "namespaceObject";
pub const AUTHORIZER: &str = "authorizer";
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";
pub const VARIABLES: &str = "variables";

const REQUEST_TYPE: &str = "kubernetes.AdmissionRequest";
const NAMESPACE_TYPE: &str = "kubernetes.Namespace";
const VARIABLES_TYPE: &str = "kubernetes.variables";

/// What is there beside the objects of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has {
    pub params: bool,
    pub authorizer: bool,
    /// The constructors `Object{}` and `JSONPatch{}`.
    pub patches: bool,
}

impl Has {
    pub const AUTHORIZER: Self = Self { params: false, authorizer: true, patches: false };
}

/// What an expression must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    Anything,
    Bool,
    String,
    StringOrNull,
    /// An apply configuration.
    Object,
    /// A list of JSON patches.
    Patches,
}

impl Returns {
    fn types(self) -> Vec<Type> {
        match self {
            Self::Anything => Vec::new(),
            Self::Bool => vec![Type::Bool],
            Self::String => vec![Type::String],
            Self::StringOrNull => vec![Type::String, Type::Null],
            Self::Object => vec![Type::object("Object")],
            Self::Patches => vec![Type::list(Type::object("JSONPatch"))],
        }
    }

    /// Why a type is not what is asked for.
    fn refuses(self, got: &Type) -> Option<String> {
        let types = self.types();
        if types.is_empty() || types.contains(got) {
            return None;
        }
        let texts: Vec<String> = types.iter().map(Type::declared_name).collect();
        let got = got.declared_name();
        Some(match texts.as_slice() {
            [one] => format!("must evaluate to {one} but got {got}"),
            many => format!("must evaluate to one of [{}] but got {got}", many.join(" ")),
        })
    }
}

/// Compiles the expressions of one policy, in their order.
#[derive(Clone)]
pub struct Compiler {
    base: Env,
    object: Type,
    params: Type,
    /// The variables so far, where expressions may use them.
    variables: Option<BTreeMap<String, Type>>,
}

static BASE: LazyLock<Env> = LazyLock::new(|| {
    let mut env = Env::new();
    for (name, decl) in [(REQUEST_TYPE, request_type()), (NAMESPACE_TYPE, namespace_type())] {
        decl.declare(name, &mut env);
    }
    engine::variable(&mut env, REQUEST, Type::object(REQUEST_TYPE));
    engine::variable(&mut env, NAMESPACE, Type::object(NAMESPACE_TYPE));
    env
});

impl Compiler {
    /// `composed` expressions may use variables.
    pub fn new(composed: bool) -> Self {
        let variables = composed.then(BTreeMap::new);
        Self { base: BASE.clone(), object: Type::Dyn, params: Type::Dyn, variables }
    }

    /// With types for the objects of a request, as far as they are known; under names for messages.
    pub fn typed(object: (&str, &Decl), params: Option<(&str, &Decl)>) -> Self {
        let mut out = Self::new(true);
        object.1.declare(object.0, &mut out.base);
        out.object = object.1.named(object.0);
        if let Some((name, decl)) = params {
            decl.declare(name, &mut out.base);
            out.params = decl.named(name);
        }
        out
    }

    /// Compiles a variable, which later expressions may use.
    ///
    /// # Errors
    /// Upstream's words; the variable is there nevertheless, with any type.
    pub fn variable(&mut self, name: &str, expression: &str, has: Has) -> Result<Program, String> {
        let made = self.compile(expression, Returns::Anything, has);
        let ty = made.as_ref().map_or(Type::Dyn, |p| engine::plain(p.output()));
        if let Some(variables) = &mut self.variables {
            variables.insert(name.to_owned(), ty);
        }
        made
    }

    /// # Errors
    /// Upstream's words.
    pub fn compile(&self, expression: &str, returns: Returns, has: Has) -> Result<Program, String> {
        let program = self.check(expression, has).map_err(|why| format!("compilation failed: {why}"))?;
        match returns.refuses(program.output()) {
            Some(why) => Err(why),
            None => Ok(program),
        }
    }

    /// As [`Self::compile`], of an expression that may give anything.
    ///
    /// # Errors
    /// What is wrong with it, without more words.
    pub fn check(&self, expression: &str, has: Has) -> Result<Program, String> {
        engine::compile(&self.env(has), expression)
    }

    fn env(&self, has: Has) -> Env {
        let mut env = self.base.clone();
        let mut variable = |name: &str, ty: Type| engine::variable(&mut env, name, ty);
        variable(OBJECT, self.object.clone());
        variable(OLD_OBJECT, self.object.clone());
        if has.params {
            variable(PARAMS, self.params.clone());
        }
        if has.authorizer {
            variable(AUTHORIZER, Type::opaque("kubernetes.authorization.Authorizer"));
            variable(REQUEST_RESOURCE, Type::opaque("kubernetes.authorization.ResourceCheck"));
        }
        if let Some(variables) = &self.variables {
            // Each is a variable of its own, which is evaluated when it is read; the whole tells which there are.
            variable(VARIABLES, Type::object(VARIABLES_TYPE));
            for (name, ty) in variables {
                variable(&format!("{VARIABLES}.{name}"), ty.clone());
            }
            engine::object_type(&mut env, VARIABLES_TYPE, variables.clone());
        }
        if has.patches {
            engine::patch_types(&mut env);
        }
        env
    }
}

/// Whether a variable may have the name.
pub fn is_identifier(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(word)
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn of<const N: usize>(fields: [(&str, Decl); N]) -> Decl {
    Decl::plain(Shape::Object(fields.into_iter().map(|(n, d)| (n.to_owned(), Arc::new(d))).collect()))
}

fn string() -> Decl {
    Decl::plain(Shape::String)
}

fn strings() -> Decl {
    Decl::plain(Shape::List(Arc::new(string())))
}

fn map(values: Decl) -> Decl {
    Decl::plain(Shape::Map(Arc::new(values)))
}

/// Upstream: `BuildRequestType`.
fn request_type() -> Decl {
    let kind = || of([("group", string()), ("version", string()), ("kind", string())]);
    let resource = || of([("group", string()), ("version", string()), ("resource", string())]);
    let user =
        of([("username", string()), ("uid", string()), ("groups", strings()), ("extra", map(strings()))]);
    of([
        ("kind", kind()),
        ("resource", resource()),
        ("subResource", string()),
        ("requestKind", kind()),
        ("requestResource", resource()),
        ("requestSubResource", string()),
        ("name", string()),
        ("namespace", string()),
        ("operation", string()),
        ("userInfo", user),
        ("dryRun", Decl::plain(Shape::Bool)),
        ("options", Decl::plain(Shape::Dyn)),
    ])
}

/// Upstream: `BuildNamespaceType`.
fn namespace_type() -> Decl {
    let time = || Decl::plain(Shape::Timestamp);
    let labels = || map(string());
    let condition = of([
        ("status", string()),
        ("type", string()),
        ("lastTransitionTime", time()),
        ("message", string()),
        ("reason", string()),
    ]);
    let metadata = of([
        ("name", string()),
        ("generateName", string()),
        ("namespace", string()),
        ("labels", labels()),
        ("annotations", labels()),
        ("UID", string()),
        ("creationTimestamp", time()),
        ("deletionGracePeriodSeconds", Decl::plain(Shape::Int)),
        ("deletionTimestamp", time()),
        ("generation", Decl::plain(Shape::Int)),
        ("resourceVersion", string()),
        ("finalizers", strings()),
    ]);
    let conditions = Decl::plain(Shape::List(Arc::new(condition)));
    of([
        ("metadata", metadata),
        ("spec", of([("finalizers", strings())])),
        ("status", of([("conditions", conditions), ("phase", string())])),
    ])
}
