//! The group `apiregistration.k8s.io` (upstream: kube-aggregator `pkg/apis/apiregistration`).

mod priority;

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::status as shared;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path, quoted};
use meta::object;
use serde_json::{Value, json};

pub use priority::{CUSTOM_PRIORITY, Priority, priority};

pub const GROUP: &str = "apiregistration.k8s.io";
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1_000;

pub fn api_service() -> KindDef {
    KindDef {
        group: GROUP.into(),
        kind: "APIService".into(),
        plural: "apiservices".into(),
        singular: "apiservice".into(),
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService".into(),
        storage: "apiregistration.k8s.io/apiservices".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Service", "string", |o, _| service(o).into()),
                column("Available", "string", |o, _| available(o).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&ApiService),
        sample: "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.example.com}\nspec: {group: example.com, version: v1, groupPriorityMinimum: 1000, versionPriority: 15, insecureSkipTLSVerify: true, service: {name: api, namespace: default}}\n",
        ..KindDef::BASE
    }
}

/// Whether an APIService's server can be asked (upstream: `helper.IsAPIServiceConditionTrue`).
#[must_use]
pub fn is_available(o: &Value) -> bool {
    items(&o["status"], "conditions").iter().any(|c| c["type"] == "Available" && c["status"] == "True")
}

fn service(o: &Value) -> String {
    match &o["spec"]["service"] {
        Value::Null => "Local".to_owned(),
        s => format!("{}/{}", text(s, "namespace"), text(s, "name")),
    }
}

fn available(o: &Value) -> String {
    let Some(c) = items(&o["status"], "conditions").iter().find(|c| c["type"] == "Available") else {
        return "Unknown".to_owned();
    };
    match (text(c, "status"), text(c, "reason")) {
        ("True", _) | (_, "") => text(c, "status").to_owned(),
        (status, reason) => format!("{status} ({reason})"),
    }
}

struct ApiService;

impl Strategy for ApiService {
    fn has_table(&self, subresource: &str) -> bool {
        subresource != "status"
    }

    fn default(&self, obj: &mut Value) {
        if obj["spec"]["service"].is_object() {
            object::default_at(obj, &["spec", "service"], "port", 443);
        }
        object::default_at(obj, &[], "status", json!({}));
    }

    fn prepare_create(&self, obj: &mut Value, ctx: &Ctx) {
        obj["status"] = json!({});
        if obj["spec"]["service"].is_null() {
            // Group versions that this server serves itself are there at once.
            obj["status"]["conditions"] = json!([{
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": meta::time::rfc3339(ctx.now),
            }]);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &obj["spec"]);
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let (name, required) = (object::name(obj), format!("{version}.{group}"));
        let begin = object::meta_str(obj, "generateName");
        if !begin.is_empty() && helpers::path_segment_errors(begin, true).is_empty() && begin != required {
            let detail =
                format!("must be `spec.version+\".\"+spec.group`: {required}", required = quoted(&required));
            errors.push(Error::invalid(&Path::new("metadata").child("generateName"), begin, detail));
        }
        // A name that is no path segment is refused with the metadata.
        if !name.is_empty() && helpers::path_segment_errors(name, false).is_empty() && name != required {
            let detail =
                format!("must be `spec.version+\".\"+spec.group`: {required}", required = quoted(&required));
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
        }
        if group.is_empty() && version != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            errors.push(Error::required(&path.child("group"), detail));
        }
        if !group.is_empty() {
            let messages = helpers::dns_subdomain_errors(group, false);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("group"), group, m)));
        }
        let messages = helpers::dns1035_label_errors(version, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("version"), version, m)));
        for (field, max) in
            [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)]
        {
            let n = spec[field].as_i64().unwrap_or(0);
            if !(1..=max).contains(&n) {
                let detail = format!("must be positive and less than {max}");
                errors.push(Error::invalid(&path.child(field), n, detail));
            }
        }
        backend(spec, &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource != "status" {
            return self.validate(new);
        }
        let mut errors = Vec::new();
        let path = Path::new("status").child("conditions");
        for (i, c) in items(&new["status"], "conditions").iter().enumerate() {
            let (status, allowed) = (text(c, "status"), &["True", "False", "Unknown"]);
            if !allowed.contains(&status) {
                errors.push(Error::not_supported(&path.index(i).child("status"), status, allowed));
            }
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        helpers::path_segment_errors(name, prefix)
    }
}

/// The service behind a group version, or that there is none.
fn backend(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let bundle = text(spec, "caBundle");
    let skip = spec["insecureSkipTLSVerify"] == true;
    let service = &spec["service"];
    if service.is_null() {
        if !bundle.is_empty() {
            let bytes = base64_len(bundle);
            let detail = "local APIServices may not have a caBundle";
            errors.push(Error::invalid(&path.child("caBundle"), format!("{bytes} bytes"), detail));
        }
        if skip {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, detail));
        }
        return;
    }
    let at = path.child("service");
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errors.push(Error::required(&at.child(field), ""));
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(&at.child("port"), port, detail));
    }
    if skip && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, detail));
    }
}

/// How many bytes base64 text stands for.
fn base64_len(text: &str) -> usize {
    let letters = text.bytes().filter(|b| !matches!(b, b'=' | b'\n' | b'\r')).count();
    letters * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::field::aggregate;

    #[test]
    fn names_and_backends_are_checked() {
        let row = api_service();
        let base = json!({"metadata": {"name": "v1.example.com"}, "spec": {
            "group": "example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
        assert!(row.strategy.validate(&base).is_empty());
        let mut obj = base.clone();
        obj["metadata"]["name"] = "x".into();
        obj["spec"]["caBundle"] = "AAAA".into();
        obj["spec"]["versionPriority"] = 0.into();
        assert_eq!(
            aggregate(&row.strategy.validate(&obj)),
            "[metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.example.com\", spec.versionPriority: Invalid value: 0: must be positive and less than 1000, spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle]"
        );
        let mut obj = base;
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        row.strategy.prepare_create(&mut obj, &ctx);
        assert_eq!(available(&obj), "True");
        assert_eq!(service(&obj), "Local");
    }
}
