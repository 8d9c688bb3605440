//! VolumeAttachment (upstream: `pkg/registry/storage/volumeattachment`, `ValidateVolumeAttachment`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::core::persistent_volume::{default_source, validation};
use crate::def::{Cell, Column, Ctx, KindDef, Scope, Strategy, StrategyRef, status};
use crate::helpers;
use crate::resources;
use crate::status as shared;
use crate::validate::text;
use meta::field::{Error, ErrorList, ErrorType, Path};
use serde_json::Value;
use std::borrow::Cow;

const TYPE: &str = "io.k8s.api.storage.v1.VolumeAttachment";
/// Most bytes in the metadata of an attached volume.
const METADATA_BYTES_MAX: usize = 256 << 10;
/// Longest message of an error, in bytes.
const MESSAGE_MAX: usize = 1024;

pub fn kind() -> KindDef {
    KindDef {
        kind: "VolumeAttachment".into(),
        plural: "volumeattachments".into(),
        singular: "volumeattachment".into(),
        scope: Scope::Cluster,
        schema: TYPE.into(),
        storage: "volumeattachments".into(),
        subresources: const { &[status()] },
        columns: const {
            &[
                NAME,
                Column {
                    name: Cow::Borrowed("Attacher"),
                    cell: Cell::Fn(|o, _| text(&o["spec"], "attacher").into()),
                    ..NAME
                },
                column("PV", "string", |o, _| text(&o["spec"]["source"], "persistentVolumeName").into()),
                column("Node", "string", |o, _| text(&o["spec"], "nodeName").into()),
                column("Attached", "boolean", |o, _| (o["status"]["attached"] == true).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&VolumeAttachment),
        sample: "apiVersion: storage.k8s.io/v1\nkind: VolumeAttachment\nmetadata: {name: a1}\nspec: {attacher: disk.example.com, nodeName: n1, source: {persistentVolumeName: pv1}}\nstatus: {attached: false}\n",
        ..GROUP
    }
}

struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn default(&self, obj: &mut Value) {
        let source = obj.get_mut("spec").and_then(|s| s.get_mut("source"));
        if let Some(inline) = source.and_then(|s| s.get_mut("inlineVolumeSpec")).filter(|i| i.is_object()) {
            resources::round(inline.get_mut("capacity"));
            default_source(inline);
        }
    }

    fn prepare_create(&self, obj: &mut Value, _: &Ctx) {
        shared::clear(obj, TYPE);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Ctx) {
        shared::split_with_metadata(new, old, ctx);
    }

    fn reset_fields(&self, subresource: &str) -> Option<&'static [&'static str]> {
        shared::reset_with_metadata(subresource)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let mut declared = Vec::new();
        let (path, spec) = (Path::new("spec"), &obj["spec"]);
        attacher(text(spec, "attacher"), &path.child("attacher"), &mut declared);
        source(&spec["source"], &path.child("source"), &mut errors);
        let node = text(spec, "nodeName");
        let messages = helpers::dns_subdomain_errors(node, false);
        errors.extend(messages.into_iter().map(|m| Error::invalid(&path.child("nodeName"), node, m)));
        attachment_status(&obj["status"], &Path::new("status"), &mut errors);
        if let Some(name) = spec["source"]["persistentVolumeName"].as_str() {
            let messages = helpers::dns_subdomain_errors(name, false);
            let at = path.child("source").child("persistentVolumeName");
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at, name, m)));
        }
        errors.extend(declared);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        if new["spec"] != old["spec"] {
            errors.push(Error::invalid(&Path::new("spec"), Value::Null, "field is immutable"));
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// The name of a driver as the type's tags check it.
pub fn attacher(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    let messages = helpers::caseless_subdomain_errors(name);
    errors.extend(messages.into_iter().map(|m| Error::invalid(at, name, m)));
    if name.chars().count() > helpers::DRIVER_NAME_MAX {
        let detail = "may not be more than 63 characters".to_owned();
        errors.push(Error { kind: ErrorType::TooLong, field: at.clone(), bad: None, detail });
    }
}

fn source(s: &Value, path: &Path, errors: &mut ErrorList) {
    let inline = &s["inlineVolumeSpec"];
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_object(), s["persistentVolumeName"].as_str()) {
        (false, None) => errors.push(Error::required(path, detail)),
        (true, Some(_)) => errors.push(Error::forbidden(path, detail)),
        (false, Some("")) => {
            let detail = "must specify non empty persistentVolumeName";
            errors.push(Error::required(&path.child("persistentVolumeName"), detail));
        }
        (false, Some(_)) => {}
        (true, None) => validation::spec(inline, "", true, &path.child("inlineVolumeSpec"), errors),
    }
}

fn attachment_status(s: &Value, path: &Path, errors: &mut ErrorList) {
    let members = s["attachmentMetadata"].as_object().into_iter().flatten();
    let bytes: usize = members.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > METADATA_BYTES_MAX {
        errors.push(Error::too_long(&path.child("attachmentMetadata"), METADATA_BYTES_MAX));
    }
    for field in ["attachError", "detachError"] {
        let at = path.child(field);
        if text(&s[field], "message").len() > MESSAGE_MAX {
            errors.push(Error::too_long(&at.child("message"), MESSAGE_MAX));
        }
        if let Some(n) = s[field]["errorCode"].as_i64().filter(|n| *n < 0) {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(Error::invalid(&at.child("errorCode"), n, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn attachments() {
        let good = json!({"spec": {"attacher": "myattacher", "nodeName": "mynode", "source": {"persistentVolumeName": "pv"}}});
        assert_eq!(VolumeAttachment.validate(&good), []);
        let inline = json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"inlineVolumeSpec": {"accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d", "volumeHandle": "v"}}}}});
        assert_eq!(VolumeAttachment.validate(&inline), []);
        let bad = json!({"spec": {"attacher": "", "nodeName": "my_node", "source": {}}});
        let fields: Vec<String> =
            VolumeAttachment.validate(&bad).iter().map(|e| e.field.to_string()).collect();
        assert_eq!(fields, ["spec.source", "spec.nodeName", "spec.attacher"]);
        let ctx = Ctx { now: Default::default(), subresource: "" };
        assert_eq!(
            VolumeAttachment.validate_update(&inline, &good, &ctx)[0].to_string(),
            "spec: Invalid value: null: field is immutable"
        );
    }
}
