//! Whether somebody may do something (upstream: apiserver `pkg/cel/library/authz.go`): the objects are the program's.

use crate::functions::{Failure, Outcome, Row};
use crate::value::Value;

macro_rules! of_host {
    ($name:literal, $($overload:tt),+) => {
        Row { name: $name, run: |args| call($name, args), overloads: &[$($overload),+] }
    };
}

pub const ROWS: &[Row] = &[
    of_host!(
        "path",
        (
            "authorizer_path",
            "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck"
        )
    ),
    of_host!(
        "group",
        (
            "authorizer_group",
            "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck"
        )
    ),
    of_host!(
        "serviceAccount",
        (
            "authorizer_serviceaccount",
            "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer"
        )
    ),
    of_host!(
        "resource",
        (
            "groupcheck_resource",
            "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck"
        )
    ),
    of_host!(
        "subresource",
        (
            "resourcecheck_subresource",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck"
        )
    ),
    of_host!(
        "namespace",
        (
            "resourcecheck_namespace",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck"
        )
    ),
    of_host!(
        "name",
        (
            "resourcecheck_name",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck"
        )
    ),
    of_host!(
        "fieldSelector",
        (
            "authorizer_fieldselector",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck"
        )
    ),
    of_host!(
        "labelSelector",
        (
            "authorizer_labelselector",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck"
        )
    ),
    of_host!(
        "check",
        (
            "pathcheck_check",
            "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision"
        ),
        (
            "resourcecheck_check",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision"
        )
    ),
    of_host!("errored", ("decision_errored", "kubernetes.authorization.Decision.() -> bool")),
    of_host!("error", ("decision_error", "kubernetes.authorization.Decision.() -> string")),
    of_host!("allowed", ("decision_allowed", "kubernetes.authorization.Decision.() -> bool")),
    of_host!("reason", ("decision_reason", "kubernetes.authorization.Decision.() -> string")),
];

fn call(function: &str, args: &[Value]) -> Outcome {
    match args {
        [Value::Host(host), rest @ ..] => host.call(function, rest).map_err(Failure::Other),
        _ => Err(Failure::NoOverload),
    }
}
