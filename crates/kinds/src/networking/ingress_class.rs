//! IngressClass (upstream: `pkg/registry/networking/ingressclass`, `ValidateIngressClass`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::def::{Cell, Column, Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::{immutable, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Longest name of a controller, in bytes.
const CONTROLLER_MAX: usize = 250;
const PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

pub fn kind() -> KindDef {
    KindDef {
        kind: "IngressClass".into(),
        plural: "ingressclasses".into(),
        singular: "ingressclass".into(),
        scope: Scope::Cluster,
        schema: "io.k8s.api.networking.v1.IngressClass".into(),
        storage: "ingressclasses".into(),
        columns: const {
            &[
                Column { cell: Cell::Fn(|o, _| name(o).into()), ..NAME },
                column("Controller", "string", |o, _| text(&o["spec"], "controller").into()),
                column("Parameters", "string", |o, _| parameters(&o["spec"]["parameters"]).into()),
                AGE,
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&IngressClass),
        sample: "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: external}\nspec: {controller: example.com/ingress, parameters: {apiGroup: example.com, kind: Parameters, name: external, scope: Cluster}}\n",
        ..GROUP
    }
}

fn name(o: &Value) -> String {
    let default = object::annotation(o, DEFAULT_ANNOTATION) == Some("true");
    format!("{}{}", object::name(o), if default { " (default)" } else { "" })
}

fn parameters(p: &Value) -> String {
    match (p.is_object(), p["apiGroup"].as_str()) {
        (false, _) => "<none>".to_owned(),
        (true, Some(group)) => format!("{}.{group}/{}", text(p, "kind"), text(p, "name")),
        (true, None) => format!("{}/{}", text(p, "kind"), text(p, "name")),
    }
}

struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, obj: &mut Value) {
        if obj["spec"]["parameters"].is_object() {
            object::default_at(obj, &["spec", "parameters"], "scope", "Cluster");
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let mut declared = Vec::new();
        let (path, spec) = (Path::new("spec"), &obj["spec"]);
        let (at, controller) = (path.child("controller"), text(spec, "controller"));
        if controller.len() > CONTROLLER_MAX {
            errors.push(Error::too_long(&at, CONTROLLER_MAX));
        }
        domain_prefixed(controller, &at, &mut errors);
        if spec["parameters"].is_object() {
            reference(&spec["parameters"], &path.child("parameters"), &mut errors, &mut declared);
        }
        errors.extend(declared);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        let at = Path::new("spec").child("controller");
        let controller = |o: &Value| Value::from(text(&o["spec"], "controller"));
        immutable(&controller(new), &controller(old), &at, &mut errors);
        errors.extend(self.validate(new));
        errors
    }
}

/// A path that starts with a domain, such as `acme.io/foo` (upstream: `IsDomainPrefixedPath`).
fn domain_prefixed(value: &str, at: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    let Some((host, path)) = value.split_once('/').filter(|(h, p)| !h.is_empty() && !p.is_empty()) else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(Error::invalid(at, value, detail));
        return;
    };
    let messages = helpers::dns_subdomain_errors(host, false);
    errors.extend(messages.into_iter().map(|m| Error::invalid(at, host, m)));
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(Error::invalid(at, path, helpers::regex_error("Invalid path", PATH, &[])));
    }
}

fn reference(p: &Value, path: &Path, errors: &mut ErrorList, declared: &mut ErrorList) {
    if let Some(group) = p["apiGroup"].as_str() {
        let messages = helpers::dns_subdomain_errors(group, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("apiGroup"), group, m)));
    }
    for field in ["kind", "name"] {
        let value = text(p, field);
        if value.is_empty() {
            declared.push(Error::required(&path.child(field), ""));
        } else {
            let messages = helpers::path_segment_errors(value, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child(field), value, m)));
        }
    }
    let (at, ns) = (path.child("namespace"), p["namespace"].as_str());
    match (p["scope"].as_str(), ns) {
        (None, _) => errors.push(Error::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => {
            errors.push(Error::required(&at, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(ns)) => {
            let messages = helpers::dns_label_errors(ns, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, ns, m)));
        }
        (Some("Cluster"), Some(_)) => {
            errors.push(Error::forbidden(&at, "`parameters.scope` is set to 'Cluster'"));
        }
        (Some("Cluster"), None) => {}
        (Some(other), _) => {
            let allowed = ["Cluster", "Namespace"];
            errors.push(Error::not_supported(&path.child("scope"), other, &allowed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: Value) -> Vec<String> {
        IngressClass.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes() {
        assert!(found(json!({"controller": "foo.co/bar"})).is_empty());
        assert_eq!(
            found(json!({"controller": "foo.co"})),
            [
                "spec.controller: Invalid value: \"foo.co\": must be a domain-prefixed path (such as \"acme.io/foo\")"
            ]
        );
        assert_eq!(found(json!({"controller": "foo.co/bar{}"})).len(), 1);
        assert_eq!(
            found(
                json!({"controller": "a/b", "parameters": {"name": "", "kind": "k", "scope": "Namespace"}})
            ),
            [
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
                "spec.parameters.name: Required value",
            ]
        );
        let o = json!({"metadata": {"name": "x", "annotations": {DEFAULT_ANNOTATION: "true"}}});
        assert_eq!(name(&o), "x (default)");
    }
}
