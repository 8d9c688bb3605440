//! CronJob (upstream: `pkg/registry/batch/cronjob`, `ValidateCronJob`).

use super::job;
use super::schedule;
use crate::columns::{AGE, NAME, age, column, wide};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef, status};
use crate::status as shared;
use crate::validate::{items, non_negative, text};
use crate::{pod_defaults, pod_warnings};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use meta::selector::LabelSelector;
use serde_json::{Value, json};

/// The longest name, so that a Job's name with its minute fits a label.
const NAME_LETTERS_MAX: usize = 52;
/// The longest part of a time zone's name, in letters.
const ZONE_PART_LETTERS_MAX: usize = 14;

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
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn default(&self, obj: &mut Value) {
        let spec = &["spec"];
        object::default_at(obj, &[], "spec", json!({}));
        if text(&obj["spec"], "concurrencyPolicy").is_empty() {
            obj["spec"]["concurrencyPolicy"] = "Allow".into();
        }
        object::default_at(obj, spec, "suspend", false);
        object::default_at(obj, spec, "successfulJobsHistoryLimit", 3);
        object::default_at(obj, spec, "failedJobsHistoryLimit", 1);
        object::default_at(obj, spec, "jobTemplate", json!({}));
        object::default_at(obj, &["spec", "jobTemplate"], "metadata", json!({}));
        object::default_at(obj, &[], "status", json!({}));
        let job = &mut obj["spec"]["jobTemplate"]["spec"];
        job::default_policy(job);
        pod_defaults::template(&mut job["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        obj["status"] = json!({});
        job::drop_disabled(&mut obj["spec"]["jobTemplate"]["spec"], None);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split(new, old, ctx);
        if ctx.subresource != "status" {
            let was = &old["spec"]["jobTemplate"]["spec"];
            job::drop_disabled(&mut new["spec"]["jobTemplate"]["spec"], Some(was));
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = spec_errors(&obj["spec"], None);
        let name = object::name(obj);
        if name.len() > NAME_LETTERS_MAX {
            let detail = format!("must be no more than {NAME_LETTERS_MAX} characters");
            errors.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Ctx) -> ErrorList {
        match ctx.subresource {
            "status" => Vec::new(),
            _ => spec_errors(&new["spec"], Some(&old["spec"])),
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let job = |o: &Value| o["spec"]["jobTemplate"]["spec"].clone();
        let at = Path::new("spec").child("jobTemplate").child("spec");
        let Some(old) = old else {
            let mut warnings = pod_warnings::name(object::name(new));
            warnings.extend(job::spec_warnings(&job(new), &at));
            return warnings;
        };
        let mut warnings = Vec::new();
        if new["status"] != old["status"] {
            return warnings;
        }
        if new["spec"] != old["spec"] {
            warnings.extend(job::spec_warnings(&job(new), &at));
        }
        if text(&new["spec"], "schedule").contains("TZ") {
            warnings.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        warnings
    }
}

/// Upstream: `validateCronJobSpec`.
fn spec_errors(spec: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    schedule_errors(spec, old, &at.child("schedule"), &mut errors);
    non_negative(spec, "startingDeadlineSeconds", &at, &mut errors);
    if let Some(zone) = spec["timeZone"].as_str()
        && old.is_none_or(|old| old["timeZone"] != spec["timeZone"])
    {
        time_zone(zone, &at.child("timeZone"), &mut errors);
    }
    let path = at.child("concurrencyPolicy");
    match text(spec, "concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.push(Error::required(&path, "")),
        other => errors.push(Error::not_supported(&path, other, &["Allow", "Forbid", "Replace"])),
    }
    let (job, path) = (&spec["jobTemplate"]["spec"], at.child("jobTemplate").child("spec"));
    job::spec_errors(job, &path, &mut errors);
    if !job["selector"].is_null() {
        let detail = "`selector` will be auto-generated";
        errors.push(Error::invalid(&path.child("selector"), job["selector"].clone(), detail));
    }
    if job["manualSelector"] == true {
        errors.push(Error::not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        non_negative(spec, field, &at, &mut errors);
    }
    errors
}

/// A time zone in the schedule stays where it was before the field for it (upstream: `validateScheduleFormat`).
fn schedule_errors(spec: &Value, old: Option<&Value>, at: &Path, errors: &mut ErrorList) {
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    if let Some(why) = schedule::error(schedule) {
        errors.push(Error::invalid(at, schedule, why));
    }
    let allowed = old.is_some_and(|old| text(old, "schedule").contains("TZ"));
    let detail = match (schedule.contains("TZ"), allowed) {
        (true, true) if !spec["timeZone"].is_null() => {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        }
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        _ => return,
    };
    errors.push(Error::invalid(at, schedule, detail));
}

/// Upstream: `validateTimeZone`; names are those of files, by the rules of the database.
fn time_zone(zone: &str, at: &Path, errors: &mut ErrorList) {
    if zone.is_empty() {
        errors.push(Error::invalid(at, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    let part = |p: &str| {
        let length = (1..=ZONE_PART_LETTERS_MAX).contains(&p.len());
        length && p != "." && p != ".." && !p.starts_with('-') && p.bytes().all(letter)
    };
    let unknown = || Error::invalid(at, zone, format!("unknown time zone {zone}"));
    if !zone.split('/').all(part) {
        errors.push(unknown());
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(Error::invalid(at, zone, detail));
    }
    if schedule::zone(zone).is_err() {
        errors.push(unknown());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron_job(change: impl Fn(&mut Value)) -> Value {
        let mut obj = json!({
            "metadata": {"name": "mycronjob", "namespace": "default", "uid": "1a2b3c"},
            "spec": {"schedule": "* * * * ?", "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "OnFailure", "containers": [{"name": "abc", "image": "image"}]}}}}},
        });
        CronJob.default(&mut obj);
        change(&mut obj);
        obj
    }

    fn refused(change: impl Fn(&mut Value)) -> Vec<String> {
        CronJob.validate(&cron_job(change)).iter().map(ToString::to_string).collect()
    }

    /// Upstream: `TestValidateCronJob`.
    #[test]
    fn what_is_refused() {
        assert!(refused(|_| {}).is_empty());
        assert!(refused(|o| o["metadata"]["name"] = "a".repeat(52).into()).is_empty());
        let cases: &[(fn(&mut Value), &str)] = &[
            (|o| o["spec"]["schedule"] = "".into(), "spec.schedule: Required value"),
            (
                |o| o["spec"]["schedule"] = "error".into(),
                "spec.schedule: Invalid value: \"error\": expected exactly 5 fields, found 1: [error]",
            ),
            (
                |o| o["spec"]["schedule"] = "TZ=UTC 0 * * * *".into(),
                "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            (
                |o| o["spec"]["timeZone"] = "".into(),
                "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string",
            ),
            (
                |o| o["spec"]["timeZone"] = "Amerrica/New_York".into(),
                "spec.timeZone: Invalid value: \"Amerrica/New_York\": unknown time zone Amerrica/New_York",
            ),
            (
                |o| o["spec"]["timeZone"] = "/America/New_York".into(),
                "spec.timeZone: Invalid value: \"/America/New_York\": unknown time zone /America/New_York",
            ),
            (
                |o| o["spec"]["timeZone"] = "Local".into(),
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ),
            (
                |o| o["spec"]["concurrencyPolicy"] = "Maybe".into(),
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                |o| o["spec"]["jobTemplate"]["spec"]["manualSelector"] = true.into(),
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
            ),
            (
                |o| o["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] = "Always".into(),
                "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            (
                |o| o["metadata"]["name"] = "a".repeat(53).into(),
                "metadata.name: Invalid value: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": must be no more than 52 characters",
            ),
        ];
        for (change, message) in cases {
            assert_eq!(refused(change), [*message]);
        }
    }

    /// Upstream: `TestValidateCronJobScheduleTZ`, `TestValidateTimeZone`.
    #[test]
    fn a_zone_in_an_old_schedule_may_stay() {
        let with = |schedule: &str, zone: Value| {
            let schedule = schedule.to_owned();
            cron_job(move |o| {
                o["spec"]["schedule"] = schedule.as_str().into();
                o["spec"]["timeZone"] = zone.clone();
            })
        };
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let old = with("TZ=UTC 0 * * * *", Value::Null);
        let changed = with("CRON_TZ=UTC 1 * * * *", Value::Null);
        assert_eq!(CronJob.validate_update(&changed, &old, &ctx), []);
        assert_eq!(CronJob.warnings(&changed, Some(&old)).len(), 1);
        let both = with("TZ=UTC 0 * * * *", "UTC".into());
        assert_eq!(CronJob.validate_update(&both, &old, &ctx).len(), 1);
        let plain = with("0 * * * *", Value::Null);
        assert_eq!(CronJob.validate_update(&changed, &plain, &ctx).len(), 1);
        assert_eq!(CronJob.validate_update(&plain, &old, &ctx), []);
    }
}
