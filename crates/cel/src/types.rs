//! Types of expressions, and when one stands for another (cel-go: `common/types`, `checker/types.go`).
//!
//! Invariant: binding a type parameter never makes it a part of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Deepest nesting of a type that is unified; deeper ones do not unify.
const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Decided at run time.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// An object with declared fields.
    Object(Arc<str>),
    /// A type with functions and no fields.
    Opaque(Arc<str>, Arc<[Type]>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// A type parameter of an overload or an unknown of the checker.
    Param(Arc<str>),
    /// What an error left behind.
    Error,
}

pub const OPTIONAL: &str = "optional_type";

impl Type {
    pub fn list(items: Self) -> Self {
        Self::List(Arc::new(items))
    }

    pub fn map(keys: Self, values: Self) -> Self {
        Self::Map(Arc::new(keys), Arc::new(values))
    }

    pub fn object(name: &str) -> Self {
        Self::Object(name.into())
    }

    pub fn opaque(name: &str) -> Self {
        Self::Opaque(name.into(), Arc::new([]))
    }

    pub fn optional(of: Self) -> Self {
        Self::Opaque(OPTIONAL.into(), Arc::new([of]))
    }

    pub(crate) fn param(name: &str) -> Self {
        Self::Param(name.into())
    }

    pub(crate) fn of(ty: Self) -> Self {
        Self::Type(Some(Arc::new(ty)))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// What an optional type is of.
    pub(crate) fn unwrapped(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, params) if &**name == OPTIONAL => params.first(),
            _ => None,
        }
    }

    /// Values always have the same size.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            other => other.unwrapped().is_some_and(Self::is_scalar),
        }
    }

    /// The name that `type(x)` gives, without parameters.
    pub(crate) fn runtime_name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(..) => "map",
            Self::Object(name) | Self::Opaque(name, _) | Self::Param(name) => name,
            Self::Type(_) => "type",
            Self::Error => "error",
        }
    }

    /// The name as cel-go's `Type.String` writes it; [`fmt::Display`] is what the checker's messages have.
    pub fn declared_name(&self) -> String {
        let params: Vec<String> = self.params().into_iter().map(Self::declared_name).collect();
        if params.is_empty() {
            self.runtime_name().to_owned()
        } else {
            format!("{}({})", self.runtime_name(), params.join(", "))
        }
    }

    fn params(&self) -> Vec<&Self> {
        match self {
            Self::List(items) => vec![items],
            Self::Map(keys, values) => vec![keys, values],
            Self::Opaque(_, params) => params.iter().collect(),
            Self::Type(Some(of)) => vec![of],
            _ => Vec::new(),
        }
    }

    fn map_params(&self, f: impl Fn(&Self) -> Self) -> Self {
        match self {
            Self::List(items) => Self::list(f(items)),
            Self::Map(keys, values) => Self::map(f(keys), f(values)),
            Self::Opaque(name, params) => Self::Opaque(name.clone(), params.iter().map(f).collect()),
            Self::Type(Some(of)) => Self::of(f(of)),
            other => other.clone(),
        }
    }
}

/// Upstream: `checker.FormatCELType`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Error => f.write_str("!error!"),
            Self::List(items) => write!(f, "list({items})"),
            Self::Map(keys, values) => write!(f, "map({keys}, {values})"),
            Self::Type(Some(of)) => write!(f, "type({of})"),
            Self::Opaque(name, params) if !params.is_empty() => {
                let params: Vec<String> = params.iter().map(ToString::to_string).collect();
                write!(f, "{name}({})", params.join(", "))
            }
            other => f.write_str(other.runtime_name()),
        }
    }
}

/// What the checker found type parameters to be (upstream: `checker.mapping`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Bindings(BTreeMap<Arc<str>, Type>);

impl Bindings {
    pub fn bind(&mut self, param: &Arc<str>, ty: Type) {
        self.0.insert(param.clone(), ty);
    }

    fn find(&self, ty: &Type) -> Option<&Type> {
        match ty {
            Type::Param(name) => self.0.get(name),
            _ => None,
        }
    }

    /// The type with its parameters replaced; unknown ones become `dyn` when `decide` is set.
    pub fn substitute(&self, ty: &Type, decide: bool) -> Type {
        self.substitute_at(ty, decide, 0)
    }

    fn substitute_at(&self, ty: &Type, decide: bool, depth: usize) -> Type {
        if depth > DEPTH_MAX {
            return Type::Dyn;
        }
        if let Some(found) = self.find(ty) {
            return self.substitute_at(found, decide, depth + 1);
        }
        match ty {
            Type::Param(_) if decide => Type::Dyn,
            other => other.map_params(|p| self.substitute_at(p, decide, depth + 1)),
        }
    }

    /// Whether a value of `from` can stand where `to` is asked for; binds parameters if so.
    pub fn assign(&mut self, from: &Type, to: &Type) -> bool {
        let mut trial = self.clone();
        let fits = trial.assignable(from, to, 0);
        if fits {
            *self = trial;
        }
        fits
    }

    /// As [`Self::assign`], of all together.
    pub fn assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        let mut trial = self.clone();
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(a, b)| trial.assignable(a, b, 0));
        if fits {
            *self = trial;
        }
        fits
    }

    fn assignable(&mut self, a: &Type, b: &Type, depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return false;
        }
        if let Type::Param(name) = b {
            match self.valid_substitution(a, b, name, depth) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(name) = a {
            return self.valid_substitution(b, a, name, depth).0;
        }
        match (a, b) {
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(_), Type::List(_))
            | (Type::Map(..), Type::Map(..))
            | (Type::Opaque(..), Type::Opaque(..)) => {
                a.runtime_name() == b.runtime_name() && {
                    let (pa, pb) = (a.params(), b.params());
                    pa.len() == pb.len() && pa.iter().zip(pb).all(|(a, b)| self.assignable(a, b, depth + 1))
                }
            }
            _ => a == b,
        }
    }

    /// Whether `t` can be what the parameter `p` stands for, and whether `p` stood for something before
    /// (upstream: `isValidTypeSubstitution`).
    fn valid_substitution(&mut self, t: &Type, p: &Type, name: &Arc<str>, depth: usize) -> (bool, bool) {
        if t == p {
            return (true, true);
        }
        if let Some(bound) = self.0.get(name).cloned() {
            if *t == bound {
                return (true, true);
            }
            if self.assignable(t, &bound, depth + 1) {
                let general = most_general(t, &bound).clone();
                if self.not_within(p, &general, 0) {
                    self.bind(name, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.not_within(p, t, 0) {
            self.bind(name, t.clone());
            return (true, false);
        }
        (false, false)
    }

    fn not_within(&self, p: &Type, within: &Type, depth: usize) -> bool {
        if p == within || depth > DEPTH_MAX {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|t| self.not_within(p, t, depth + 1)),
            other => other.params().into_iter().all(|t| self.not_within(p, t, depth + 1)),
        }
    }
}

/// The more general of two types that unify.
pub(crate) fn most_general<'a>(a: &'a Type, b: &'a Type) -> &'a Type {
    if equal_or_less_specific(a, b) { a } else { b }
}

fn equal_or_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::Type(_), Type::Type(_)) => true,
        (Type::List(_), Type::List(_))
        | (Type::Map(..), Type::Map(..))
        | (Type::Opaque(..), Type::Opaque(..)) => {
            let (pa, pb) = (a.params(), b.params());
            a.runtime_name() == b.runtime_name()
                && pa.len() == pb.len()
                && pa.iter().zip(pb).all(|(a, b)| equal_or_less_specific(a, b))
        }
        _ => a == b,
    }
}
