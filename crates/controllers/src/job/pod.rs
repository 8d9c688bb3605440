//! The pods of a job.
//!
//! upstream: `pkg/controller/job/indexed_job_utils.go`, `job_controller.go#manageJob`

use super::facts::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, index_failures, index_ignored};
use super::policy::{self, Verdict};
use client::Kind;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
/// Longest part of a generated name that is kept (upstream: `names.MaxGeneratedNameLength`).
const MAX_PREFIX: usize = 58;

/// A new pod. `replaced` is the failed pod of the same index, whose failures it takes over.
pub fn pod(job: &Job, spec: &JobSpec, index: Option<usize>, replaced: Option<&Pod>) -> Pod {
    let PodTemplateSpec { metadata, spec: pod_spec } = spec.template.clone();
    let template = metadata.unwrap_or_default();
    let mut pod_spec = pod_spec.unwrap_or_default();
    let mut meta = ObjectMeta {
        generate_name: Some(format!("{}-", job.name())),
        namespace: Some(job.namespace().to_owned()),
        labels: template.labels,
        annotations: template.annotations,
        finalizers: template.finalizers,
        owner_references: Some(vec![job.controller_ref()]),
        ..ObjectMeta::default()
    };
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(index) = index {
        meta.generate_name = Some(prefix(job.name(), index));
        meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), index.to_string());
        if spec.backoff_limit_per_index.is_some() {
            let (counted, ignored) = failures(spec, replaced);
            annotations.insert(INDEX_FAILURES.to_owned(), counted.to_string());
            if ignored > 0 {
                annotations.insert(INDEX_IGNORED.to_owned(), ignored.to_string());
            }
        }
        pod_spec.hostname = Some(format!("{}-{index}", job.name()));
        name_index(&mut pod_spec);
    }
    Pod { metadata: meta, spec: Some(pod_spec), status: None }
}

/// Failures of an index that its new pod starts with, counted and ignored ones.
fn failures(spec: &JobSpec, replaced: Option<&Pod>) -> (i32, i32) {
    let Some(old) = replaced else { return (0, 0) };
    let (counted, ignored) = (index_failures(old), index_ignored(old));
    match policy::judge(spec.pod_failure_policy.as_ref(), old) {
        Verdict::Ignore => (counted, ignored.saturating_add(1)),
        _ => (counted.saturating_add(1), ignored),
    }
}

/// Tells every container its index, unless the template sets the variable.
fn name_index(spec: &mut PodSpec) {
    let tell = |container: &mut Container| {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|v| v.name == INDEX_ENV) {
            let field = ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            };
            let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
            env.push(EnvVar { name: INDEX_ENV.to_owned(), value_from: Some(source), value: None });
        }
    };
    spec.init_containers.iter_mut().flatten().for_each(tell);
    spec.containers.iter_mut().for_each(tell);
}

/// The generated part must not cut the index off.
fn prefix(job: &str, index: usize) -> String {
    let end = format!("-{index}-");
    let kept = MAX_PREFIX.saturating_sub(end.len());
    let name = if job.len() + end.len() > MAX_PREFIX { job.get(..kept).unwrap_or(job) } else { job };
    format!("{name}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn indexed_pods_know_their_index() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "u"},
            "spec": {"completionMode": "Indexed", "backoffLimitPerIndex": 3, "template": {
                "metadata": {"labels": {"a": "1"}},
                "spec": {"containers": [{"name": "c"}, {"name": "d", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "x"}]}]},
            }},
        }))
        .unwrap();
        let spec = job.spec.clone().unwrap();
        let old = json!({"metadata": {"annotations": {INDEX_FAILURES: "2"}}});
        let old: Pod = serde_json::from_value(old).unwrap();
        let made = serde_json::to_value(pod(&job, &spec, Some(7), Some(&old))).unwrap();
        let meta = &made["metadata"];
        assert_eq!(meta["generateName"], "j-7-");
        assert_eq!(meta["finalizers"], json!([FINALIZER]));
        assert_eq!(meta["labels"], json!({"a": "1", INDEX: "7"}));
        assert_eq!(meta["annotations"], json!({INDEX: "7", INDEX_FAILURES: "3"}));
        assert_eq!(made["spec"]["hostname"], "j-7");
        let path = &made["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
        assert_eq!(made["spec"]["containers"][1]["env"].as_array().map(Vec::len), Some(1));
        let plain = pod(&job, &spec, None, None);
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("j-"));
        assert!(plain.metadata.annotations.is_none());
    }

    #[test]
    fn long_names_keep_the_index() {
        let long = "x".repeat(63);
        let p = prefix(&long, 12);
        assert_eq!((p.len(), p.ends_with("x-12-")), (58, true));
    }
}
