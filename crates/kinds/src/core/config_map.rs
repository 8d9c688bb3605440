//! ConfigMap.

use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use meta::field::{Error, ErrorList, Path};
use serde_json::Value;

/// All keys and values together, in bytes (upstream: `core.MaxSecretSize`).
const DATA_BYTES_MAX: usize = 1 << 20;

pub fn kind() -> KindDef {
    KindDef {
        kind: "ConfigMap".into(),
        plural: "configmaps".into(),
        singular: "configmap".into(),
        short: &["cm"],
        schema: "io.k8s.api.core.v1.ConfigMap".into(),
        storage: "configmaps".into(),
        columns: const {
            &[
                NAME,
                column("Data", "string", |o, _| {
                    let count = |f: &str| o[f].as_object().map_or(0, serde_json::Map::len);
                    (count("data") + count("binaryData")).to_string().into()
                }),
                AGE,
            ]
        },
        strategy: StrategyRef::Static(&ConfigMap),
        sample: include_str!("samples/config_map.yaml"),
        ..KindDef::BASE
    }
}

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let mut bytes = 0;
        for (key, value) in obj["data"].as_object().into_iter().flatten() {
            let at = Path::new("data").key(key);
            errors.extend(
                helpers::config_key_errors(key).into_iter().map(|m| Error::invalid(&at, key.as_str(), m)),
            );
            if obj["binaryData"].get(key).is_some() {
                errors.push(Error::invalid(&at, key.as_str(), "duplicate of key present in binaryData"));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        for (key, value) in obj["binaryData"].as_object().into_iter().flatten() {
            let at = Path::new("binaryData").key(key);
            errors.extend(
                helpers::config_key_errors(key).into_iter().map(|m| Error::invalid(&at, key.as_str(), m)),
            );
            bytes += value.as_str().map_or(0, |s| s.len() / 4 * 3);
        }
        if bytes > DATA_BYTES_MAX {
            errors.push(Error::too_long(&Path::root(), DATA_BYTES_MAX));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        if old["immutable"] == true {
            immutable_data(new, old, &["data", "binaryData"], &mut errors);
        }
        errors.extend(self.validate(new));
        errors
    }
}

/// What an immutable ConfigMap or Secret may not change.
pub fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        errors.push(Error::forbidden(&Path::new("immutable"), DETAIL));
    }
    for field in fields {
        if new[*field] != old[*field] {
            errors.push(Error::forbidden(&Path::new(field), DETAIL));
        }
    }
}
