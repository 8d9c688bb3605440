//! The group `scheduling.k8s.io`.

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::validate::one_of;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// The highest value that users may give (upstream: `scheduling.HighestUserDefinablePriority`).
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

pub fn priority_class() -> KindDef {
    KindDef {
        group: "scheduling.k8s.io".into(),
        kind: "PriorityClass".into(),
        plural: "priorityclasses".into(),
        singular: "priorityclass".into(),
        short: &["pc"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.scheduling.v1.PriorityClass".into(),
        storage: "priorityclasses".into(),
        columns: const {
            &[
                NAME,
                column("Value", "integer", |o, _| o["value"].as_i64().unwrap_or(0).into()),
                column("Global-Default", "boolean", |o, _| (o["globalDefault"] == true).into()),
                AGE,
                column("PreemptionPolicy", "string", |o, _| o["preemptionPolicy"].clone()),
            ]
        },
        strategy: StrategyRef::Static(&PriorityClass),
        sample: "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\npreemptionPolicy: PreemptLowerPriority\n",
        ..KindDef::BASE
    }
}

/// The value that a class of the system has.
fn system_value(name: &str) -> i64 {
    if name == "system-node-critical" { 2_000_001_000 } else { 2_000_000_000 }
}

struct PriorityClass;

impl Strategy for PriorityClass {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "preemptionPolicy", "PreemptLowerPriority");
    }

    /// Upstream: `pkg/registry/scheduling/priorityclass/storage/storage.go#Delete`.
    fn stays(&self, name: &str) -> Option<&'static str> {
        let system = matches!(name, "system-node-critical" | "system-cluster-critical");
        system.then_some("this is a system priority class and cannot be deleted")
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        // and no update counts (upstream: `registry/scheduling/priorityclass/strategy.go`)
        object::set_meta(obj, "generation", 1);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let name = object::name(obj);
        let value = obj["value"].as_i64().unwrap_or(0);
        let system = matches!(
            (name, value),
            ("system-node-critical", 2_000_001_000) | ("system-cluster-critical", 2_000_000_000)
        );
        if name.starts_with("system-") && !system {
            let why = match name {
                "system-node-critical" | "system-cluster-critical" => {
                    format!("value of {name} PriorityClass must be {}", system_value(name))
                }
                _ => format!("{name} is not a known system priority class"),
            };
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            );
            errors.push(Error::forbidden(&Path::new("metadata").child("name"), detail));
        } else if value > USER_PRIORITY_MAX && !system {
            let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.push(Error::forbidden(&Path::new("value"), detail));
        }
        one_of(obj, "preemptionPolicy", &Path::root(), &["PreemptLowerPriority", "Never"], &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if new["value"] != old["value"] {
            errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let policy = "preemptionPolicy";
        if new[policy] != old[policy] {
            // a pointer to a named text, which is shown as JSON
            let shown = new[policy].as_str().unwrap_or("");
            errors.push(Error::named_invalid(&Path::new(policy), shown, "field is immutable"));
        }
        errors
    }
}
