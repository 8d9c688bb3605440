//! DeviceClass (upstream: `pkg/registry/resource/deviceclass`, `validateDeviceClassSpec`).

use super::GROUP;
use super::common::{self, Found};
use crate::columns::{AGE, NAME};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::helpers::qualified_name_errors;
use meta::field::{ErrorList, Path};
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        kind: "DeviceClass".into(),
        plural: "deviceclasses".into(),
        singular: "deviceclass".into(),
        scope: Scope::Cluster,
        schema: "io.k8s.api.resource.v1.DeviceClass".into(),
        storage: "deviceclasses".into(),
        columns: const { &[NAME, AGE] },
        generation: true,
        strategy: StrategyRef::Static(&DeviceClass),
        sample: "apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata: {name: gpu.example.com}\nspec: {selectors: [{cel: {expression: 'device.driver == \"gpu.example.com\"'}}]}\n",
        ..GROUP
    }
}

struct DeviceClass;

impl Strategy for DeviceClass {
    fn checks_generate_name(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        spec(&obj["spec"], &Value::Null)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        spec(&new["spec"], &old["spec"])
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

fn spec(spec: &Value, old: &Value) -> ErrorList {
    let mut found = Found::default();
    let path = Path::new("spec");
    let stored = |field: &str| !old.is_null() && old[field] == spec[field];
    common::selectors(spec, stored("selectors"), &path, &mut found);
    let configs = found.bounded(spec, "config", common::CONFIGS_MAX, &path);
    for (i, c) in configs.into_iter().flatten().enumerate() {
        common::configuration(c, stored("config"), &path.child("config").index(i), &mut found);
    }
    if let Some(name) = spec["extendedResourceName"].as_str() {
        extended_name(name, &path.child("extendedResourceName"), &mut found);
    }
    found.finish()
}

/// Upstream: `validate.ExtendedResourceName`.
fn extended_name(name: &str, at: &Path, found: &mut Found) {
    let mut messages = Vec::new();
    if !name.contains('/') {
        messages.push("a name must be a domain-prefixed path, such as 'example.com/my-prop'".to_owned());
    } else if name.contains("kubernetes.io/") {
        messages.push("must not have \"kubernetes.io/\" domain".to_owned());
    }
    if name.starts_with("requests.") {
        messages.push("must not have \"requests.\" prefix".to_owned());
    }
    messages.extend(qualified_name_errors(&format!("requests.{name}")));
    found.declare(messages, name, at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let good = json!({"selectors": [{"cel": {"expression": "true"}}], "extendedResourceName": "example.com/gpu"});
        assert_eq!(spec(&good, &Value::Null), []);
        let bad = json!({"selectors": [{}], "config": [{}], "extendedResourceName": "gpu"});
        let texts: Vec<String> = spec(&bad, &Value::Null).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.selectors[0].cel: Required value",
                "spec.config[0].opaque: Required value",
                "spec.extendedResourceName: Invalid value: \"gpu\": a name must be a domain-prefixed path, such as 'example.com/my-prop'",
            ]
        );
        let many = json!({"selectors": vec![json!({}); 33]});
        assert_eq!(
            spec(&many, &Value::Null)[0].to_string(),
            "spec.selectors: Too many: 33: must have at most 32 items"
        );
    }
}
