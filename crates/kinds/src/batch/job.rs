//! Job (upstream: `pkg/registry/batch/job/strategy.go`, `pkg/apis/batch/{v1/defaults,validation/validation}.go`).

pub mod indexes;
mod policies;
mod spec;
mod status;
#[cfg(test)]
mod tests;
mod update;

pub use spec::errors as spec_errors;

use crate::apps::replica_set::{containers, selector};
use crate::columns::{AGE, NAME, column, wide};
use crate::core::pod::disabled;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::status as shared;
use crate::validate::{items, label_selector};
use crate::{helpers, pod_defaults, pod_warnings};
use jiff::Timestamp;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
use serde_json::{Value, json};

/// Labels that tie pods to their Job; the first two are of old.
const LEGACY_UID: &str = "controller-uid";
const LEGACY_NAME: &str = "job-name";
const UID: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// The backoff limit of a Job whose indexes have limits of their own.
const BACKOFF_WITHOUT_LIMIT: i64 = i32::MAX as i64;
/// Above both, upstream warns that not all failed indexes can be kept.
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_SOFT_MAX: i64 = 10_000;

pub fn kind() -> KindDef {
    KindDef {
        group: "batch".into(),
        kind: "Job".into(),
        plural: "jobs".into(),
        singular: "job".into(),
        categories: &["all"],
        schema: "io.k8s.api.batch.v1.Job".into(),
        storage: "jobs".into(),
        subresources: const { &[crate::def::status()] },
        columns: const {
            &[
                NAME,
                column("Status", "string", |o, _| state(o).into()),
                column("Completions", "string", |o, _| completions(o).into()),
                column("Duration", "string", |o, now| duration(o, now).into()),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
                wide("Selector", "string", |o, _| selector(o).into()),
            ]
        },
        selectable: &["status.successful"],
        generation: true,
        strategy: StrategyRef::Static(&Job),
        sample: "apiVersion: batch/v1\nkind: Job\nmetadata: {name: pi, namespace: default, uid: u}\nspec:\n  manualSelector: true\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {restartPolicy: Never, containers: [{name: pi, image: perl}]}\n",
        ..KindDef::BASE
    }
}

/// Whether a condition is true.
fn condition(o: &Value, ty: &str) -> bool {
    items(&o["status"], "conditions").iter().any(|c| c["type"] == ty && c["status"] == "True")
}

fn state(o: &Value) -> &'static str {
    if condition(o, "Complete") {
        "Complete"
    } else if condition(o, "Failed") {
        "Failed"
    } else if object::is_deleting(o) {
        "Terminating"
    } else if condition(o, "Suspended") {
        "Suspended"
    } else if condition(o, "FailureTarget") {
        "FailureTarget"
    } else if condition(o, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(o: &Value) -> String {
    let done = o["status"]["succeeded"].as_i64().unwrap_or(0);
    match (o["spec"]["completions"].as_i64(), o["spec"]["parallelism"].as_i64().unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, n) if n > 1 => format!("{done}/1 of {n}"),
        _ => format!("{done}/1"),
    }
}

fn duration(o: &Value, now: Timestamp) -> String {
    let time = |f: &str| o["status"][f].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    match (time("startTime"), time("completionTime")) {
        (Some(start), end) => meta::time::human_duration(end.unwrap_or(now).duration_since(start)),
        _ => String::new(),
    }
}

struct Job;

/// Defaults of a Job's spec (upstream: `SetDefaults_Job`).
fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        object::default_at(spec, &[], "completions", 1);
    }
    object::default_at(spec, &[], "parallelism", 1);
    let backoff = if spec["backoffLimitPerIndex"].is_null() { 6 } else { BACKOFF_WITHOUT_LIMIT };
    object::default_at(spec, &[], "backoffLimit", backoff);
    object::default_at(spec, &[], "completionMode", "NonIndexed");
    object::default_at(spec, &[], "suspend", false);
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    object::default_at(spec, &[], "podReplacementPolicy", replacement);
    object::default_at(spec, &[], "manualSelector", false);
}

/// Defaults of a Job's spec that a CronJob's template gets too.
pub fn default_policy(spec: &mut Value) {
    let rules = spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        let patterns = rule.get_mut("onPodConditions").and_then(Value::as_array_mut);
        for pattern in patterns.into_iter().flatten() {
            object::default_at(pattern, &[], "status", "True");
        }
    }
}

/// Takes out what upstream's default feature gates do not serve (upstream: `job.DropDisabledFields`).
pub fn drop_disabled(spec: &mut Value, old: Option<&Value>) {
    if old.is_none_or(|old| old["scheduling"].is_null())
        && let Some(map) = spec.as_object_mut()
    {
        map.remove("scheduling");
    }
    let was = old.map_or(&Value::Null, |old| &old["template"]);
    if let Some(template) = spec.get_mut("template").filter(|t| t.is_object()) {
        disabled::drop_fields(template, was);
    }
}

/// Labels and selector that tie the pods to this Job alone (upstream: `generateSelector`).
fn generate_selector(obj: &mut Value) {
    let (name, uid) = (object::name(obj).to_owned(), object::uid(obj).to_owned());
    if let Some(labels) = object::map_at(obj, &["spec", "template", "metadata", "labels"]) {
        for (key, value) in [(LEGACY_NAME, &name), (NAME_LABEL, &name), (LEGACY_UID, &uid), (UID, &uid)] {
            labels.entry(key).or_insert_with(|| value.as_str().into());
        }
    }
    if let Some(labels) = object::map_at(obj, &["spec", "selector", "matchLabels"]) {
        labels.entry(UID).or_insert_with(|| uid.into());
    }
}

impl Strategy for Job {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "spec", json!({}));
        default_spec(&mut obj["spec"]);
        default_policy(&mut obj["spec"]);
        let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
        let none = object::meta_map(obj, "labels").is_none_or(serde_json::Map::is_empty);
        if none && labels.as_object().is_some_and(|l| !l.is_empty()) {
            object::set_meta(obj, "labels", labels);
        }
        object::default_at(obj, &[], "status", json!({}));
        pod_defaults::template(&mut obj["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        if obj["spec"]["manualSelector"] != true {
            generate_selector(obj);
        }
        obj["status"] = json!({});
        drop_disabled(&mut obj["spec"], None);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        if ctx.subresource != "status" {
            drop_disabled(&mut new["spec"], Some(&old["spec"]));
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        generated_selector(obj, &mut errors);
        whole_spec(obj, &mut errors);
        name_allows_completions(obj, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status::errors(new, old);
        }
        let mut errors = Vec::new();
        whole_spec(new, &mut errors);
        update::errors(new, old, &mut errors);
        name_allows_completions(new, &mut errors);
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", obj["status"]["succeeded"].as_i64().unwrap_or(0).to_string())]
    }

    fn unknown_field(&self, field: &str) -> String {
        format!("field label {field:?} not supported for Job")
    }

    /// Upstream: `pkg/registry/batch/job/storage/storage.go#deleteOptionWarnings`.
    fn delete_warning(&self) -> Option<&'static str> {
        Some(concat!(
            "child pods are preserved by default when jobs are deleted; ",
            "set propagationPolicy=Background to remove them or ",
            "set propagationPolicy=Orphan to suppress this warning"
        ))
    }

    /// Upstream: Jobs orphan their pods unless asked otherwise.
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = match old {
            Some(old) if old["spec"] == new["spec"] => return Vec::new(),
            Some(_) => Vec::new(),
            None => pod_warnings::name(object::name(new)),
        };
        let at = Path::new("spec");
        warnings.extend(spec_warnings(&new["spec"], &at));
        warnings
    }
}

/// Upstream: `job.WarningsForJobSpec`; also of a CronJob's template.
pub fn spec_warnings(spec: &Value, at: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let above = |field: &str, most: i64| spec[field].as_i64().unwrap_or(0) > most;
    if spec["completionMode"] == "Indexed"
        && above("completions", COMPLETIONS_SOFT_MAX)
        && above("parallelism", PARALLELISM_SOFT_MAX)
    {
        warnings.push(format!(
            "{at}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(pod_warnings::template(&spec["template"], &at.child("template")));
    warnings
}

fn whole_spec(obj: &Value, errors: &mut ErrorList) {
    let (spec, at) = (&obj["spec"], Path::new("spec"));
    spec_errors(spec, &at, errors);
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(Error::required(&at.child("selector"), ""));
    } else {
        label_selector(selector, &at.child("selector"), errors);
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if LabelSelector::from_value(selector).is_ok_and(|s| !s.matches_map(labels.as_object())) {
        let path = at.child("template").child("metadata").child("labels");
        let detail = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&path, labels.clone(), detail));
    }
}

/// Labels that the client gave may not contradict the generated ones (upstream: `validateGeneratedSelector`).
fn generated_selector(obj: &Value, errors: &mut ErrorList) {
    let selector = &obj["spec"]["selector"];
    if obj["spec"]["manualSelector"] == true || selector.is_null() {
        return;
    }
    let (name, uid) = (object::name(obj), object::uid(obj));
    if uid.is_empty() {
        errors.push(Error::required(&Path::new("metadata").child("uid"), ""));
    }
    let labels = &obj["spec"]["template"]["metadata"]["labels"];
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    let expected = [(LEGACY_UID, uid), (LEGACY_NAME, name), (UID, uid), (NAME_LABEL, name)];
    for (key, value) in expected {
        let detail = format!("must be '{value}'");
        match labels[key].as_str() {
            None => errors.push(Error::required(&at.key(key), detail)),
            Some(given) if given != value => {
                errors.push(Error::invalid(&at.key(key), labels.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let find = |key: &str| expected.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
    if LabelSelector::from_value(selector).is_ok_and(|s| !s.matches(find)) {
        let at = Path::new("spec").child("selector");
        errors.push(Error::invalid(&at, selector.clone(), "`selector` not auto-generated"));
    }
}

/// The pods of an indexed Job are named by it and their index (upstream: `validateNameAllowsCompletions`).
fn name_allows_completions(obj: &Value, errors: &mut ErrorList) {
    let completions = obj["spec"]["completions"].as_i64().unwrap_or(0);
    if obj["spec"]["completionMode"] != "Indexed" || completions < 1 {
        return;
    }
    let name = object::name(obj);
    let longest = format!("{name}-{}", completions - 1);
    if !helpers::dns_label_errors(&longest, false).is_empty() {
        let at = Path::new("metadata").child("name");
        let detail = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.push(Error::invalid(&at, name, detail));
    }
}
