//! Secret.

use super::config_map::immutable_data;
use crate::certificates::pem;
use crate::columns::{AGE, NAME, column};
use crate::def::{Ctx, KindDef, Strategy, StrategyRef};
use crate::helpers;
use crate::validate::{immutable, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meta::field::{Error, ErrorList, Path};
use meta::object;
use serde_json::Value;

/// All values together, in bytes (upstream: `core.MaxSecretSize`).
const DATA_BYTES_MAX: usize = 1 << 20;

pub fn kind() -> KindDef {
    KindDef {
        kind: "Secret".into(),
        plural: "secrets".into(),
        singular: "secret".into(),
        schema: "io.k8s.api.core.v1.Secret".into(),
        storage: "secrets".into(),
        columns: const {
            &[
                NAME,
                column("Type", "string", |o, _| o["type"].clone()),
                column("Data", "string", |o, _| o["data"].as_object().map_or(0, serde_json::Map::len).into()),
                AGE,
            ]
        },
        selectable: &["type"],
        strategy: StrategyRef::Static(&Secret),
        sample: include_str!("samples/secret.yaml"),
        ..KindDef::BASE
    }
}

struct Secret;

/// Why a certificate or its key cannot be read (upstream: `tls.X509KeyPair`); whether they belong together is not told.
fn tls_warning(data: &Value) -> Option<String> {
    let kinds = |field: &str| -> Vec<String> {
        let raw = STANDARD.decode(text(data, field)).unwrap_or_default();
        pem::blocks(&String::from_utf8_lossy(&raw)).into_iter().map(|b| b.label.to_owned()).collect()
    };
    let listed = |kinds: &[String]| format!("[{}]", kinds.join(" "));
    let (certificate, key) = (kinds("tls.crt"), kinds("tls.key"));
    if !certificate.iter().any(|k| k == "CERTIFICATE") {
        return Some(match certificate.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if only.ends_with("PRIVATE KEY") => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
            all => format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: {}", listed(all)),
        });
    }
    if key.iter().any(|k| k == "PRIVATE KEY" || k.ends_with(" PRIVATE KEY")) {
        return None;
    }
    Some(match key.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        all => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: {}",
            listed(all)
        ),
    })
}

impl Strategy for Secret {
    fn default(&self, obj: &mut Value) {
        object::default_at(obj, &[], "type", "Opaque");
        // stringData is a way to write data, never to read it.
        let Some(plain) = obj.as_object_mut().and_then(|m| m.remove("stringData")) else { return };
        let Some(data) = object::map_at(obj, &["data"]) else { return };
        for (key, value) in plain.as_object().into_iter().flatten() {
            data.insert(key.clone(), STANDARD.encode(value.as_str().unwrap_or("")).into());
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Ctx) {
        // Upstream keeps the type of an update that leaves it out.
        if text(new, "type").is_empty() {
            new["type"] = old["type"].clone();
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let is_pair = text(new, "type") == "kubernetes.io/tls";
        is_pair.then(|| tls_warning(&new["data"])).flatten().into_iter().collect()
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = Vec::new();
        let data = &obj["data"];
        let mut bytes = 0;
        for (key, value) in data.as_object().into_iter().flatten() {
            let at = Path::new("data").key(key);
            errors.extend(
                helpers::config_key_errors(key).into_iter().map(|m| Error::invalid(&at, key.as_str(), m)),
            );
            bytes += value.as_str().map_or(0, |s| s.len() / 4 * 3);
        }
        if bytes > DATA_BYTES_MAX {
            errors.push(Error::too_long(&Path::new("data"), DATA_BYTES_MAX));
        }
        let has = |key: &str| data.get(key).is_some();
        let need = |key: &str, errors: &mut ErrorList| {
            if !has(key) {
                errors.push(Error::required(&Path::new("data").key(key), ""));
            }
        };
        match text(obj, "type") {
            "kubernetes.io/service-account-token"
                if object::annotation(obj, "kubernetes.io/service-account.name").unwrap_or("").is_empty() =>
            {
                let at = Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name");
                errors.push(Error::required(&at, ""));
            }
            "kubernetes.io/dockercfg" => json_or_missing(data, ".dockercfg", &mut errors),
            "kubernetes.io/dockerconfigjson" => json_or_missing(data, ".dockerconfigjson", &mut errors),
            "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
                for key in ["username", "password"] {
                    errors.push(Error::required(&Path::new("data").key(key), ""));
                }
            }
            "kubernetes.io/ssh-auth" => need("ssh-privatekey", &mut errors),
            "kubernetes.io/tls" => {
                need("tls.crt", &mut errors);
                need("tls.key", &mut errors);
            }
            _ => {}
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Ctx) -> ErrorList {
        let mut errors = Vec::new();
        immutable(&new["type"], &old["type"], &Path::new("type"), &mut errors);
        if old["immutable"] == true {
            immutable_data(new, old, &["data"], &mut errors);
        }
        errors.extend(self.validate(new));
        errors
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(obj, "type").to_owned())]
    }
}

/// There must be a value that is JSON; what it is instead is not told.
fn json_or_missing(data: &Value, key: &str, errors: &mut ErrorList) {
    let at = Path::new("data").key(key);
    let Some(value) = data[key].as_str() else { return errors.push(Error::required(&at, "")) };
    let bytes = STANDARD.decode(value).unwrap_or_default();
    if let Err(why) = meta::yaml::parse_json(&bytes) {
        errors.push(Error::invalid(&at, "<secret contents redacted>", why.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pairs_that_cannot_be_read_are_told() {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let told = |certificate: &str, key: &str| {
            let data = json!({"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key)});
            tls_warning(&data).unwrap_or_default()
        };
        assert_eq!(told(&pem("CERTIFICATE"), &pem("RSA PRIVATE KEY")), "");
        assert_eq!(told("a", "b"), "tls: failed to find any PEM data in certificate input");
        assert!(told(&pem("PRIVATE KEY"), "b").ends_with("PEM inputs may have been switched"));
        assert_eq!(told(&pem("CERTIFICATE"), "b"), "tls: failed to find any PEM data in key input");
        assert!(
            told(&pem("CERTIFICATE"), &pem("PUBLIC KEY")).ends_with("of the following types: [PUBLIC KEY]")
        );
    }

    #[test]
    fn plain_text_becomes_data_and_wins() {
        let mut s = json!({"data": {"a": "eA=="}, "stringData": {"a": "b", "c": "d"}});
        Secret.default(&mut s);
        assert_eq!(s, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    }
}
