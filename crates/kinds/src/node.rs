//! The group `node.k8s.io` (upstream: `pkg/registry/node/runtimeclass`, `ValidateRuntimeClass`).

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::helpers;
use crate::node_selector;
use crate::resources;
use crate::validate::{items, labels, one_of, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

pub fn runtime_class() -> KindDef {
    KindDef {
        group: "node.k8s.io".into(),
        kind: "RuntimeClass".into(),
        plural: "runtimeclasses".into(),
        singular: "runtimeclass".into(),
        scope: Scope::Cluster,
        schema: "io.k8s.api.node.v1.RuntimeClass".into(),
        storage: "runtimeclasses".into(),
        columns: const { &[NAME, column("Handler", "string", |o, _| text(o, "handler").into()), AGE] },
        strategy: StrategyRef::Static(&RuntimeClass),
        sample: "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: sandboxed}\nhandler: runsc\nscheduling: {nodeSelector: {sandbox: \"true\"}}\noverhead: {podFixed: {cpu: 10m}}\n",
        ..KindDef::BASE
    }
}

struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn default(&self, obj: &mut Value) {
        resources::round(obj.get_mut("overhead").and_then(|o| o.get_mut("podFixed")));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        if obj["overhead"].is_object() {
            resources::limits(&obj["overhead"]["podFixed"], &Path::new("overhead"), &mut errors);
        }
        let (path, scheduling) = (Path::new("scheduling"), &obj["scheduling"]);
        labels(&scheduling["nodeSelector"], &path.child("nodeSelector"), &mut errors);
        let list = items(scheduling, "tolerations");
        for (i, t) in list.iter().enumerate() {
            toleration(t, &path.child("tolerations").index(i), &mut errors);
        }
        let key = |t: &Value| json!([t["key"], t["operator"], t["value"], t["effect"]]);
        for (i, t) in list.iter().enumerate() {
            if list[..i].iter().any(|other| key(other) == key(t)) {
                errors.push(Error::duplicate(&path.child("tolerations").index(i), t.clone()));
            }
        }
        let (at, handler) = (Path::new("handler"), text(obj, "handler"));
        if handler.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            // A declared check tells this, which counts in other words.
            let messages = helpers::dns_label_errors(handler, false).into_iter();
            let messages = messages.map(|m| match m.strip_suffix(" characters") {
                Some(head) => format!("{head} bytes"),
                None => m,
            });
            errors.extend(messages.map(|m| Error::invalid(&at, handler, m)));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        // an update is judged by the old check only, which counts in its own words
        for error in errors.iter_mut().filter(|e| e.field.as_str() == "handler") {
            if let Some(head) = error.detail.strip_suffix(" bytes") {
                error.detail = format!("{head} characters");
            }
        }
        if new["handler"] != old["handler"] {
            errors.push(Error::invalid(&Path::new("handler"), Value::Null, "field is immutable"));
        }
        errors
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let keys = new["scheduling"]["nodeSelector"].as_object().into_iter().flat_map(|m| m.keys());
        let messages = keys.filter_map(|key| node_selector::deprecated_label(key));
        messages.map(|m| format!("scheduling.nodeSelector: {m}")).collect()
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// Upstream: `ValidateTolerations`, without the operators that compare numbers.
fn toleration(t: &Value, at: &Path, errors: &mut ErrorList) {
    let (key, operator, value) = (text(t, "key"), text(t, "operator"), text(t, "value"));
    if !key.is_empty() {
        let messages = helpers::qualified_name_errors(key);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("key"), key, m)));
    }
    let operator_at = at.child("operator");
    if key.is_empty() && operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(Error::invalid(&operator_at, operator, detail));
    }
    if !t["tolerationSeconds"].is_null() && text(t, "effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(Error::invalid(&at.child("effect"), text(t, "effect"), detail));
    }
    match operator {
        "" | "Equal" => {
            let messages = helpers::label_value_errors(value);
            if !messages.is_empty() {
                errors.push(Error::invalid(&operator_at, value, messages.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(Error::invalid(&operator_at, value, detail));
        }
        "Exists" => {}
        "Lt" | "Gt" => {
            errors.push(Error::not_supported(&operator_at, operator, &["Equal", "Exists", "Lt", "Gt"]));
        }
        other => errors.push(Error::not_supported(&operator_at, other, &["Equal", "Exists"])),
    }
    one_of(t, "effect", at, &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let good = json!({"handler": "foo", "overhead": {"podFixed": {"cpu": "10m", "memory": "10Mi"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        assert_eq!(RuntimeClass.validate(&good), []);
        let bad = json!({"handler": "&!@#", "overhead": {"podFixed": {"my.org": "10m"}},
            "scheduling": {"tolerations": [{"key": "k", "operator": "Exists"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 5}]}});
        let fields: Vec<String> = RuntimeClass.validate(&bad).iter().map(|e| e.field.to_string()).collect();
        assert_eq!(
            fields,
            [
                "overhead.limits[my.org]",
                "overhead.limits[my.org]",
                "scheduling.tolerations[1].effect",
                "scheduling.tolerations[1]",
                "handler"
            ]
        );
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let mut other = good.clone();
        other["handler"] = json!("somethingelse");
        assert_eq!(RuntimeClass.validate_update(&other, &good, &ctx).len(), 1);
        let dated = json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}});
        assert_eq!(RuntimeClass.warnings(&dated, None).len(), 1);
    }
}
