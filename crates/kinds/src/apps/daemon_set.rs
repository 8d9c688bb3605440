//! DaemonSet (upstream: `pkg/registry/apps/daemonset`, `pkg/apis/apps/validation#ValidateDaemonSet`).

use super::amount;
use super::replica_set::{containers, selector};
use crate::columns::{AGE, NAME, column, wide};
use crate::core::pod::disabled;
use crate::core::pod_template::labels;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::status as shared;
use crate::validate::{immutable, is_empty_selector, label_selector, non_negative, not_decremented, text};
use crate::{pod_defaults, pod_warnings};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
use serde_json::{Value, json};

/// Counts changes of the template; a field of old that version 1 has as an annotation
/// (upstream: `pkg/apis/apps/v1/conversion.go`).
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub fn kind() -> KindDef {
    KindDef {
        group: "apps".into(),
        kind: "DaemonSet".into(),
        plural: "daemonsets".into(),
        singular: "daemonset".into(),
        short: &["ds"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.DaemonSet".into(),
        storage: "daemonsets".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Desired", "integer", |o, _| count(o, "desiredNumberScheduled").into()),
                column("Current", "integer", |o, _| count(o, "currentNumberScheduled").into()),
                column("Ready", "integer", |o, _| count(o, "numberReady").into()),
                column("Up-to-date", "integer", |o, _| count(o, "updatedNumberScheduled").into()),
                column("Available", "integer", |o, _| count(o, "numberAvailable").into()),
                column("Node Selector", "string", |o, _| {
                    labels(&o["spec"]["template"]["spec"]["nodeSelector"]).into()
                }),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
                wide("Selector", "string", |o, _| selector(o).into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&DaemonSet),
        sample: "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d, namespace: default}\nspec:\n  selector: {matchLabels: {app: d}}\n  template:\n    metadata: {labels: {app: d}}\n    spec: {containers: [{name: d, image: nginx}]}\n",
        ..KindDef::BASE
    }
}

fn count(o: &Value, field: &str) -> i64 {
    o["status"][field].as_i64().unwrap_or(0)
}

fn empty_status() -> Value {
    json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
}

fn template_generation(o: &Value) -> i64 {
    object::annotation(o, TEMPLATE_GENERATION).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn set_template_generation(o: &mut Value, n: i64) {
    if let Some(map) = object::map_at(o, &["metadata", "annotations"]) {
        map.insert(TEMPLATE_GENERATION.to_owned(), n.to_string().into());
    }
}

struct DaemonSet;

impl Strategy for DaemonSet {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        // Upstream's conversion always writes it, so whoever writes the object has set it.
        if object::annotation(obj, TEMPLATE_GENERATION).is_none() {
            set_template_generation(obj, 0);
        }
        object::default_at(obj, &["spec"], "updateStrategy", json!({}));
        if text(&obj["spec"]["updateStrategy"], "type").is_empty() {
            obj["spec"]["updateStrategy"]["type"] = "RollingUpdate".into();
        }
        if obj["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
            let rolling = &["spec", "updateStrategy", "rollingUpdate"];
            object::default_at(obj, rolling, "maxUnavailable", 1);
            object::default_at(obj, rolling, "maxSurge", 0);
        }
        object::default_at(obj, &["spec"], "revisionHistoryLimit", 10);
        object::default_at(obj, &[], "status", empty_status());
        pod_defaults::template(&mut obj["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = empty_status();
        disabled::of_workload(obj, &Value::Null);
        let n = template_generation(obj).max(1);
        set_template_generation(obj, n);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        disabled::of_workload(new, old);
        let changed = i64::from(new["spec"]["template"] != old["spec"]["template"]);
        set_template_generation(new, template_generation(old) + changed);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (spec, at) = (&obj["spec"], Path::new("spec"));
        let (selected, path) = (&spec["selector"], at.child("selector"));
        label_selector(selected, &path, &mut errors);
        let template = at.child("template");
        let labels = &spec["template"]["metadata"]["labels"];
        if LabelSelector::from_value(selected).is_ok_and(|s| !s.matches_map(labels.as_object())) {
            let detail = "`selector` does not match template `labels`";
            let path = template.child("metadata").child("labels");
            errors.push(Error::invalid(&path, labels.clone(), detail));
        }
        if !selected.is_null() && is_empty_selector(selected) {
            let detail = "empty selector is invalid for daemonset";
            errors.push(Error::invalid(&path, selected.clone(), detail));
        }
        errors.extend(crate::core::pod::validation::template(&spec["template"], &template));
        let (pod, template) = (&spec["template"]["spec"], template.child("spec"));
        let policy = text(pod, "restartPolicy");
        if policy != "Always" {
            errors.push(Error::not_supported(&template.child("restartPolicy"), policy, &["Always"]));
        }
        if !pod["activeDeadlineSeconds"].is_null() {
            let detail = "activeDeadlineSeconds in DaemonSet is not Supported";
            errors.push(Error::forbidden(&template.child("activeDeadlineSeconds"), detail));
        }
        non_negative(spec, "minReadySeconds", &at, &mut errors);
        update_strategy(&spec["updateStrategy"], &at.child("updateStrategy"), &mut errors);
        non_negative(spec, "revisionHistoryLimit", &at, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(&new["status"], &old["status"]);
        }
        let mut errors = Vec::new();
        let at = Path::new("spec").child("selector");
        immutable(&new["spec"]["selector"], &old["spec"]["selector"], &at, &mut errors);
        errors.extend(self.validate(new));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let (template, was) = (&new["spec"]["template"], old.map(|old| &old["spec"]["template"]));
        if was == Some(template) {
            return Vec::new();
        }
        pod_warnings::template(template, &Path::new("spec").child("template"))
    }
}

/// Upstream: `ValidateDaemonSetUpdateStrategy`, `ValidateRollingUpdateDaemonSet`.
fn update_strategy(strategy: &Value, at: &Path, errors: &mut ErrorList) {
    let (rolling, path) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.push(Error::required(&path, "")),
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let (at_unavailable, at_surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
            amount::errors(unavailable, &at_unavailable, errors);
            amount::errors(surge, &at_surge, errors);
            amount::at_most_all(unavailable, &at_unavailable, errors);
            amount::at_most_all(surge, &at_surge, errors);
            match (amount::value(unavailable) != 0, amount::value(surge) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(Error::invalid(&at_surge, surge.clone(), detail));
                }
                (false, false) => {
                    errors.push(Error::required(&at_unavailable, "cannot be 0 when maxSurge is 0"));
                }
                _ => {}
            }
        }
        _ => {
            let shown = json!({"Type": strategy["type"], "RollingUpdate": rolling});
            errors.push(Error::not_supported(at, shown, &["RollingUpdate", "OnDelete"]));
        }
    }
}

fn status_errors(new: &Value, old: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("status");
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        non_negative(new, field, &at, &mut errors);
    }
    not_decremented(new, old, "collisionCount", &at, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_set(change: impl Fn(&mut Value)) -> Value {
        let mut obj = json!({
            "metadata": {"name": "abc", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "abc", "image": "image"}]}}},
        });
        DaemonSet.default(&mut obj);
        change(&mut obj);
        obj
    }

    /// Upstream: `TestValidateDaemonSet`, `TestValidateDaemonSetUpdateStrategy`.
    #[test]
    fn what_is_refused() {
        let cases: &[(fn(&mut Value), &[&str])] = &[
            (|_| {}, &[]),
            (
                |o| o["spec"]["selector"] = json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
            ),
            (
                |o| o["spec"]["selector"] = Value::Null,
                &[
                    "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                |o| o["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into(),
                &[
                    "spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"",
                ],
            ),
            (
                |o| o["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 1.into(),
                &[
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
                ],
            ),
            (
                |o| o["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = 0.into(),
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ],
            ),
            (
                |o| o["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = "10%".into(),
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero",
                ],
            ),
            (
                |o| o["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = "101%".into(),
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                ],
            ),
        ];
        for (change, wanted) in cases {
            let messages: Vec<String> =
                DaemonSet.validate(&daemon_set(change)).iter().map(ToString::to_string).collect();
            assert_eq!(messages, *wanted);
        }
    }

    /// Upstream: `pkg/registry/apps/daemonset/strategy_test.go#TestSelectorImmutability` and the template generation.
    #[test]
    fn changes_of_the_template_are_counted() {
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let mut old = daemon_set(|_| {});
        DaemonSet.prepare_create(&mut old, &ctx);
        assert_eq!(object::annotation(&old, TEMPLATE_GENERATION), Some("1"));
        let mut new = daemon_set(|o| o["spec"]["template"]["spec"]["containers"][0]["image"] = "b".into());
        DaemonSet.prepare_update(&mut new, &old, &ctx);
        assert_eq!(object::annotation(&new, TEMPLATE_GENERATION), Some("2"));
        let status = Ctx { subresource: "status", ..ctx };
        DaemonSet.prepare_update(&mut new, &old, &status);
        assert_eq!(object::annotation(&new, TEMPLATE_GENERATION), Some("1"));
    }
}
