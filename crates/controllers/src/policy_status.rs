//! Type checking of validating policies: what their expressions would not find in the objects that they are for goes into
//! the policy's status. It changes nothing of what the policy does.
//!
//! upstream: `pkg/controller/validatingadmissionpolicystatus`, apiserver `pkg/admission/plugin/policy/validating/typechecking.go`

use crate::start::Setup;
use async_trait::async_trait;
use client::controller::{After, Controller, Error, Handle, ObjectKey, Reconcile};
use client::informer::Informer;
use client::{Client, Patch};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kinds::KindDef;
use kinds::custom::Structural;
use kinds::custom::names::is_true;
use kinds::declared::admission::{Compiler, Has};
use kinds::declared::{Decl, of_resource, of_type};
use meta::object;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// Types that one rule is checked against (upstream: `maxTypesToCheck`).
const TYPES_MAX: usize = 10;
/// Upstream: `ConcurrentPolicySyncs`.
const WORKERS: usize = 5;

/// Group, version and kind.
type Gvk = (String, String, String);

static ROWS: LazyLock<Vec<KindDef>> = LazyLock::new(|| kinds::KINDS.iter().map(|row| row()).collect());

struct PolicyStatus {
    client: Client,
    policies: Informer<ValidatingAdmissionPolicy>,
    definitions: Informer<CustomResourceDefinition>,
}

pub(crate) fn start(setup: &Setup) -> Handle {
    let policies = setup.informers.of::<ValidatingAdmissionPolicy>();
    let definitions = setup.informers.of::<CustomResourceDefinition>();
    let client = setup.client("validatingadmissionpolicy-status-controller");
    let this = PolicyStatus { client, policies: policies.clone(), definitions: definitions.clone() };
    Controller::new("validatingadmissionpolicy-status", Arc::new(this), setup.clock.clone())
        .workers(WORKERS)
        .watches(&policies, |c, q| c.new.iter().for_each(|p| q.add(ObjectKey::of(&**p))))
        .needs(&definitions)
        .start(setup.cancel.clone())
}

#[async_trait]
impl Reconcile for PolicyStatus {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<After, Error> {
        let Some(policy) = self.policies.store().get("", &key.name) else { return Ok(After::Done) };
        let policy = serde_json::to_value(&*policy)?;
        let generation = object::generation(&policy);
        if generation <= policy["status"]["observedGeneration"].as_i64().unwrap_or(0) {
            return Ok(After::Done);
        }
        let definitions: Vec<Value> =
            self.definitions.store().list().iter().filter_map(|d| serde_json::to_value(&**d).ok()).collect();
        let warnings = check(&policy, &definitions);
        let warnings = if warnings.is_empty() { Value::Null } else { warnings.into() };
        let patch = json!({"status": {
            "observedGeneration": generation,
            "typeChecking": {"expressionWarnings": warnings},
        }});
        let patch = Patch::Merge(patch);
        match self.client.patch::<ValidatingAdmissionPolicy>("", &key.name, Some("status"), patch).await {
            Err(e) if e.is_not_found() => Ok(After::Done),
            Err(e) => Err(e.into()),
            Ok(_) => Ok(After::Done),
        }
    }
}

/// The warnings about a policy's expressions (upstream: `TypeChecker.Check`).
fn check(policy: &Value, definitions: &[Value]) -> Vec<Value> {
    let spec = &policy["spec"];
    let types = types_to_check(spec, definitions);
    let params = spec["paramKind"].is_object().then(|| {
        let text = |field: &str| spec["paramKind"][field].as_str().unwrap_or("");
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        (group.to_owned(), version.to_owned(), text("kind").to_owned())
    });
    let params_decl = params.as_ref().and_then(|gvk| declared(gvk, definitions));
    let has = Has { params: params.is_some(), ..Has::AUTHORIZER };
    let compilers: Vec<(String, Compiler)> = types
        .iter()
        .filter_map(|gvk| {
            let decl = declared(gvk, definitions)?;
            let mut compiler = Compiler::typed(
                (&format!("{}0", gvk.2), &decl),
                params_decl.as_ref().map(|d| ("Params0", d)),
            );
            for v in spec["variables"].as_array().into_iter().flatten() {
                let text = |field: &str| v[field].as_str().unwrap_or("");
                // One that does not compile has any type for the others.
                let _ = compiler.variable(text("name"), text("expression"), has);
            }
            let shown = format!("{}/{}, Kind={}", gvk.0, gvk.1, gvk.2);
            Some((shown, compiler))
        })
        .collect();
    let mut out = Vec::new();
    for (i, v) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(expression) = v[field].as_str().filter(|e| !e.is_empty()) else { continue };
            let texts: Vec<String> = compilers
                .iter()
                .filter_map(|(gvk, compiler)| {
                    compiler.check(expression, has).err().map(|why| format!("{gvk}: {why}\n"))
                })
                .collect();
            if !texts.is_empty() {
                let at = format!("spec.validations[{i}].{field}");
                out.push(json!({"fieldRef": at, "warning": texts.join("\n")}));
            }
        }
    }
    out
}

/// The kinds that a policy names, in order (upstream: `typesToCheck`).
fn types_to_check(spec: &Value, definitions: &[Value]) -> Vec<Gvk> {
    let mut out: Vec<Gvk> = Vec::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let sorted = |field: &str| {
            let mut list = object::strings(&rule[field]);
            list.sort_unstable();
            list
        };
        let (groups, versions) = (sorted("apiGroups"), sorted("apiVersions"));
        if groups.iter().chain(&versions).any(|s| s.contains('*')) {
            continue;
        }
        let resources: Vec<String> =
            sorted("resources").into_iter().filter(|r| !r.contains(['*', '/'])).collect();
        let all = groups
            .iter()
            .flat_map(|g| versions.iter().map(move |v| (g, v)))
            .flat_map(|(g, v)| resources.iter().filter_map(move |r| kind_of(g, v, r, definitions)));
        out.extend(all.take(TYPES_MAX));
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn kind_of(group: &str, version: &str, plural: &str, definitions: &[Value]) -> Option<Gvk> {
    let is = |r: &&KindDef| r.group == group && r.version == version && r.plural == plural;
    let kind = match ROWS.iter().find(is) {
        Some(row) => row.kind.to_string(),
        None => {
            let (crd, _) = served(definitions, group, version, |names| names["plural"] == plural)?;
            crd["status"]["acceptedNames"]["kind"].as_str()?.to_owned()
        }
    };
    Some((group.to_owned(), version.to_owned(), kind))
}

/// A served version of an established definition.
fn served<'a>(
    definitions: &'a [Value],
    group: &str,
    version: &str,
    named: impl Fn(&Value) -> bool,
) -> Option<(&'a Value, &'a Value)> {
    let mut all = definitions.iter().filter(|d| d["spec"]["group"] == group && is_true(d, "Established"));
    let crd = all.find(|d| named(&d["status"]["acceptedNames"]))?;
    let mut versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    Some((crd, versions.find(|v| v["name"] == version && v["served"] == true)?))
}

fn declared(gvk: &Gvk, definitions: &[Value]) -> Option<Decl> {
    let (group, version, kind) = gvk;
    if let Some(row) = ROWS.iter().find(|r| r.group == **group && r.version == **version && r.kind == **kind)
    {
        return of_type(kinds::schema::schema(), &row.schema);
    }
    let (_, version) = served(definitions, group, version, |names| names["kind"] == **kind)?;
    of_resource(&Structural::parse(&version["schema"]["openAPIV3Schema"]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(expression: &str, message: &str) -> Value {
        json!({"spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"],
                "apiVersions": ["v1"], "resources": ["deployments", "deployments/status"]}]},
            "validations": [{"expression": expression, "messageExpression": message}]}})
    }

    #[test]
    fn confused_types_are_told() {
        assert!(check(&policy("object.spec.replicas > 1", ""), &[]).is_empty());
        let found = check(&policy("object.spec.replicas > '1'", "'got ' + object.spec.replicas"), &[]);
        let texts: Vec<&str> = found.iter().filter_map(|w| w["warning"].as_str()).collect();
        assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
        assert!(texts[0].starts_with("apps/v1, Kind=Deployment: "), "{texts:?}");
        assert!(
            texts[0].contains("found no matching overload for '_>_' applied to '(int, string)'"),
            "{texts:?}"
        );
        assert_eq!(found[1]["fieldRef"], "spec.validations[0].messageExpression");
        assert!(
            texts[1].contains("found no matching overload for '_+_' applied to '(string, int)'"),
            "{texts:?}"
        );
    }

    #[test]
    fn definitions_have_types_too() {
        let crd = json!({
            "spec": {"group": "stable.example.com", "versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]},
            "status": {"acceptedNames": {"plural": "crontabs", "kind": "CronTab"},
                "conditions": [{"type": "Established", "status": "True"}]}});
        let policy = |expression: &str| {
            json!({"spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": ["stable.example.com"],
                "apiVersions": ["v1"], "resources": ["crontabs"]}]},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": expression}]}})
        };
        let crds = std::slice::from_ref(&crd);
        assert!(check(&policy("variables.n > 1 && object.metadata.labels.size() > 0"), crds).is_empty());
        let found = check(&policy("object.spec.maxRetries < 10"), crds);
        assert!(
            found[0]["warning"].as_str().is_some_and(|w| w.contains("undefined field 'maxRetries'")),
            "{found:?}"
        );
    }

    #[test]
    fn rules_for_everything_name_no_types() {
        let spec = json!({"matchConstraints": {"resourceRules": [
            {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]},
            {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["*", "pods/log", "services", "nope"]}]}});
        assert_eq!(types_to_check(&spec, &[]), [(String::new(), "v1".to_owned(), "Service".to_owned())]);
    }
}
