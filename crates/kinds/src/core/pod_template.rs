//! PodTemplate (upstream: `pkg/registry/core/podtemplate`).

use crate::columns::{NAME, column};
use crate::core::pod::disabled;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::pod_defaults;
use crate::pod_warnings;
use crate::validate::{items, text};
use meta::field::{ErrorList, Path};
use meta::object;
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        kind: "PodTemplate".into(),
        plural: "podtemplates".into(),
        singular: "podtemplate".into(),
        schema: "io.k8s.api.core.v1.PodTemplate".into(),
        storage: "podtemplates".into(),
        columns: const {
            &[
                NAME,
                column("Containers", "string", |o, _| containers(o, "name").into()),
                column("Images", "string", |o, _| containers(o, "image").into()),
                column("Pod Labels", "string", |o, _| labels(&o["template"]["metadata"]["labels"]).into()),
            ]
        },
        generation: true,
        strategy: StrategyRef::Static(&PodTemplate),
        sample: "apiVersion: v1\nkind: PodTemplate\nmetadata: {name: t, namespace: default}\ntemplate:\n  metadata: {labels: {app: web}}\n  spec: {containers: [{name: web, image: nginx}]}\n",
        ..KindDef::BASE
    }
}

fn containers(o: &Value, field: &str) -> String {
    items(&o["template"]["spec"], "containers").iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",")
}

/// Labels as printers show them.
pub fn labels(v: &Value) -> String {
    let pairs = v.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")));
    match pairs.collect::<Vec<_>>().join(",") {
        none if none.is_empty() => "<none>".to_owned(),
        some => some,
    }
}

struct PodTemplate;

impl Strategy for PodTemplate {
    fn checks_names_on_update(&self, _: &str) -> bool {
        false
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "template", serde_json::json!({}));
        pod_defaults::template(&mut obj["template"]);
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        disabled::drop_fields(&mut obj["template"], &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        disabled::drop_fields(&mut new["template"], &old["template"]);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        crate::core::pod::validation::template(&obj["template"], &Path::new("template"))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old["template"] == new["template"]) {
            return Vec::new();
        }
        pod_warnings::template(&new["template"], &Path::new("template"))
    }
}
