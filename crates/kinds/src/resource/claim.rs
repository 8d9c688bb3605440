//! ResourceClaim and ResourceClaimTemplate (upstream: `pkg/registry/resource/{resourceclaim,resourceclaimtemplate}`).

use super::common::{self, Found, REQUESTS_MAX};
use super::{GROUP, claim_status};
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, NamespaceLabel, Strategy, StrategyRef, status};
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

const TYPE: &str = "io.k8s.api.resource.v1.ResourceClaim";
const CONSTRAINTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;

pub fn claim() -> KindDef {
    KindDef {
        kind: "ResourceClaim".into(),
        plural: "resourceclaims".into(),
        singular: "resourceclaim".into(),
        schema: TYPE.into(),
        storage: "resourceclaims".into(),
        subresources: const { &[status()] },
        columns: const { &[NAME, column("State", "string", |o, _| state(o).into()), AGE] },
        strategy: StrategyRef::Static(&ResourceClaim),
        sample: "apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {name: gpu, namespace: default}\nspec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.example.com, allocationMode: ExactCount, count: 1}}]}}\nstatus: {}\n",
        ..GROUP
    }
}

pub fn template() -> KindDef {
    KindDef {
        kind: "ResourceClaimTemplate".into(),
        plural: "resourceclaimtemplates".into(),
        singular: "resourceclaimtemplate".into(),
        schema: "io.k8s.api.resource.v1.ResourceClaimTemplate".into(),
        storage: "resourceclaimtemplates".into(),
        columns: const { &[NAME, AGE] },
        strategy: StrategyRef::Static(&ResourceClaimTemplate),
        sample: "apiVersion: resource.k8s.io/v1\nkind: ResourceClaimTemplate\nmetadata: {name: gpu, namespace: default}\nspec: {metadata: {labels: {app: train}}, spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.example.com, allocationMode: ExactCount, count: 1}}]}}}\n",
        ..GROUP
    }
}

fn state(o: &Value) -> String {
    let deleted = object::is_deleting(o);
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if o["status"]["allocation"].is_object() {
        states.push("allocated");
        if !items(&o["status"], "reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}

struct ResourceClaim;

impl Strategy for ResourceClaim {
    fn has_table(&self, subresource: &str) -> bool {
        subresource != "status"
    }

    fn asks_namespace(&self, new: &Value, old: Option<&Value>, subresource: &str) -> Option<NamespaceLabel> {
        let results = |o: &'_ Value| {
            let all = o["status"]["allocation"]["devices"]["results"].as_array();
            all.and_then(|all| all.iter().position(|r| r["adminAccess"] == true))
        };
        match old {
            None => admin_access(&new["spec"]),
            Some(old) if subresource == "status" && results(old).is_none() => {
                let path = Path::new("status").child("allocation").child("devices").child("results");
                results(new).map(|i| admin_label(&path.index(i)))
            }
            Some(_) => None,
        }
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.get_mut("spec") {
            default_spec(spec);
        }
        let results = obj.pointer_mut("/status/allocation/devices/results").and_then(Value::as_array_mut);
        results.into_iter().flatten().for_each(default_tolerations);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, TYPE);
        drop_disabled(&mut obj["spec"], &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
        if ctx.subresource == "status" {
            claim_status::prepare(new, old);
        } else {
            drop_disabled(&mut new["spec"], &old["spec"]);
        }
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut found = Found::default();
        devices(&obj["spec"]["devices"], &Path::new("spec").child("devices"), &mut found);
        found.finish()
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return claim_status::validate(new, old);
        }
        let changed = new["spec"] != old["spec"];
        let error = Error::invalid(&Path::new("spec"), Value::Null, "field is immutable");
        changed.then_some(error).into_iter().collect()
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

struct ResourceClaimTemplate;

impl Strategy for ResourceClaimTemplate {
    fn asks_namespace(&self, new: &Value, old: Option<&Value>, _: &str) -> Option<NamespaceLabel> {
        if old.is_some() {
            return None;
        }
        admin_access(&new["spec"]["spec"])
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.get_mut("spec").and_then(|s| s.get_mut("spec")) {
            default_spec(spec);
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        drop_disabled(&mut obj["spec"]["spec"], &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        drop_disabled(&mut new["spec"]["spec"], &old["spec"]["spec"]);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut found = Found::default();
        let (path, spec) = (Path::new("spec"), &obj["spec"]);
        template_metadata(&spec["metadata"], &path.child("metadata"), &mut found);
        devices(&spec["spec"]["devices"], &path.child("spec").child("devices"), &mut found);
        found.finish()
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        crate::validate::immutable(&new["spec"], &old["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

fn template_metadata(meta: &Value, path: &Path, found: &mut Found) {
    for (key, _) in meta["annotations"].as_object().into_iter().flatten() {
        let messages = crate::helpers::qualified_name_errors(&key.to_lowercase());
        found.add(messages, key, &path.child("annotations"));
    }
    crate::validate::labels(&meta["labels"], &path.child("labels"), &mut found.errors);
    // by the names of Go's fields, whose first letters are made small
    for (field, called) in [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ] {
        if !matches!(&meta[field], Value::Null) && meta[field] != "" && meta[field] != 0 {
            found.errors.push(Error::forbidden(&path.child(called), "cannot be set"));
        }
    }
}

/// The requests of a spec, alternatives included.
fn each_request(spec: &mut Value, mut act: impl FnMut(&mut Value)) {
    let devices = spec.get_mut("devices");
    for r in devices.and_then(|d| d.get_mut("requests")).and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(exactly) = r.get_mut("exactly").filter(|e| e.is_object()) {
            act(exactly);
        }
        r.get_mut("firstAvailable").and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut act);
    }
}

fn default_tolerations(holder: &mut Value) {
    for t in holder.get_mut("tolerations").and_then(Value::as_array_mut).into_iter().flatten() {
        object::default_at(t, &[], "operator", "Equal");
    }
}

fn default_spec(spec: &mut Value) {
    each_request(spec, |r| {
        object::default_at(r, &[], "allocationMode", "ExactCount");
        if r["allocationMode"] == "ExactCount" {
            object::default_at(r, &[], "count", 1);
        }
        default_tolerations(r);
    });
}

/// Drops derived attributes, which no gate allows, unless the old object has some
/// (upstream: `dropDisabledDRADerivedAttributesFields`).
fn drop_disabled(spec: &mut Value, old: &Value) {
    let mut old = old.clone();
    let mut used = false;
    each_request(&mut old, |r| used |= !items(r, "derivedAttributes").is_empty());
    if !used {
        each_request(spec, |r| drop(r.as_object_mut().map(|m| m.remove("derivedAttributes"))));
    }
}

/// Errors of what a claim asks for (upstream: `validateDeviceClaim`).
fn devices(claim: &Value, path: &Path, found: &mut Found) {
    let known = common::request_names(claim);
    if let Some(list) = found.bounded(claim, "requests", REQUESTS_MAX, path) {
        let at = path.child("requests");
        for (i, r) in list.iter().enumerate() {
            request(r, &at.index(i), found);
        }
        found.unique(list, |r| r["name"].clone(), &at);
    }
    for (i, c) in found.bounded(claim, "constraints", CONSTRAINTS_MAX, path).into_iter().flatten().enumerate()
    {
        constraint(c, &known, &path.child("constraints").index(i), found);
    }
    for (i, c) in found.bounded(claim, "config", common::CONFIGS_MAX, path).into_iter().flatten().enumerate()
    {
        let at = path.child("config").index(i);
        common::request_refs(c, &known, &at, found);
        common::configuration(c, false, &at, found);
    }
}

/// The first request of a claim that asks for administrative access (upstream: `AuthorizedForAdmin`).
fn admin_access(spec: &Value) -> Option<NamespaceLabel> {
    let asks = |r: &Value| r["exactly"]["adminAccess"] == true;
    let first = items(&spec["devices"], "requests").iter().position(asks)?;
    Some(admin_label(&Path::new("spec").child("devices").child("requests").index(first)))
}

fn admin_label(at: &Path) -> NamespaceLabel {
    let label = "resource.kubernetes.io/admin-access";
    let detail =
        format!("admin access to devices requires the `{label}: true` label on the containing namespace");
    NamespaceLabel { label, field: at.child("adminAccess"), detail }
}

fn request(r: &Value, path: &Path, found: &mut Found) {
    found.label(text(r, "name"), &path.child("name"));
    let alternatives = !items(r, "firstAvailable").is_empty();
    let detail = "exactly one of `exactly` or `firstAvailable` is required";
    match (r["exactly"].is_object(), alternatives) {
        (false, false) => found.errors.push(Error::required(path, detail)),
        (true, true) => {
            let detail = format!("{detail}, but multiple fields are set");
            found.errors.push(Error::invalid(path, Value::Null, detail));
            // what the tags of the types say holds all the same
            let mut both = Found::default();
            alternatives_of(r, path, &mut both);
            found.declared.append(&mut both.declared);
        }
        (true, false) => exact(&r["exactly"], true, &path.child("exactly"), found),
        (false, true) => alternatives_of(r, path, found),
    }
}

fn alternatives_of(r: &Value, path: &Path, found: &mut Found) {
    let Some(list) = found.bounded(r, "firstAvailable", ALTERNATIVES_MAX, path) else { return };
    let at = path.child("firstAvailable");
    for (i, s) in list.iter().enumerate() {
        found.label(text(s, "name"), &at.index(i).child("name"));
        exact(s, false, &at.index(i), found);
    }
    found.unique(list, |s| s["name"].clone(), &at);
}

fn exact(r: &Value, main: bool, path: &Path, found: &mut Found) {
    let (class, at) = (text(r, "deviceClassName"), path.child("deviceClassName"));
    let mut own = Found::default();
    if class.is_empty() {
        own.errors.push(Error::required(&at, ""));
    } else {
        own.subdomain(class, &at);
    }
    // Alternatives are checked by the tags of the type, in words of their own.
    if main {
        found.errors.append(&mut own.errors)
    } else {
        for error in &mut own.errors {
            if let Some(head) = error.detail.strip_suffix(" characters") {
                error.detail = format!("{head} bytes");
            }
        }
        found.declared.append(&mut own.errors)
    }
    common::selectors(r, false, path, found);
    let count = r["count"].as_i64().unwrap_or(0);
    match text(r, "allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            found.errors.push(Error::invalid(&path.child("count"), count, detail));
        }
        "ExactCount" if count <= 0 => {
            found.errors.push(Error::invalid(&path.child("count"), count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => {
            let allowed = ["All", "ExactCount"];
            found.declared.push(Error::not_supported(&path.child("allocationMode"), other, &allowed));
        }
    }
    common::tolerations(r, path, found);
}

fn constraint(c: &Value, known: &[String], path: &Path, found: &mut Found) {
    common::request_refs(c, known, path, found);
    let fields = ["matchAttribute", "distinctAttribute"];
    for field in fields {
        if let Some(name) = c[field].as_str() {
            common::full_name(name, &path.child(field), found);
        }
    }
    if fields.iter().all(|f| c[*f].is_null()) {
        let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        found.errors.push(Error::required(path, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(devices: Value) -> Vec<String> {
        let mut obj = json!({"spec": {"devices": devices}});
        ResourceClaim.default(&mut obj);
        ResourceClaim.validate(&obj).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims() {
        let good = json!({"requests": [{"name": "r-0", "exactly": {"deviceClassName": "class"}}, {"name": "r-1", "firstAvailable": [
            {"name": "s", "deviceClassName": "class", "selectors": [{"cel": {"expression": "true"}}]}]}],
            "constraints": [{"requests": ["r-0", "r-1/s"], "matchAttribute": "dra.example.com/numa"}],
            "config": [{"requests": ["r-1"], "opaque": {"driver": "dra.example.com", "parameters": {}}}]});
        assert_eq!(found(good), Vec::<String>::new());
        assert_eq!(
            found(
                json!({"requests": [{"name": "r"}], "constraints": [{"requests": ["x"]}], "config": [{"opaque": {"driver": "d", "parameters": 1}}]})
            ),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
            ]
        );
        assert_eq!(
            found(
                json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 2}}]})
            ),
            [
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"
            ]
        );
        let long = "x".repeat(254);
        let alternatives =
            json!({"requests": [{"name": "r", "firstAvailable": [{"name": "s", "deviceClassName": long}]}]});
        assert!(found(alternatives)[0].ends_with("must be no more than 253 bytes"));
    }

    #[test]
    fn a_spec_does_not_change() {
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let (old, new) = (json!({"spec": {"a": 1}}), json!({"spec": {"a": 2}}));
        assert_eq!(
            ResourceClaim.validate_update(&new, &old, &ctx)[0].to_string(),
            "spec: Invalid value: null: field is immutable"
        );
        assert_eq!(state(&json!({"status": {"allocation": {}, "reservedFor": [{}]}})), "allocated,reserved");
    }
}
