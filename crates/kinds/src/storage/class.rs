//! StorageClass and VolumeAttributesClass (upstream: `pkg/registry/storage/{storageclass,volumeattributesclass}`).

use super::GROUP;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Scope, Strategy, StrategyRef};
use crate::helpers;
use crate::node_selector;
use crate::status::duplicates;
use crate::validate::{items, text};
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// Most parameters of a class.
const PARAMETERS_MAX: usize = 512;
/// Most bytes in the names and values of a class's parameters.
const PARAMETER_BYTES_MAX: usize = 256 << 10;

pub fn storage_class() -> KindDef {
    KindDef {
        kind: "StorageClass".into(),
        plural: "storageclasses".into(),
        singular: "storageclass".into(),
        short: &["sc"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.storage.v1.StorageClass".into(),
        storage: "storageclasses".into(),
        columns: const {
            &[
                NAME,
                column("Provisioner", "string", |o, _| text(o, "provisioner").into()),
                column("ReclaimPolicy", "string", |o, _| {
                    o["reclaimPolicy"].as_str().unwrap_or("Delete").into()
                }),
                column("VolumeBindingMode", "string", |o, _| {
                    o["volumeBindingMode"].as_str().unwrap_or("Immediate").into()
                }),
                column("AllowVolumeExpansion", "string", |o, _| (o["allowVolumeExpansion"] == true).into()),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&StorageClass),
        sample: "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: standard}\nprovisioner: example.com/disk\nparameters: {type: ssd}\nreclaimPolicy: Delete\nvolumeBindingMode: Immediate\n",
        ..GROUP
    }
}

pub fn volume_attributes_class() -> KindDef {
    KindDef {
        kind: "VolumeAttributesClass".into(),
        plural: "volumeattributesclasses".into(),
        singular: "volumeattributesclass".into(),
        short: &["vac"],
        scope: Scope::Cluster,
        schema: "io.k8s.api.storage.v1.VolumeAttributesClass".into(),
        storage: "volumeattributesclasses".into(),
        columns: const { &[NAME, column("DriverName", "string", |o, _| text(o, "driverName").into()), AGE] },
        strategy: StrategyRef::Static(&VolumeAttributesClass),
        sample: "apiVersion: storage.k8s.io/v1\nkind: VolumeAttributesClass\nmetadata: {name: gold}\ndriverName: disk.example.com\nparameters: {iops: \"5000\"}\n",
        ..GROUP
    }
}

struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "reclaimPolicy", "Delete");
        object::default_at(obj, &[], "volumeBindingMode", "Immediate");
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let provisioner = text(obj, "provisioner");
        if !provisioner.is_empty() {
            qualified(provisioner, &Path::new("provisioner"), &mut errors);
        }
        parameters(&obj["parameters"], true, &mut errors);
        let at = Path::new("reclaimPolicy");
        match text(obj, "reclaimPolicy") {
            "" | "Delete" | "Retain" => {}
            other => errors.push(Error::not_supported(&at, other, &["Delete", "Retain"])),
        }
        let at = Path::new("volumeBindingMode");
        match obj["volumeBindingMode"].as_str() {
            Some("Immediate" | "WaitForFirstConsumer") => {}
            Some(other) => {
                errors.push(Error::not_supported(&at, other, &["Immediate", "WaitForFirstConsumer"]))
            }
            None => errors.push(Error::required(&at, "")),
        }
        topologies(items(obj, "allowedTopologies"), &mut errors);
        if provisioner.is_empty() {
            errors.push(Error::required(&Path::new("provisioner"), ""));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = self.validate(new);
        for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
            if new[field] != old[field] {
                errors.push(Error::invalid(&Path::new(field), Value::Null, "field is immutable"));
            }
        }
        errors
    }

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (i, term) in items(new, "allowedTopologies").iter().enumerate() {
            for (j, e) in items(term, "matchLabelExpressions").iter().enumerate() {
                let at = Path::new("allowedTopologies").index(i).child("matchLabelExpressions").index(j);
                let message = node_selector::deprecated_label(text(e, "key"));
                out.extend(message.map(|m| format!("{}: {m}", at.child("key"))));
            }
        }
        out
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

fn qualified(name: &str, at: &Path, errors: &mut ErrorList) {
    let name = name.to_lowercase();
    let messages = helpers::qualified_name_errors(&name);
    errors.extend(messages.into_iter().map(|m| Error::invalid(at, name.as_str(), m)));
}

fn parameters(list: &Value, may_be_empty: bool, errors: &mut ErrorList) {
    let at = Path::new("parameters");
    let all: Vec<(&String, &Value)> = list.as_object().into_iter().flatten().collect();
    if all.len() > PARAMETERS_MAX {
        errors.push(Error::too_long(&at, PARAMETERS_MAX));
        return;
    }
    if all.iter().any(|(k, _)| k.is_empty()) {
        errors.push(Error::invalid(&at, "", "field can not be empty."));
    }
    let bytes: usize = all.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > PARAMETER_BYTES_MAX {
        errors.push(Error::too_long(&at, PARAMETER_BYTES_MAX));
    }
    if !may_be_empty && all.is_empty() {
        errors.push(Error::required(&at, "must contain at least one key/value pair"));
    }
}

/// Upstream: `validateAllowedTopologies`. Terms that ask the same thing in another order are the same.
fn topologies(terms: &[Value], errors: &mut ErrorList) {
    let path = Path::new("allowedTopologies");
    // Upstream compares with as many terms without expressions as there are terms, too.
    let mut seen = vec![Vec::new(); terms.len()];
    for (i, term) in terms.iter().enumerate() {
        let at = path.index(i).child("matchLabelExpressions");
        let mut asked: Vec<(&str, Vec<&str>)> = Vec::new();
        for (j, e) in items(term, "matchLabelExpressions").iter().enumerate() {
            let (at, key) = (at.index(j), text(e, "key"));
            let mut values: Vec<&str> = items(e, "values").iter().filter_map(Value::as_str).collect();
            if values.is_empty() {
                errors.push(Error::required(&at.child("values"), ""));
            }
            let twice = duplicates(e, "values");
            errors.extend(twice.into_iter().map(|(n, v)| Error::duplicate(&at.child("values").index(n), v)));
            let messages = helpers::qualified_name_errors(key);
            errors.extend(messages.into_iter().map(|m| Error::invalid(&at.child("key"), key, m)));
            values.sort_unstable();
            values.dedup();
            if let Some(known) = asked.iter_mut().find(|(k, _)| *k == key) {
                errors.push(Error::duplicate(&at.child("key"), key));
                known.1 = values;
            } else {
                asked.push((key, values));
            }
        }
        asked.sort_unstable();
        for _ in seen.iter().filter(|s| **s == asked) {
            errors.push(Error::duplicate(&at, ""));
        }
        seen.push(asked);
    }
}

struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let driver = text(obj, "driverName");
        if driver.is_empty() {
            errors.push(Error::required(&Path::new("driverName"), ""));
        } else {
            qualified(driver, &Path::new("driverName"), &mut errors);
        }
        parameters(&obj["parameters"], false, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        for field in ["driverName", "parameters"] {
            if new[field] != old[field] {
                errors
                    .push(Error::forbidden(&Path::new(field), format!("updates to {field} are forbidden.")));
            }
        }
        errors.extend(self.validate(new));
        errors
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn storage_classes() {
        let mut obj = json!({"provisioner": "kubernetes.io/foo-provisioner"});
        StorageClass.default(&mut obj);
        assert_eq!(StorageClass.validate(&obj), []);
        let bad = json!({"provisioner": "", "reclaimPolicy": "Foo", "volumeBindingMode": "Later",
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["b", "b"]}, {"key": "c"}]}]});
        assert_eq!(
            texts(StorageClass.validate(&bad)),
            [
                "reclaimPolicy: Unsupported value: \"Foo\": supported values: \"Delete\", \"Retain\"",
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"b\"",
                "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
                "provisioner: Required value",
            ]
        );
        let mut new = obj.clone();
        new["parameters"] = json!({"a": "b"});
        let ctx = Ctx { now: Default::default(), subresource: "" };
        assert_eq!(
            texts(StorageClass.validate_update(&new, &obj, &ctx)),
            ["parameters: Invalid value: null: field is immutable"]
        );
    }

    #[test]
    fn the_same_topology_twice() {
        let term = json!({"matchLabelExpressions": [{"key": "a", "values": ["x", "y"]}]});
        let again = json!({"matchLabelExpressions": [{"key": "a", "values": ["y", "x"]}]});
        let mut errors = Vec::new();
        topologies(&[term, again], &mut errors);
        assert_eq!(texts(errors), ["allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""]);
    }

    #[test]
    fn attribute_classes() {
        let obj = json!({"driverName": "foo", "parameters": {"foo": "bar"}});
        assert_eq!(VolumeAttributesClass.validate(&obj), []);
        assert_eq!(
            texts(VolumeAttributesClass.validate(&json!({"driverName": ""}))),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair"
            ]
        );
    }
}
