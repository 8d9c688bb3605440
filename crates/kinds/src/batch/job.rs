//! Job (upstream: `pkg/registry/batch/job/strategy.go`, `pkg/apis/batch/{v1/defaults,validation/validation}.go`).

use crate::apps::replica_set::{containers, selector};
use crate::columns::{AGE, NAME, column, wide};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::pod_defaults;
use crate::validate::{immutable, items, label_selector, non_negative, one_of, selects, text};
use jiff::Timestamp;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::{Value, json};

/// Labels that tie pods to their Job; the first two are of old.
const LEGACY_UID: &str = "controller-uid";
const LEGACY_NAME: &str = "job-name";
const UID: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// Upstream: `maxParallelismForIndexedJob`.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
/// Failed indexes that a Job with a limit per index may have in all.
const BACKOFF_WITHOUT_LIMIT: i64 = i32::MAX as i64;

pub fn kind() -> KindDef {
    KindDef {
        group: "batch".into(),
        kind: "Job".into(),
        plural: "jobs".into(),
        singular: "job".into(),
        categories: &["all"],
        schema: "io.k8s.api.batch.v1.Job".into(),
        storage: "jobs".into(),
        subresources: const { &[status()] },
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
    for rule in
        spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut).into_iter().flatten()
    {
        for pattern in rule["onPodConditions"].as_array_mut().into_iter().flatten() {
            object::default_at(pattern, &[], "status", "True");
        }
        if rule["onPodConditions"].is_null() {
            rule.as_object_mut().map(|m| m.remove("onPodConditions"));
        }
    }
}

impl Strategy for Job {
    fn default(&self, obj: &mut Value) {
        default_spec(&mut obj["spec"]);
        let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
        let none = object::meta_map(obj, "labels").is_none_or(serde_json::Map::is_empty);
        if none && labels.as_object().is_some_and(|l| !l.is_empty()) {
            object::set_meta(obj, "labels", labels);
        }
        object::default_at(obj, &[], "status", json!({}));
        pod_defaults::template(&mut obj["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
        let (name, uid) = (object::name(obj).to_owned(), object::uid(obj).to_owned());
        let manual = obj["spec"]["manualSelector"] == true;
        let given: Vec<(&str, &str)> = if manual {
            Vec::new()
        } else {
            vec![(LEGACY_UID, &uid), (LEGACY_NAME, &name), (UID, &uid), (NAME_LABEL, &name)]
        };
        if let Some(labels) = object::map_at(obj, &["spec", "template", "metadata", "labels"]) {
            for (key, value) in given {
                labels.entry(key).or_insert_with(|| value.into());
            }
        }
        if let Some(map) = object::map_at(obj, &["spec", "template", "metadata"])
            && map.get("labels").is_some_and(|l| l.as_object().is_some_and(serde_json::Map::is_empty))
        {
            map.remove("labels");
        }
        if !manual && let Some(labels) = object::map_at(obj, &["spec", "selector", "matchLabels"]) {
            labels.entry(UID).or_insert_with(|| uid.into());
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        if ctx.subresource == "status" {
            new["spec"] = old["spec"].clone();
        } else {
            new["status"] = old["status"].clone();
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let (spec, at) = (&obj["spec"], Path::new("spec"));
        spec_errors(spec, &at, &mut errors);
        if spec["selector"].is_null() {
            errors.push(Error::required(&at.child("selector"), ""));
        } else {
            label_selector(&spec["selector"], &at.child("selector"), &mut errors);
        }
        let labels = &spec["template"]["metadata"]["labels"];
        if !selects(&spec["selector"], labels) {
            let detail = "`selector` does not match template `labels`";
            let path = at.child("template").child("metadata").child("labels");
            errors.push(Error::invalid(&path, labels.clone(), detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        if ctx.subresource == "status" {
            return status_errors(new, old);
        }
        let mut errors = self.validate(new);
        let (spec, was, at) = (&new["spec"], &old["spec"], Path::new("spec"));
        completions_changed(spec, was, &at, &mut errors);
        immutable(&spec["selector"], &was["selector"], &at.child("selector"), &mut errors);
        template_changed(new, old, &at, &mut errors);
        for field in
            ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
        {
            immutable(&spec[field], &was[field], &at.child(field), &mut errors);
        }
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", obj["status"]["succeeded"].as_i64().unwrap_or(0).to_string())]
    }

    /// Upstream: Jobs orphan their pods unless asked otherwise.
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let indexed = |o: &Value| o["spec"]["completionMode"] == "Indexed";
        let large = |o: &Value| {
            o["spec"]["completions"].as_i64().unwrap_or(0) > INDEXED_PARALLELISM_MAX
                && o["spec"]["parallelism"].as_i64().unwrap_or(0) > 10_000
        };
        if old.is_none() && indexed(new) && large(new) {
            return vec!["spec.completions: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".into()];
        }
        Vec::new()
    }
}

/// Upstream: `validateJobSpec`; also of a CronJob's template.
pub fn spec_errors(spec: &Value, at: &Path, errors: &mut ErrorList) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ] {
        non_negative(spec, field, at, errors);
    }
    let indexed = spec["completionMode"] == "Indexed";
    if let Some(n) = spec["maxFailedIndexes"].as_i64() {
        non_negative(spec, "maxFailedIndexes", at, errors);
        if spec["backoffLimitPerIndex"].is_null() {
            let detail = "when maxFailedIndexes is specified";
            errors.push(Error::required(&at.child("backoffLimitPerIndex"), detail));
        }
        if spec["completions"].as_i64().is_some_and(|c| n > c) {
            errors.push(Error::invalid(
                &at.child("maxFailedIndexes"),
                n,
                "must be less than or equal to completions",
            ));
        }
    }
    if !spec["completionMode"].is_null() {
        one_of(spec, "completionMode", at, &["NonIndexed", "Indexed"], errors);
    }
    if indexed {
        if spec["completions"].is_null() {
            let detail = "when completion mode is Indexed";
            errors.push(Error::required(&at.child("completions"), detail));
        }
        if let Some(n) = spec["parallelism"].as_i64().filter(|n| *n > INDEXED_PARALLELISM_MAX) {
            let detail = format!(
                "must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed"
            );
            errors.push(Error::invalid(&at.child("parallelism"), n, detail));
        }
    } else if !spec["backoffLimitPerIndex"].is_null() {
        let detail = "requires indexed completion mode";
        let n = spec["backoffLimitPerIndex"].clone();
        errors.push(Error::invalid(&at.child("backoffLimitPerIndex"), n, detail));
    }
    if !spec["podReplacementPolicy"].is_null() {
        let known: &[&str] = match spec["podFailurePolicy"].is_null() {
            true => &["Failed", "TerminatingOrFailed"],
            false => &["Failed"],
        };
        one_of(spec, "podReplacementPolicy", at, known, errors);
    }
    let (template, path) = (&spec["template"], at.child("template"));
    errors.extend(crate::core::pod::validation::template(template, &path));
    let policy = text(&template["spec"], "restartPolicy");
    let restart = path.child("spec").child("restartPolicy");
    match policy {
        "OnFailure" | "Never" => {}
        // What says nothing was given the default, which a Job cannot have.
        "Always" | "" => errors.push(Error::required(&restart, "valid values: \"OnFailure\", \"Never\"")),
        other => errors.push(Error::not_supported(&restart, other, &["OnFailure", "Never"])),
    }
    if !spec["podFailurePolicy"].is_null() && policy != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(Error::invalid(&restart, policy, detail));
    }
}

/// Indexed Jobs may grow and shrink when parallelism goes along (upstream: `validateCompletions`).
fn completions_changed(new: &Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let elastic = new["completionMode"] == "Indexed" && new["completions"] == new["parallelism"];
    if !elastic {
        immutable(&new["completions"], &old["completions"], &at.child("completions"), errors);
    } else if new["completions"].is_null() != old["completions"].is_null() {
        let detail = "field is immutable";
        errors.push(Error::invalid(&at.child("completions"), new["completions"].clone(), detail));
    }
}

/// A Job that is suspended and never ran may be scheduled otherwise (upstream: `validatePodTemplateUpdate`).
fn template_changed(new: &Value, old: &Value, at: &Path, errors: &mut ErrorList) {
    let mut wanted = new["spec"]["template"].clone();
    let was = &old["spec"]["template"];
    if old["spec"]["suspend"] == true && old["status"]["startTime"].is_null() {
        for field in ["labels", "annotations"] {
            copy(&mut wanted["metadata"], &was["metadata"], field);
        }
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            copy(&mut wanted["spec"], &was["spec"], field);
        }
    }
    immutable(&wanted, was, &at.child("template"), errors);
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(v) => map.insert(field.to_owned(), v.clone()),
        None => map.remove(field),
    };
}

fn status_errors(new: &Value, _: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(&new["status"], field, &at, &mut errors);
    }
    if condition(new, "Complete") && condition(new, "Failed") {
        let detail = "cannot set Complete=True and Failed=true conditions";
        errors.push(Error::invalid(&at.child("conditions"), new["status"]["conditions"].clone(), detail));
    }
    errors
}
