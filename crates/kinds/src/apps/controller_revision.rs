//! ControllerRevision: a template that a controller keeps to go back to (upstream: `pkg/registry/apps/controllerrevision`).

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::validate::{immutable, non_negative, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

pub fn kind() -> KindDef {
    KindDef {
        group: "apps".into(),
        kind: "ControllerRevision".into(),
        plural: "controllerrevisions".into(),
        singular: "controllerrevision".into(),
        schema: "io.k8s.api.apps.v1.ControllerRevision".into(),
        storage: "controllerrevisions".into(),
        columns: const {
            &[
                NAME,
                column("Controller", "string", |o, _| controller(o).into()),
                column("Revision", "string", |o, _| o["revision"].as_i64().unwrap_or(0).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&ControllerRevision),
        sample: "apiVersion: apps/v1\nkind: ControllerRevision\nmetadata: {name: a-1, namespace: default}\ndata: {spec: {}}\nrevision: 1\n",
        ..KindDef::BASE
    }
}

fn controller(o: &Value) -> String {
    let Some(owner) = object::controller_of(o) else { return "<none>".to_owned() };
    let (group, kind) =
        (text(owner, "apiVersion").split_once('/').map_or("", |(g, _)| g), text(owner, "kind"));
    let resource = format!("{}.{group}", kind.to_lowercase());
    format!("{}/{}", resource.trim_end_matches('.'), text(owner, "name"))
}

struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        non_negative(obj, "revision", &Path::root(), &mut errors);
        match &obj["data"] {
            Value::Null => errors.push(Error::required(&Path::new("data"), "data is mandatory")),
            Value::Object(_) => {}
            _ => errors.push(Error::required(&Path::new("data"), "data must be a valid JSON object")),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        non_negative(new, "revision", &Path::root(), &mut errors);
        immutable(&new["data"], &old["data"], &Path::new("data"), &mut errors);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Upstream: `TestValidateControllerRevision`.
    #[test]
    fn data_is_an_object_that_stays() {
        let refused = |data: Value| {
            let errors = ControllerRevision.validate(&json!({"data": data, "revision": 1}));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(refused(json!({})).is_empty());
        assert_eq!(refused(Value::Null), ["data: Required value: data is mandatory"]);
        assert_eq!(refused(json!([1])), ["data: Required value: data must be a valid JSON object"]);
        let ctx = Ctx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let (old, new) = (json!({"data": {"a": 1}}), json!({"data": {"a": 2}, "revision": -1}));
        assert_eq!(ControllerRevision.validate_update(&new, &old, &ctx).len(), 2);
    }
}
