//! CronJob (upstream: `pkg/registry/batch/cronjob`, `ValidateCronJob`).

use super::job;
use super::schedule;
use crate::columns::{AGE, NAME, age, column, wide};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::pod_defaults;
use crate::validate::{items, non_negative, one_of, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
use serde_json::{Value, json};

/// The longest name, so that a Job's name with its minute fits a label.
const NAME_LETTERS_MAX: usize = 52;

pub fn kind() -> KindDef {
    KindDef {
        group: "batch".into(),
        kind: "CronJob".into(),
        plural: "cronjobs".into(),
        singular: "cronjob".into(),
        short: &["cj"],
        categories: &["all"],
        schema: "io.k8s.api.batch.v1.CronJob".into(),
        storage: "cronjobs".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                column("Schedule", "string", |o, _| text(&o["spec"], "schedule").into()),
                column("Timezone", "string", |o, _| {
                    o["spec"]["timeZone"].as_str().unwrap_or("<none>").into()
                }),
                column("Suspend", "boolean", |o, _| match o["spec"]["suspend"] == true {
                    true => "True".into(),
                    false => "False".into(),
                }),
                column("Active", "integer", |o, _| items(&o["status"], "active").len().into()),
                column("Last Schedule", "string", |o, now| match o["status"]["lastScheduleTime"].as_str() {
                    Some(t) => age(t, now).into(),
                    None => "<none>".into(),
                }),
                AGE,
                wide("Containers", "string", |o, _| containers(o, "name").into()),
                wide("Images", "string", |o, _| containers(o, "image").into()),
                wide("Selector", "string", |o, _| {
                    let selector = &o["spec"]["jobTemplate"]["spec"]["selector"];
                    match LabelSelector::from_value(selector).map(|s| s.to_string()) {
                        Ok(text) if !text.is_empty() => text.into(),
                        _ => "<none>".into(),
                    }
                }),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&CronJob),
        sample: "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: tick, namespace: default}\nspec:\n  schedule: '*/5 * * * *'\n  jobTemplate:\n    spec:\n      template:\n        spec: {restartPolicy: OnFailure, containers: [{name: c, image: busybox}]}\n",
        ..KindDef::BASE
    }
}

fn containers(o: &Value, field: &str) -> String {
    let spec = &o["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    items(spec, "containers").iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",")
}

struct CronJob;

impl Strategy for CronJob {
    fn default(&self, obj: &mut Value) {
        let spec = &["spec"];
        if text(&obj["spec"], "concurrencyPolicy").is_empty() {
            object::default_at(obj, spec, "concurrencyPolicy", "Allow");
        }
        object::default_at(obj, spec, "suspend", false);
        object::default_at(obj, spec, "successfulJobsHistoryLimit", 3);
        object::default_at(obj, spec, "failedJobsHistoryLimit", 1);
        object::default_at(obj, spec, "jobTemplate", json!({}));
        object::default_at(obj, &["spec", "jobTemplate"], "metadata", json!({}));
        object::default_at(obj, &[], "status", json!({}));
        pod_defaults::template(&mut obj["spec"]["jobTemplate"]["spec"]["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
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
        let text_of = text(spec, "schedule");
        let path = at.child("schedule");
        if text_of.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if text_of.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(Error::invalid(&path, text_of, detail));
        } else if let Some(why) = schedule::error(text_of) {
            errors.push(Error::invalid(&path, text_of, why));
        }
        if let Some(zone) = spec["timeZone"].as_str() {
            time_zone(zone, &at.child("timeZone"), &mut errors);
        }
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            non_negative(spec, field, &at, &mut errors);
        }
        one_of(spec, "concurrencyPolicy", &at, &["Allow", "Forbid", "Replace"], &mut errors);
        let template = at.child("jobTemplate").child("spec");
        job::spec_errors(&spec["jobTemplate"]["spec"], &template, &mut errors);
        if spec["jobTemplate"]["spec"]["manualSelector"] == true {
            let detail = "[\"nil\" \"false\"]";
            errors.push(Error::invalid(&template.child("manualSelector"), true, detail));
        }
        let name = object::name(obj);
        if name.len() > NAME_LETTERS_MAX {
            let detail = "must be no more than 52 characters";
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
        }
        errors
    }
}

fn time_zone(zone: &str, at: &Path, errors: &mut ErrorList) {
    if zone.is_empty() {
        errors.push(Error::invalid(at, zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        errors.push(Error::invalid(
            at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(Error::invalid(at, zone, format!("unknown time zone {zone}")));
    }
}
