//! CSIStorageCapacity (upstream: `pkg/registry/storage/csistoragecapacity`).

use super::GROUP;
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::node_selector;
use crate::resources;
use crate::validate::{immutable, label_selector, text};
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        kind: "CSIStorageCapacity".into(),
        plural: "csistoragecapacities".into(),
        singular: "csistoragecapacity".into(),
        schema: "io.k8s.api.storage.v1.CSIStorageCapacity".into(),
        storage: "csistoragecapacities".into(),
        strategy: StrategyRef::Static(&CsiStorageCapacity),
        sample: "apiVersion: storage.k8s.io/v1\nkind: CSIStorageCapacity\nmetadata: {name: c1, namespace: default}\nstorageClassName: standard\ncapacity: 10Gi\nnodeTopology: {matchLabels: {zone: a}}\n",
        ..GROUP
    }
}

struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        label_selector(&obj["nodeTopology"], &Path::new("nodeTopology"), &mut errors);
        let class = text(obj, "storageClassName");
        let messages = helpers::dns_subdomain_errors(class, false);
        let at = Path::new("storageClassName");
        errors.extend(messages.into_iter().map(|m| Error::invalid(&at, class, m)));
        if let Some(q) = resources::amount(&obj["capacity"]) {
            resources::non_negative(&q, &Path::new("capacity"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&new[field], &old[field], &Path::new(field), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let path = Path::new("nodeTopology");
        let mut out = node_selector::expression_warnings(&new["nodeTopology"], &path);
        for key in new["nodeTopology"]["matchLabels"].as_object().into_iter().flat_map(|m| m.keys()) {
            let at = path.child("matchLabels").child(key);
            out.extend(node_selector::deprecated_label(key).map(|m| format!("{at}: {m}")));
        }
        out
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capacities() {
        let good = json!({"storageClassName": "bar", "capacity": "1Gi", "nodeTopology": {"matchLabels": {"a": "b"}}});
        assert_eq!(CsiStorageCapacity.validate(&good), []);
        let bad = json!({"storageClassName": "", "capacity": "-11"});
        assert_eq!(CsiStorageCapacity.validate(&bad).len(), 2);
        let ctx = Ctx { now: Default::default(), subresource: "" };
        let moved = json!({"storageClassName": "foo", "capacity": "2Gi", "nodeTopology": {"matchLabels": {"a": "b"}}});
        let texts: Vec<String> =
            CsiStorageCapacity.validate_update(&moved, &good, &ctx).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["storageClassName: Invalid value: \"foo\": field is immutable"]);
    }
}
