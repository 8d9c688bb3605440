//! CSIDriver (upstream: `pkg/registry/storage/csidriver`, `ValidateCSIDriver`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::validate::{immutable, items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object::{self, default_at};
use serde_json::{Value, json};

const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const UPDATE_SECONDS_MIN: i64 = 10;
const TOKENS_IN_SECRETS: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";

pub fn kind() -> KindDef {
    KindDef {
        kind: "CSIDriver".into(),
        plural: "csidrivers".into(),
        singular: "csidriver".into(),
        scope: Scope::Cluster,
        schema: "io.k8s.api.storage.v1.CSIDriver".into(),
        storage: "csidrivers".into(),
        columns: const {
            &[
                NAME,
                column("AttachRequired", "boolean", |o, _| (o["spec"]["attachRequired"] != false).into()),
                column("PodInfoOnMount", "boolean", |o, _| (o["spec"]["podInfoOnMount"] == true).into()),
                column("StorageCapacity", "boolean", |o, _| (o["spec"]["storageCapacity"] == true).into()),
                column("TokenRequests", "string", |o, _| audiences(o).into()),
                column("RequiresRepublish", "boolean", |o, _| {
                    (o["spec"]["requiresRepublish"] == true).into()
                }),
                column("Modes", "string", |o, _| modes(o).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&CsiDriver),
        sample: "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {name: disk.example.com}\nspec: {attachRequired: true, fsGroupPolicy: ReadWriteOnceWithFSType, podInfoOnMount: false, preventPodSchedulingIfMissing: false, requiresRepublish: false, seLinuxMount: false, storageCapacity: false, volumeLifecycleModes: [Persistent]}\n",
        ..GROUP
    }
}

fn audiences(o: &Value) -> String {
    let list = items(&o["spec"], "tokenRequests");
    let all: Vec<&str> = list.iter().map(|t| text(t, "audience")).collect();
    if list.is_empty() { "<unset>".to_owned() } else { all.join(",") }
}

fn modes(o: &Value) -> String {
    let all: Vec<&str> = items(&o["spec"], "volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

struct CsiDriver;

impl Strategy for CsiDriver {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let spec = &["spec"];
        default_at(obj, spec, "attachRequired", true);
        let off = [
            "podInfoOnMount",
            "storageCapacity",
            "requiresRepublish",
            "seLinuxMount",
            "preventPodSchedulingIfMissing",
        ];
        off.iter().for_each(|field| default_at(obj, spec, field, false));
        default_at(obj, spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if items(&obj["spec"], "volumeLifecycleModes").is_empty() {
            obj["spec"]["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        // Unlike other kinds, the first generation is none.
        if new["spec"] != old["spec"] {
            object::set_meta(new, "generation", object::generation(old) + 1);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &obj["spec"]);
        let needed = [
            ("attachRequired", "attachedRequired"),
            ("podInfoOnMount", "podInfoOnMount"),
            ("storageCapacity", "storageCapacity"),
        ];
        for (field, shown) in needed {
            if spec[field].is_null() {
                errors.push(Error::required(&path.child(shown), ""));
            }
        }
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        if let Some(policy) = spec["fsGroupPolicy"].as_str().filter(|p| !policies.contains(p)) {
            errors.push(Error::not_supported(&path.child("fsGroupPolicy"), policy, &policies));
        }
        token_requests(items(spec, "tokenRequests"), &path.child("tokenRequests"), &mut errors);
        let known = ["Persistent", "Ephemeral"];
        for mode in items(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str) {
            if !known.contains(&mode) {
                errors.push(Error::not_supported(&path.child("volumeLifecycleModes"), mode, &known));
            }
        }
        if spec["seLinuxMount"].is_null() {
            errors.push(Error::required(&path.child("seLinuxMount"), ""));
        }
        let field = "nodeAllocatableUpdatePeriodSeconds";
        if let Some(n) = spec[field].as_i64().filter(|n| *n < UPDATE_SECONDS_MIN) {
            let detail = "must be greater than or equal to 10 seconds";
            errors.push(Error::invalid(&path.child(field), n, detail));
        }
        let field = "serviceAccountTokenInSecrets";
        if !spec[field].is_null() && items(spec, "tokenRequests").is_empty() {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.push(Error::invalid(&path.child(field), spec[field].clone(), detail));
        }
        if spec["preventPodSchedulingIfMissing"].is_null() {
            errors.push(Error::required(&path.child("preventPodSchedulingIfMissing"), ""));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        let path = Path::new("spec");
        for (field, shown) in
            [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            immutable(&new["spec"][field], &old["spec"][field], &path.child(shown), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let requests = items(&new["spec"], "tokenRequests");
        let changed = old.is_none_or(|o| items(&o["spec"], "tokenRequests") != requests);
        let unset = new["spec"]["serviceAccountTokenInSecrets"].is_null();
        let warn = changed && unset && !requests.is_empty();
        warn.then(|| TOKENS_IN_SECRETS.to_owned()).into_iter().collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

fn token_requests(list: &[Value], path: &Path, errors: &mut ErrorList) {
    for (i, request) in list.iter().enumerate() {
        let (at, audience) = (path.index(i), text(request, "audience"));
        if list[..i].iter().any(|other| text(other, "audience") == audience) {
            errors.push(Error::duplicate(&at.child("audience"), audience));
            continue;
        }
        let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
        let at = at.child("expirationSeconds");
        if seconds < TOKEN_SECONDS_MIN {
            let detail = "may not specify a duration less than 10 minutes";
            errors.push(Error::invalid(&at, seconds, detail));
        }
        if seconds > TOKEN_SECONDS_MAX {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(Error::invalid(&at, seconds, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers() {
        let mut obj = json!({"spec": {}});
        CsiDriver.default(&mut obj);
        assert_eq!(CsiDriver.validate(&obj), []);
        assert_eq!((audiences(&obj), modes(&obj)), ("<unset>".to_owned(), "Persistent".to_owned()));
        obj["spec"]["volumeLifecycleModes"] = json!(["no-such-mode"]);
        obj["spec"]["tokenRequests"] =
            json!([{"audience": "gcp"}, {"audience": "gcp"}, {"audience": "a", "expirationSeconds": 10}]);
        let texts: Vec<String> = CsiDriver.validate(&obj).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.tokenRequests[1].audience: Duplicate value: \"gcp\"",
                "spec.tokenRequests[2].expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes",
                "spec.volumeLifecycleModes: Unsupported value: \"no-such-mode\": supported values: \"Persistent\", \"Ephemeral\"",
            ]
        );
        assert_eq!(CsiDriver.warnings(&obj, None), [TOKENS_IN_SECRETS]);
        assert!(CsiDriver.warnings(&obj, Some(&obj)).is_empty());
    }

    #[test]
    fn generations_count_from_nothing() {
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let old = json!({"metadata": {}, "spec": {"a": 1}});
        let mut new = json!({"metadata": {}, "spec": {"a": 2}});
        CsiDriver.prepare_update(&mut new, &old, &ctx);
        assert_eq!(object::generation(&new), 1);
    }
}
